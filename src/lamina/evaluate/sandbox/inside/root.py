"""A file system of our own: a read-only tmpfs with the interpreter bound into it, and nothing else.

Made once per launcher; every program gets a copy of the mounts and a folder of its own at FOLDER.
"""

import ctypes
import os

from .files import DEVICES, Files, links_to
from .system import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    call,
)

PARENT = "/lamina-sandbox"
FOLDER = f"{PARENT}/tmp"
"""Where a program is; Landlock allows its parent, for a rule on a covered folder is not asked."""


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """`mount(2)`."""
    texts = [ctypes.c_char_p(os.fsencode(one)) for one in (source, target, kind)]
    call("mount", *texts, flags, ctypes.c_char_p(os.fsencode(options)))


def _read_only(target: str, *, devices: bool = False, everything: bool = False) -> None:
    """Make a mount read-only, without set-user-id and devices; with all under it if asked."""
    wanted = MS_RDONLY | MS_NOSUID | (0 if devices else MS_NODEV)
    fields = (ctypes.c_uint64 * 4)(wanted, 0, 0, 0)
    name = ctypes.c_char_p(os.fsencode(target))
    try:
        call("mount_setattr", -100, name, 0x8000 if everything else 0, ctypes.byref(fields), 32)
    except OSError:
        kept = os.statvfs(target).f_flag & 0x1FFF  # locked flags must be said again
        mount("none", target, "", MS_REMOUNT | MS_BIND | wanted | (kept & ~0x20 & 0xC0F))


def _bind(old: str, path: str, new: str, *, devices: bool = False) -> None:
    """Show a file or folder of the old root at the same path of the new one."""
    target = new + path
    if os.path.isdir(old + path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    mount(old + path, target, "", MS_BIND | MS_REC)
    _read_only(target, devices=devices, everything=os.path.isdir(target))


def _same_links(old: str, files: Files, links: list[tuple[str, str]], new: str) -> None:
    """Top-level links (/lib64 -> usr/lib64) and the links by which libraries are asked for."""
    for name in os.listdir(old):
        if os.path.islink(f"{old}/{name}") and not os.path.lexists(f"{new}/{name}"):
            target = os.readlink(f"{old}/{name}")
            if os.path.isdir(f"{new}/{target.lstrip('/')}"):
                os.symlink(target, f"{new}/{name}")
    if files.loader is not None:
        links = [*links, (files.loader, files.loader_file)]
    for link, target in links:
        if not os.path.lexists(new + link):
            os.makedirs(os.path.dirname(new + link), exist_ok=True)
            os.symlink(target, new + link)


def enter_new_root(files: Files) -> None:
    """Leave the machine's files for good. Needs a mount namespace in which we may mount."""
    links = links_to(files.libraries)
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    os.mkdir("/tmp/old")
    os.mkdir("/tmp/new")
    call("pivot_root", ctypes.c_char_p(b"/tmp"), ctypes.c_char_p(b"/tmp/old"))
    os.chdir("/")
    mount("tmpfs", "/new", "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    for path in (*files.folders, files.executable, *files.libraries, *files.extra):
        _bind("/old", path, "/new")
    for path in DEVICES:
        _bind("/old", path, "/new", devices=True)
    for path in files.hidden:
        if os.path.isdir("/new" + path):
            mount("tmpfs", "/new" + path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k")
        else:
            mount("/old/dev/null", "/new" + path, "", MS_BIND)
    for path in (PARENT, FOLDER):
        os.mkdir("/new" + path)
    os.symlink(FOLDER, "/new/tmp")
    _same_links("/old", files, links, "/new")
    _read_only("/new")
    os.chdir("/new")
    call("pivot_root", ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
    call("umount2", ctypes.c_char_p(b"."), MNT_DETACH)
    os.chdir("/")


def own_folder(num_bytes: int, num_files: int, owner: int) -> None:
    """Mount a program's folder: no more than this in it, nothing in it can be run."""
    options = f"size={num_bytes},nr_inodes={num_files},mode=700,uid={owner},gid={owner}"
    mount("tmpfs", FOLDER, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
