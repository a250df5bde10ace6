"""Landlock: an allow-list of files, no TCP, no signals and abstract sockets to the outside.

A process without any rights can lay it on itself (kernel 5.13 and later). What it does not see:
stat, chmod, chown, utime, chdir; seccomp refuses those of them that change something where there is
no file system of our own. Rights are inherited by everything under a folder.
"""

import ctypes
import os
from collections.abc import Iterable

from .system import call

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
READ = READ_FILE | READ_DIR
FOLDER = READ | sum(1 << bit for bit in (1, 4, 5, 7, 8, 10, 12)) | REFER | TRUNCATE
"""What a program may do in its own folder: all but devices, sockets, and running files."""
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

Rule = tuple[int, int]
"""An open folder or file (O_PATH), and rights."""


def version() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    try:
        return call("landlock_create_ruleset", 0, 0, 1)
    except OSError:
        return 0


def handled(abi: int) -> tuple[int, int, int]:
    """(files, network, scopes): everything that this ABI can refuse, is refused."""
    files = (1 << 13) - 1
    files |= REFER if abi >= 2 else 0
    files |= TRUNCATE if abi >= 3 else 0
    files |= IOCTL_DEV if abi >= 5 else 0
    return files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0


def ruleset(rules: Iterable[Rule], *, abi: int) -> int:
    """A ruleset's descriptor; `restrict` lays it on."""
    files, network, scopes = handled(abi)
    fields = (ctypes.c_uint64 * 3)(files, network, scopes)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    made = call("landlock_create_ruleset", ctypes.byref(fields), size, 0)
    for path, rights in rules:
        folder = os.stat(path).st_mode & 0o170000 == 0o040000
        allowed = rights & files & (-1 if folder else _FILE_RIGHTS)
        rule = allowed.to_bytes(8, "little") + path.to_bytes(4, "little")
        call("landlock_add_rule", made, 1, ctypes.c_char_p(rule), 0)
    return made


def restrict(made: int) -> None:
    """Lay a ruleset on this process and all it will ever start. Needs no_new_privs."""
    call("landlock_restrict_self", made, 0)
