"""Standard errors, pass@k, McNemar and Holm against numbers worked by hand."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.nouns import Metric
from lamina.evaluate.statistics import estimate, holm, mcnemar, pass_at_k

ACC = Metric("acc", higher_is_better=True)
PERPLEXITY = Metric("word_perplexity", higher_is_better=False, scale="exp")
BITS = Metric("bits_per_byte", higher_is_better=False, scale="bits")


def test_accuracy_has_the_standard_error_of_a_mean() -> None:
    found = estimate(ACC, [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)])
    assert found.value == 0.75
    # sample variance (3 * 0.25^2 + 0.75^2) / 3 = 0.25, so 0.5 / sqrt(4)
    assert found.se == pytest.approx(0.25, rel=1e-15)


def test_error_of_means_is_that_of_the_standard_library() -> None:
    values = [0.2, 0.9, 0.4, 0.0, 1.0, 0.7]
    found = estimate(ACC, [(value, 1.0) for value in values])
    assert found.se == pytest.approx(statistics.stdev(values) / math.sqrt(6), rel=1e-14)


def test_perplexity_sums_over_items_of_other_lengths_before_it_divides() -> None:
    found = estimate(PERPLEXITY, [(3.0, 1.0), (3.0, 2.0)])
    assert found.value == pytest.approx(math.exp(2.0), rel=1e-15)
    # ratio 2: residuals 3 - 2 and 3 - 4; sqrt((1 + 1) * 2 / 1) / 3 = 2/3, times the slope e^2
    assert found.se == pytest.approx(math.exp(2.0) * 2 / 3, rel=1e-15)


def test_bits_are_nats_by_the_log_of_two() -> None:
    found = estimate(BITS, [(3.0 * math.log(2), 1.0), (math.log(2), 1.0)])
    assert found.value == pytest.approx(2.0, rel=1e-15)
    assert found.se == pytest.approx(1.0, rel=1e-15)


def test_one_item_has_no_standard_error() -> None:
    found = estimate(ACC, [(1.0, 1.0)])
    assert (found.value, found.se) == (1.0, None)


def test_no_item_has_no_value() -> None:
    assert estimate(ACC, []).value is None
    assert estimate(PERPLEXITY, [(0.0, 0.0)]).value is None


def test_a_perplexity_too_large_to_write_is_none() -> None:
    assert estimate(PERPLEXITY, [(1000.0, 1.0), (900.0, 1.0)]).value is None
    assert estimate(PERPLEXITY, [(math.inf, 1.0), (1.0, 1.0)]).value is None


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)  # 1 - 3/10
    assert pass_at_k(5, 2, 4) == 1.0  # among four of five one of the two must be
    assert pass_at_k(3, 0, 3) == 0.0


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_share_of_all_choices_with_a_pass(samples: int) -> None:
    for correct in range(samples + 1):
        passes = [place < correct for place in range(samples)]
        for k in range(1, samples + 1):
            drawn = [any(some) for some in itertools.combinations(passes, k)]
            assert pass_at_k(samples, correct, k) == pytest.approx(sum(drawn) / len(drawn))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(AssertionError):
        pass_at_k(1, 1, 2)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 0) == 1.0
    assert mcnemar(0, 6) == 2 / 64
    assert mcnemar(8, 2) == 2 * (1 + 10 + 45) / 1024
    assert mcnemar(3, 3) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(better: int, worse: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_thousands_is_not_a_zero_by_overflow() -> None:
    assert 0.0 < mcnemar(7300, 6742) < 1e-5


def test_holm_by_hand() -> None:
    corrected = holm([0.01, 0.04, None, 0.03, 0.005])
    assert corrected == [pytest.approx(0.03), 0.06, None, 0.06, pytest.approx(0.02)]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(ps: list[float]) -> None:
    corrected = [p for p in holm(ps) if p is not None]
    assert len(corrected) == len(ps)
    for p, after in zip(ps, corrected, strict=True):
        assert p <= after <= min(1.0, p * len(ps)) + 1e-12
    for (p, after), (q, later) in itertools.combinations(zip(ps, corrected, strict=True), 2):
        assert p == q or (p < q) == (after < later) or after == later
