"""Programs that try to pass tests, which run in another process, without right answers."""

import pytest

pytestmark = pytest.mark.parametrize("sandbox", ["all layers"], indirect=True)

# --- through `check`: the tests are elsewhere ------------------------------------------------

AGREEABLE = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __bool__(self): return True
    def __hash__(self): return 0
    def __contains__(self, x): return True
    def __add__(self, other): return self
    def __getattr__(self, name): return self
    def __call__(self, *a): return self
    def __instancecheck__(self, x): return True
class List(list):
    __eq__ = lambda a, b: True
class Int(int):
    __eq__ = lambda a, b: True
    __hash__ = int.__hash__
class Str(str):
    __eq__ = lambda a, b: True
    __hash__ = str.__hash__
class Dict(dict):
    __eq__ = lambda a, b: True
class Float(float):
    __eq__ = lambda a, b: True
    __hash__ = float.__hash__
"""


@pytest.mark.parametrize(
    "value", ["Yes()", "List()", "Int(3)", "Str('a')", "Dict()", "Float(1)", "[Yes()]", "(Int(5),)"]
)
def test_a_value_that_equals_everything_equals_nothing_in_the_tests(machine, value: str) -> None:
    machine.check_fails(f"{AGREEABLE}\ndef solve(x): return {value}", "wrong")


def test_the_reason_names_a_value_that_is_not_plain(machine) -> None:
    verdict = machine.check_fails(f"{AGREEABLE}\ndef solve(x): return Yes()", "wrong")
    assert "no plain value: Yes" in verdict.detail


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1) == 5",
        "assert 5 == f(1)",
        "assert not f(1) != 5",
        "assert [f(1)] == [5]",
        "assert f(1) in [5]",
        "assert 5 in f(1)",
        "assert abs(f(1) - 5) < 1",
        "assert f(1) < 5",
        "assert isinstance(f(1), int)",
        "assert len(f(1)) == 5",
        "assert sorted(f(1)) == [5]",
        "assert set(f(1)) == {5}",
        "assert {f(1): 1} == {5: 1}",
        "assert str(f(1)) == '5'",
        "assert f(1) is True",
        "import math\nassert math.isclose(f(1), 5)",
    ],
)
def test_no_form_of_comparison_is_fooled(machine, test: str) -> None:
    verdict = machine.sandbox.check(f"{AGREEABLE}\ndef f(x): return Yes()", test, "f")
    assert not verdict.passed
    assert verdict.reason in ("wrong", "error")


def test_names_of_the_tests_and_their_built_ins_are_out_of_reach(machine) -> None:
    for name in ("abs", "len", "sorted", "isinstance", "check", "math", "expected", "print"):
        program = f"{name} = lambda *a: 0\ndef solve(x): return 0"
        machine.check_fails(program, "wrong")
    test = "expected = 5\nassert abs(f(1) - expected) < 1 and len([f(1)]) == 1"
    program = "abs = len = lambda *a: 1 - 1\nexpected = 9\ndef f(x): return 9"
    assert machine.sandbox.check(program, test, "f").reason == "wrong"


def test_the_tests_cannot_be_read_from_frames_memory_or_descriptors(machine) -> None:
    program = (
        machine.hunt
        + """
def solve(x):
    look_everywhere()
    secret = "_".join(["SECRET", "OF", "THE", "TESTS"])
    everything = " ".join(map(repr, kept))
    frame, names = sys._getframe(), []
    while frame is not None:
        names += [frame.f_code.co_filename, *frame.f_globals]
        frame = frame.f_back
    print("SEEN", secret in everything, "<" + "tests>" in names)
    return 0
