"""Is one model better than another on the same items? Interval, counts and p value of a difference.

Both models answered the same items, so an item's difficulty cancels: what is resampled is the item
with both its answers. 10,000 resamples of 14,042 items with few distinct values (accuracy) take
a third of a second, of 5,000 items that all differ three seconds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.evaluate.nouns import Metric
from lamina.evaluate.statistics import mcnemar

RESAMPLES = 10_000
SHOWN_BELOW = 0.05
"""A corrected p value below this shows a difference."""
_CHUNK = 4_000_000
"""Numbers drawn at a time."""
_SAME = 1e-9
"""Relative: two answers as near as this are the same; sums in another order differ by less."""

Value = tuple[float, float]
Table = NDArray[np.float64]
"""A row an item: sum and count of the model, sum and count of the reference."""


@dataclass(frozen=True, slots=True)
class Paired:
    """A model's metric minus the reference's, over the same items."""

    difference: float | None
    low: float | None
    high: float | None
    """The ends of the 95 % interval; None where the items cannot give one: a single item, or all
    with the same difference."""
    better: int
    worse: int
    same: int
    p: float | None
    """Not corrected. None where a sum is not a number."""


def paired(
    metric: Metric,
    model: Sequence[Value],
    reference: Sequence[Value],
    *,
    seed: int = 1234,
    resamples: int = RESAMPLES,
) -> Paired:
    """The difference between two models' (sum, count) of the same items in the same order.

    The same items in another order give the same result, and the models exchanged give it with the
    other sign: rows are sorted, and drawn in whichever of the two directions sorts first.
    """
    assert len(model) == len(reference), (len(model), len(reference))
    table = np.array([(*a, *b) for a, b in zip(model, reference, strict=True)], dtype=np.float64)
    table = table.reshape(-1, 4)
    better, worse, same = _changes(table, metric.higher_is_better)
    if not len(table) or not np.isfinite(table).all() or (table[:, [1, 3]].sum(axis=0) <= 0).any():
        return Paired(None, None, None, better, worse, same, None)
    one, other = _sorted(table), _sorted(table[:, [2, 3, 0, 1]])
    turned = other.tobytes() < one.tobytes()
    rows = other if turned else one
    p = (
        mcnemar(better, worse)
        if _zero_or_one(table)
        else sign_flip(rows, seed=seed, resamples=resamples)
    )
    low, high = interval(metric, rows, seed=seed, resamples=resamples)
    if turned and low is not None and high is not None:
        low, high = -high, -low
    if low is not None and high is not None and one.tobytes() == other.tobytes():
        low, high = (low - high) / 2, (high - low) / 2  # the items do not tell the two apart
    return Paired(_difference(metric, table), low, high, better, worse, same, p)


def interval(
    metric: Metric, rows: Table, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float | None, float | None]:
    """The 95 % interval of the difference by the bootstrap over items.

    The percentile interval, its two levels widened as Hesterberg (2015, arXiv:1411.5279, the
    "expanded percentile") does: to Phi(-sqrt(n/(n-1)) t), t the 97.5 % point of Student's t with
    n-1 degrees. The plain one is too narrow with few items, as it draws from a sample whose spread
    is too small. BCa held the truth less often in every simulation with few items: of 62 texts
    whose lengths differ tenfold, plain 0.91, widened 0.92, BCa 0.89; of 62 items of which 8 in 100
    change, 0.91, 0.92 and 0.88; of 30 or more that change often, all about 0.94. Nothing makes an
    interval of a handful of changed items good: the p value is what decides.
    """
    if len(rows) < 2 or _all_alike(rows):
        return None, None
    with np.errstate(over="ignore", invalid="ignore"):
        drawn = np.concatenate(list(_resampled(metric, rows, seed, resamples)))
    if not np.isfinite(drawn).all():
        return None, None
    level = _widened(len(rows))
    low, high = np.quantile(drawn, [level, 1.0 - level])
    return float(low), float(high)


def sign_flip(rows: Table, *, seed: int, resamples: int = RESAMPLES) -> float:
    """Two-sided p of the difference, if it were chance which model gave which answer to an item.

    Exchanges the two answers of items at random and asks how often the ratios then differ by as
    much (of perplexities the same test: with equal counts their difference grows with that of the
    losses). All ways where they are no more than `resamples`; else drawn, and p counts what was
    seen as one of the draws, so it is never 0 (Phipson & Smyth 2010).
    """
    moved = rows[(rows[:, 0] != rows[:, 2]) | (rows[:, 1] != rows[:, 3])]
    if not len(moved):
        return 1.0
    middle = (rows[:, :2] + rows[:, 2:]).sum(axis=0) / 2.0
    halves = (moved[:, :2] - moved[:, 2:]) / 2.0
    seen = abs(_gap(middle, halves.sum(axis=0)[None])[0])
    enough = seen - 1e-12 * max(1.0, seen)
    if 2 ** min(len(moved), 60) <= resamples:
        ways = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((abs(_gap(middle, (1.0 - 2.0 * ways) @ halves)) >= enough).mean())
    as_far = 0
    random = np.random.default_rng(seed)
    for size in _sizes(resamples, len(moved)):
        signs = random.integers(0, 2, (size, len(moved)), dtype=np.int8).astype(np.float64)
        as_far += int((abs(_gap(middle, (1.0 - 2.0 * signs) @ halves)) >= enough).sum())
    return (as_far + 1) / (resamples + 1)


def _gap(middle: NDArray[np.float64], moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference of the two ratios, where `moved` is what the first has more than the middle."""
    first, second = middle + moved, middle - moved
    return first[:, 0] / first[:, 1] - second[:, 0] / second[:, 1]


