"""A program and its tests in two processes: what honest programs may do, and what is told."""

import ast
import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.evaluate.nouns import WriteItem
from lamina.evaluate.sandbox import REASONS, Limits, Sandbox, Verdict, check_bundle
from lamina.evaluate.sandbox.check import LINGERED, combine
from lamina.evaluate.sandbox.check_names import free_names
from lamina.evaluate.tasks.programs import asked_of_mbpp, read_humaneval, read_mbpp

SHARED = Path(__file__).parents[4] / "shared" / "data" / "bench"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(wall_seconds=60.0)) as made:
        if not made.protection.enough:
            pytest.skip(made.protection.line)
        yield made


def told(passed: bool, reason: str, *, output: str = "", detail: str = "", **more) -> Verdict:
    return Verdict(passed, reason, detail, more.get("seconds", 1.0), more.get("seen", ()), output)


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ("assert f(1) == len([g])", ("f", "g")),
        ("import math\nassert math.floor(f(1.5)) == 1", ("f",)),
        ("def check(candidate):\n    assert candidate(x)\nx = 1\ncheck(f)", ("f",)),
        (
            "def check(c):\n    y = 1\n    def inner(): return y + outer\n    return inner",
            ("outer",),
        ),
        ("root = Node(1)\nroot.left = Node(2)\nassert depth(root) == 2", ("Node", "depth")),
        ("assert sum(1, 2) == 3", ()),
        ("assert [f(x) for x in range(3)] == [0, 1, 2]", ("f",)),
        ("assert (lambda x: f(x))(1) == 1", ("f",)),
        ("for i in range(3):\n    assert f(i)\nelse:\n    del i", ("f",)),
        ("class T:\n    def t(self): return f(self.x)", ("f",)),
        ("def check():\n    global made\n    made = f()\ncheck()\nassert made", ("f",)),
        ("", ()),
    ],
)
def test_free_names_are_what_tests_use_and_do_not_define(
    tests: str, names: tuple[str, ...]
) -> None:
    assert free_names(tests) == names


def test_both_sides_are_made_of_the_standard_library_only() -> None:
    sides = (check_bundle.program_side(5, "x = 1"), check_bundle.tests_side(5, "x", ("f",)))
    for code, source in sides:
        assert b"lamina" not in code
        ast.parse(source)


