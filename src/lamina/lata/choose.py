"""From similarities to coefficients: the three rules of LATA, each its formula.

s_i is the cosine between the complex vector and the instruction vector in layer i, L the number of
layers, r_i the place by falling similarity: r = 1 is the layer most like the instruction vector.
"""

import math
from collections.abc import Callable

from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores

Rule = Callable[..., dict[str, float]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    """Register a rule under its name."""
    RULES[function.__name__] = function
    return function


@rule
def linear_drop(scores: LayerScores) -> dict[str, float]:
    """r_i / L: the layer most like the instruction vector gets 1/L, the least like it 1 (eq. 8)."""
    ranks = scores.rank()
    return {unit: place / len(ranks) for unit, place in ranks.items()}


@rule
def log_drop(scores: LayerScores) -> dict[str, float]:
    """ln r_i / ln L: the layer most like the instruction vector gets exactly 0 (eq. 9).

    A single layer gets 1: the paper's 0/0 (docs/papers.md).
    """
    ranks = scores.rank()
    if len(ranks) == 1:
        return dict.fromkeys(ranks, 1.0)
    return {unit: math.log(place) / math.log(len(ranks)) for unit, place in ranks.items()}


@rule
def threshold(scores: LayerScores, *, threshold: float) -> dict[str, float]:
    """1 where s_i < threshold, else 0 (eq. 10, sigma)."""
    return {unit: float(value < threshold) for unit, value in scores.values.items()}


def choose(
    scores: LayerScores, rule: str, *, others: float, sigma: float | None = None
) -> LayerPlan:
    """The plan of one expert by a named rule; `others` is for tensors outside the blocks."""
    numbers = (
        threshold(scores, threshold=0.95 if sigma is None else sigma)
        if rule == "threshold"
        else RULES[rule](scores)
    )
    return LayerPlan(
        granularity=scores.granularity,
        coefficients=numbers,
        others=others,
        rule=rule,
        from_scores="scores.json",
    )
