"""From similarities to coefficients: the three rules of LATA, each its formula, and one for scores
of another origin.

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


HIGH_IS_SPARED = frozenset({"lata_cosine", "cosine"})
"""Methods whose high scores mean that less of a layer is taken; for others high is important."""


@rule
def scores(found: LayerScores, *, shape: str, share: float | None = None) -> dict[str, float]:
    """By importance (ILA, arXiv 2410.17875): the most important layer is taken whole.

    With p the place by falling importance, 1 to N: `linear` is (N - p + 1) / N; `log` is
    ln(N - p + 1) / ln N, the last exactly 0, and a single layer 1; `top` is 1 for the first
    ceil(share N) places, else 0. From LATA's own cosines `linear` is `linear_drop` and `log` is
    `log_drop`, bit for bit. Our own: neither paper lets one method's ranking drive the other.
    """
    places, count = found.rank(), len(found.values)
    if found.method in HIGH_IS_SPARED:
        places = {unit: count + 1 - place for unit, place in places.items()}
    if shape == "top":
        assert share is not None
        taken = math.ceil(share * count - 1e-9)
        return {unit: float(place <= taken) for unit, place in places.items()}
    assert shape in ("linear", "log"), shape
    if shape == "linear":
        return {unit: (count - place + 1) / count for unit, place in places.items()}
    if count == 1:
        return dict.fromkeys(places, 1.0)
    return {unit: math.log(count - place + 1) / math.log(count) for unit, place in places.items()}


def choose(
    scores: LayerScores, rule: str, *, others: float, sigma: float | None = None
) -> LayerPlan:
    """The plan of one expert by a named rule; `others` is for tensors outside the blocks."""
    numbers = (
        threshold(scores, threshold=0.95 if sigma is None else sigma)
        if rule == "threshold"
        else RULES[rule](scores)
    )
    assert scores.granularity != "sublayer", "LATA measures blocks and modules"
    return LayerPlan(
        granularity=scores.granularity,
        coefficients=numbers,
        others=others,
        rule=rule,
        from_scores="scores.json",
    )
