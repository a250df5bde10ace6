"""The sandbox as the rest of lamina sees it: a launcher, a process of its own, asked by socket."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lamina.core.errors import OutputError
from lamina.evaluate.sandbox import check
from lamina.evaluate.sandbox.bubblewrap import wrapped
from lamina.evaluate.sandbox.nouns import Limits, Protection, Verdict
from lamina.evaluate.sandbox.running import Running

INSIDE = Path(__file__).parent / "inside"
_BOOT = """
import sys, types
package = types.ModuleType("inside")
package.__path__ = [sys.argv[1]]
sys.modules["inside"] = package
from inside.launcher import main
main(int(sys.argv[2]), sys.argv[3])
"""
_GRACE_SECONDS = 10.0
"""How long after the wall time a supervisor may take to answer; then it is given up."""


class Sandbox:
    """A launcher, and programs run by it; several at once from threads.

    `without` switches layers off, for tests: namespaces, landlock, seccomp, bubblewrap.
    """

    def __init__(self, limits: Limits | None = None, *, without: Sequence[str] = ()) -> None:
        self.limits = limits or Limits()
        self._folder = tempfile.TemporaryDirectory(prefix="lamina-sandbox-")
        Path(self._folder.name).chmod(0o711)  # a program's user goes through it to its own
        self._launcher = _Launcher(without, None)
        self.protection = self._tried()
        program = shutil.which("bwrap")
        lacks_namespaces = any(one.startswith("namespaces: ") for one in self.protection.missing)
        if lacks_namespaces and program is not None and "bubblewrap" not in without:
            self._try_bubblewrap(without, program)

    def run(self, source: str) -> Verdict:
        """Run a whole program; it has passed if it ran to its end without an error."""
        return self.start(source).verdict()

    def check(self, program: str, tests: str, entry: str | None = None) -> Verdict:
        """Run tests of a program, the two in processes of their own (`check`).

        Names that the tests use but do not define are the program's, `entry` even where it is a
        built-in's. Passed means that the tests ran to their end without an error.
        """
        return check.check(self.start, program, tests, entry)

    def start(
        self,
        source: str,
        link: socket.socket | None = None,
        *,
        before: bytes = b"",
        shown: str | None = None,
    ) -> Running:
        """Start a program; the verdict is to be asked for.

        `link` is its descriptor 5; `before` is trusted code, marshalled by this interpreter, that
        is run first in the program's namespace; `shown` is the text whose suspicious constructs
        are told, if that is not `source`.

        Raises:
            OutputError: this machine is below the minimum; nothing is run.
        """
        if not self.protection.enough:
            raise OutputError(
                f"no program is run on this machine: {self.protection.why}. "
                "docs/sandbox.md has the minimum, and how to see what is missing."
            )
        return self._start(source, link, before, source if shown is None else shown)

    def _start(self, source: str, link: socket.socket | None, before: bytes, shown: str) -> Running:
        request = {
            "source": source,
            "before": before.hex(),
            "shown": shown,
            "limits": asdict(self.limits),
            "folder": self._folder.name,
        }
        seconds = self.limits.wall_seconds + _GRACE_SECONDS
        return self._launcher.start(json.dumps(request).encode(), link, seconds)

    def as_json(self) -> dict[str, Any]:
        """The limits and layers in force, as plain JSON."""
        return {
            "limits": asdict(self.limits),
            "layers": list(self.protection.layers),
            "missing": list(self.protection.missing),
            "protection": self.protection.line,
        }

    def close(self) -> None:
        """End the launcher, and with it all it ever started."""
        self._launcher.close()
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

    def _tried(self) -> Protection:
        """What the launcher says that holds, if also a harmless program passes under it."""
        found = _protection(self._launcher.told)
        if not found.enough:
            return found
        verdict = self._start("answer = 6 * 7", None, b"", "").verdict()
        if verdict.passed:
            return found
        why = f"a harmless program does not pass: {verdict.reason}, {verdict.detail}"
        return replace(found, line=f"no sandbox: {why}", enough=False, why=why)

    def _try_bubblewrap(self, without: Sequence[str], program: str) -> None:
        """Another launcher inside bubblewrap, which takes the place of the first if it works."""
        first, protection = self._launcher, self.protection
        files = first.told["files"]
        self._launcher = _Launcher(without, files, wrapped(program, files, INSIDE))
        self.protection = self._tried()
        if self.protection.enough:
            first.close()
        else:
            self._launcher.close()
            self._launcher, self.protection = first, protection


class _Launcher:
    """The process, and the socket by which it gets descriptors."""

    def __init__(
        self, without: Sequence[str], files: dict[str, Any] | None, prefix: Sequence[str] = ()
    ) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        options = json.dumps({"without": list(without), "files": files})
        base = sys._base_executable  # pyrefly: ignore - not a virtual environment's link
        interpreter = files["executable"] if files else base
        words = [*prefix, interpreter, "-I", "-S", "-B", "-c", _BOOT, str(INSIDE)]
        with theirs:
            self._process = subprocess.Popen(
                [*words, str(theirs.fileno()), options],
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        with self._socket.makefile("rb") as stream:
            self.told: dict[str, Any] = json.loads(stream.readline() or b"{}")

    def start(self, request: bytes, link: socket.socket | None, seconds: float) -> Running:
        """Hand over a request; only its own socket is waited on, so many can run at once."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        running = Running(ours, seconds)
        ends = [theirs.fileno()] if link is None else [theirs.fileno(), link.fileno()]
        with theirs, self._lock:
            running.send(lambda: socket.send_fds(self._socket, [b"r"], ends))
        running.send(lambda: ours.sendall(b"%16d" % len(request) + request))
        return running

    def close(self) -> None:
        """Close the socket, at which the launcher ends; kill it where it does not."""
        self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _protection(told: dict[str, Any]) -> Protection:
    if "layers" not in told:
        why = told.get("failed", "the launcher did not start")
        return Protection((), (), f"no sandbox: {why}", False, why)
    layers, missing = tuple(told["layers"]), tuple(told["missing"])
    line = f"sandbox: {', '.join(layers)}"
    if missing:
        line += f"; missing: {'; '.join(missing)}"
    why = f"no layer holds {' and '.join(told['lacks'])}" if told["lacks"] else ""
    return Protection(layers, missing, f"no sandbox: {why}" if why else line, not why, why)


def probe() -> Protection:
    """What holds on this machine, found by starting a launcher and stopping it."""
    with Sandbox() as sandbox:
        return sandbox.protection
