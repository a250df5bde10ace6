"""How far two rankings agree, beside what chance would give.

Two random choices of p of all modules share p of each other, and their Jaccard index is about
p / (2 - p): .18 at p = .3, .60 at p = .75. An overlap without its chance level says nothing, and so
every one here comes with it (shared/papers: ILA's "nearly 90 %" is such a Jaccard index).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lamina.core.errors import LayerError, RecipeError
from lamina.core.rules import count_of, ordered
from lamina.core.scores import LayerScores


@dataclass(frozen=True, slots=True)
class Overlap:
    """The top shares of two rankings, k of n units each, and how many of them are the same."""

    share: float
    shared: float
    """Part of one's top that is in the other's: m / k."""
    chance: float
    """What two random choices share: k / n."""
    corrected: float
    """(shared - chance) / (1 - chance): 0 by chance, 1 for the same set; 0 where k = n."""
    jaccard: float
    """m / (2 k - m), as papers report it."""
    jaccard_chance: float
    """The mean of that over two random choices, by the hypergeometric distribution of m."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every pair of some rankings; matrices are in the order of `names`."""

    names: tuple[str, ...]
    granularity: str
    units: int
    share: float
    chosen: int
    """ceil(share * units)"""
    spearman: tuple[tuple[float, ...], ...]
    shared: tuple[tuple[float, ...], ...]
    corrected: tuple[tuple[float, ...], ...]
    jaccard: tuple[tuple[float, ...], ...]
    chance: float
    jaccard_chance: float


def spearman(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Spearman's rank correlation in [-1, 1]; equal values share the mean of their ranks.

    0.0 where one of the two has the same value everywhere (or there is one unit only): it orders
    nothing, and nothing agrees with it.

    Raises:
        LayerError: the two have different units.
    """
    _check_same(a, b)
    left, right = _ranks(a), _ranks(b)
    middle = (len(left) + 1) / 2
    pairs = [(left[one] - middle, right[one] - middle) for one in left]
    across = math.fsum(x * y for x, y in pairs)
    sizes = math.fsum(x * x for x, _ in pairs) * math.fsum(y * y for _, y in pairs)
    return max(-1.0, min(1.0, across / math.sqrt(sizes))) if sizes else 0.0


def overlap(a: LayerScores, b: LayerScores, share: float) -> Overlap:
    """How many of the top ceil(share * n) units of two rankings are the same, and by chance.

    Raises:
        LayerError: different granularity or units.
        RecipeError: a share outside (0, 1].
    """
    check_share(share)
    _check_grain({"the one": a, "the other": b})
    _check_same(a.values, b.values)
    units = len(a.values)
    count = count_of(share, units)
    both = len(set(ordered(a.values)[:count]) & set(ordered(b.values)[:count]))
    shared, chance = both / count, count / units
    return Overlap(
        share=share,
        shared=shared,
        chance=chance,
        corrected=(shared - chance) / (1 - chance) if count < units else 0.0,
        jaccard=both / (2 * count - both),
        jaccard_chance=jaccard_by_chance(count, units),
    )


def jaccard_by_chance(count: int, units: int) -> float:
    """E[m / (2k - m)] for m common ones of two random choices of k out of n.

    m is hypergeometric: P(m) = C(k, m) C(n - k, k - m) / C(n, k), in whole numbers.
    """
    every = math.comb(units, count)
    return math.fsum(
        math.comb(count, m) * math.comb(units - count, count - m) / every * m / (2 * count - m)
        for m in range(count + 1)
    )


def compare(scores: Mapping[str, LayerScores], share: float) -> Comparison:
    """Every pair of some rankings of the same units.

    Raises:
        RecipeError: fewer than two rankings, or a share outside (0, 1].
        LayerError: rankings of different granularity, or of models with other units.
    """
    check_share(share)
    if len(scores) < 2:
        raise RecipeError(
            f"{len(scores)} ranking(s) cannot be compared: give two or more files of scores."
        )
    _check_grain(scores)
    (reference, whole), *rest = scores.items()
    for name, one in rest:
        _check_same(whole.values, one.values, names=(reference, name))
    pairs = [[overlap(a, b, share) for b in scores.values()] for a in scores.values()]
    return Comparison(
        names=tuple(scores),
        granularity=whole.granularity,
        units=len(whole.values),
        share=share,
        chosen=count_of(share, len(whole.values)),
        spearman=tuple(
            tuple(spearman(a.values, b.values) for b in scores.values()) for a in scores.values()
        ),
        shared=tuple(tuple(one.shared for one in row) for row in pairs),
        corrected=tuple(tuple(one.corrected for one in row) for row in pairs),
        jaccard=tuple(tuple(one.jaccard for one in row) for row in pairs),
        chance=pairs[0][0].chance,
        jaccard_chance=pairs[0][0].jaccard_chance,
    )


def check_share(share: float) -> None:
    """That a share can be taken of something.

    Raises:
        RecipeError: outside (0, 1].
    """
    if not 0 < share <= 1:
        raise RecipeError(f"a share is a number above 0 and at most 1, not {share}")


def _check_grain(scores: Mapping[str, LayerScores]) -> None:
    """Raises LayerError where some rank blocks and others modules."""
    grains = {one.granularity for one in scores.values()}
    if len(grains) > 1:
        told = ", ".join(f"{name} by {one.granularity}" for name, one in scores.items())
        raise LayerError(
            f"rankings of different granularity cannot be compared: {told}. Measure all by the same"
            " unit; a tuning plan can be made from each."
        )


def _check_same(
    a: Mapping[str, float], b: Mapping[str, float], *, names: tuple[str, str] = ("one", "the other")
) -> None:
    if a.keys() != b.keys():
        only = [
            f"only {name} has {_few(sorted(here.keys() - there.keys()))}"
            for name, here, there in ((names[0], a, b), (names[1], b, a))
            if here.keys() - there.keys()
        ]
        raise LayerError(
            f"rankings of {len(a)} units ({names[0]}) and {len(b)} ({names[1]}) cannot be compared:"
            f" {'; '.join(only)}."
            " Measure both on models of one architecture."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")


def _ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Ranks from 1 for the lowest; equal values get the mean of their places."""
    rising = sorted(values, key=lambda one: values[one])
    ranks: dict[str, float] = {}
    start = 0
    while start < len(rising):
        end = start
        while end < len(rising) and values[rising[end]] == values[rising[start]]:
            end += 1
        ranks |= dict.fromkeys(rising[start:end], (start + 1 + end) / 2)
        start = end
    return ranks
