"""Programs that try to pass without being right: by leaving early, by forging, by looking.

`run` passes what ran to its end; `check` passes what gave right answers to tests in
another process (more of these in `test_attacks_check`).
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


def test_the_secret_is_not_among_all_that_a_program_can_look_at(machine) -> None:
    verdict = machine.fails(
        machine.hunt + "look_everywhere(); forge(); os._exit(0)", "left early", "tampered"
    )
    assert verdict.suspicious


def test_the_secret_is_not_in_what_a_signal_a_thread_or_an_error_sees(machine) -> None:
    machine.fails(
        machine.hunt
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


def test_the_classes_of_the_guard_can_be_found_but_not_bent(machine) -> None:
    machine.fails(
        """
        import functools, gc, os
        for base in (object, str):
            for one in type.__subclasses__(base):
                if one.__module__ in ("runner", "__main__", "builtins"):
                    for name in ("flush", "write", "__eq__", "__hash__"):
                        try: setattr(one, name, lambda *a, **k: False)
                        except TypeError: pass
        gc.unfreeze()
        for one in gc.get_objects():
            if type(one) is functools.partial and one.args[:1] == (4,):
                os.write(4, one.args[1]); os._exit(0)
        """,
        "error",
    )


def test_freed_memory_that_a_program_sees_again_never_held_the_secret(machine) -> None:
    machine.fails(
        """
        import io, os, re
        class Raw(io.RawIOBase):
            def readinto(self, buffer): return len(buffer)
        raw, kept = Raw(), []
        class Shown(Exception):
            def __str__(self):
                kept.extend(raw.read(size) for size in range(60, 140) for _ in range(50))
                for word in set(re.findall(rb"[0-9a-f]{64}", b" ".join(kept))):
                    os.write(4, b"\\n" + word + b"\\n")
                os._exit(0)
        raise Shown
        """,
        "left early",
    )


@pytest.mark.parametrize(
    "head", ["# coding: utf-7\n+AAA-", "# coding: unicode_escape\n\\x00", "\n\0"]
)
def test_a_zero_byte_does_not_end_a_program_before_its_end(machine, head: str) -> None:
    verdict = machine.sandbox.run(f"{head}\nassert 1 == 2\n")
    assert (verdict.passed, verdict.reason) == (False, "error")
    assert "null bytes" in verdict.detail


def test_a_declared_encoding_is_that_of_the_text(machine) -> None:
    """A byte that is no UTF-8 comes as the surrogate that it was read as."""
    assert machine.sandbox.run("# coding: latin-1\nassert ord('\udce9') == 0xE9").passed
