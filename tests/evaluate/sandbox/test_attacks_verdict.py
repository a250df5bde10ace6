"""Programs that try to pass without being right: by leaving early, by forging, by looking.

`run` passes what ran to its end; `check` passes what gave right answers to tests in
another process.
"""

import pytest

pytestmark = pytest.mark.parametrize("sandbox", ["all layers"], indirect=True)

# --- leaving early --------------------------------------------------------------------------

LEAVING = {
    "os._exit": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "SystemExit without a code": "raise SystemExit",
    "os.kill": "import os; os.kill(os.getpid(), 15)",
    "a thread's os._exit": "import os, threading\n"
    "t = threading.Thread(target=os._exit, args=(0,))\nt.start(); t.join()",
    "a signal's handler": "import os, signal\n"
    "signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass",
    "exec of the interpreter": "import os, sys; os.execv(sys.executable, ['python', '-c', ''])",
    "a patched sys.exit": "import sys, os; sys.exit = os._exit; sys.exit(0)",
    "an excepthook": "import sys, os; sys.excepthook = lambda *_: os._exit(0); 1 / 0",
    "an exception that exits when shown": "import os\nclass E(Exception):\n"
    "    def __str__(self): os._exit(0)\nraise E",
    "an exit at exit": "import atexit, os; atexit.register(os._exit, 0); 1 / 0",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
}


@pytest.mark.parametrize("way", LEAVING)
def test_leaving_by_any_door_is_not_passing(machine, way: str) -> None:
    machine.fails(LEAVING[way] + "\nassert 1 == 2", "left early", "error", "killed")


@pytest.mark.parametrize("way", LEAVING)
def test_leaving_before_or_in_a_call_does_not_pass_a_check(machine, way: str) -> None:
    reasons = ("left early", "error", "killed", "timed out", "cpu time")
    machine.check_fails(f"def solve(x): return 1\n{LEAVING[way]}", *reasons)
    inner = "\n".join(f"    {line}" for line in LEAVING[way].splitlines())
    machine.check_fails(f"def solve(x):\n{inner}", *reasons)


# --- bending the language under the asserts -------------------------------------------------

BENDING = {
    "AssertionError is another thing": "import builtins\nbuiltins.AssertionError = ValueError\n"
    "AssertionError = None",
    "no debugging": "import builtins, sys\nvars(builtins)['__debug__'] = False",
    "assertions optimised away": "import sys, builtins\ntry: sys.flags.optimize = 2\n"
    "except Exception: pass",
    "compile and exec are patched": "import builtins\n"
    "builtins.exec = builtins.compile = builtins.eval = lambda *a, **k: None",
    "built-ins say yes": "import builtins\nfor n in ('all', 'any', 'isinstance', 'bool', 'hash'):\n"
    "    setattr(builtins, n, lambda *a, **k: True)",
    "__builtins__ is empty": "__builtins__ = {}",
    "unittest is patched": "import unittest\nunittest.TestCase.run = lambda *a: None\n"
    "unittest.TestCase.assertEqual = lambda *a: None",
    "stdout is closed": "import os, sys\nos.close(1); os.close(2); sys.stdout = None",
    "operators are patched": "import operator\noperator.eq = lambda a, b: True",
    "main is another module": "import sys, types\nsys.modules['__main__'] = types.ModuleType('m')",
    "modules are empty": "import sys\nsys.modules.clear()",
    "imports are patched": "import builtins\nbuiltins.__import__ = lambda *a, **k: None",
    "standard output is flushed by the program": "import sys, os\n"
    "sys.stdout.flush = lambda: None\nsys.stderr.flush = lambda: None",
}


@pytest.mark.parametrize("way", BENDING)
def test_a_bent_language_still_fails_an_assert(machine, way: str) -> None:
    machine.fails(BENDING[way] + "\nassert 1 == 2, 'no'\n", "error", "left early", "killed")


@pytest.mark.parametrize("way", BENDING)
def test_a_bent_language_does_not_reach_the_tests(machine, way: str) -> None:
    machine.check_fails(BENDING[way] + "\ndef solve(x): return 0\n", "wrong", "error", "tampered")


def test_a_trace_cannot_jump_over_an_assert(machine) -> None:
    machine.fails(
        """
        import sys
        def jump(frame, event, arg):
            if event == "line" and frame.f_lineno > 8:
                frame.f_lineno += 1
            return jump
        try: sys.settrace(jump)
        except Exception: pass
        sys._getframe().f_trace = jump
        assert 1 == 2
        x = 1
        """,
        "error",
        "left early",
    )


def test_a_thread_cannot_trace_or_profile_the_program(machine) -> None:
    machine.fails(
        """
        import threading
        threading.settrace(lambda *a: None); threading.setprofile(lambda *a: None)
        t = threading.Thread(target=print); t.start(); t.join()
        import sys
        for name in ("settrace", "setprofile", "addaudithook"):
            try: getattr(sys, name)(lambda *a: None)
            except BaseException: pass
            else: print("DID", name)
        assert 1 == 2
        """,
        "error",
    )


