"""Numbers of a result from items' values, result files read back, results against each other."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import DataError
from lamina.core.manifest import write_json_atomic
from lamina.evaluate.nouns import Metric, Task
from lamina.evaluate.result_compare import compare_results
from lamina.evaluate.result_files import (
    read_result,
    read_samples,
    read_values,
    samples_path,
    write_samples,
)
from lamina.evaluate.results import (
    NOT_KNOWN,
    NOT_SHOWN,
    SCHEMA,
    compare_models,
    forgetting_of,
    summarise,
    task_entry,
)
from lamina.evaluate.statistics import mcnemar

ACC = Metric("acc", higher_is_better=True)
NORM = Metric("acc_norm", higher_is_better=True)
PERPLEXITY = Metric("word_perplexity", higher_is_better=False, scale="exp")
QUIZ = Task("quiz", 1, "choices", (ACC, NORM), judge=lambda item, raw: {}, chance=0.25)


def right(*answers: int) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        str(id_): {"acc": (float(one), 1.0), "acc_norm": (0.0, 1.0)}
        for id_, one in enumerate(answers)
    }


def test_every_metric_is_summed_over_all_items_and_by_group() -> None:
    groups = {"0": "law", "1": "law", "2": "art", "3": None}
    found = summarise((ACC, NORM), right(1, 0, 1, 1), groups, cut=2)
    assert (found["items"], found["cut"]) == (4, 2)
    assert found["metrics"]["acc"]["value"] == 0.75
    assert found["metrics"]["acc"]["se"] == pytest.approx(0.25)
    assert found["metrics"]["acc_norm"] == {"value": 0.0, "se": 0.0}
    assert list(found["groups"]) == ["art", "law"]
    assert found["groups"]["law"]["acc"]["value"] == 0.5
    assert found["groups"]["art"]["acc"] == {"value": 1.0, "se": None}


def test_a_task_says_what_makes_runs_comparable() -> None:
    entry = entry_of(4)
    assert entry["metrics"][0] == {"name": "acc", "higher_is_better": True, "scale": "ratio"}
    assert (entry["chance"], entry["groups"]) == (0.25, ["art", "law"])


def test_the_first_metric_is_compared_with_the_first_model() -> None:
    values = {"base": {"quiz": right(*[0] * 8, 1)}, "tuned": {"quiz": right(*[1] * 9)}}
    (one,) = compare_models({"quiz": (ACC, NORM)}, values)
    assert (one["model"], one["reference"], one["metric"]) == ("tuned", "base", "acc")
    assert (one["better"], one["worse"], one["same"]) == (8, 0, 1)
    assert one["difference"] == pytest.approx(8 / 9)
    assert one["p"] == one["p_corrected"] == mcnemar(8, 0)
    assert (one["shown"], one["verdict"]) == (True, "better")


def test_items_are_paired_by_their_ids_not_by_their_order() -> None:
    base = right(1, 0, 0, 0, 0, 0)
    values = {"base": {"quiz": base}, "same": {"quiz": dict(reversed(base.items()))}}
    (one,) = compare_models({"quiz": (ACC,)}, values)
    assert (one["better"], one["worse"], one["same"]) == (0, 0, 6)


def test_many_comparisons_are_corrected_together() -> None:
    values = {
        "base": {"quiz": right(*[0] * 8), "more": right(*[0] * 8)},
        "good": {"quiz": right(*[1] * 6, 0, 0), "more": right(*[0] * 8)},
        "same": {"quiz": right(*[0] * 8), "more": right(1, *[0] * 7)},
    }
    found = compare_models({"quiz": (ACC,), "more": (ACC,)}, values)
    assert len(found) == 4
    best = found[0]
    assert best["p"] == 2 / 64 < 0.05
    assert best["p_corrected"] == 4 * 2 / 64
    assert (best["shown"], best["verdict"]) == (False, NOT_SHOWN)
    assert all(one["verdict"] == NOT_SHOWN for one in found)
    assert found[1]["low"] is None


def test_any_model_can_be_the_reference() -> None:
    values = {"first": {"quiz": right(1, 1, 1, 1, 1, 1)}, "second": {"quiz": right(*[0] * 6)}}
    (one,) = compare_models({"quiz": (ACC,)}, values, reference="second")
    assert (one["model"], one["reference"], one["verdict"]) == ("first", "second", "better")


def test_a_higher_perplexity_is_worse() -> None:
    low = {str(id_): {"word_perplexity": (2.0 + id_ / 9, 1.0)} for id_ in range(9)}
    high = {str(id_): {"word_perplexity": (2.5 + id_ / 9, 1.0)} for id_ in range(9)}
    (one,) = compare_models({"wiki": (PERPLEXITY,)}, {"a": {"wiki": low}, "b": {"wiki": high}})
    assert one["difference"] > 0
    assert (one["verdict"], one["worse"]) == ("worse", 9)


def test_values_that_are_no_number_cannot_be_compared_and_are_not_counted() -> None:
    odd = {"0": {"acc": (float("nan"), 1.0)}, "1": {"acc": (1.0, 1.0)}}
    values = {
        "base": {"quiz": right(0, 1), "more": right(*[0] * 6)},
        "odd": {"quiz": odd, "more": right(*[1] * 6)},
    }
    quiz, more = compare_models({"quiz": (ACC,), "more": (ACC,)}, values)
    assert (quiz["verdict"], quiz["p_corrected"], quiz["shown"]) == (NOT_KNOWN, None, False)
    assert more["p_corrected"] == 2 / 64


def test_forgetting_is_each_difference_in_one_list() -> None:
    gap = {"difference": 0.5, "se": 0.1, "shown": True}
    paired = {"reference": "base", "differences": {"tuned": {"general": gap, "code": None}}}
    assert forgetting_of({"paired": paired}) == [
        {"domain": "general", "model": "tuned", "reference": "base", **gap}
    ]
    assert forgetting_of(None) == []


# Files.


def entry_of(items: int, **changed: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"few_shot": 0, "limit": None, "chat": False}
    asked |= {"fingerprint": f"f{items}", "source": "quiz.jsonl"}
    return task_entry(QUIZ, items=items, groups=("law", "art", "law"), **asked) | changed


def write_result(path: Path, answers: Mapping[str, tuple[int, ...]], **changed: Any) -> Path:
    """A result with one task, its samples beside it."""
    values = {name: right(*of_model) for name, of_model in answers.items()}
    (items,) = {len(of_model) for of_model in answers.values()}
    result = {
        "schema": SCHEMA,
        "order": list(answers),
        "models": {name: {"path": name, "fingerprint": name} for name in answers},
        "tasks": {"quiz": entry_of(items)},
        "results": {name: {"quiz": summarise((ACC, NORM), of)} for name, of in values.items()},
        "settings": {"dtype": "float32", "samples": 1},
        "samples": samples_path(path).name,
    }
    write_json_atomic(path, result | changed)
    lines = [
        {"model": name, "task": "quiz", "id": id_, "group": None, "raw": {}, "values": value}
        for name, of in values.items()
        for id_, value in of.items()
    ]
    write_samples(samples_path(path), lines)
    return path


def test_a_result_is_read_back_with_its_values(tmp_path: Path) -> None:
    path = write_result(tmp_path / "one.json", {"a": (1, 0, 1)})
    result = read_result(path)
    assert result.order == ("a",)
    assert result.metrics["quiz"] == (ACC, NORM)
    assert read_values(result) == {"a": {"quiz": right(1, 0, 1)}}


def test_the_same_samples_are_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"model": "ä", "task": "t", "id": "0", "values": {"acc": [1.0, 1.0]}, "raw": "\ud83d"}]
    write_samples(tmp_path / "one.gz", lines)
    monkeypatch.setattr("time.time", lambda: 0.0)
    write_samples(tmp_path / "two.gz", lines)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert list(read_samples(tmp_path / "one.gz")) == lines


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("not json", "is not JSON"),
        ("[]", "without a schema"),
        ('{"schema": "lamina.evaluation/2"}', "another version, lamina.evaluation/2"),
        ('{"schema": "lamina.metrics/1"}', "losses on texts alone"),
        ('{"schema": "lamina.scores/1"}', "a file of `lamina.scores/1`"),
        ('{"schema": "lamina.evaluation/1", "order": []}', "damaged:\n  order: "),
    ],
)
def test_a_file_that_is_no_result_is_told(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"odd\.json") as caught:
        read_result(path)
    assert told in str(caught.value)


def test_missing_samples_are_told(tmp_path: Path) -> None:
    path = write_result(tmp_path / "one.json", {"a": (1, 0)})
    samples_path(path).unlink()
    with pytest.raises(DataError, match=r"one\.samples\.jsonl\.gz is missing"):
        read_values(read_result(path))


def test_samples_of_another_result_are_told(tmp_path: Path) -> None:
    path = write_result(tmp_path / "one.json", {"a": (1, 0, 1)})
    other = write_result(tmp_path / "two.json", {"a": (1, 0)})
    samples_path(other).replace(samples_path(path))
    with pytest.raises(DataError, match="a on quiz: 2 of 3"):
        read_values(read_result(path))


def test_samples_without_a_metric_are_told(tmp_path: Path) -> None:
    path = write_result(tmp_path / "one.json", {"a": (1, 0, 1)})
    lines = [dict(line) for line in read_samples(samples_path(path))]
    lines[1]["values"] = {"acc": [1.0, 1.0]}
    write_samples(samples_path(path), lines)
    with pytest.raises(DataError, match="a on quiz: 2 of 3"):
        read_values(read_result(path))


@pytest.mark.parametrize("line", ["{", "[]", '{"model": "a"}', '{"model": "a", "task": "t", '
                                  '"id": "0", "values": {"acc": [1]}}'])  # fmt: skip
def test_a_broken_line_of_the_samples_is_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "s.gz"
    good = json.dumps({"model": "a", "task": "t", "id": "0", "values": {"acc": [1, 1]}})
    path.write_bytes(gzip.compress(f"{good}\n{line}\n".encode()))
    with pytest.raises(DataError, match=r"s\.gz, line 2 is no item"):
        list(read_samples(path))


def test_a_cut_samples_file_is_told(tmp_path: Path) -> None:
    path = write_result(tmp_path / "one.json", {"a": (1, 0) * 40})
    packed = samples_path(path).read_bytes()
    samples_path(path).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="does not unpack"):
        read_values(read_result(path))


# Results against each other.


def test_results_are_compared_item_by_item(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0,) * 7})
    second = write_result(tmp_path / "after.json", {"b": (1,) * 7})
    found = compare_results([first, second])
    assert found["order"] == ["a", "b"]
    (one,) = found["comparisons"]
    assert (one["model"], one["reference"], one["better"]) == ("b", "a", 7)
    assert one["verdict"] == "better"
    assert found["results"]["b"]["quiz"]["metrics"]["acc"]["value"] == 1.0
    assert found["warnings"] == []


def test_one_name_in_two_results_is_told_apart_by_the_file(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0, 1)})
    second = write_result(tmp_path / "after.json", {"a": (1, 1)})
    assert compare_results([first, second])["order"] == ["a (before)", "a (after)"]
    one = compare_results([first, second], reference="a (after)")["comparisons"][0]
    assert (one["model"], one["worse"]) == ("a (before)", 1)


def test_an_unknown_reference_is_told(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"base": (0, 1)})
    second = write_result(tmp_path / "after.json", {"tuned": (1, 1)})
    with pytest.raises(DataError, match="did you mean `tuned`"):
        compare_results([first, second], reference="tune")


def test_runs_over_other_items_are_refused_in_one_message(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0, 1)})
    entry = entry_of(3, few_shot=5, limit=3, chat=True)
    second = write_result(tmp_path / "after.json", {"b": (1, 1, 1)}, tasks={"quiz": entry})
    with pytest.raises(DataError) as caught:
        compare_results([first, second])
    told = str(caught.value)
    assert "quiz: items 2 in before.json, 3 in after.json" in told
    assert "quiz: few shot 0 in before.json, 5 in after.json" in told
    assert "quiz: limit none in before.json, 3 in after.json" in told
    assert "quiz: chat off in before.json, on in after.json" in told


def test_a_limit_that_took_all_items_is_the_same_as_none(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0, 1)})
    entry = entry_of(2, limit=2)
    second = write_result(tmp_path / "after.json", {"b": (1, 1)}, tasks={"quiz": entry})
    assert compare_results([first, second])["comparisons"][0]["better"] == 1


def test_one_file_by_two_paths_is_named_twice(tmp_path: Path) -> None:
    path = write_result(tmp_path / "one.json", {"a": (0, 1), "b": (1, 1)})
    with pytest.raises(DataError, match="Named twice"):
        compare_results([path, tmp_path / "x" / ".." / "one.json"])


def test_as_many_but_other_items_are_refused(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0, 1)})
    entry = entry_of(2, fingerprint="other")
    second = write_result(tmp_path / "after.json", {"b": (1, 1)}, tasks={"quiz": entry})
    with pytest.raises(DataError, match="2 items in both, but not the same"):
        compare_results([first, second])


def test_answers_drawn_by_other_settings_are_refused(tmp_path: Path) -> None:
    tasks = {"quiz": entry_of(2, kind="write")}
    first = write_result(tmp_path / "before.json", {"a": (0, 1)}, tasks=tasks)
    second = write_result(tmp_path / "after.json", {"b": (1, 1)}, tasks=tasks,
                          settings={"samples": 4, "dtype": "float32"})  # fmt: skip
    with pytest.raises(DataError, match=r"samples 1 in before\.json, 4 in after\.json"):
        compare_results([first, second])


def test_settings_and_tasks_that_differ_are_told_beside_the_comparison(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0, 1)})
    tasks = {"quiz": entry_of(2), "riddle": entry_of(1)}
    second = write_result(tmp_path / "after.json", {"b": (1, 1)}, tasks=tasks,
                          settings={"samples": 1, "dtype": "bfloat16"})  # fmt: skip
    assert compare_results([first, second])["warnings"] == [
        "dtype float32 in before.json, bfloat16 in after.json",
        "not in all results and so not compared: riddle (after.json)",
    ]


def test_results_with_no_task_in_common_are_refused(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0, 1)})
    second = write_result(tmp_path / "after.json", {"b": (1, 1)}, tasks={"riddle": entry_of(2)})
    with pytest.raises(DataError, match="no task in both"):
        compare_results([first, second])


def test_samples_with_other_ids_are_refused(tmp_path: Path) -> None:
    first = write_result(tmp_path / "before.json", {"a": (0, 1)})
    second = write_result(tmp_path / "after.json", {"b": (1, 1)})
    lines = [dict(line) for line in read_samples(samples_path(second))]
    lines[0]["id"] = "x"
    write_samples(samples_path(second), lines)
    with pytest.raises(DataError, match="other items than each other in quiz"):
        compare_results([first, second])


def test_models_of_one_result_are_compared_too(tmp_path: Path) -> None:
    path = write_result(tmp_path / "both.json", {"a": (0, 1), "b": (1, 1)})
    (one,) = compare_results([path])["comparisons"]
    assert (one["model"], one["reference"], one["better"]) == ("b", "a", 1)


def test_one_model_alone_or_a_result_with_itself_is_refused(tmp_path: Path) -> None:
    path = write_result(tmp_path / "one.json", {"a": (0, 1)})
    with pytest.raises(DataError, match="has one model, a, and nothing to compare"):
        compare_results([path])
    with pytest.raises(DataError, match=r"Named twice: .*one\.json"):
        compare_results([path, path])