"""
    )
    verdict = machine.check_fails(program, "wrong")
    assert verdict.output == "SEEN False False\n"


def test_the_word_of_the_own_process_is_of_no_use_in_a_check(machine) -> None:
    machine.check_fails(
        machine.hunt + "look_everywhere(); forge()\ndef solve(x):\n    forge(); os._exit(0)",
        *("left early", "tampered"),
    )


LINK = """
import os, sys
def send(data): os.write(5, len(data).to_bytes(4, "little") + data)
def text(word): return b"S" + len(word).to_bytes(4, "little") + word
"""


@pytest.mark.parametrize(
    "said",
    [
        "os.write(5, b'')",
        "os.write(5, bytes(1 << 16))",
        "os.write(5, b'\\xff' * 1000)",
        "os.write(5, os.urandom(5000))",
        "send(b'N')",
        "send(b'U\\x02\\0\\0\\0' + text(b'value') + b'T')",
        "send(b'U\\x02\\0\\0\\0' + text(b'error') + text(b'SystemExit'))",
        "send(b'U\\x03\\0\\0\\0' + text(b'ask') + text(b'look up') + text(b'check'))",
        "send(b'U\\4\\0\\0\\0' + text(b'ask') + text(b'attr') + b'I\\1\\0\\0\\0\\0' + text(b'x'))",
        "send(b'L\\x01\\0\\0\\0' * 100000 + b'N')",
        "send(b'I' + (1 << 23).to_bytes(4, 'little') + bytes(1 << 23))",
        "os.close(5)",
        "os.dup2(1, 5)",
        "os.read(5, 100)",
        "[os.read(5, 100) for _ in range(9)]",
        "os.set_blocking(5, False)",
    ],
)
def test_whatever_is_said_on_the_link_wrong_answers_do_not_pass(machine, said: str) -> None:
    reasons = ("wrong", "error", "tampered", "left early", "timed out", "cpu time", "memory")
    before = f"{LINK}\n{said}\ndef solve(x): return 0"
    with machine.briefly():
        machine.check_fails(before, *reasons)
        machine.check_fails(f"{LINK}\ndef solve(x):\n    {said}\n    return 0", *reasons)


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        ("iter(int, 1)", ("timed out", "memory", "cpu time")),
        ("'x' * (20 << 20)", ("error", "timed out")),
        ("range(10 ** 18)", ("timed out", "memory", "cpu time")),
        ("__import__('itertools').repeat(5)", ("timed out", "memory", "cpu time")),
    ],
)
def test_endless_answers_end_with_the_limits(machine, value: str, reasons: tuple[str, ...]) -> None:
    with machine.briefly():
        verdict = machine.sandbox.check(f"def f(): return {value}", "assert list(f()) == [1]", "f")
    assert not verdict.passed
    assert verdict.reason in reasons


def test_the_tests_process_cannot_be_reached_by_signal_or_file(machine) -> None:
    program = """
import os
for pid in range(1, 400):
    if pid != os.getpid():
        for number in (9, 19):
            try: os.kill(pid, number)
            except OSError: pass
        try: open(f"/proc/{pid}/mem", "r+b")
        except OSError: pass
def solve(x): return x + 1
"""
    tests = "assert solve(1) == 2\nassert [solve(n) for n in range(50)] == list(range(1, 51))"
    verdict = machine.sandbox.check(program, tests, "solve")
    assert verdict.passed, verdict


def test_a_program_that_went_on_after_its_tests_is_told(machine) -> None:
    program = """
import threading, time
def on():
    while True: time.sleep(0.1)
def solve(x):
    return x + 1
class Hang:
    def __del__(self): on()
import sys
sys._getframe().f_back.f_locals
threading.Thread(target=on).start()
sys.stdout.flush = on
"""
    verdict = machine.sandbox.check(program, "assert solve(1) == 2", "solve")
    assert verdict.passed
    assert "went on after its tests" in verdict.suspicious


# A known fault of CPython (a view of a buffered reader's memory outlives it) lets a program read
# and write its whole process, the secret of `run` included. No verdict of a check hangs on that.
READ_OWN_MEMORY = """
import io, os, re, struct, sys
class Raw(io.RawIOBase):
    def readinto(self, buffer):
        global view
        view = buffer
        return 0
    def readable(self): return True
fill = [bytearray(b"x") for _ in range(300)]
reader = io.BufferedReader(Raw(), 56)
reader.read(1)
del reader
new = [bytearray() for _ in range(500)]
view = view.cast("B")
view[16:24] = (0x77).to_bytes(8, "little")
over = [one for one in new if len(one) == 0x77]
def read(address, size):
    view[16:56] = struct.pack("<QQQQQ", size, size + 1, address, address, 0)
    data = bytes(over[0])
    view[16:56] = bytes(40)
    return data
if over:
    near = [bytes([65 + n % 26]) * 66 for n in range(400)]
    pools = {id(one) & ~0x3FFF for one in [*near, *fill, *sys.modules, *sys.modules.values()]}
    top = id(near[0]) >> 32
    text = b"".join(read(pool, 0x4000) for pool in pools if pool >> 32 == top)
    for word in set(re.findall(rb"[0-9a-f]{64}", text)):
        os.write(4, b"\\n" + word + b"\\n")
"""


def test_a_program_that_reads_its_own_memory_does_not_pass_a_check(machine) -> None:
    machine.check_fails(
        READ_OWN_MEMORY + "\ndef solve(x): os._exit(0)",
        *("left early", "tampered", "killed", "error"),
    )


def test_an_answer_that_stops_an_iteration_is_no_end_of_the_cases(machine) -> None:
    tests = "cases = [(1, 2), (2, 3)]\nassert all(map(lambda case: f(case[0]) == case[1], cases))"
    verdict = machine.sandbox.check("def f(x): raise StopIteration", tests, "f")
    assert not verdict.passed
    assert "raised StopIteration" in verdict.detail
    tests = "it = iter(f())\nassert next(it) == 1\nassert next(it, 2) == 2\nassert [*f()] == [1]"
    assert machine.sandbox.check("def f(): yield 1", tests, "f").passed