def test_a_right_program_passes(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def f(x): return [x, {x}]", "assert f(1) == [1, {1}]", "f")
    assert verdict.passed
    assert (verdict.reason, verdict.detail, verdict.suspicious) == ("passed", "", ())


def test_a_wrong_program_is_told_with_the_line_of_the_test(sandbox: Sandbox) -> None:
    tests = "def check(c):\n    assert c(1) == 1\n    assert c(2) == 2, 'two'\ncheck(f)"
    verdict = sandbox.check("def f(x): return 1", tests, "f")
    assert not verdict.passed
    assert verdict.reason == "wrong"
    places = "line 4, in <module>: check(f)\nline 3, in check: assert c(2) == 2, 'two'\n"
    assert verdict.detail == places + "AssertionError: two"


def test_an_error_in_a_call_is_told_with_the_line_of_the_test(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def f(x): return 1 / 0", "assert f(1) == 1", "f")
    assert verdict.reason == "error"
    place = "line 1, in <module>: assert f(1) == 1\n"
    assert verdict.detail == place + "ZeroDivisionError: division by zero"


def test_an_error_before_the_tests_is_told_with_the_line_of_the_program(sandbox: Sandbox) -> None:
    verdict = sandbox.check("x = 1\nx.y", "assert f(1) == 1", "f")
    assert verdict.reason == "error"
    place = "line 2, in <module>: x.y\n"
    assert verdict.detail == place + "AttributeError: 'int' object has no attribute 'y'"


def test_a_program_that_is_no_python_is_an_error(sandbox: Sandbox) -> None:
    for program in ("def f(:", "f = '\0'", "f = '\ud800'", "return 1"):
        verdict = sandbox.check(program, "assert f(1) == 1", "f")
        assert (verdict.passed, verdict.reason) == (False, "error"), verdict


def test_tests_that_are_no_python_are_an_error_and_nothing_runs(sandbox: Sandbox) -> None:
    verdict = sandbox.check("print('ran')", "assert (", None)
    assert (verdict.passed, verdict.reason, verdict.output) == (False, "error", "")
    assert "in the tests" in verdict.detail


def test_tests_without_an_assert_pass_only_if_the_program_runs_to_its_end(sandbox: Sandbox) -> None:
    assert sandbox.check("x = 1", "", None).passed
    assert sandbox.check("import sys; sys.exit(0)", "", None).reason == "left early"


def test_a_missing_function_is_a_name_error(sandbox: Sandbox) -> None:
    verdict = sandbox.check("def g(): return 1", "assert f() == 1", "f")
    assert verdict.reason == "error"
    assert "NameError" in verdict.detail


def test_an_entry_may_have_the_name_of_a_built_in_other_names_not(sandbox: Sandbox) -> None:
    program = "def sum(a, b): return a + b\ndef abs(x): return 0"
    assert sandbox.check(program, "assert sum(10, 15) == 25 and abs(-1) == 1", "sum").passed
    assert not sandbox.check(program, "assert sum(10, 15) == 25", None).passed


def test_what_the_program_prints_is_the_output(sandbox: Sandbox) -> None:
    program = (
        "import sys\nprint('begin')\ndef f():\n    print('called', file=sys.stderr)\n    return 1"
    )
    verdict = sandbox.check(program, "print('of the tests')\nassert f() == 1", "f")
    assert verdict.passed
    assert sorted(verdict.output.split()) == ["begin", "called"]


def test_a_program_is_not_main_and_reads_nothing(sandbox: Sandbox) -> None:
    program = "def f():\n    try: return input()\n    except EOFError: return __name__"
    assert sandbox.check(program, "assert f() == 'builtins'", "f").passed


def test_helpers_classes_generators_and_callbacks_work_across(sandbox: Sandbox) -> None:
    program = (
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Pair:\n    a: int\n    b: int\n"
        "def longest(pairs): return max(p.b - p.a for p in pairs)\n"
        "def countdown(n):\n    while n: yield n; n -= 1\n"
        "def each(f, xs): return [f(x) for x in xs]"
    )
    tests = (
        "assert longest([Pair(1, 5), Pair(2, 3)]) == 4 and Pair(1, 2).b == 2\n"
        "assert list(countdown(3)) == [3, 2, 1]\nassert each(lambda x: x * 2, [1, 2]) == [2, 4]"
    )
    verdict = sandbox.check(program, tests, "longest")
    assert verdict.passed, verdict


def test_recursion_has_as_much_room_as_in_one_file(sandbox: Sandbox) -> None:
    program = "def f(n): return 0 if n == 0 else 1 + f(n - 1)"
    assert sandbox.check(program, "assert f(900) == 900", "f").passed
    assert "RecursionError" in sandbox.check(program, "assert f(2000) == 2000", "f").detail


def test_many_checks_at_once_keep_to_their_own_programs(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(6) as pool:
        verdicts = list(
            pool.map(
                lambda n: sandbox.check(f"def f(): return {n}", f"assert f() == {n - n % 3}", "f"),
                range(12),
            )
        )
    assert [verdict.passed for verdict in verdicts] == [n % 3 == 0 for n in range(12)]


def test_a_suspicious_program_that_passes_is_told(sandbox: Sandbox) -> None:
    program = "import gc\ndef f():\n    try: gc.get_objects()\n    finally: return 1"
    verdict = sandbox.check(program, "assert f() == 1", "f")
    assert verdict.passed
    assert verdict.suspicious


def test_only_the_tests_decide_what_has_passed() -> None:
    for reason in REASONS:
        program = told(reason == "passed", reason, detail="of the program")
        assert combine(told(True, "passed"), program).passed
        assert not combine(told(False, "error"), program).passed


@pytest.mark.parametrize(
    ("tests", "program", "reason", "detail"),
    [
        (("error", "('Gone', 'it ended')"), (False, "memory"), "memory", "of the program"),
        (("error", "('Gone', 'no answer')"), (True, "passed"), "tampered", "no answer"),
        (
            ("error", "('ProgramFailed', 'ProgramFailed: x')"),
            (False, "left early"),
            "left early",
            "x",
        ),
        (("error", "('ProgramFailed', 'x')"), (True, "passed"), "tampered", "x"),
        (("error", "('AssertionError', 'line')"), (True, "passed"), "wrong", "line"),
        (("error", "('AssertionError', 'line')"), (False, "timed out"), "wrong", "line"),
        (("error", "('KeyError', 'line')"), (True, "passed"), "error", "line"),
        (("error", "nothing to read"), (True, "passed"), "error", "of the tests"),
        (("timed out", ""), (False, "cpu time"), "cpu time", "of the program"),
        (("timed out", ""), (True, "passed"), "timed out", ""),
        (("sandbox", ""), (True, "passed"), "sandbox", "of the tests"),
    ],
)
def test_the_reason_is_the_program_s_where_the_tests_could_not_go_on(
    tests: tuple[str, str], program: tuple[bool, str], reason: str, detail: str
) -> None:
    verdict = combine(
        told(False, tests[0], output=f"printed\n{tests[1]}\n", detail="of the tests"),
        told(*program, detail="of the program", output="out", seconds=3.0, seen=("odd",)),
    )
    assert (verdict.passed, verdict.reason, verdict.detail) == (False, reason, detail)
    assert (verdict.output, verdict.seconds, verdict.suspicious) == ("out", 3.0, ("odd",))


def test_a_program_that_had_to_be_ended_after_its_tests_is_suspicious() -> None:
    assert combine(told(True, "passed"), told(False, "sandbox")).suspicious == (LINGERED,)


def solutions() -> list[tuple[str, WriteItem]]:
    """All reference solutions, by the shared data's rows."""
    found = []
    for name, read in (("humaneval", read_humaneval), ("mbpp", read_mbpp)):
        with gzip.open(SHARED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [row for row in map(json.loads, lines) if asked_of_mbpp(row)]
        for row in rows:
            item = read(row).item
            assert isinstance(item, WriteItem)
            found.append((f"{name} {row['task_id']}", item))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_reference_solutions_of_humaneval_and_mbpp_pass(sandbox: Sandbox) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"the rows are not here: {SHARED.name} of the shared data is needed")
    items = solutions()
    assert len(items) == 164 + 500

    def checked(item: WriteItem) -> Verdict:
        assert item.program is not None
        program = item.program
        return sandbox.check(program.before + item.answer, program.tests, program.entry)

    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(checked, [item for _, item in items]))
    failed = [(name, v) for (name, _), v in zip(items, verdicts, strict=True) if not v.passed]
    assert failed == []
    assert [name for (name, _), v in zip(items, verdicts, strict=True) if v.suspicious] == []
