"""Metrics and standard errors of a task are those that lm-evaluation-harness 0.4.13 prints."""

import pytest

from lamina.evaluate.nouns import Metric
from lamina.evaluate.statistics import estimate

metrics = pytest.importorskip("lm_eval.api.metrics", reason="lm-eval is the extra `eval`")


@pytest.mark.parametrize("values", [(1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0), (0.3, 0.25, 0.9, 0.0)])
def test_the_error_of_a_mean_is_the_harnesss(values: tuple[float, ...]) -> None:
    found = estimate(Metric("acc", higher_is_better=True), [(value, 1.0) for value in values])
    assert found.value == pytest.approx(metrics.mean(list(values)), rel=1e-15)
    assert found.se == pytest.approx(metrics.mean_stderr(list(values)), rel=1e-14)


def test_perplexities_are_the_harnesss_over_words_and_bits_over_bytes() -> None:
    items = [(-120.5, 40), (-333.25, 101), (-12.0, 3)]
    values = [(-logprob, float(count)) for logprob, count in items]
    word = estimate(Metric("word_perplexity", higher_is_better=False, scale="exp"), values)
    assert word.value == pytest.approx(metrics.weighted_perplexity(items), rel=1e-14)
    bits = estimate(Metric("bits_per_byte", higher_is_better=False, scale="bits"), values)
    assert bits.value == pytest.approx(metrics.bits_per_byte(items), rel=1e-14)


def test_errors_of_mmlus_subjects_pooled_by_the_harness_are_near_ours() -> None:
    """It leaves out how subjects differ; ours is that of all questions together."""
    subjects = [[1.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]]
    acc = Metric("acc", higher_is_better=True)
    errors = [estimate(acc, [(value, 1.0) for value in one]).se for one in subjects]
    pooled = metrics.pooled_sample_stderr(errors, [len(one) for one in subjects])
    every = [(value, 1.0) for one in subjects for value in one]
    ours = estimate(acc, every).se
    assert ours is not None
    assert 0.9 * ours < pooled < 1.02 * ours