def _resampled(
    metric: Metric, rows: Table, seed: int, resamples: int
) -> Iterator[NDArray[np.float64]]:
    """Differences of the metric over as many items drawn with replacement.

    Equal rows are drawn together, by the multinomial of how many there are: the same distribution.
    """
    random = np.random.default_rng(seed)
    kinds, many = np.unique(rows, axis=0, return_counts=True)
    if len(kinds) <= 64:
        drawn = random.multinomial(len(rows), many / len(rows), size=resamples)
        yield _metric_gap(metric, drawn @ kinds)
        return
    for size in _sizes(resamples, len(rows)):
        picked = random.integers(0, len(rows), (size, len(rows)), dtype=np.int32)
        sums = [rows[:, column].take(picked).sum(axis=1) for column in range(4)]
        yield _metric_gap(metric, np.stack(sums, axis=1))


def _metric_gap(metric: Metric, sums: Table) -> NDArray[np.float64]:
    first, second = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    match metric.scale:
        case "ratio":
            return first - second
        case "exp":
            return np.exp(first) - np.exp(second)
        case "bits":
            return (first - second) / math.log(2)


def _difference(metric: Metric, table: Table) -> float | None:
    sums = [math.fsum(table[:, column]) for column in range(4)]
    gap = metric.of(sums[0] / sums[1]) - metric.of(sums[2] / sums[3])
    return gap if math.isfinite(gap) else None


def _sizes(resamples: int, width: int) -> Iterator[int]:
    most = max(1, _CHUNK // width)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _sorted(table: Table) -> Table:
    return np.ascontiguousarray(table[np.lexsort(table.T[::-1])]) + 0.0  # -0.0 becomes 0.0


def _changes(table: Table, higher_is_better: bool) -> tuple[int, int, int]:
    """Items that are better, worse and the same by the model than by the reference."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = table[:, 0] / table[:, 1], table[:, 2] / table[:, 3]
        far = abs(first - second) > _SAME * np.maximum(abs(first), abs(second))
    more, less = int((far & (first > second)).sum()), int((far & (first < second)).sum())
    better, worse = (more, less) if higher_is_better else (less, more)
    return better, worse, len(table) - more - less


def _zero_or_one(table: Table) -> bool:
    sums, counts = table[:, [0, 2]], table[:, [1, 3]]
    return bool((counts == 1.0).all() and ((sums == 0.0) | (sums == 1.0)).all())


def _all_alike(rows: Table) -> bool:
    """Whether every item has the same difference, so that drawing others tells nothing."""
    gaps = rows[:, 0] * rows[:, 3] - rows[:, 2] * rows[:, 1]
    if not gaps.any():
        return True
    alike = (rows[:, [1, 3]] == rows[0, [1, 3]]).all()
    return bool(alike and np.ptp(rows[:, 0] - rows[:, 2]) == 0.0)


def _widened(items: int) -> float:
    """The lower level of the expanded percentile interval."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(math.sqrt(items / (items - 1)) * stdtrit(items - 1, 0.025)))
