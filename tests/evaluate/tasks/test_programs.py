"""HumanEval and MBPP: how rows are worded, and how verdicts are judged."""

import ast
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lamina.evaluate.nouns import WriteItem
from lamina.evaluate.tasks import TASKS, build_items
from lamina.evaluate.tasks.fields import Unfit
from lamina.evaluate.tasks.programs import (
    KS,
    PROGRAM_METRICS,
    asked_of_mbpp,
    judge_programs,
    read_humaneval,
    read_mbpp,
)

SHARED = Path(__file__).parents[4] / "shared" / "data" / "bench"

DOUBLED = {
    "task_id": "HumanEval/900",
    "prompt": "import math\n\n\ndef half(x):\n    return math.floor(x / 2)\n\n\n"
    'def doubled(x: int) -> int:\n    """Twice x, the undoing of half."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert half(candidate(3)) == 3\n",
    "entry_point": "doubled",
}
TRIPLED = {
    "task_id": 900,
    "split": "test",
    "text": "Write a function to triple a number.",
    "code": "def tripled(x):\r\n  return 3 * x",
    "test_setup_code": "",
    "test_list": ["assert tripled(1) == 3", "assert tripled(2) == 6", "assert tripled(0) == 0"],
    "challenge_test_list": [],
}


def item_of(read: Any, row: dict[str, Any], **changed: Any) -> WriteItem:
    item = read({**row, **changed}).item
    assert isinstance(item, WriteItem)
    assert item.program is not None
    return item


def test_humaneval_asks_the_prompt_itself_and_stops_where_another_thing_begins() -> None:
    item = item_of(read_humaneval, DOUBLED)
    assert item.prompt == DOUBLED["prompt"]
    assert item.stops == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert item.max_tokens == 1024
    assert item.answer == DOUBLED["canonical_solution"]
    assert (item.program.before, item.program.entry) == (DOUBLED["prompt"], "doubled")
    assert item.program.tests.endswith(DOUBLED["test"] + "\ncheck(doubled)")


def test_helpers_of_the_prompt_that_tests_use_are_part_of_the_tests() -> None:
    tests = item_of(read_humaneval, DOUBLED).program.tests
    assert tests.startswith("import math\n\ndef half(x):\n    return math.floor(x / 2)\n")
    assert "def doubled" not in tests


def test_tests_that_use_no_helper_are_as_the_data_has_them() -> None:
    test = "\ndef check(candidate):\n    assert candidate(3) == 6\n"
    tests = item_of(read_humaneval, DOUBLED, test=test).program.tests
    assert tests == test + "\ncheck(doubled)"


def test_mbpp_shows_its_tests_and_runs_them_after_its_setup() -> None:
    asked = read_mbpp(TRIPLED)
    assert asked.question == (
        "You are an expert Python programmer, and here is your task: Write a function to triple a "
        "number. Your code should pass these tests:\n\nassert tripled(1) == 3\n"
        "assert tripled(2) == 6\nassert tripled(0) == 0\n[BEGIN]\n"
    )
    assert asked.answer == "def tripled(x):\r\n  return 3 * x\n[DONE]"
    item = item_of(read_mbpp, TRIPLED, test_setup_code="start = 1")
    assert (item.stops, item.max_tokens) == (("[DONE]",), 256)
    assert (item.program.before, item.program.entry) == ("", "tripled")
    assert item.program.tests == "start = 1\n" + "\n".join(TRIPLED["test_list"])


def test_mbpp_shows_and_runs_three_tests_even_where_there_are_more() -> None:
    item = item_of(read_mbpp, TRIPLED, test_list=[*TRIPLED["test_list"], "assert tripled(9) == 0"])
    assert "tripled(9)" not in item.prompt + item.program.tests


@pytest.mark.parametrize(
    ("test", "entry"),
    [
        ("assert f(1) == 1", "f"),
        ("assert set(f(1)) == {1}", "f"),
        ("assert sum(10, 15) == 6", "sum"),
        ("assert len(sum(1)) == 6", None),
        ("assert f(g(1)) == 1", None),
        ("assert x.f(1) == 1", None),
        ("  assert f(1) == 1  ", "f"),
    ],
)
def test_the_entry_of_mbpp_is_the_one_function_all_tests_call(test: str, entry: str | None) -> None:
    assert item_of(read_mbpp, TRIPLED, test_list=[test] * 3).program.entry == entry


