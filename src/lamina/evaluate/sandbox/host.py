"""The sandbox as the rest of lamina sees it: a launcher in a process of its own, asked by socket."""

import json
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lamina.core.errors import OutputError
from lamina.evaluate.sandbox import check
from lamina.evaluate.sandbox.nouns import Limits, Protection, Verdict

_BOOT = """
import sys, types
package = types.ModuleType("inside")
package.__path__ = [sys.argv[1]]
sys.modules["inside"] = package
from inside.launcher import main
main(int(sys.argv[2]), set(sys.argv[3].split()))
"""
_GRACE_SECONDS = 10.0
"""How long after the wall time a supervisor may take to answer; then it is given up."""


class Sandbox:
    """A launcher, and programs run by it; several at once from threads.

    `without` switches layers off, for tests: namespaces, landlock, seccomp.
    """

    def __init__(self, limits: Limits | None = None, *, without: Sequence[str] = ()) -> None:
        self.limits = limits or Limits()
        self._without = tuple(without)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="lamina-sandbox-")
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        inside = Path(__file__).parent / "inside"
        with theirs:
            words = [sys._base_executable, "-I", "-S", "-B", "-c", _BOOT]
            self._process = subprocess.Popen(
                [*words, str(inside), str(theirs.fileno()), " ".join(self._without)],
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        self._socket = ours
        told: dict[str, Any] = json.loads(ours.makefile("rb").readline() or b"{}")
        self.protection = _protection(told)

    def run(self, source: str) -> Verdict:
        """Run a whole program; it has passed if it ran to its end without an error."""
        return self.start(source).verdict()

    def check(self, program: str, tests: str, entry: str | None = None) -> Verdict:
        """Run tests of a program, the two in processes of their own (`check`).

        Names that the tests use but do not define are the program's, `entry` even where it is a
        built-in's. Passed means that the tests ran to their end without an error.
        """
        return check.check(self.start, program, tests, entry)

    def start(self, source: str, link: socket.socket | None = None) -> "Running":
        """Start a program; `link` is its descriptor 5. The verdict is to be asked for."""
        if not self.protection.enough:
            raise OutputError(
                f"no program is run on this machine: {self.protection.why}. "
                "docs/sandbox.md has the minimum and what to switch on."
            )
        request = {
            "source": source,
            "limits": asdict(self.limits),
            "folder": self._folder.name,
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        running = Running(ours, self.limits.wall_seconds + _GRACE_SECONDS)
        sent = [theirs.fileno()] if link is None else [theirs.fileno(), link.fileno()]
        with theirs, self._lock:
            running.send(lambda: socket.send_fds(self._socket, [b"r"], sent))
        data = json.dumps(request).encode()
        running.send(lambda: ours.sendall(struct.pack("<Q", len(data)) + data))
        return running

    def close(self) -> None:
        """End the launcher, and with it all it ever started."""
        self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()
            self._process = None
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Running:
    """A program that was started, and the socket on which its supervisor answers."""

    def __init__(self, answers: socket.socket, seconds: float) -> None:
        self._socket = answers
        self._began = time.monotonic()
        self._problem: str | None = None
        answers.settimeout(seconds)

    def send(self, action: Callable[[], object]) -> None:
        """Do a part of the asking; what goes wrong is the verdict's reason."""
        try:
            if self._problem is None:
                action()
        except OSError as error:
            self._problem = f"the sandbox does not answer: {error}"

    def verdict(self, *, within: float | None = None) -> Verdict:
        """What became of it; it is ended if that takes longer than `within` seconds."""
        with self._socket:
            answer = self._answer(within)
        if "failed" in answer:
            seconds = time.monotonic() - self._began
            return Verdict(False, "sandbox", answer["failed"], seconds, (), "")
        return Verdict(
            passed=answer["passed"] is True,
            reason=answer["reason"],
            detail=answer["detail"],
            seconds=answer["seconds"],
            suspicious=tuple(answer["events"]),
            output=answer["output"],
        )

    def _answer(self, within: float | None) -> dict[str, Any]:
        if self._problem is not None:
            return {"failed": self._problem}
        try:
            with self._socket.makefile("rb") as stream:
                if within is not None and not select.select([self._socket], [], [], within)[0]:
                    self._socket.shutdown(socket.SHUT_WR)
                return json.loads(stream.read() or b'{"failed": "the supervisor is gone"}')
        except (OSError, ValueError) as error:
            return {"failed": f"the sandbox does not answer: {error}"}


def _protection(told: dict[str, Any]) -> Protection:
    if "layers" not in told:
        why = told.get("failed", "the launcher did not start")
        return Protection((), (), f"no sandbox: {why}", False, why)
    why = f"nothing holds {' and '.join(told['lacks'])}" if told["lacks"] else ""
    line = "sandbox: " + ", ".join(told["layers"])
    if told["missing"]:
        line += "; without " + "; ".join(told["missing"])
    return Protection(tuple(told["layers"]), tuple(told["missing"]), line, not why, why)


def probe() -> Protection:
    """What holds on this machine, found by starting a launcher and stopping it."""
    with Sandbox() as sandbox:
        return sandbox.protection
