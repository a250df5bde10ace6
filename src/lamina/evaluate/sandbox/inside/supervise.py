"""One program from start to end, seen by a process that is not the program and outlives it.

The program is killed here, its output read here, and the verdict formed here: it has passed if the
secret word came back exactly once, and the process then ended by itself with code 0.
"""

import os
import secrets
import select
import signal
import time

from . import confine, folder, landlock, suspicious
from .plan import Plan, Request
from .rules import rules_for
from .system import CLONE_NEWPID, PR_SET_PDEATHSIG, call, close_from, moved_up, prctl

_CONTROL_BYTES = 1 << 20
REFUSED = 122
"""The runner's code where it ended a program itself."""


class _Seen:
    """What came out of a program so far."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.control = bytearray()
        self.end = ""


def _init() -> None:
    """The first process of a pid namespace: waits, and takes all with it when it goes."""
    prctl(PR_SET_PDEATHSIG, 9)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    close_from(0)
    while True:
        signal.pause()


def _become(plan: Plan, request: Request, number: int, ends: tuple[int, int, int]) -> None:
    """In the child: descriptors 0 to 4 (5: a link), then the program; 125 where that fails."""
    inlet, output, control = ends
    try:
        null = os.open("/dev/null", os.O_RDWR)
        wanted = [null, output, output, inlet, control]
        wanted += [] if request.link is None else [request.link]
        high = [moved_up(os.dup(end)) for end in wanted]
        for place, one in enumerate(high):
            os.dup2(one, place)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number_of in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number_of, signal.SIG_DFL)
        ruleset = plan.ruleset
        if plan.landlock and ruleset is None:
            ruleset = landlock.ruleset(rules_for(plan.files, request.folder), abi=plan.landlock)
        confine.start_program(plan, request, number, ruleset)
    except BaseException as error:
        os.write(4, f"\nstart {f'{type(error).__name__}: {error}'!a}\n".encode())
    os._exit(125)


def _pump(seen: _Seen, ends: dict[int, bytearray], most: int) -> None:
    """Read what there is without waiting."""
    for end, into in ends.items():
        while True:
            try:
                part = os.read(end, 65536)
            except (BlockingIOError, InterruptedError):
                break
            if not part:
                break
            into += part
            cap = most if into is seen.output else _CONTROL_BYTES
            if len(into) > cap:
                del into[cap:]
                seen.end = seen.end or ("output" if into is seen.output else "tampered")
                break


def run(plan: Plan, request: Request, number: int, asked: int) -> dict:
    """Run one program; `asked` is the socket of who asked, whose end ends the program."""
    word = secrets.token_hex(32).encode()
    inlet_out, inlet_in = os.pipe()
    output_out, output_in = os.pipe()
    control_out, control_in = os.pipe()
    began = time.monotonic()
    first = None
    if plan.namespaces:
        call("unshare", CLONE_NEWPID)
        first = os.fork()
        if first == 0:
            _init()
    child = os.fork()
    if child == 0:
        _become(plan, request, number, (inlet_out, output_in, control_in))
    for end in (inlet_out, output_in, control_in):
        os.close(end)
    if request.link is not None:
        os.close(request.link)
    seen = _Seen()
    left = memoryview(
        b"".join(
            b"%16d" % len(part) + part for part in (plan.runner, request.before, request.source)
        )
        + word
    )
    try:
        status, used = _watch(
            request, child, asked, inlet_in, left, seen, (output_out, control_out)
        )
    finally:
        if first is not None:
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)
    seconds = time.monotonic() - began
    verdict = _verdict(seen, word, status, used, request)
    verdict["suspicious"] = sorted({*verdict["suspicious"], *suspicious.found(request.shown)})
    return verdict | {"seconds": seconds}


def _watch(
    request: Request,
    child: int,
    asked: int,
    inlet: int,
    left: memoryview,
    seen: _Seen,
    outs: tuple[int, int],
    watched: str | None,
) -> tuple[int, float]:
    """Feed, read and time a program until it is gone: (status, processor seconds)."""
    output, control = outs
    for end in (inlet, output, control):
        os.set_blocking(end, False)
    ends = {output: seen.output, control: seen.control}
    limits = request.limits
    deadline = time.monotonic() + limits["wall_seconds"]
    ready = select.poll()
    gone = os.pidfd_open(child)
    for end in (output, control, gone):
        ready.register(end, select.POLLIN)
    ready.register(asked, select.POLLRDHUP)
    ready.register(inlet, select.POLLOUT)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    while True:
        wait = deadline - time.monotonic()
        if wait <= 0 and not seen.end:
            seen.end = "timed out"
        if seen.end:
            os.kill(child, signal.SIGKILL)
        if watched is not None:
            wait = min(wait, folder.SECONDS)
            if folder.is_over(watched, limits["folder_bytes"]):
                seen.end = seen.end or "disk"
                os.kill(child, signal.SIGKILL)
        events = dict(ready.poll(None if seen.end else max(0.0, wait) * 1000 + 1))
        if inlet in events:
            try:
                left = left[os.write(inlet, left) :]
            except BlockingIOError:
                pass
            except OSError:
                left = left[:0]
            if not left:
                ready.unregister(inlet)
                os.close(inlet)
        _pump(seen, ends, limits["output_bytes"])
        for end in (output, control):
            if events.get(end, 0) & select.POLLHUP and not events[end] & select.POLLIN:
                ready.unregister(end)
        if asked in events:
            seen.end = seen.end or "sandbox"
        if gone in events:
            break
    _, status, used = os.wait4(child, 0)
    _pump(seen, ends, limits["output_bytes"])
    return status, used.ru_utime + used.ru_stime


def _verdict(seen: _Seen, word: bytes, status: int, used: float, request: Request) -> dict:
    """Reason and detail from what was seen."""
    lines = bytes(seen.control).split(b"\n")
    told: dict[str, str] = {}
    for line in lines:
        head, _, rest = line.partition(b" ")
        if head in (b"error", b"left", b"memory", b"start"):
            told.setdefault(head.decode(), _text(rest))
    events = sorted({_event(line) for line in lines if line.startswith((b"refused ", b"noted "))})
    code = os.waitstatus_to_exitcode(status)
    came = lines.count(word) == 1 and bytes(seen.control).count(word) == 1
    output = bytes(seen.output).decode(errors="replace")
    reason, detail = _reason(seen, told, code, used, came, request.limits)
    return {
        "passed": reason == "passed",
        "reason": reason,
        "detail": detail[:4000],
        "output": output,
        "suspicious": events[:64],
    }


def _reason(
    seen: _Seen, told: dict[str, str], code: int, used: float, came: bool, limits: dict
) -> tuple[str, str]:
    if "start" in told or code in (120, 121, 125):
        return "sandbox", told.get("start", f"the runner ended with code {code}")
    if seen.end:
        return seen.end, ""
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and used >= limits["cpu_seconds"]):
        return "cpu time", f"{used:.1f} s of processor time were used"
    if code == REFUSED:
        return "error", "something that only a forged program does was refused: see `suspicious`"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return "killed", f"ended by {name}"
    if came:
        return ("passed", "") if code == 0 else ("left early", f"ended with code {code}")
    for head, reason in (("left", "left early"), ("memory", "memory"), ("error", "error")):
        if head in told:
            return reason, told[head]
    return "left early", f"the process ended with code {code} before the program's end"


def _text(quoted: bytes) -> str:
    """The text of a Python string literal in ASCII, as the runner writes it."""
    inner = quoted.decode("ascii", errors="replace")[1:-1]
    try:
        return inner.encode("ascii", "replace").decode("unicode_escape")
    except UnicodeDecodeError:
        return inner


def _event(line: bytes) -> str:
    """`refused gc.get_objects` -> `gc.get_objects (refused)`, `noted os.fork` -> `os.fork`."""
    text = "".join(one for one in line[:80].decode("ascii", "replace") if one.isprintable())
    kind, _, name = text.partition(" ")
    return f"{name} (refused)" if kind == "refused" else name