@pytest.mark.parametrize(
    ("read", "row", "changed", "told"),
    [
        (read_humaneval, DOUBLED, {"test": "def check(:"}, "`test` is no Python"),
        (read_humaneval, DOUBLED, {"prompt": 3}, "`prompt` must be a text"),
        (read_mbpp, TRIPLED, {"test_list": ["assert f()"]}, "`test_list` has 1 tests"),
        (read_mbpp, TRIPLED, {"test_list": ["assert (", "a", "b"]}, "no Python"),
        (read_mbpp, TRIPLED, {"test_list": "assert f()"}, "`test_list` must be a list"),
        (read_mbpp, {"text": "x"}, {}, "`test_list`"),
    ],
)
def test_a_row_of_another_kind_is_told(read: Any, row: Any, changed: Any, told: str) -> None:
    with pytest.raises(Unfit, match=told):
        read({**row, **changed})


def test_a_prompt_that_is_no_python_has_no_helpers() -> None:
    item = item_of(read_humaneval, DOUBLED, prompt="def doubled(x:\n")
    assert item.program.tests.startswith("\n\nMETADATA")


def test_only_the_test_split_is_asked() -> None:
    assert asked_of_mbpp({"split": "test"})
    assert asked_of_mbpp({})
    assert not asked_of_mbpp({"split": "prompt"})


def verdicts(*passed: bool, suspicious: tuple[int, ...] = ()) -> dict[str, Any]:
    told = [
        {"passed": one, "suspicious": ["gc"] if number in suspicious else []}
        for number, one in enumerate(passed)
    ]
    return {"texts": [""] * len(told), "verdicts": told}


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    item = item_of(read_mbpp, TRIPLED)
    values = judge_programs(item, verdicts(*[True] * 3, *[False] * 17))
    assert values["pass@1"] == (pytest.approx(3 / 20, abs=1e-15), 1.0)
    # 1 - C(17, 10) / C(20, 10) = 1 - 19448 / 184756
    assert values["pass@10"] == (1 - 19448 / 184756, 1.0)
    assert values["pass@100"] == (0.0, 0.0)


def test_one_sample_that_fails_or_passes() -> None:
    item = item_of(read_mbpp, TRIPLED)
    assert judge_programs(item, verdicts(False))["pass@1"] == (0.0, 1.0)
    assert judge_programs(item, verdicts(True))["pass@1"] == (1.0, 1.0)


def test_suspicious_passes_are_passes_and_counted_apart() -> None:
    item = item_of(read_mbpp, TRIPLED)
    values = judge_programs(item, verdicts(True, True, False, False, suspicious=(1, 2)))
    assert values["pass@1"] == (0.5, 1.0)
    assert values["passed_suspicious"] == (0.25, 1.0)


def test_every_metric_has_a_value() -> None:
    values = judge_programs(item_of(read_mbpp, TRIPLED), verdicts(True))
    assert list(values) == [metric.name for metric in PROGRAM_METRICS]
    assert PROGRAM_METRICS[0].name == "pass@1"
    assert KS[0] == 1


def test_files_become_items_with_the_data_sets_own_ids_and_examples(tmp_path: Path) -> None:
    shots = [
        {**TRIPLED, "task_id": number, "split": "prompt", "text": f"Task {number}."}
        for number in range(1, 11)
    ]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(map(json.dumps, [*shots, TRIPLED])))
    (tmp_path / "humaneval.jsonl").write_text(json.dumps(DOUBLED))
    mbpp = build_items(TASKS["mbpp"], data=tmp_path)
    assert [item.id for item in mbpp.items] == ["900"]
    prompt = mbpp.items[0].prompt
    assert [prompt.count(f"Task {n}.") for n in range(1, 11)] == [0, 1, 1, 1, *[0] * 6]
    assert prompt.count("[DONE]\n\nYou are an expert") == 3
    assert prompt.endswith("[BEGIN]\n")
    humaneval = build_items(TASKS["humaneval"], data=tmp_path)
    assert [(item.id, item.prompt) for item in humaneval.items] == [
        ("HumanEval/900", DOUBLED["prompt"])
    ]


def test_the_published_rows_have_three_prompts_with_helpers_in_their_tests() -> None:
    path = SHARED / "humaneval.jsonl.gz"
    if not path.exists():
        pytest.skip("the rows are not here: humaneval.jsonl.gz of the shared data is needed")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = list(map(json.loads, lines))
    assert len(rows) == 164
    helped = {}
    for row in rows:
        tests = item_of(read_humaneval, row).program.tests
        added = tests.removesuffix(f"{row['test']}\ncheck({row['entry_point']})")
        names = {one.name for one in ast.parse(added).body if isinstance(one, ast.FunctionDef)}
        if added:
            helped[row["task_id"]] = names
    assert helped == {
        "HumanEval/32": {"poly"},
        "HumanEval/38": {"encode_cyclic"},
        "HumanEval/50": {"encode_shift"},
    }
