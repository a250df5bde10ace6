"""What a launcher found it can do, and what it is asked to run."""

from dataclasses import dataclass

from .files import Files

BOOT = """import posix
def take(n):
    b = b""
    while len(b) < n:
        m = posix.read(3, n - len(b))
        if not m:
            posix._exit(121)
        b += m
    return b
exec(__import__("marshal").loads(take(int(take(16)))), {"__name__": "runner"})
"""


@dataclass(slots=True)
class Plan:
    """The layers that are laid on every program."""

    files: Files
    namespaces: bool = False
    """User, mount, pid, ipc, uts for each program; net and the new root are the launcher's."""
    network: bool = False
    seccomp: bool = False
    landlock: int = 0
    """Its ABI, 0 without."""
    ruleset: int | None = None
    """Made once, where all programs see the same paths."""
    users: int | None = None
    """The first of the user numbers that are the programs'."""
    num_users: int = 1
    counts: bool = False
    """RLIMIT_NPROC counts this program's processes and no others."""
    drops_capabilities: bool = True
    proc: int | None = None
    """An open /proc."""
    boot: str = BOOT
    runner: bytes = b""


@dataclass(slots=True)
class Request:
    """One program."""

    source: bytes
    limits: dict
    folder: str
    link: int | None = None
    """A socket to another program, which this one has as descriptor 5."""
