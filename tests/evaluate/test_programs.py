"""Many programs through the sandbox: each text once, every answer its verdicts."""

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from lamina.evaluate.nouns import Program, WriteItem
from lamina.evaluate.programs import judge_programs, redefined
from lamina.evaluate.sandbox import Limits, Sandbox, Verdict


@dataclass
class Judge:
    """Stands for a sandbox: a program passes if it has `right` in it."""

    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    together: threading.Barrier | None = None

    def check(self, program: str, tests: str, entry: str | None = None) -> Verdict:
        self.seen.append((program, tests, entry))
        if self.together is not None:
            self.together.wait(10)
        passed = "right" in program
        return Verdict(passed, "passed" if passed else "wrong", "", 0.0, (), "")


def item(name: str, tests: str = "t") -> WriteItem:
    return WriteItem(name, "ask", (), 9, "", Program(f"{name}:", tests, "f"))


def raws(**texts: list[str]) -> dict[str, Any]:
    return {name: {"texts": each, "tokens": [1] * len(each)} for name, each in texts.items()}


def judged(judge: Any, items: list[WriteItem], answers: dict[str, Any], **more: Any) -> Any:
    return judge_programs(items, answers, judge, **more)


def test_every_text_has_a_verdict_in_its_place() -> None:
    told = judged(Judge(), [item("a"), item("b")], raws(a=["right", "no", "right 2"], b=["no"]))
    assert [v["passed"] for v in told["a"]["verdicts"]] == [True, False, True]
    assert [v["reason"] for v in told["b"]["verdicts"]] == ["wrong"]
    assert told["a"]["tokens"] == [1, 1, 1]


def test_what_is_run_is_the_beginning_and_the_text_with_the_tests() -> None:
    judge = Judge()
    judged(judge, [item("a", "tests of a")], raws(a=["x"]))
    assert judge.seen == [("a:x", "tests of a", "f")]


def test_the_same_text_is_run_once_for_the_same_tests() -> None:
    judge, counts = Judge(), []
    same = [WriteItem(n, "", (), 9, "", Program("", "t", "f")) for n in ("a", "b")]
    told = judged(judge, same, raws(a=["x", "x", "y"], b=["x"]), progress=counts.append)
    assert sorted(judge.seen) == [("x", "t", "f"), ("y", "t", "f")]
    assert counts == [3, 1]
    assert told["a"]["verdicts"][0] == told["b"]["verdicts"][0]


def test_the_same_text_with_other_tests_is_another_program() -> None:
    judge = Judge()
    two = [WriteItem(n, "", (), 9, "", Program("", n, None)) for n in ("a", "b")]
    judged(judge, two, raws(a=["x"], b=["x"]))
    assert sorted(judge.seen) == [("x", "a", None), ("x", "b", None)]


def test_as_many_run_at_once_as_there_are_workers() -> None:
    judge = Judge(together=threading.Barrier(3))
    told = judged(judge, [item("a")], raws(a=["1", "2", "3"]), workers=3)
    assert len(told["a"]["verdicts"]) == 3


def test_the_answers_given_are_left_as_they_were() -> None:
    answers = raws(a=["x"])
    judged(Judge(), [item("a")], answers)
    assert answers == raws(a=["x"])


def test_no_text_is_no_verdict_and_runs_nothing() -> None:
    judge = Judge()
    assert judged(judge, [item("a")], raws(a=[]))["a"]["verdicts"] == []
    assert judge.seen == []


def test_programs_are_judged_by_a_real_sandbox() -> None:
    program = Program("def f(x):\n", "assert f(2) == 4", "f")
    asked = WriteItem("a", "", (), 9, "", program)
    with Sandbox(Limits(wall_seconds=30.0)) as sandbox:
        if not sandbox.protection.enough:
            pytest.skip(sandbox.protection.line)
        told = judge_programs([asked], raws(a=["  return x + x", "  return x + 1"]), sandbox)
    assert [v["passed"] for v in told["a"]["verdicts"]] == [True, False]
    assert told["a"]["verdicts"][1]["reason"] == "wrong"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("    return 0\ndef poly(xs, x):\n    return 0\n", ["poly"]),
        ("    return 0\npoly = lambda xs, x: 0\n", ["poly"]),
        ("    poly = 3\n    return poly\n", []),
        ("    return poly(xs, 1) == 0\n", []),
        ("    return 0\ndef find_zero(xs):\n    return 1\n", []),
    ],
)
def test_a_helper_of_the_prompt_that_is_defined_anew_is_named(text: str, names: list[str]) -> None:
    before = "def poly(xs, x):\n    return x\n\n\ndef find_zero(xs):\n"
    assert redefined(before, text, "find_zero") == names
