"""Labelled rows: split by a seed, cut like sampled texts, too few refused."""

import pytest

from lamina.core.errors import DataError
from lamina.versatune.judges.interface import cut_like, shuffled, split_labelled

ROWS = [f"row number {i} with some words" for i in range(40)]


def test_the_two_parts_share_no_text() -> None:
    labelled = split_labelled({"a": [*ROWS, *ROWS, "", "  "]}, heldout_share=0.25, most=100, seed=1)
    train, heldout = set(labelled.train["a"]), set(labelled.heldout["a"])
    assert (len(train), len(heldout)) == (30, 10)
    assert train | heldout == set(ROWS)


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does() -> None:
    assert shuffled(ROWS, seed=1) == shuffled(ROWS[::-1], seed=1)
    assert shuffled(ROWS, seed=1) != shuffled(ROWS, seed=2)


def test_no_more_than_asked_are_kept() -> None:
    labelled = split_labelled({"a": ROWS}, heldout_share=0.5, most=5, seed=1)
    assert (len(labelled.train["a"]), len(labelled.heldout["a"])) == (5, 5)


def test_domains_with_too_few_rows_are_all_told() -> None:
    with pytest.raises(DataError) as refused:
        split_labelled(
            {"a": ROWS[:9], "b": ROWS, "c": [ROWS[0]] * 50}, heldout_share=0.2, most=9, seed=0
        )
    told = str(refused.value)
    assert "a: 9 different texts in 9 rows" in told
    assert "c: 1 different texts in 50 rows" in told
    assert "b:" not in told
    assert "judge: losses" in told


def test_texts_are_cut_to_lengths_that_were_sampled() -> None:
    long = [f"{i} " * 100 for i in range(50)]
    cut = cut_like(long, [5, 0, 7], seed=0)
    assert {len(text) for text in cut} == {5, 7}
    assert all(whole.startswith(part) for whole, part in zip(long, cut, strict=True))
    assert cut == cut_like(long, [7, 5], seed=0)
