"""The sandbox as the rest of lamina sees it: a launcher in a process of its own, asked by socket."""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lamina.core.errors import OutputError
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
        if not self.protection.enough:
            raise OutputError(
                f"no program is run on this machine: {self.protection.why}. "
                "docs/sandbox.md has the minimum and what to switch on."
            )
        began = time.monotonic()
        request = {
            "source": source,
            "limits": asdict(self.limits),
            "folder": self._folder.name,
        }
        answer = self._ask(json.dumps(request).encode())
        if "failed" in answer:
            return Verdict(False, "sandbox", answer["failed"], time.monotonic() - began, (), "")
        return Verdict(
            passed=answer["passed"] is True,
            reason=answer["reason"],
            detail=answer["detail"],
            seconds=answer["seconds"],
            suspicious=tuple(answer["events"]),
            output=answer["output"],
        )

    def _ask(self, request: bytes) -> dict[str, Any]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            try:
                with theirs, self._lock:
                    socket.send_fds(self._socket, [b"r"], [theirs.fileno()])
                ours.settimeout(self.limits.wall_seconds + _GRACE_SECONDS)
                ours.sendall(struct.pack("<Q", len(request)) + request)
                with ours.makefile("rb") as stream:
                    return json.loads(stream.read() or b'{"failed": "the supervisor is gone"}')
            except (OSError, ValueError) as error:
                return {"failed": f"the sandbox does not answer: {error}"}

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
