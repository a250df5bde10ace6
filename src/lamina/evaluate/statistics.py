"""How sure a number over items is: standard errors, pass@k, exact tests, Holm's correction.

Pure. Items are taken as drawn independently from all items that the task could have asked; so are
MMLU's, although questions of one subject are alike: its true errors may be a little larger. (For
the group `mmlu` the harness pools the variances inside the subjects, `pooled_sample_stderr`, which
leaves out how subjects differ: mostly a bit smaller than ours. Of one subject the two are equal.)
What is random only in the model (sampled answers) is in the items' values and so in the errors.
Differences between models are in `statistics_paired`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lamina.evaluate.nouns import Metric
from lamina.evaluate.perplexity import ratio_se


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric over items and its standard error."""

    value: float | None
    """None where nothing was counted or the number is too large to write."""
    se: float | None
    """None below two items that count."""


def estimate(metric: Metric, values: Iterable[tuple[float, float]]) -> Estimate:
    """The metric of items' (sum, count), and its standard error.

    The delta method: slope x standard error of the ratio of two means (`ratio_se`). With count 1 it
    is the sample's standard deviation / sqrt(n), which is `mean_stderr` of lm_eval/api/metrics.py.
    """
    rows = list(values)
    counted = math.fsum(count for _, count in rows)
    total = math.fsum(value for value, _ in rows)
    if counted <= 0 or not math.isfinite(total / counted):
        return Estimate(None, None)
    ratio = total / counted
    error = ratio_se([value for value, _ in rows], [count for _, count in rows])
    value = metric.of(ratio)
    if not math.isfinite(value):
        return Estimate(None, None)
    return Estimate(value, None if error is None else abs(metric.slope(ratio)) * error)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of `k` samples passes, where `correct` of `samples` did, without bias.

    Eq. 1 of Chen et al. 2021 (arXiv:2107.03374): 1 - C(n-c, k) / C(n, k), in whole numbers.
    """
    assert 0 <= correct <= samples and 1 <= k <= samples, (samples, correct, k)
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided exact p of McNemar's test: are items as likely to turn better as worse?

    Twice the smaller tail of the binomial(better + worse, 1/2), at most 1; summed in whole numbers.
    Items that did not change say nothing of it.
    """
    changed, fewer = better + worse, min(better, worse)
    ways = term = 1
    for place in range(1, fewer + 1):
        term = term * (changed - place + 1) // place
        ways += term
    return min(1.0, 2 * ways / 2**changed)


def holm(probabilities: Sequence[float | None]) -> list[float | None]:
    """p values corrected for how many there are, in the order given; None stays None, not counted.

    Holm 1979: the smallest times their number, the next times one less, never below the one before.
    The chance of one false "shown" among all stays below the level, however they hang together.
    """
    known = sorted((p, place) for place, p in enumerate(probabilities) if p is not None)
    corrected: list[float | None] = [None] * len(probabilities)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[place] = least
    return corrected
