"""Paired differences: worked by hand, laws, and the interval's coverage by simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.evaluate.nouns import Metric
from lamina.evaluate.statistics import mcnemar
from lamina.evaluate.statistics_paired import Value, paired

ACC = Metric("acc", higher_is_better=True)
PERPLEXITY = Metric("word_perplexity", higher_is_better=False, scale="exp")
Both = list[tuple[Value, Value]]

zero_or_one = st.sampled_from([(0.0, 1.0), (1.0, 1.0)])
any_value = st.tuples(st.floats(0, 4).map(lambda x: round(x, 3)), st.sampled_from([1.0, 2.0, 5.0]))
both_binary = st.lists(st.tuples(zero_or_one, zero_or_one), min_size=1, max_size=40)
both_any = st.lists(st.tuples(any_value, any_value), min_size=1, max_size=20)


def of(*answers: float) -> list[Value]:
    return [(answer, 1.0) for answer in answers]


def test_accuracies_are_counted_and_tested_by_mcnemar() -> None:
    found = paired(ACC, of(1, 1, 1, 1, 1, 1, 1, 0, 0, 1), of(0, 0, 0, 0, 0, 0, 1, 0, 1, 1))
    assert found.difference == pytest.approx(0.5)
    assert (found.better, found.worse, found.same) == (6, 1, 3)
    assert found.p == mcnemar(6, 1) == 2 * (1 + 7) / 128
    assert found.low is not None
    assert found.high is not None
    assert 0.0 <= found.low < 0.5 < found.high <= 0.9


def test_lower_is_better_for_perplexities() -> None:
    found = paired(PERPLEXITY, [(2.0, 1.0), (4.0, 2.0)], [(3.0, 1.0), (4.0, 2.0)])
    assert found.difference == pytest.approx(math.exp(6 / 3) - math.exp(7 / 3), rel=1e-14)
    assert (found.better, found.worse, found.same) == (1, 0, 1)


def test_signs_of_few_items_are_flipped_in_all_ways() -> None:
    # differences 1, 2, 4: of the eight signed sums only +7 and -7 are as far from zero
    assert paired(ACC, of(1, 2, 4), of(0, 0, 0)).p == 2 / 8
    # and 1, 2, -4: sums of absolute value 1 or more are all but none
    assert paired(ACC, of(1, 2, 0), of(0, 0, 4)).p == 1.0
    # 1, 2, 3 to 4 with one sign turned: |2 + 4 - 1| = 5 is reached by +-7 and +-5
    assert paired(ACC, of(0, 2, 4), of(1, 0, 0)).p == 4 / 8


def test_drawn_signs_come_near_to_all_ways() -> None:
    random = np.random.default_rng(5)
    model, reference = random.normal(0.35, 1.0, 13), np.zeros(13)
    exact = paired(ACC, of(*model), of(*reference)).p
    drawn = paired(ACC, of(*model), of(*reference), resamples=8000).p
    assert exact is not None
    assert 0.05 < exact < 0.9
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.02)


def test_many_items_that_all_differ_have_an_interval_of_two_standard_errors() -> None:
    random = np.random.default_rng(1)
    gaps = random.normal(0.5, 2.0, 3000)
    found = paired(ACC, of(*gaps), of(*np.zeros(3000)))
    error = 1.96 * gaps.std(ddof=1) / math.sqrt(3000)
    assert found.low == pytest.approx(gaps.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(gaps.mean() + error, abs=0.1 * error)
    assert found.p == 1 / 10_001


def test_equal_rows_drawn_together_are_drawn_as_alone() -> None:
    """Fewer than 65 distinct rows take the multinomial, more the items one by one."""
    random = np.random.default_rng(2)
    model = random.integers(0, 2, 400).astype(float)
    apart = model + 1e-7 * random.random(400)
    zeros = of(*np.zeros(400))
    together, alone = paired(ACC, of(*model), zeros), paired(ACC, of(*apart), zeros)
    assert alone.low == pytest.approx(together.low, abs=0.005)
    assert alone.high == pytest.approx(together.high, abs=0.005)


@pytest.mark.parametrize(
    ("model", "reference"),
    [((1,), (0,)), ((1, 1, 0), (1, 1, 0)), ((1, 1, 1), (0, 0, 0)), ((0.5, 1.5), (0.25, 1.25))],
)
def test_items_that_cannot_give_an_interval_give_none(
    model: tuple[float, ...], reference: tuple[float, ...]
) -> None:
    found = paired(ACC, of(*model), of(*reference))
    assert (found.low, found.high) == (None, None)
    assert found.p == (1.0 if len(model) == 1 or model == reference else mcnemar(len(model), 0))


def test_all_better_without_an_interval_still_has_a_p_value() -> None:
    found = paired(ACC, of(*[1] * 10), of(*[0] * 10))
    assert (found.low, found.p) == (None, 2 / 1024)


def test_no_items_and_sums_that_are_no_number_give_no_p() -> None:
    assert paired(ACC, [], []).p is None
    found = paired(PERPLEXITY, [(math.nan, 1.0), (1.0, 1.0)], [(1.0, 1.0), (2.0, 1.0)])
    assert (found.difference, found.p, found.better) == (None, None, 1)


def test_a_difference_too_large_to_write_is_none_but_tested() -> None:
    model = [(1000.0 + place, 1.0) for place in range(8)]
    found = paired(PERPLEXITY, model, [(2.0, 1.0)] * 8)
    assert (found.difference, found.low, found.p) == (None, None, 2 / 256)


@given(st.one_of(both_binary, both_any))
@settings(max_examples=60, deadline=None)
def test_models_exchanged_change_the_sign_and_nothing_else(both: Both) -> None:
    one, other = [a for a, _ in both], [b for _, b in both]
    there = paired(ACC, one, other, resamples=300)
    back = paired(ACC, other, one, resamples=300)
    assert (there.difference, there.p) == (-(back.difference or 0.0), back.p)
    assert (there.better, there.worse, there.same) == (back.worse, back.better, back.same)
    assert (there.low is None) == (back.low is None)
    if there.low is not None and there.high is not None:
        assert (back.low, back.high) == (-there.high, -there.low)


@given(st.one_of(both_binary, both_any), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_items_in_another_order_give_the_same(both: Both, random: object) -> None:
    mixed = list(both)
    random.shuffle(mixed)  # pyrefly: ignore[missing-attribute]
    first = paired(PERPLEXITY, [a for a, _ in both], [b for _, b in both], resamples=300)
    second = paired(PERPLEXITY, [a for a, _ in mixed], [b for _, b in mixed], resamples=300)
    assert first == second


@given(st.lists(any_value, min_size=1, max_size=20))
def test_the_same_answers_differ_by_nothing(values: list[Value]) -> None:
    found = paired(ACC, values, values)
    assert (found.difference, found.low, found.high, found.p) == (0.0, None, None, 1.0)
    assert (found.better, found.worse, found.same) == (0, 0, len(values))


def _binary(random: np.random.Generator, count: int) -> tuple[list[Value], list[Value]]:
    """Both right 0.4, only the model 0.2, only the reference 0.1: the difference is 0.1."""
    drawn = random.random(count)
    model, both = drawn < 0.6, (drawn < 0.4) | ((drawn >= 0.6) & (drawn < 0.7))
    return of(*model.astype(float)), of(*both.astype(float))


def _losses(random: np.random.Generator, count: int) -> tuple[list[Value], list[Value]]:
    """Texts of lengths that differ by a factor of ten; losses 3.1 and 3 on average."""
    lengths = np.exp(random.normal(7.0, 1.0, count)).round() + 1.0
    loss = random.normal(3.0, 0.3, count)
    more = loss + random.gamma(1.0, 0.1, count)
    both = zip(lengths * more, lengths * loss, lengths, strict=True)
    rows = [((a, c), (b, c)) for a, b, c in both]
    return [a for a, _ in rows], [b for _, b in rows]


@pytest.mark.parametrize(
    ("metric", "draw", "true", "items", "least"),
    [
        (ACC, _binary, 0.1, 30, 0.925),
        (ACC, _binary, 0.1, 200, 0.925),
        (PERPLEXITY, _losses, None, 62, 0.89),  # of texts of such other lengths it is a bit short
        (PERPLEXITY, _losses, None, 300, 0.91),
    ],
)
def test_about_nineteen_of_twenty_intervals_hold_the_truth(
    metric: Metric,
    draw: Callable[[np.random.Generator, int], tuple[list[Value], list[Value]]],
    true: float | None,
    items: int,
    least: float,
) -> None:
    """By simulation with a fixed seed; 400 repetitions know a share of 0.95 to 0.011."""
    random = np.random.default_rng(7)
    # Length and loss are independent: the means of the losses, and with them the perplexities.
    known = math.exp(3.1) - math.exp(3.0) if true is None else true
    found = [paired(metric, *draw(random, items), seed=0, resamples=1000) for _ in range(400)]
    held = [one for one in found if one.low is not None and one.low <= known <= (one.high or 0)]
    assert least <= len(held) / 400 <= 0.98


def test_no_difference_is_shown_by_no_more_than_one_in_twenty() -> None:
    random = np.random.default_rng(3)
    for draws in ("binary", "real"):
        low = 0
        for _ in range(400):
            one, other = random.normal(size=(2, 25))
            if draws == "binary":
                one, other = (one > 0).astype(float), (other > 0).astype(float)
            p = paired(ACC, of(*one), of(*other), resamples=400).p
            low += p is not None and p < 0.05
        assert low / 400 <= 0.05 + 0.022, draws
