"""What is said of an evaluation: shown differences with numbers, and none where none is shown."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from lamina.report.eval import numbers, tables, words
from lamina.report.eval.nouns import Evaluation, Gap, Metric, Number
from lamina.report.eval.read import read_evaluation
from lamina.report.formats import MINUS

SHARE = Metric("acc", higher_is_better=True, scale="ratio")
PERPLEXITY = Metric("word_perplexity", higher_is_better=False, scale="exp")


@pytest.fixture(scope="module")
def read(
    make_eval: ModuleType, whole_result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    return read_evaluation(
        make_eval.make_result(tmp_path_factory.mktemp("eval") / "eval.json", whole_result)
    )


def told(read: Evaluation) -> dict[str, str]:
    return {part.heading: part.text for part in words.reading(read)}


def test_shares_are_per_cent_and_perplexities_are_not() -> None:
    assert numbers.value_words(SHARE, Number(0.3125, 0.0131)) == "31.2 ± 1.3"
    assert numbers.value_words(PERPLEXITY, Number(23.4567, 0.3)) == "23.46 ± 0.30"
    assert numbers.value_words(SHARE, Number(0.0, 0.0)) == "0.0"
    assert numbers.value_words(SHARE, Number(1.0, None)) == "100.0"
    assert numbers.value_words(PERPLEXITY, Number(2.5e9, 1e8)) == "2.50e+09 ± 1.00e+08"
    assert numbers.value_words(SHARE, None) == "–"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0421, "+4.2"), (-0.0421, f"{MINUS}4.2"), (0.00001, "0.0"), (0.0, "0.0")]
)
def test_differences_carry_their_sign(value: float, text: str) -> None:
    assert numbers.gap_words(SHARE, value) == text


def gap(**changed: Any) -> Gap:
    return replace(
        Gap(
            "quiz", "acc", "a", "b", 0.1, 0.0, 0.2, 3, 1, 6, 0.6, 0.6, False, "no difference shown"
        ),
        **changed,
    )


def test_why_there_is_no_interval_is_said() -> None:
    assert numbers.why_none(gap()) == ""
    none: dict[str, Any] = {"low": None, "high": None}
    assert numbers.why_none(gap(better=0, worse=0, **none)) == "no item changed"
    assert numbers.why_none(gap(better=1, worse=0, same=0, **none)) == (
        "a single item gives no interval"
    )
    assert numbers.why_none(gap(better=9, worse=0, same=0, **none)).startswith("all items changed")


def test_shown_differences_are_told_with_interval_and_items(read: Evaluation) -> None:
    math = told(read)["Is math-135m better?"]
    one = read.gap("math-135m", "gsm8k", "exact_match_strict")
    assert one is not None
    assert f"better than base-135m on gsm8k ({numbers.gap_words(SHARE, one.difference)}" in math
    assert f"{one.better:.0f} items better, {one.worse:.0f} worse" in math
    assert "worse than base-135m on humaneval" in math
    assert "No difference from base-135m is shown on mmlu and hellaswag." in math


def test_no_difference_shown_is_said_as_such(read: Evaluation) -> None:
    none = replace(read, gaps=tuple(replace(one, shown=False) for one in read.gaps))
    text = told(none)["Is merged better?"]
    assert text.startswith("No difference from base-135m is shown on mmlu,")
    assert "there may still be one" in told(none)["How sure is that?"]
    assert "all 10 comparisons" in told(none)["How sure is that?"]


def test_models_that_were_not_compared_are_told_so(read: Evaluation) -> None:
    assert "--compare" in told(replace(read, gaps=()))["Which is better?"]


def test_a_task_at_chance_is_told(read: Evaluation) -> None:
    assert told(read)["Better than guessing?"] == (
        "On mmlu (chance 25\u00a0%) no model can be told from guessing."
    )


@pytest.mark.parametrize(("items", "beyond"), [(2.0, False), (3.0, True)])
def test_all_items_right_is_beyond_guessing_where_they_are_enough(
    read: Evaluation, items: float, beyond: bool
) -> None:
    # 0.025 ** (1 / 2) = 0.16 and 0.025 ** (1 / 3) = 0.29, by a chance of 0.25
    task = replace(read.tasks[0], items=items)
    right = replace(read.results["merged"]["mmlu"], metrics={"acc": Number(1.0, 0.0)})
    alone = replace(read, tasks=(task,), models=("merged",), results={"merged": {"mmlu": right}})
    assert ("above chance" in told(alone)["Better than guessing?"]) == beyond


def test_forgetting_names_what_was_lost(read: Evaluation) -> None:
    assert told(read)["What was forgotten"].startswith(
        "math-135m lost on general (+0.100) and shows no difference on poems."
    )


def test_suspicious_passes_are_told_apart(read: Evaluation) -> None:
    assert "could fool a test" in told(read)["Look at"]


def test_skipped_tasks_and_cut_items_are_warnings(read: Evaluation) -> None:
    warnings = words.warnings_of(read)
    assert any(one.startswith("mbpp was skipped: ") for one in warnings)
    assert sum("gsm8k" in one for one in warnings) == 1
    alone = words.warnings_of(replace(read, warnings=()))
    assert "base-135m on gsm8k: 3 of 150 items lost their beginning, as the model reads less." in (
        alone
    )


def test_the_table_has_every_metric_that_some_model_has_and_the_texts(read: Evaluation) -> None:
    table = tables.results(read)
    assert table is not None
    assert [row.name for row in table.rows] == [
        "mmlu", "hellaswag", "hellaswag", "gsm8k", "humaneval", "humaneval", "wikitext2",
        "wikitext2", "general", "poems",
    ]  # fmt: skip
    tones = {row.name: [cell.tone for cell in row.cells[2:]] for row in table.rows if not row.group}
    assert tones["mmlu"] == ["", "", ""]
    assert tones["gsm8k"] == ["", "better-3", "better-3"]
    assert tones["wikitext2"] == ["", "worse-2", ""]
    assert tones["general"] == ["", "worse-2", "worse-2"]


def test_subjects_have_a_table_of_their_own(read: Evaluation) -> None:
    table = tables.groups(read, read.tasks[0])
    assert table is not None
    assert [row.name for row in table.rows][:2] == ["abstract algebra", "anatomy"]
    assert tables.groups(read, read.tasks[1]) is None


def test_what_the_harness_measured_is_shown_as_it_is(read: Evaluation) -> None:
    measured = {"merged": {"sciq": {"acc": Number(0.512345, 0.01)}}}
    table = tables.harness(replace(read, harness=measured))
    assert table is not None
    (row,) = table.rows
    assert (row.name, row.cells[1].text, row.cells[1].under) == ("sciq", "0.5123", "± 0.0100")
    assert tables.harness(read) is None
