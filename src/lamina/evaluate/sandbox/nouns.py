"""Plain data of the sandbox: what a program may use, what became of it, what holds here."""

from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = "lamina.verdict/1"

REASONS = {
    "passed": "the whole program ran to its end without an error",
    "error": "it raised an error, or is not a Python program; `detail` has the line",
    "wrong": "a test of it failed, where tests were given",
    "left early": "it left before its end: sys.exit, os._exit, or a process that ended by itself",
    "timed out": "the wall time was over",
    "cpu time": "the processor time was over",
    "memory": "it asked for more memory than it may have",
    "output": "it wrote more to stdout and stderr than it may",
    "disk": "it put more into its folder than it may",
    "killed": "a signal ended it, a crash for instance",
    "tampered": "it reached the end, but the line to the supervisor was closed or misused",
    "sandbox": "the sandbox itself failed: nothing is known about the program",
}
"""Every word `Verdict.reason` can be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 1 << 30
    """Address space of the process."""
    file_bytes: int = 16 << 20
    """One file."""
    folder_bytes: int = 32 << 20
    """The program's folder."""
    processes: int = 32
    """Threads, for new processes are refused."""
    open_files: int = 64
    output_bytes: int = 1 << 20
    """stdout and stderr together; a program that writes more is ended."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a program. `output` and `detail` are the program's words, not ours."""

    passed: bool
    reason: str
    """One of `REASONS`."""
    detail: str
    seconds: float
    suspicious: tuple[str, ...]
    """Constructs a normal solution has no need of; a pass with some is counted apart."""
    output: str

    def as_json(self) -> dict[str, Any]:
        """The verdict as plain JSON."""
        return {"schema": SCHEMA} | asdict(self) | {"suspicious": list(self.suspicious)}


@dataclass(frozen=True, slots=True)
class Protection:
    """What holds on this machine."""

    layers: tuple[str, ...]
    missing: tuple[str, ...]
    line: str
    enough: bool
    """At least one layer that holds for each of files, network, processes, memory and time."""
    why: str
    """What is missing for `enough`, else empty."""
