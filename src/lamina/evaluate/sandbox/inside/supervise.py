"""One program from start to end, seen by a process that is not the program and outlives it.

The program is fed, read, timed and killed from here, so that nothing it does to itself can stop any
of it; flooding or closing its output hangs nothing.
"""

import contextlib
import os
import secrets
import select
import signal
import time

from . import confine, folder, landlock, suspicious
from .judge import NO_START, Seen, judge
from .plan import Plan, Request
from .rules import rules_for
from .system import CLONE_NEWPID, PR_SET_PDEATHSIG, call, close_from, moved_up, prctl

_CONTROL_BYTES = 1 << 20


def first_process(plan: Plan) -> int | None:
    """Make the pid namespace that our next child is in; its first process, to be killed last."""
    if not plan.namespaces:
        return None
    call("unshare", CLONE_NEWPID)
    first = os.fork()
    if first == 0:
        _wait_for_ever()
    return first


def run(plan: Plan, request: Request, number: int, asked: int, first: int | None) -> dict:
    """Run one program; `asked` is the socket of who asked, whose end ends the program."""
    word = secrets.token_hex(32).encode()
    pipes = [os.pipe() for _ in range(3)]
    inlet, output, control = pipes
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(plan, request, number, (inlet[0], output[1], control[1]))
    try:
        own = () if request.link is None else (request.link,)
        for end in (inlet[0], output[1], control[1], *own):
            os.close(end)
        parts = (plan.runner, request.before, request.source)
        text = b"".join(b"%16d" % len(part) + part for part in parts) + b"\n%s\n" % word
        watch = _Watch(plan, request, child, asked, (inlet[1], output[0], control[0]), text)
        found = suspicious.found(request.shown)
        seen = watch.until_the_end()
    finally:
        if first is not None:  # with it go all processes of its namespace
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)
    told = judge(seen, word, request.limits) | {"seconds": time.monotonic() - began}
    return told | {"suspicious": sorted({*told["suspicious"], *found})}


def _wait_for_ever() -> None:
    """The first process of a pid namespace."""
    prctl(PR_SET_PDEATHSIG, 9)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    close_from(0)
    while True:
        signal.pause()


def _become(plan: Plan, request: Request, number: int, ends: tuple[int, int, int]) -> None:
    """In the child: descriptors 0 to 4 (5: a link), then the program; a word where that fails."""
    inlet, output, control = ends
    try:
        null = os.open("/dev/null", os.O_RDWR)
        own = [] if request.link is None else [request.link]
        wanted = [null, output, output, inlet, control, *own]
        for place, one in enumerate([moved_up(os.dup(end)) for end in wanted]):
            os.dup2(one, place)
        for name in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)
        ruleset = plan.ruleset
        if plan.landlock and ruleset is None:
            ruleset = landlock.ruleset(rules_for(plan.files, request.folder), abi=plan.landlock)
        confine.start_program(plan, request, number, ruleset)
    except BaseException as error:
        os.write(4, f"\nstart {f'{type(error).__name__}: {error}'!a}\n".encode())
    os._exit(NO_START)


class _Watch:
    """The loop around a program: `until_the_end` gives what was seen."""

    def __init__(
        self,
        plan: Plan,
        request: Request,
        child: int,
        asked: int,
        ends: tuple[int, int, int],
        text: bytes,
    ) -> None:
        self.seen = Seen()
        self._limits, self._child, self._asked = request.limits, child, asked
        self._inlet, self._output, self._control = ends
        self._left = memoryview(text)
        self._folder = None if plan.namespaces else request.folder
        self._deadline = time.monotonic() + request.limits["wall_seconds"]
        self._gone = os.pidfd_open(child)
        self._ready = select.poll()
        for end in ends:
            os.set_blocking(end, False)
        for end in (self._output, self._control, self._gone):
            self._ready.register(end, select.POLLIN)
        self._ready.register(asked, select.POLLRDHUP)
        self._ready.register(self._inlet, select.POLLOUT)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def until_the_end(self) -> Seen:
        """Feed, read and time the program until it is gone."""
        while True:
            events = dict(self._ready.poll(self._milliseconds()))
            if self._inlet in events:
                self._feed()
            self._read()
            for end in (self._output, self._control):
                if events.get(end, 0) == select.POLLHUP:
                    self._ready.unregister(end)
            if self._asked in events:
                self._ready.unregister(self._asked)
                self._end("sandbox")
            if self._gone in events:
                break
        _, self.seen.status, used = os.wait4(self._child, 0)
        self.seen.cpu_seconds = used.ru_utime + used.ru_stime
        self._read()
        if self._folder is not None and not self.seen.end:  # it may be quicker than our looks
            over = folder.is_over(self._folder, self._limits["folder_bytes"])
            self.seen.end = "disk" if over else ""
        return self.seen

    def _end(self, reason: str) -> None:
        """Kill the program, which cannot know; the first reason counts."""
        self.seen.end = self.seen.end or reason
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._gone, signal.SIGKILL)

    def _milliseconds(self) -> float | None:
        """How long to wait for the next event; ends what is over its time or its folder."""
        if self.seen.end:
            return None
        wait = self._deadline - time.monotonic()
        if wait <= 0:
            self._end("timed out")
            return None
        if self._folder is not None:
            wait = min(wait, folder.SECONDS)
            if folder.is_over(self._folder, self._limits["folder_bytes"]):
                self._end("disk")
        return 1000 * wait + 1

    def _feed(self) -> None:
        """Write more of the text to the runner; close when that is done, or it does not listen."""
        try:
            self._left = self._left[os.write(self._inlet, self._left) :]
        except BlockingIOError:
            return
        except OSError:
            self._left = self._left[:0]
        if not self._left:
            self._ready.unregister(self._inlet)
            os.close(self._inlet)
            self._inlet = -1

    def _read(self) -> None:
        """Read what there is without waiting; what is over its cap ends the program."""
        ways = (
            (self._output, self.seen.output, self._limits["output_bytes"], "output"),
            (self._control, self.seen.control, _CONTROL_BYTES, "tampered"),
        )
        for end, into, most, reason in ways:
            while len(into) <= most:
                try:
                    part = os.read(end, 65536)
                except BlockingIOError:
                    break
                if not part:
                    break
                into += part
            if len(into) > most:
                del into[most:]
                self._end(reason)
