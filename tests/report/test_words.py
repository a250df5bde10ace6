"""The reading of a run in plain words."""

from pathlib import Path

import pytest

from lamina.report import words
from lamina.report.read import read_run


def parts_of(folder: Path) -> dict[str, str]:
    return {part.heading: part.text for part in words.reading(read_run(folder))}


def test_a_lata_merge_says_what_was_done_and_what_came_of_it(runs: dict[str, Path]) -> None:
    parts = parts_of(runs["math-code-lata"])
    assert list(parts) == [
        "What was done",
        "What the similarity said",
        "Which layers carry it",
        "What it did to the losses",
        "Did the ranking matter?",
    ]
    assert parts["What was done"].startswith(
        "The task vectors of math (weight 0.5) and code (weight 0.5) were added to instruct by LATA"
    )
    assert "blocks 10 and 11 (of 12; as tuned, 3 hold half)" in parts["Which layers carry it"]


def test_forgetting_is_told_as_taking_away(runs: dict[str, Path]) -> None:
    run = read_run(runs["forgotten"])
    assert words.title_of(run) == "instruct without unwanted, by LATA"
    parts = parts_of(runs["forgotten"])
    assert "was taken away from instruct" in parts["What was done"]
    assert "6 layers were left out" in parts["Which layers carry it"]


def test_without_held_out_text_the_page_does_not_say_that_it_helped(runs: dict[str, Path]) -> None:
    assert parts_of(runs["forgotten"])["What it did to the losses"].startswith("No held-out text")


def test_a_plain_merge_has_no_similarity(runs: dict[str, Path]) -> None:
    parts = parts_of(runs["plain"])
    assert "What the similarity said" not in parts
    assert "plain task arithmetic" in parts["What was done"]


@pytest.mark.parametrize(
    ("shares", "layers"),
    [({"0": 0.5, "1": 0.3, "2": 0.2}, ["0"]), ({"0": 0.4, "1": 0.4, "2": 0.2}, ["0", "1"])],
)
def test_the_fewest_layers_that_hold_half(shares: dict[str, float], layers: list[str]) -> None:
    assert words.fewest_for_half(shares) == layers


def test_rank_correlation_is_one_for_one_ranking_and_minus_one_for_its_reverse() -> None:
    ranks = {str(place): float(place) for place in range(6)}
    reverse = {key: -value for key, value in ranks.items()}
    assert words.rank_correlation(ranks, ranks) == pytest.approx(1.0)
    assert words.rank_correlation(ranks, reverse) == pytest.approx(-1.0)
    assert words.rank_correlation(ranks, {"a": 1.0}) is None


def test_a_warning_that_not_all_runs_have_says_whose_it_is(runs: dict[str, Path]) -> None:
    plain, lata = read_run(runs["plain"]), read_run(runs["math-code-lata"])
    same = plain.warnings[0]
    assert words.warnings_of([("a", plain), ("b", lata)]) == [same]
    assert words.warnings_of([("a", plain), ("b", read_without_warnings(lata))]) == [f"a: {same}"]


def read_without_warnings(run: words.Run) -> words.Run:
    from dataclasses import replace

    return replace(run, warnings=())
