"""What a launcher found it can do, and what it is asked to run."""

from dataclasses import dataclass, field

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
    bubblewrap: bool = False
    """The launcher was put into namespaces by bubblewrap; programs share them."""
    namespaces: bool = False
    """User, mount, pid, ipc, uts for each program; net and the new root are the launcher's."""
    seccomp: bool = False
    landlock: int = 0
    """Its ABI, 0 without."""
    ruleset: int | None = None
    """Made once, where all programs see the same paths."""
    users: int | None = None
    """The first of the user numbers that are the programs'."""
    num_users: int = 1
    proc: int | None = None
    """An open /proc."""
    runner: bytes = b""
    missing: list[str] = field(default_factory=list)
    """Layers that do not hold, and why."""

    def user(self, number: int) -> int:
        """The user of the program with this number; no two at a time are the same."""
        assert self.users is not None
        return self.users + number % self.num_users

    @property
    def counts(self) -> bool:
        """Whether RLIMIT_NPROC counts this program's processes and no others."""
        return self.namespaces or self.users is not None


@dataclass(frozen=True, slots=True)
class Request:
    """One program."""

    source: bytes
    before: bytes
    """Trusted code, marshalled, that is run before it in the same namespace."""
    shown: str
    """The text whose suspicious constructs are told."""
    limits: dict
    folder: str
    link: int | None
    """An open socket that becomes the program's descriptor 5."""
