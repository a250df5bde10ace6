import signal

import pytest

from lamina.evaluate.sandbox.inside.judge import NO_LINE, NO_START, REFUSED, Seen, judge
from lamina.evaluate.sandbox.nouns import REASONS

WORD = b"5f" * 32
LIMITS = {"cpu_seconds": 3}


def seen(control: bytes = b"", *, code: int = 0, signal_number: int = 0, **more) -> Seen:
    return Seen(control=bytearray(control), status=code << 8 | signal_number, **more)


def test_the_word_and_code_0_is_the_only_pass():
    assert judge(seen(b"\n" + WORD + b"\n"), WORD, LIMITS)["passed"] is True


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (seen(), "left early"),
        (seen(b"\n" + b"00" * 32 + b"\n"), "left early"),
        (seen(b"\n" + WORD + b"\n" + WORD + b"\n"), "left early"),
        (seen(b"x" + WORD + b"\n"), "left early"),
        (seen(b"\n" + WORD + b"\n", code=1), "left early"),
        (seen(b"\n" + WORD + b"\n", signal_number=signal.SIGKILL), "killed"),
        (seen(b"\n" + WORD + b"\n", end="timed out"), "timed out"),
        (seen(b"\n" + WORD + b"\n", end="output"), "output"),
        (seen(b"\nerror 'line 1\\nE'\n", code=1), "error"),
        (seen(b"\nleft ''\n", code=1), "left early"),
        (seen(b"\nmemory ''\n", code=1), "memory"),
        (seen(b"\nstart 'OSError'\n", code=NO_START), "sandbox"),
        (seen(code=NO_LINE), "tampered"),
        (seen(code=REFUSED), "error"),
        (seen(signal_number=signal.SIGXCPU, cpu_seconds=3.1), "cpu time"),
        (seen(signal_number=signal.SIGKILL, cpu_seconds=4.1), "cpu time"),
        (seen(signal_number=signal.SIGSEGV), "killed"),
        (seen(signal_number=45), "killed"),
    ],
)
def test_anything_else_has_its_reason(what, reason):
    told = judge(what, WORD, LIMITS)
    assert (told["passed"], told["reason"]) == (False, reason)
    assert reason in REASONS


def test_what_a_program_writes_on_the_line_is_text_and_no_more():
    control = b"\nerror '\\U00110000'\nnoted " + b"\xff" * 200 + b"\nrefused gc.get_objects\n"
    told = judge(seen(control, code=1), WORD, LIMITS)
    assert told["detail"] == "\\U00110000"
    assert "gc.get_objects (refused)" in told["suspicious"]
    assert all(len(one) < 100 for one in told["suspicious"])


def test_the_last_word_on_an_error_is_the_runners():
    control = b"\nerror 'forged'\n" + b"\nerror 'line 3\\nValueError: \\xe9'\n"
    assert judge(seen(control, code=1), WORD, LIMITS)["detail"] == "line 3\nValueError: é"
