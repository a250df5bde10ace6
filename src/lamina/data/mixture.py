"""Which rows of which domain a window reads: pure functions of seed, window, counts and cursors.

A domain is read in a shuffled order, each row once, then in another shuffled order: an epoch. A
cursor counts the rows of a domain that have been read since the start and is never set back, so
`cursor // size` is the epoch and weights may change at every window. Nothing is kept between
windows: a run that is killed and resumed asks again and gets the same rows.

The orders are those of numpy's PCG64 bit stream, which numpy promises not to change, and of a sort
without ties: no version of numpy and no machine changes them. A window reads only its slice of an
epoch: 1 ms for a domain of 60,000 rows, 15 ms for a million.
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np

from lamina.core.domains import apportion


def window_counts(
    weights: Mapping[str, float],
    num_rows: int,
    *,
    tokens_per_row: Mapping[str, float] | None,
    owed: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Rows of each domain in a window of `num_rows`, so that the shares follow the weights.

    With `tokens_per_row` (mean trained tokens of a domain's rows) they are shares of the trained
    tokens: rows_j ~ w_j / tokens_j. Without, they are shares of the rows. Largest remainder: each
    count is within one row of what was asked, and a domain of weight 0 gets no row. With `owed`,
    what rounding kept from a domain in earlier windows is made up for: a domain that is due a third
    of a row in each window gets one in every third.

    Raises:
        RecipeError: weights that are negative or not finite, or all of them zero.
    """
    quotas = _quotas(weights, tokens_per_row)
    if owed is None:
        return apportion(quotas, num_rows)
    due = _due(quotas, num_rows, owed)
    return apportion({name: max(rows, 0.0) for name, rows in due.items()}, num_rows)


def still_owed(
    weights: Mapping[str, float],
    num_rows: int,
    *,
    tokens_per_row: Mapping[str, float] | None,
    owed: Mapping[str, float],
) -> dict[str, float]:
    """Rows that a domain was due, in this window and before, and has not had; less than 0: has too
    many. 0 for a domain of weight 0: what is not wanted any more is forgotten.
    """
    due = _due(_quotas(weights, tokens_per_row), num_rows, owed)
    counts = window_counts(weights, num_rows, tokens_per_row=tokens_per_row, owed=owed)
    return {name: due[name] - counts[name] if weights[name] else 0.0 for name in weights}


def _due(quotas: Mapping[str, float], num_rows: int, owed: Mapping[str, float]) -> dict[str, float]:
    """Rows of this window, not rounded, with what is owed from before."""
    total = math.fsum(quotas.values())
    return {
        name: num_rows * quota / total + owed.get(name, 0.0) if quota else 0.0
        for name, quota in quotas.items()
    }


def _quotas(
    weights: Mapping[str, float], tokens_per_row: Mapping[str, float] | None
) -> dict[str, float]:
    """What the rows of each domain are in proportion to."""
    if tokens_per_row is None:
        return dict(weights)
    asked = {name: tokens_per_row[name] for name, weight in weights.items() if weight}
    assert all(0 < tokens < math.inf for tokens in asked.values()), f"tokens a row: {asked}"
    return {name: weight / asked[name] if weight else 0.0 for name, weight in weights.items()}


def window_rows(
    *,
    seed: int,
    window: int,
    counts: Mapping[str, int],
    cursors: Mapping[str, int],
    sizes: Mapping[str, int],
) -> np.ndarray:
    """The rows of a window in the order they are read: int64 [num_rows, 2], (domain, row).

    The domain's number is its place in `sizes` (all domains, rows of each), the row's is its place
    in the domain. A name that `counts` or `cursors` lacks counts as 0. No row comes twice before
    every row of its domain has come once, over windows too.
    """
    unknown = [name for name in (*counts, *cursors) if name not in sizes]
    assert not unknown, f"no such domain: {unknown}; known: {list(sizes)}"
    read = []
    for number, (name, size) in enumerate(sizes.items()):
        count, cursor = counts.get(name, 0), cursors.get(name, 0)
        assert count >= 0 <= cursor, f"`{name}`: count {count}, cursor {cursor}"
        assert size > 0 or not count, f"`{name}` has no row to read"
        rows = _read(f"{seed}/{name}", cursor, count, size=size)
        read.append(np.stack([np.full_like(rows, number), rows], axis=1))
    together = np.concatenate(read) if read else np.empty((0, 2), dtype=np.int64)
    return together[_shuffled(f"{seed}/{window}", len(together), 0, len(together))]


def advance(cursors: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, int]:
    """The cursors after a window: they go on and are never set back."""
    names = dict.fromkeys((*cursors, *counts))
    return {name: cursors.get(name, 0) + counts.get(name, 0) for name in names}


def _read(name: str, cursor: int, count: int, *, size: int) -> np.ndarray:
    """The `count` rows of a domain that come after `cursor` rows, epoch by epoch."""
    parts = [np.empty(0, dtype=np.int64)]
    while count > 0:
        epoch, begin = divmod(cursor, size)
        end = min(begin + count, size)
        parts.append(_shuffled(f"{name}/{epoch}", size, begin, end))
        cursor, count = cursor + end - begin, count - (end - begin)
    return np.concatenate(parts)


def _shuffled(key: str, size: int, begin: int, end: int) -> np.ndarray:
    """Places `begin` to `end` of a shuffle of range(size) that depends on `key` and `size` only.

    Every number gets random bits above it, and the numbers are sorted by those. A partition finds
    the slice without sorting the rest.
    """
    if begin == end:
        return np.empty(0, dtype=np.int64)
    bits = np.uint64((size - 1).bit_length())
    digest = hashlib.sha256(key.encode()).digest()
    random = np.random.PCG64(int.from_bytes(digest, "little")).random_raw(size)
    keyed = (random >> bits << bits) | np.arange(size, dtype=np.uint64)
    keyed.partition((begin, end - 1))
    numbers = np.sort(keyed[begin:end]) & np.uint64((1 << int(bits)) - 1)
    return numbers.astype(np.int64)
