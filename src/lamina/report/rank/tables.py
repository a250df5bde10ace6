"""Tables of a ranking: how rankings agree, what a higher lowest block gives up, every value."""

from lamina.report.formats import count, number, percent
from lamina.report.rank import sums
from lamina.report.rank.nouns import Agreement, Matrix, Ranked
from lamina.report.rank.paint import shades_of
from lamina.report.rank.words import ADDED, removed_of
from lamina.report.tables import Cell, Row, Table

MOST_ROWS = 2000
_TONES = (0.2, 0.45, 0.7, 0.9)


def tone_of(value: float | None) -> str:
    """`hit-1` to `hit-4` for agreement above chance, `miss-1` to `miss-4` below."""
    if value is None or abs(value) < _TONES[0]:
        return ""
    depth = sum(abs(value) >= border for border in _TONES)
    return f"{'hit' if value > 0 else 'miss'}-{depth}"


def overlaps(read: Agreement, share: float) -> Table | None:
    """What the top sets share, and below it the same with chance taken out."""
    if len(read.names) < 2 or not read.shared:
        return None
    rows = []
    for place, name in enumerate(read.names):
        cells = []
        for other, value in enumerate(read.shared[place]):
            fixed = read.corrected[place][other] if read.corrected else None
            under = f"corrected {number(fixed, 2)}" if fixed is not None else ""
            own = place == other
            cells.append(Cell(percent(value), "" if own else under, "" if own else tone_of(fixed)))
        rows.append(Row(name, tuple(cells)))
    chance = f"By chance: {percent(read.chance)}" if read.chance is not None else ""
    jaccard = _jaccard_words(read)
    return Table(
        f"Shared by the top {percent(share)} of two rankings",
        read.names,
        tuple(rows),
        f"{chance}. Corrected: 0 by chance, 1 for the same set.{jaccard}" if chance else jaccard,
    )


def _jaccard_words(read: Agreement) -> str:
    """The index that papers report, with its own chance level."""
    if not read.jaccard or len(read.names) < 2:
        return ""
    told = [
        f"{name}: {number(value, 2)}"
        for name, value in zip(read.names[1:], read.jaccard[0][1:], strict=True)
        if value is not None
    ]
    if not told:
        return ""
    chance = f", by chance {number(read.jaccard_chance, 2)}" if read.jaccard_chance else ""
    own = read.names[0]
    return f" As a Jaccard index, which papers report, {own} with {', '.join(told)}{chance}."


def spearmans(read: Agreement) -> Table | None:
    """Rank correlations over all units, not only the top."""
    if len(read.names) < 2 or not read.spearman:
        return None
    return Table(
        "Spearman's rank correlation over all units",
        read.names,
        _square(read.names, read.spearman),
        "1: the same order; 0: none; −1: reversed.",
    )


def _square(names: tuple[str, ...], values: Matrix) -> tuple[Row, ...]:
    return tuple(
        Row(
            name,
            tuple(
                Cell(number(value, 2), tone="" if place == other else tone_of(value))
                for other, value in enumerate(values[place])
            ),
        )
        for place, name in enumerate(names)
    )


def prefixes(ranked: Ranked) -> Table | None:
    """What choosing as many units in higher blocks only gives up."""
    if ranked.main is None:
        return None
    blocks = sums.blocks_of(ranked.main.values)
    found = sums.above(ranked)
    if len(found) < 2 or len(blocks) < 2:
        return None
    added = ranked.way in ADDED and found[0].value > 0.0
    rows = []
    for one in found:
        cells = [
            Cell(count(one.chosen)),
            Cell(f"{one.kept} of {len(ranked.top)}"),
            Cell(percent(sum(block < one.lowest for block in blocks) / len(blocks))),
        ]
        cells += [Cell(percent(one.value / found[0].value))] if added else []
        rows.append(Row(f"block {one.lowest}", tuple(cells)))
    head = ("chosen", "of the top set", "backward left out")
    return Table(
        "The best set that begins at a block",
        (*head, "value held") if added else head,
        tuple(rows),
        "Backward left out: blocks that the backward pass need not enter, a part of that pass, not "
        "of a whole step. Only a measured run says what it saves.",
    )


def costs(ranked: Ranked) -> Table | None:
    """What the ranking and its stage 1 took."""
    cost = dict(ranked.agreement.cost) if ranked.agreement else {}
    names = {
        "batches": "forward/backward batches",
        "tokens": "trained tokens in them",
        "stage_one_steps": "stage 1: optimiser steps",
        "stable_at": "stage 1 stable at step",
    }
    rows = [Row(names[key], (Cell(count(cost[key])),)) for key in names if key in cost]
    rows += [
        Row(key.replace("_", " "), (Cell(count(value) if value >= 1000 else number(value)),))
        for key, value in cost.items()
        if key not in names
    ]
    passes = ranked.agreement.passes if ranked.agreement else {}
    rows += [
        Row(f"beside: {way}, batches", (Cell(count(many)),))
        for way, many in passes.items()
        if way != ranked.way
    ]
    return Table("What the ranking cost", ("",), tuple(rows)) if rows else None


def values(ranked: Ranked) -> Table | None:
    """Every unit by falling value, with all that is known of it."""
    main = ranked.main
    if main is None:
        return None
    places, inside, cut = sums.places(main), set(ranked.top), sums.cut_of(ranked)
    shades, removed = shades_of(main.values.values()), removed_of(ranked)[0]
    rows = []
    for unit in sorted(places, key=places.__getitem__)[:MOST_ROWS]:
        unsure = cut is not None and unit in cut.unsure
        set_ = ("yes" if unit in inside else "no") + (", unsure" if unsure else "")
        cells = [
            Cell(count(places[unit])),
            Cell(shades.text(main.values[unit]), _spread(ranked, unit)),
            Cell(set_, numeric=False),
        ]
        cells += [Cell(shades.text(seed.get(unit))) for seed in main.seeds[:8]]
        cells += [Cell(shades_of(removed.values()).text(removed.get(unit)))] if removed else []
        cells += [Cell(count(main.parameters.get(unit)))] if main.parameters else []
        rows.append(Row(unit, tuple(cells), "merge" if unit in inside else ""))
    head = ["place", main.unit or "value", "in the top set"]
    head += [f"seed {place}" for place in range(len(main.seeds[:8]))]
    head += ["left out"] if removed else []
    head += ["adapter's values"] if main.parameters else []
    more = len(places) - len(rows)
    note = f"{count(more)} more are in scores.json." if more > 0 else ""
    return Table("Every value, the highest first", tuple(head), tuple(rows), note)


def _spread(ranked: Ranked, unit: str) -> str:
    assert ranked.main is not None
    spread = ranked.main.spread.get(unit)
    return f"± {shades_of(ranked.main.values.values()).text(spread)}" if spread is not None else ""
