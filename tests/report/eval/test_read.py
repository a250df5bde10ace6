"""A result file is read softly: whatever stands in it, values come out or problems are told."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lamina.report.eval import section, words
from lamina.report.eval.read import is_evaluation, read_evaluation
from lamina.report.eval.show import render_evaluation


def test_a_result_of_the_job_is_read_whole(make_eval: ModuleType, tmp_path: Path) -> None:
    read = read_evaluation(make_eval.make_result(tmp_path / "eval.json"))
    assert read.problems == ()
    assert read.models == make_eval.MODELS
    assert [task.name for task in read.tasks] == list(make_eval.TASKS)
    assert len(read.gaps) == 10
    assert read.reference == "base-135m"
    assert read.tasks[0].chance == 0.25
    assert len(read.results["merged"]["mmlu"].groups) == 5
    assert read.results["base-135m"]["gsm8k"].cut == 3
    assert read.texts is not None
    assert read.texts.changes["merged"]["general"].shown
    assert read.settings["max_lengths of merged"] == "2048"


def test_the_numbers_are_those_of_the_file(make_eval: ModuleType, tmp_path: Path) -> None:
    whole = make_eval.result_of()
    read = read_evaluation(make_eval.make_result(tmp_path / "eval.json", whole))
    for model, of in whole["results"].items():
        for task, scored in of.items():
            for metric, told in scored["metrics"].items():
                one = read.number(model, task, metric)
                assert (one.value if one else None) == told["value"]
    gap = read.gap("math-135m", "gsm8k", "exact_match_strict")
    assert gap is not None
    assert gap.tone == "better"
    assert gap.better + gap.worse + gap.same == 150


def test_another_version_is_told_and_read_as_far_as_it_goes(
    make_eval: ModuleType, tmp_path: Path
) -> None:
    whole = make_eval.result_of() | {"schema": "lamina.evaluation/2"}
    path = make_eval.make_result(tmp_path / "eval.json", whole)
    assert is_evaluation(path)
    read = read_evaluation(path)
    assert any("lamina.evaluation/2" in problem for problem in read.problems)
    assert read.models == make_eval.MODELS


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "{", '{"schema": 3}', "\x00"])
def test_a_file_that_is_no_result_still_gives_a_view(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    assert not is_evaluation(path)
    made = section.make(read_evaluation(path))
    assert made.results is None
    render_evaluation(path)


def _spoil(value: Any, chosen: random.Random) -> Any:
    """The same with some values replaced by ones of another kind."""
    if chosen.random() < 0.06:
        return chosen.choice([None, "x", -1.5, [], {}, [1], {"a": 1}, True, 10**400, 1e300, ""])
    if isinstance(value, dict):
        return {key: _spoil(inner, chosen) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spoil(inner, chosen) for inner in value]
    return value


@pytest.mark.parametrize("seed", range(40))
def test_a_spoiled_result_is_never_an_error(
    make_eval: ModuleType, whole_result: dict[str, Any], tmp_path: Path, seed: int,
    printed: Callable[[object], str],
) -> None:  # fmt: skip
    spoiled = _spoil(copy.deepcopy(whole_result), random.Random(seed))
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(spoiled))
    read = read_evaluation(path)
    section.make(read)
    words.reading(read)
    printed(render_evaluation(path))
