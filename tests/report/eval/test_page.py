"""The page of a result, the section on a run's page, and the view in a terminal."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lamina.core.errors import OutputError
from lamina.report.page import write_eval_page, write_report
from lamina.report.show import render_show

HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}\x1b[31m\u202e"


@pytest.fixture(scope="module")
def page(
    make_eval: ModuleType, whole_result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("eval") / "first.json"
    return write_eval_page(make_eval.make_result(path, whole_result))


def test_the_page_lies_beside_the_result_and_asks_nothing_of_the_network(
    page: Path, outline: Callable[[Path], Any]
) -> None:
    assert page.name == "first.html"
    text = page.read_text("utf-8")
    found = outline(page)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not re.search(r"https?:|@import|<link|<iframe|<object|\son\w+=", text)
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert "prefers-color-scheme: dark" in text


def test_a_picture_for_each_task_and_a_forest_for_each_model(
    page: Path, outline: Callable[[Path], Any]
) -> None:
    titles = [attrs["aria-label"] for tag, attrs in outline(page).tags if tag == "svg"]
    assert titles == [
        "acc of mmlu",
        "acc of hellaswag",
        "exact match strict of gsm8k",
        "pass@1 of humaneval",
        "word perplexity of wikitext2",
        "math-135m minus base-135m",
        "math-135m minus base-135m",
        "merged minus base-135m",
        "merged minus base-135m",
    ]


def test_the_page_says_verdicts_counts_subjects_and_settings(page: Path) -> None:
    text = page.read_text("utf-8")
    for words in (
        "<h1>3 models on 7 tasks and texts</h1>",
        "no difference shown",
        "mbpp was skipped",
        "corrected for all 10 comparisons",
        "mmlu by subject: acc (%) (5 subjects)",
        "bench/gsm8k.jsonl.gz",
        "Landlock",
        "eval.samples.jsonl.gz",
        "models/math-135m",
        'class="plain-dot tone-better"',
        'class="ring"',
    ):
        assert words in text, words


def test_the_same_result_gives_the_same_bytes(
    make_eval: ModuleType, whole_result: dict[str, Any], page: Path, tmp_path: Path
) -> None:
    again = write_eval_page(make_eval.make_result(tmp_path / "first.json", whole_result))
    assert again.read_bytes() == page.read_bytes()
    assert str(tmp_path) not in again.read_text("utf-8")


def _hostile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hostile(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hostile(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_what_stands_in_the_file_comes_out_as_text(
    whole_result: dict[str, Any], tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    spoiled = _hostile(whole_result)
    spoiled["results"][HOSTILE] = spoiled["results"]["merged"]
    spoiled["tasks"][HOSTILE] = spoiled["tasks"]["mmlu"]
    spoiled["skipped"] = {HOSTILE: HOSTILE}
    spoiled["results"]["merged"]["mmlu"]["groups"][HOSTILE] = {}
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(spoiled))
    text = write_eval_page(path).read_text("utf-8")
    found = outline(tmp_path / "eval.html")
    assert "script" not in {tag for tag, _ in found.tags}
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_page_of_a_damaged_file_tells_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_text('{"schema": "lamina.evaluation/1", "tasks": 3, "order": "x"}')
    text = write_eval_page(path).read_text("utf-8")
    assert "`tasks` should be an object" in text


def test_a_page_that_cannot_be_written_is_told(
    make_eval: ModuleType, whole_result: dict[str, Any], tmp_path: Path
) -> None:
    path = make_eval.make_result(tmp_path / "eval.json", whole_result)
    (tmp_path / "eval.html").mkdir()
    with pytest.raises(OutputError, match=r"eval\.html"):
        write_eval_page(path)


def test_a_runs_page_ends_with_its_evaluation(
    make: ModuleType,
    make_eval: ModuleType,
    whole_result: dict[str, Any],
    tmp_path: Path,
    outline: Callable[[Path], Any],
    printed: Callable[[object], str],
) -> None:
    folder = make.make_lata(tmp_path / "run")
    before = write_report(folder).read_text("utf-8")
    assert 'id="evaluation"' not in before
    make_eval.make_result(folder / "evaluation.json", whole_result)
    text = write_report(folder).read_text("utf-8")
    outline(folder / "report.html")
    assert text.index("<h2>Evaluation</h2>") > text.index("Run it again")
    assert "merged minus base-135m" in text
    shown = printed(render_show(folder))
    assert "Did the ranking matter?" in shown
    assert "merged minus base-135m" in shown


def test_a_tunings_page_ends_with_its_evaluation(
    make_tuned: ModuleType,
    make_eval: ModuleType,
    whole_result: dict[str, Any],
    tmp_path: Path,
    outline: Callable[[Path], Any],
) -> None:
    (folder, *_) = make_tuned.make_all_tuned(tmp_path)
    make_eval.make_result(folder / "evaluation.json", whole_result)
    text = write_report(folder).read_text("utf-8")
    outline(folder / "report.html")
    assert "<h2>Evaluation</h2>" in text


def test_a_result_is_shown_in_a_terminal_of_80_columns(
    page: Path, printed: Callable[..., str]
) -> None:
    shown = printed(render_show(page.with_suffix(".json")), width=80)
    for words in (
        "3 models on 7 tasks and texts",
        "mbpp was skipped",
        "Tasks, and losses on texts",
        "chance 25",
        "math-135m minus base-135m, on the same items",
        "no difference",
        "<0.001",
        "Is merged better?",
        "Landlock",
    ):
        assert words in shown, words
    assert "…" not in shown


def test_many_models_are_shown_in_several_tables(
    make_eval: ModuleType, whole_result: dict[str, Any], tmp_path: Path,
    printed: Callable[..., str],
) -> None:  # fmt: skip
    more = dict(whole_result)
    more["results"] = {f"m{place}": whole_result["results"]["merged"] for place in range(7)}
    more |= {"order": list(more["results"]), "comparisons": [], "texts": None, "forgetting": []}
    shown = printed(render_show(make_eval.make_result(tmp_path / "e.json", more)), width=80)
    assert shown.count("Tasks, and losses on texts") == 3
    assert all(f"m{place}" in shown for place in range(7))
