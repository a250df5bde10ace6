"""The sandbox from outside, with all layers and with some switched off."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import lamina
from lamina.core.errors import OutputError
from lamina.evaluate.sandbox import REASONS, Limits, Sandbox, probe
from lamina.evaluate.sandbox.host import _protection

LIMITS = Limits(wall_seconds=20.0, cpu_seconds=5, memory_bytes=512 << 20)
WAYS = {
    "all": (),
    "no namespaces": ("namespaces", "bubblewrap"),
    "no landlock": ("landlock",),
    "no seccomp": ("seccomp",),
    "bubblewrap": ("namespaces",),
    "seccomp alone": ("namespaces", "bubblewrap", "landlock"),
    "landlock alone": ("namespaces", "bubblewrap", "seccomp"),
    "nothing": ("namespaces", "bubblewrap", "landlock", "seccomp"),
}


@pytest.fixture(scope="module")
def boxes():
    made: dict[str, Sandbox] = {}

    def box(way: str) -> Sandbox:
        if way == "bubblewrap" and shutil.which("bwrap") is None:
            pytest.skip("bubblewrap is not installed")
        if way not in made:
            made[way] = Sandbox(LIMITS, without=WAYS[way])
        if not made[way].protection.enough:
            pytest.skip(made[way].protection.line)
        if way == "bubblewrap" and "bubblewrap" not in made[way].protection.layers:
            pytest.skip("bubblewrap does not work here")
        return made[way]

    yield box
    for one in made.values():
        one.close()


HOLDING = ["all", "no namespaces", "no landlock", "no seccomp", "bubblewrap"]


@pytest.mark.parametrize("way", HOLDING)
def test_a_program_passes_that_ends_well_and_no_other(boxes, way):
    assert boxes(way).run("print('x')").passed
    assert boxes(way).run("assert 1 == 1").reason == "passed"
    assert boxes(way).run("assert 1 == 2").reason == "error"
    assert boxes(way).run("import sys; sys.exit(0)").reason == "left early"
    assert boxes(way).run("import os; os._exit(0)").reason == "left early"
    assert boxes(way).run("x = ").reason == "error"


@pytest.mark.parametrize("way", HOLDING)
def test_the_machines_files_are_out_of_reach(boxes, way, tmp_path):
    tmp_path.chmod(0o777)
    (tmp_path / "secret").write_text("canary")
    verdict = boxes(way).run(f"print(open({str(tmp_path / 'secret')!r}).read())")
    assert verdict.reason == "error"
    assert "canary" not in verdict.output
    assert not boxes(way).run(f"open({str(tmp_path / 'new')!r}, 'w')").passed
    assert not boxes(way).run(f"import os; os.chmod({str(tmp_path)!r}, 0o700)").passed
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("way", HOLDING)
def test_there_is_no_network(boxes, way):
    program = """
        import socket
        s = socket.socket()
        s.settimeout(1)
        s.connect(("127.0.0.1", 9))
    """
    verdict = boxes(way).run(textwrap.dedent(program))
    assert "PermissionError" in verdict.detail or "unreachable" in verdict.detail


@pytest.mark.parametrize("way", ["all", "no namespaces", "no landlock", "bubblewrap"])
def test_no_process_starts_and_no_other_is_signalled(boxes, way):
    for action in ("os.fork()", "os.kill(os.getppid(), 0)", "os.kill(-1, 0)", "os.setns(0)"):
        verdict = boxes(way).run(f"import os\n{action}")
        assert "Error" in verdict.detail, (action, verdict)


def test_without_seccomp_one_process_is_all_there_may_be(boxes):
    assert "BlockingIOError" in boxes("no seccomp").run("import os; os.fork()").detail


@pytest.mark.parametrize("way", HOLDING)
def test_other_peoples_packages_are_not_seen(boxes, way):
    names = [entry.name for entry in Path(lamina.__file__).parents[1].iterdir()]
    assert "lamina" in names
    verdict = boxes(way).run(
        f"import sys; sys.path += [{str(Path(pytest.__file__).parents[1])!r}]\nimport pytest"
    )
    assert verdict.reason == "error"


@pytest.mark.parametrize("way", ["seccomp alone", "landlock alone", "nothing"])
def test_below_the_minimum_nothing_is_run(way):
    with Sandbox(LIMITS, without=WAYS[way]) as box:
        assert not box.protection.enough
        with pytest.raises(OutputError, match="no program is run on this machine: no layer holds"):
            box.run("x = 1")


def test_the_minimum_names_what_nothing_holds():
    told = {"layers": ["limits"], "missing": ["seccomp: x"], "lacks": ["network", "processes"]}
    protection = _protection(told)
    assert protection.why == "no layer holds network and processes"
    assert protection.line.startswith("no sandbox: ")
    assert not _protection({"failed": "broken"}).enough
    assert not _protection({}).enough


def test_probing_tells_the_layers_of_a_sandbox(boxes):
    assert probe() == boxes("all").protection


@pytest.mark.parametrize("way", ["all", "no namespaces"])
def test_a_program_is_ended_at_each_of_its_limits(boxes, way):
    box = boxes(way)
    short = Limits(wall_seconds=0.5, cpu_seconds=5, output_bytes=1000, folder_bytes=1 << 20)
    with Sandbox(short, without=WAYS[way]) as tight:
        assert tight.run("while True: pass").reason == "timed out"
        assert tight.run("print('x' * 2000)").reason == "output"
        assert len(tight.run("print('x' * 2000)").output) == 1000
        full = "for i in range(99): open(str(i), 'wb').write(bytes(1 << 16))"
        assert not tight.run(full).passed
    assert box.run("x = bytearray(1 << 30)").reason == "memory"
    assert "File too large" in box.run("open('x', 'wb').write(bytes(17 << 20))").detail


def test_processor_time_is_a_limit_that_cannot_be_caught(boxes):
    with Sandbox(replace(LIMITS, cpu_seconds=1)) as box:
        program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
        assert box.run(program).reason == "cpu time"


@pytest.mark.parametrize(
    "action",
    [
        "import gc; gc.get_objects()",
        "import gc; gc.get_referrers(1)",
        "import sys; sys._current_frames()",
        "import sys; sys.settrace(print)",
        "import sys; sys.setprofile(print)",
        "(lambda: 0).__code__.replace()",
        "import marshal; marshal.loads(marshal.dumps(1))",
        "import ctypes",
        "import _testcapi",
    ],
)
def test_ways_to_the_runners_memory_are_refused(boxes, action):
    verdict = boxes("all").run(action)
    assert verdict.reason == "error"
    assert "refused" in str(verdict.suspicious) or "ModuleNotFoundError" in verdict.detail


def test_a_programs_own_audit_hook_is_not_added(boxes):
    verdict = boxes("all").run("import sys\nsys.addaudithook(print)\nsys.audit('called')")
    assert verdict.output == ""
    assert verdict.suspicious == (".addaudithook", "sys.addaudithook (refused)")


def test_no_frame_of_the_runner_names_the_secret_word(boxes):
    program = """
        import sys
        frame, seen = sys._getframe(), []
        while frame is not None:
            seen += [*frame.f_locals.values(), *frame.f_globals.values()]
            frame = frame.f_back
        texts = [one for one in seen if isinstance(one, (bytes, str))]
        print(any(len(one) >= 64 and all(c in b"0123456789abcdef\\n" for c in (
            one if isinstance(one, bytes) else one.encode())) for one in texts))
    """
    assert boxes("all").run(textwrap.dedent(program)).output == "False\n"


def test_what_ends_after_the_program_does_not_change_its_verdict(boxes):
    box = boxes("all")
    assert not box.run("import atexit, os\natexit.register(os._exit, 0)\nassert False").passed
    assert box.run("import threading\nthreading.Thread(target=input).start()").passed
    endless = "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()"
    assert box.run(endless).passed


def test_a_detail_has_the_programs_line(boxes):
    verdict = boxes("all").run("def f():\n    return 1 / 0\n\nf()")
    assert verdict.detail.splitlines() == [
        "line 4, in <module>: f()",
        "line 2, in f: return 1 / 0",
        "ZeroDivisionError: division by zero",
    ]


def test_what_a_solution_may_need_works(boxes):
    program = """
        import asyncio, collections, dataclasses, datetime, decimal, fractions, functools, hashlib
        import heapq, itertools, json, math, random, re, statistics, string, tempfile, threading
        import typing, zlib

        @dataclasses.dataclass
        class Point:
            x: int

        async def answer():
            return 42

        assert asyncio.run(answer()) == 42 and Point(3) == Point(3) and __name__ == "__main__"
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        thread = threading.Thread(target=print, args=("é",))
        thread.start()
        thread.join()
    """
    verdict = boxes("all").run(textwrap.dedent(program))
    assert verdict.passed, verdict
    assert (verdict.output, verdict.suspicious) == ("é\n", ())


@pytest.mark.parametrize("module", ["importlib.util", "zipimport", "runpy", "unittest", "this"])
def test_the_librarys_own_code_is_loaded_frozen_or_not(boxes, module):
    assert boxes("all").run(f"import {module}").passed


def test_programs_run_side_by_side_with_verdicts_of_their_own(boxes):
    box = boxes("all")
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda n: box.run(f"print({n}); assert {n} % 3"), range(12)))
    assert [verdict.output for verdict in verdicts] == [f"{n}\n" for n in range(12)]
    assert [verdict.passed for verdict in verdicts] == [n % 3 > 0 for n in range(12)]


def test_a_verdict_is_json(boxes):
    told = json.loads(json.dumps(boxes("all").run("1 / 0").as_json()))
    assert told["schema"] == "lamina.verdict/1"
    assert told["reason"] in REASONS


def test_closing_ends_the_launcher_and_removes_its_folder():
    box = Sandbox(LIMITS)
    process, folder = box._launcher._process, Path(box._folder.name)
    box.close()
    assert process.returncode is not None
    assert not folder.exists()


def test_a_launcher_that_was_killed_gives_no_pass():
    with Sandbox(LIMITS) as box:
        if not box.protection.enough:
            pytest.skip(box.protection.line)
        box._launcher._process.kill()
        box._launcher._process.wait()
        verdict = box.run("x = 1")
    assert (verdict.passed, verdict.reason) == (False, "sandbox")


ORDINARY = """
import sys
sys.path.insert(0, sys.argv[1])
from lamina.evaluate.sandbox import Limits, Sandbox
for without in ((), ("namespaces", "bubblewrap")):
    with Sandbox(Limits(wall_seconds=20.0), without=without) as box:
        if box.protection.enough:
            told = [box.run(one) for one in ("x = 1", "import os; os.kill(os.getppid(), 9)",
                    "open('/etc/hostname').read()", "import os; os.fork()", "open('f', 'w')")]
            print([verdict.reason for verdict in told])
        else:
            print("too little:", box.protection.why)
"""


def test_an_ordinary_user_is_held_too(tmp_path):
    """Root becomes one, with an interpreter that is open to all; others are one already."""
    python, words = sys._base_executable, []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        words = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
        fits = "sys.version_info >= (3, 11) and os.access(sys.executable, os.X_OK)"
        trial = [*words, python, "-S", "-c", f"import os, sys; sys.exit(not ({fits}))"]
        if subprocess.run(trial, capture_output=True).returncode:
            python = shutil.which("python3", path="/usr/bin") or ""
            trial[trial.index(sys._base_executable)] = python
            if not python or subprocess.run(trial, capture_output=True).returncode:
                pytest.skip("no Python of 3.11 or later is open to other users")
    source = Path(lamina.__file__).parents[1]
    told = subprocess.run(
        [*words, python, "-S", "-B", "-c", ORDINARY, str(source)],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )
    if "Permission denied" in told.stderr or "No module named" in told.stderr:
        pytest.skip(f"the sources are not open to other users: {told.stderr[-300:]}")
    lines = told.stdout.splitlines()
    assert len(lines) == 2, told
    held = "['passed', 'error', 'error', 'error', 'passed']"
    assert all(line == held or line.startswith("too little: ") for line in lines), told
