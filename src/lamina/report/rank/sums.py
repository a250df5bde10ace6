"""Counts and sums over a ranking: its grid, its cut, its types and blocks, and what chance gives.

Letters: N units, k of them in the top set.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lamina.report import grid
from lamina.report.formats import natural
from lamina.report.rank.nouns import Ranked, Ranking

SURE = 0.05
"""Probability by chance below which a type or a half is said to be over-represented."""
WHOLE = "whole block"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit stands in the grid: its block and its type (None: outside the blocks)."""

    block: int | None
    type: str


@dataclass(frozen=True, slots=True)
class Group:
    """The units of one type or of one block."""

    name: str
    units: tuple[str, ...]
    chosen: int
    mean: float
    expected: float
    """Chosen ones by chance: its units times k / N."""
    by_chance: float
    """Probability of as many chosen ones or more among k drawn at random."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The border of the top set: halfway between the lowest value inside and the highest out."""

    value: float
    unsure: frozenset[str]
    """Units within one spread of it, on both sides."""


def place_of(unit: str) -> Place:
    """`3` is block 3 whole, `3.attention` its attention, `3.mlp.up_proj` one module of it."""
    head, _, rest = unit.partition(".")
    if not (head.isascii() and head.isdigit() and len(head) <= 9):
        return Place(None, unit)
    return Place(int(head), rest or WHOLE)


def blocks_of(units: Iterable[str]) -> list[int]:
    found = (place_of(unit).block for unit in units)
    return sorted({block for block in found if block is not None})


def types_of(units: Iterable[str]) -> list[str]:
    """Types in the usual order of a block."""
    types = {at.type for unit in units if (at := place_of(unit)).block is not None}
    return grid.modules_of({(0, one): 0.0 for one in types})


def joined(types: list[str]) -> Callable[[str], str]:
    """The row of a type: itself, or, of very many (experts of a router), that of its like."""
    if len(types) <= grid.MOST_MODULES:
        return lambda type_: type_
    return lambda type_: ".".join("*" if part.isdigit() else part for part in type_.split("."))


def cells_of(units: Iterable[str]) -> dict[tuple[int, str], list[str]]:
    """Units by block and row of the grid; those outside the blocks are left out."""
    units = list(units)
    row = joined(types_of(units))
    found: dict[tuple[int, str], list[str]] = {}
    for unit in units:
        at = place_of(unit)
        if at.block is not None:
            found.setdefault((at.block, row(at.type)), []).append(unit)
    return found


def cut_of(ranked: Ranked) -> Cut | None:
    """The border, and whom a spread could carry over it; None where all or none are in."""
    main = ranked.main
    if main is None:
        return None
    inside = set(ranked.top)
    outside = [main.values[unit] for unit in main.values if unit not in inside]
    if not inside or not outside:
        return None
    value = 0.5 * min(main.values[unit] for unit in inside) + 0.5 * max(outside)
    unsure = {
        unit
        for unit, spread in main.spread.items()
        if spread > 0.0 and abs(main.values[unit] - value) <= spread
    }
    return Cut(value, frozenset(unsure))


def places(main: Ranking) -> dict[str, int]:
    """1 for the highest value; equal ones in the file's order."""
    ordered = sorted(main.values, key=lambda unit: -main.values[unit])
    return {unit: place for place, unit in enumerate(ordered, start=1)}


def groups(
    ranked: Ranked, key: Callable[[Place], str | None], order: Callable[[Iterable[str]], list[str]]
) -> list[Group]:
    """The units by a key of their place, with what of them is in the top set."""
    assert ranked.main is not None
    members: dict[str, list[str]] = {}
    for unit in ranked.main.values:
        name = key(place_of(unit))
        if name is not None:
            members.setdefault(name, []).append(unit)
    inside, total = set(ranked.top), len(ranked.main.values)
    found: list[Group] = []
    for name in order(members):
        units = members[name]
        chosen = sum(unit in inside for unit in units)
        found.append(
            Group(
                name=name,
                units=tuple(units),
                chosen=chosen,
                mean=math.fsum(ranked.main.values[unit] for unit in units) / len(units),
                expected=len(units) * len(inside) / total,
                by_chance=at_least(chosen, len(units), len(inside), total),
            )
        )
    return found


def by_type(ranked: Ranked) -> list[Group]:
    """One group for each row of the grid."""
    assert ranked.main is not None
    row = joined(types_of(ranked.main.values))

    def usual(names: Iterable[str]) -> list[str]:
        return grid.modules_of({(0, name): 0.0 for name in names})

    return groups(ranked, lambda at: None if at.block is None else row(at.type), usual)


def by_block(ranked: Ranked) -> list[Group]:
    return groups(
        ranked,
        lambda at: None if at.block is None else str(at.block),
        lambda names: sorted(names, key=natural),
    )


def at_least(chosen: int, of: int, drawn: int, total: int) -> float:
    """P(X >= chosen) of `of` units, `drawn` taken at random out of `total` (hypergeometric)."""
    every = _log_choices(total, drawn)
    terms = (
        math.exp(_log_choices(of, one) + _log_choices(total - of, drawn - one) - every)
        for one in range(max(chosen, drawn - (total - of)), min(of, drawn) + 1)
    )
    return min(1.0, math.fsum(terms))


def _log_choices(many: int, taken: int) -> float:
    return math.lgamma(many + 1) - math.lgamma(taken + 1) - math.lgamma(many - taken + 1)


def more_than_chance(found: list[Group]) -> list[Group]:
    """Groups with more in the top set than chance gives, all looks at all groups counted."""
    return [one for one in found if one.chosen > one.expected
            and one.by_chance * len(found) < SURE]  # fmt: skip


def halves(ranked: Ranked) -> tuple[int, int, float] | None:
    """How many of the top set lie in the lower and upper half of the blocks, and by chance."""
    assert ranked.main is not None
    blocks = blocks_of(ranked.main.values)
    if len(blocks) < 2:
        return None
    middle = blocks[len(blocks) // 2]
    inside = [at for unit in ranked.top if (at := place_of(unit)).block is not None]
    low = sum(at.block is not None and at.block < middle for at in inside)
    every = [place_of(unit).block for unit in ranked.main.values]
    below = sum(block is not None and block < middle for block in every)
    share = below / max(1, sum(block is not None for block in every))
    return low, len(inside) - low, share * len(inside)


@dataclass(frozen=True, slots=True)
class Above:
    """The best set of the same size that leaves the lowest blocks alone."""

    lowest: int
    chosen: int
    value: float
    kept: int
    """How many of the top set are in it."""


def above(ranked: Ranked) -> list[Above]:
    """What choosing only in higher blocks gives up: k units each time, or all there are."""
    assert ranked.main is not None
    values, blocks = ranked.main.values, blocks_of(ranked.main.values)
    ordered = sorted(values, key=lambda unit: -values[unit])
    inside, starts = set(ranked.top), sorted({len(blocks) * q // 4 for q in range(4)})
    found: list[Above] = []
    for start in starts if blocks else []:
        lowest = blocks[start]
        there = [u for u in ordered if (b := place_of(u).block) is not None and b >= lowest]
        taken = there[: len(ranked.top)]
        value = math.fsum(values[unit] for unit in taken)
        found.append(Above(lowest, len(taken), value, len(inside & set(taken))))
    return found


def lowest_block(units: Iterable[str]) -> int | None:
    blocks = blocks_of(units)
    return blocks[0] if blocks else None


def total_of(sizes: Mapping[str, float], units: Iterable[str]) -> float:
    return math.fsum(sizes.get(unit, 0.0) for unit in units)