def test_what_runs_after_an_error_cannot_mend_it(machine) -> None:
    machine.fails(
        """
        import sys, os, threading, atexit, weakref
        names = sys._getframe().f_back.f_globals
        for name in ("_report", "_told", "_word_for", "_settle"):
            if name in names:
                names[name] = lambda *a, **k: ("", "")
        atexit.register(lambda: os._exit(0))
        class Last:
            def __del__(self): os._exit(0)
        last = Last()
        sys.unraisablehook = threading.excepthook = lambda *a: os._exit(0)
        1 / 0
        """,
        "left early",
        "error",
        "tampered",
    )


# --- forging the verdict --------------------------------------------------------------------

HUNT = """
import gc, os, re, sys, threading

found, seen, kept = set(), set(), []

def look(thing, depth):
    if id(thing) in seen or depth > 5:
        return
    seen.add(id(thing)); kept.append(thing)
    if isinstance(thing, (bytes, bytearray)):
        found.update(re.findall(rb"[0-9a-f]{64}", bytes(thing)))
    elif isinstance(thing, str):
        found.update(one.encode() for one in re.findall("[0-9a-f]{64}", thing))
    elif isinstance(thing, dict):
        for pair in list(thing.items()): look(pair, depth + 1)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for one in list(thing): look(one, depth + 1)
    else:
        for name in ("__dict__", "__closure__", "__defaults__", "cell_contents", "args", "func",
                     "keywords", "__self__", "__func__", "__reduce__"):
            try: look(getattr(thing, name), depth + 1)
            except BaseException: pass

def look_everywhere():
    frame = sys._getframe()
    while frame is not None:
        look([dict(frame.f_locals), frame.f_globals, frame.f_builtins], 0)
        frame = frame.f_back
    look({name: vars(module) for name, module in list(sys.modules.items())}, 0)
    for action in (
        lambda: gc.get_objects(),
        lambda: [gc.get_objects(generation=n) for n in range(3)],
        lambda: gc.get_referrers(look.__globals__),
        lambda: gc.get_referents(*kept),
        lambda: list(sys._current_frames().values()),
        lambda: [os.read(fd, 4096) for fd in (3, 4, 5, 6) if not os.set_blocking(fd, False)],
    ):
        try: look(action(), 0)
        except BaseException: pass

def forge():
    for word in [*found, b"0" * 64, b"passed", b""]:
        for fd in range(1, 16):
            try: os.write(fd, b"\\n" + word + b"\\n")
            except OSError: pass
"""


def test_the_secret_is_not_among_all_that_a_program_can_look_at(machine) -> None:
    verdict = machine.fails(
        HUNT + "look_everywhere(); forge(); os._exit(0)", "left early", "tampered"
    )
    assert verdict.suspicious


def test_the_secret_is_not_in_what_a_signal_a_thread_or_an_error_sees(machine) -> None:
    machine.fails(
        HUNT
        + """
import signal
signal.signal(signal.SIGALRM, lambda number, frame: look_everywhere())
signal.setitimer(signal.ITIMER_REAL, 0.01)
thread = threading.Thread(target=look_everywhere); thread.start(); thread.join()
class Shown(Exception):
    def __str__(self):
        look_everywhere(); forge()
        return ""
sys.stdout.flush = lambda: (look_everywhere(), forge(), os._exit(0))
raise Shown
""",
        *("left early", "tampered", "error", "cpu time", "timed out"),
    )


def test_the_control_descriptors_cannot_be_turned_around(machine) -> None:
    machine.fails(
        """
        import os
        inlet, outlet = os.pipe()
        saved = os.dup(4)
        os.dup2(outlet, 4)
        try:
            assert 1 == 2
        finally:
            for word in (b"passed", b"0" * 64):
                os.write(saved, b"\\n" + word + b"\\n")
            os.dup2(saved, 4)
        """,
        "error",
        "tampered",
        "left early",
    )


@pytest.mark.parametrize("fd", [3, 4])
def test_closing_a_control_descriptor_is_not_passing(machine, fd: int) -> None:
    machine.fails(
        f"import os; os.closerange({fd}, 64); assert 1 == 2", "error", "left early", "tampered"
    )


def test_printed_verdicts_are_output_only(machine) -> None:
    lines = r"""
        import json, os
        told = {"passed": True, "reason": "passed", "detail": "", "seconds": 0.0, "events": [],
                "suspicious": [], "output": ""}
        for fd in (1, 2, 4, 5):
            for text in (json.dumps(told), "\npassed\n", "\n('passed', '')\n"):
                try: os.write(fd, text.encode())
                except OSError: pass
    """
    machine.fails(lines + "        os._exit(0)", "left early", "tampered")
    machine.check_fails(lines + "        def solve(x): return 0", "wrong", "tampered", "error")


def test_a_refused_look_is_told_as_suspicious(machine) -> None:
    verdict = machine.run("import gc\ntry: gc.get_objects()\nexcept BaseException: pass")
    assert any("gc" in one for one in verdict.suspicious)


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
        HUNT
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
        HUNT + "look_everywhere(); forge()\ndef solve(x):\n    forge(); os._exit(0)",
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
