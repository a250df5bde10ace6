"""The verdict, from what the supervisor saw. Pure: bytes and numbers in, words out."""

import os
import signal
from dataclasses import dataclass, field

NO_START, NO_LINE, REFUSED = 125, 123, 122
"""Exit codes: no program could be started; the runner cannot tell, for the line to us is closed; it
ended the program itself."""
_TOLD = {b"error": "error", b"left": "left early", b"memory": "memory"}
"""What the runner says of an error, and the reason that is."""


@dataclass(slots=True)
class Seen:
    """What came out of a program."""

    output: bytearray = field(default_factory=bytearray)
    control: bytearray = field(default_factory=bytearray)
    end: str = ""
    """Why the supervisor ended it, if it did."""
    status: int = 0
    cpu_seconds: float = 0.0


def judge(seen: Seen, word: bytes, limits: dict) -> dict:
    """The verdict. Passed: the secret word came once, and the process then ended with code 0."""
    control = bytes(seen.control)
    lines = control.split(b"\n")
    came = lines.count(word) == 1 and control.count(word) == 1
    told: dict[bytes, str] = {}
    for line in lines:
        head, _, rest = line.partition(b" ")
        if head in _TOLD or head == b"start":
            told[head] = _text(rest)
    reason, detail = _reason(seen, told, came, limits)
    events = {_event(line) for line in lines if line.startswith((b"refused ", b"noted "))}
    return {
        "passed": reason == "passed",
        "reason": reason,
        "detail": detail[:4000],
        "suspicious": sorted(events)[:64],
        "output": bytes(seen.output).decode(errors="replace"),
    }


def _reason(seen: Seen, told: dict[bytes, str], came: bool, limits: dict) -> tuple[str, str]:
    code = os.waitstatus_to_exitcode(seen.status)
    if seen.end:
        return seen.end, _END.get(seen.end, "")
    if b"start" in told and code == NO_START and not came:
        return "sandbox", told[b"start"]
    if code == -signal.SIGXCPU or (code < 0 and seen.cpu_seconds >= limits["cpu_seconds"]):
        return "cpu time", f"{seen.cpu_seconds:.1f} s of processor time were used"
    if code < 0:
        known = -code in set(signal.Signals)
        return "killed", f"ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
    if code == REFUSED:
        return "error", "it was ended for what only a forged program does; see `suspicious`"
    if code == NO_LINE:
        return "tampered", "it closed the supervisor's line"
    if came:
        return ("passed", "") if code == 0 else ("left early", f"ended with code {code}")
    for head, reason in _TOLD.items():
        if head in told:
            return reason, told[head]
    return "left early", f"the process ended with code {code} before the program's end"


_END = {
    "sandbox": "it was ended, for nobody waits for it any more",
    "tampered": "it wrote to the supervisor's line, which is not for programs",
}


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
