"""The pictures of a ranking: its map, bars by type and by block, a scatter of two rankings.

A map of 210 modules is about 60 kB. Every mark has its value as a tooltip.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lamina.report import formats, grid
from lamina.report.rank.paint import Shades, shades_of
from lamina.report.rank.sums import Group, cells_of
from lamina.report.svg import Scale, label, picture, tag, tick_decimals, ticks
from lamina.report.tune.paint import axis_label

WIDTH, RIGHT, TOP = 560.0, 8.0, 8.0


@dataclass(frozen=True, slots=True)
class Map:
    """One number for each unit, ready to draw as blocks by types."""

    title: str
    values: Mapping[str, float]
    outlined: frozenset[str] = frozenset()
    """The top set."""
    unsure: frozenset[str] = frozenset()
    """Marked with a dot: one spread could carry them over the cut."""
    words: Mapping[str, str] = field(default_factory=dict)
    """A tooltip for each unit."""
    reverse: bool = False
    """Low is dark: places in a ranking."""
    whole: bool = False
    """Values are whole numbers."""
    keyed: bool = True
    """Whether the shades are explained below."""

    def text(self, shades: Shades, value: float) -> str:
        return formats.number(value, 0) if self.whole else shades.text(value)


def draw_map(shown: Map) -> Markup:
    """Blocks from left to right, types from top to bottom; units outside the blocks are not on it.

    A cell of several units (experts of a router) has their mean.
    """
    cells = cells_of(shown.values)
    if not cells:
        return Markup("")
    rows = grid.modules_of(dict.fromkeys(cells, 0.0))
    blocks = sorted({block for block, _ in cells})
    means = {key: math.fsum(shown.values[u] for u in units) / len(units)
             for key, units in cells.items()}  # fmt: skip
    shades = shades_of(means.values())
    left = 12.0 + 6.2 * max(len(grid.module_words(row)) for row in rows)
    height = 20.0 if len(rows) <= 12 else 14.0
    x = Scale(0.0, float(len(blocks)), left, WIDTH - RIGHT)
    step = min(x(1.0) - x(0.0), 60.0)
    x = Scale(0.0, float(len(blocks)), left, left + step * len(blocks))
    columns = {block: place for place, block in enumerate(blocks)}
    parts = [
        label(left - 6, TOP + height * (place + 0.5) + 3.5, grid.module_words(row), "end", "who")
        for place, row in enumerate(rows)
    ]
    marked: list[Markup] = []
    for (block, row), units in cells.items():
        at = (x(columns[block]), TOP + height * rows.index(row))
        share = shades.share(means[block, row])
        title = tag("title", "; ".join(shown.words.get(u, u) for u in units[:4]))
        parts.append(
            tag("rect", title, x=at[0] + 0.5, y=at[1] + 0.5, width=step - 1.0, height=height - 1.0,
                class_="low" if means[block, row] < 0.0 else "cell",
                fill_opacity=0.05 + 0.9 * (1.0 - share if shown.reverse else share))
        )  # fmt: skip
        marked += _marks(at, step, height, units, shown)
    base = TOP + height * len(rows)
    every = next(one for one in (1, 2, 5, 10, 20, 50, 10**9) if len(blocks) <= 22 * one)
    parts += marked
    parts += [
        label(x(place + 0.5), base + 14, str(block), "middle")
        for place, block in enumerate(blocks)
        if place % every == 0
    ]
    parts.append(axis_label((left + x(len(blocks))) / 2, base + 28, "block"))
    if shown.keyed:
        parts += _key(shown, shades, base + 36, left)
    ends = f"{shown.text(shades, shades.low)} to {shown.text(shades, shades.high)}"
    title = f"{shown.title}: {len(blocks)} blocks by {len(rows)} types, {ends}"
    return picture(WIDTH, base + (54 if shown.keyed else 34), title, parts, desc=_desc(shown))


def _marks(
    at: tuple[float, float], step: float, height: float, units: Sequence[str], shown: Map
) -> list[Markup]:
    """The outline of a chosen cell and the dot of an unsure one."""
    found: list[Markup] = []
    if any(unit in shown.outlined for unit in units):
        whole = all(unit in shown.outlined for unit in units)
        class_ = "chosen" if whole else "chosen part"
        found.append(tag("rect", x=at[0] + 1.2, y=at[1] + 1.2, width=step - 2.4,
                         height=height - 2.4, class_=class_))  # fmt: skip
    if any(unit in shown.unsure for unit in units):
        found.append(
            tag("circle", cx=at[0] + step / 2, cy=at[1] + height / 2, r=min(3.0, step * 0.2),
                class_="unsure")
        )  # fmt: skip
    return found


def _desc(shown: Map) -> str:
    inside = [unit for unit in shown.values if unit in shown.outlined]
    return f"outlined: {formats.listing(inside, most=40)}" if inside else ""


def _key(shown: Map, shades: Shades, y: float, left: float) -> list[Markup]:
    """Pale to dark with the values at the ends; of signed ones, 0 in the middle."""
    first, last = (shades.high, shades.low) if shown.reverse else (shades.low, shades.high)
    steps = [place / 8 for place in range(9)]
    if shades.signed and not shown.reverse:
        most = max(abs(shades.low), abs(shades.high))
        first, last = -most, most
        steps = [2.0 * step - 1.0 for step in steps]
    middle = (left + WIDTH - RIGHT) / 2
    parts = [label(middle - 60, y + 10, shown.text(shades, first), "end")]
    parts += [
        tag("rect", x=middle - 54 + 12 * place, y=y + 1, width=12, height=10,
            class_="low" if step < 0 else "cell", fill_opacity=0.05 + 0.9 * abs(step))
        for place, step in enumerate(steps)
    ]  # fmt: skip
    parts.append(label(middle + 60, y + 10, shown.text(shades, last)))
    return parts


def type_bars(found: Sequence[Group], title: str) -> Markup:
    """The mean value of each type as a bar from 0, and how many of it are in the top set."""
    width, row = 440.0, 24.0
    shades = shades_of(one.mean for one in found)
    marks = ticks(min(0.0, shades.low), max(0.0, shades.high), 4)
    left = 14.0 + 6.2 * max(len(grid.module_words(one.name)) for one in found)
    x = Scale(marks[0], marks[-1], left, width - 62.0)
    bottom = TOP + 10.0 + row * len(found)
    parts = _grid(marks, x, TOP + 10.0, bottom)
    parts.append(label(width - 2, TOP + 4, "in the top set", "end"))
    for place, one in enumerate(found):
        y = TOP + 10.0 + row * place
        words = f"{one.name}: mean {shades.text(one.mean)}, {chosen_words(one)}"
        ends = sorted((x(0.0), x(one.mean)))
        parts.append(label(left - 8, y + 16, grid.module_words(one.name), "end", "who"))
        parts.append(tag("rect", tag("title", words), x=ends[0], y=y + 4, height=row - 8,
                         width=max(0.6, ends[1] - ends[0]),
                         class_="low" if one.mean < 0 else "bar"))  # fmt: skip
        parts.append(label(width - 2, y + 16, f"{one.chosen} of {len(one.units)}", "end"))
    parts.append(axis_label((left + width - 62) / 2, bottom + 32, "mean value of a module"))
    return picture(width, bottom + 40, title, parts, desc=_told(found))


def block_bars(found: Sequence[Group], title: str) -> Markup:
    """The mean value of each block as a column from 0; below, how many of it are in the top set."""
    width, height, left = 440.0, 130.0, 52.0
    shades = shades_of(one.mean for one in found)
    marks = ticks(min(0.0, shades.low), max(0.0, shades.high), 4)
    y = Scale(marks[0], marks[-1], height, TOP)
    x = Scale(0.0, float(len(found)), left, width - RIGHT)
    step = min(x(1.0) - x(0.0), 46.0)
    counted = step >= 8.0
    decimals = tick_decimals(marks)
    parts: list[Markup] = []
    for mark in marks:
        class_ = "zero" if mark == 0.0 else "grid"
        parts.append(tag("line", x1=left, x2=width - RIGHT, y1=y(mark), y2=y(mark), class_=class_))
        parts.append(label(left - 6, y(mark) + 3.5, _mark(mark, decimals), "end"))
    every = next(one for one in (1, 2, 5, 10, 20, 50, 10**9) if len(found) <= 22 * one)
    for place, one in enumerate(found):
        middle = left + step * (place + 0.5)
        words = f"block {one.name}: mean {shades.text(one.mean)}, {chosen_words(one)}"
        ends = sorted((y(0.0), y(one.mean)))
        parts.append(tag("rect", tag("title", words), x=middle - step * 0.38, width=step * 0.76,
                         y=ends[0], height=max(0.6, ends[1] - ends[0]),
                         class_="low" if one.mean < 0 else "bar"))  # fmt: skip
        if place % every == 0:
            parts.append(label(middle, height + 17, one.name, "middle"))
        if counted and one.chosen:
            parts.append(label(middle, height + 32, str(one.chosen), "middle", "who"))
    parts.append(label(left - 6, height + 17, "block", "end"))
    parts += [label(left - 6, height + 32, "in top", "end")] if counted else []
    return picture(width, height + 40, title, parts, desc=_told(found))


def chosen_words(one: Group) -> str:
    """`6 of 8 in the top set, 2.4 by chance`."""
    return (
        f"{one.chosen} of {len(one.units)} in the top set, "
        f"{formats.number(one.expected, 1)} by chance"
    )


def _told(found: Sequence[Group]) -> str:
    return "; ".join(f"{one.name}: {chosen_words(one)}" for one in found)


def _grid(marks: Sequence[float], x: Scale, top: float, bottom: float) -> list[Markup]:
    decimals = tick_decimals(list(marks))
    parts: list[Markup] = []
    for mark in marks:
        class_ = "zero" if mark == 0.0 else "grid"
        parts.append(tag("line", x1=x(mark), x2=x(mark), y1=top, y2=bottom, class_=class_))
        parts.append(label(x(mark), bottom + 15, _mark(mark, decimals), "middle"))
    return parts


def _mark(value: float, decimals: int) -> str:
    return formats.number(value, decimals) if decimals <= 6 else formats.short(value)


@dataclass(frozen=True, slots=True)
class Scatter:
    """Two values for each unit."""

    title: str
    across: Mapping[str, float]
    up: Mapping[str, float]
    across_words: str
    up_words: str
    spread: Mapping[str, float]
    outlined: frozenset[str]


def scatter(shown: Scatter) -> Markup:
    """A dot for each unit; full: in the top set; a bar: one spread to each side."""
    units = [unit for unit in shown.up if unit in shown.across]
    width, height, left, top = 440.0, 300.0, 60.0, 10.0
    reach = [
        shown.up[unit] + side * shown.spread.get(unit, 0.0) for unit in units for side in (-1, 1)
    ]
    x_marks = ticks(min(shown.across[u] for u in units), max(shown.across[u] for u in units), 5)
    y_marks = ticks(min(reach), max(reach), 5)
    x = Scale(x_marks[0], x_marks[-1], left, width - 14.0)
    y = Scale(y_marks[0], y_marks[-1], height - 40.0, top)
    parts = _grid(x_marks, x, top, height - 40.0)
    decimals = tick_decimals(y_marks)
    for mark in y_marks:
        class_ = "zero" if mark == 0.0 else "grid"
        parts.append(tag("line", x1=left, x2=width - 14, y1=y(mark), y2=y(mark), class_=class_))
        parts.append(label(left - 6, y(mark) + 3.5, _mark(mark, decimals), "end"))
    tells = shades_of(shown.across.values()), shades_of(shown.up.values())
    for unit in units:
        at = x(shown.across[unit]), y(shown.up[unit])
        spread = shown.spread.get(unit)
        words = f"{unit}: {tells[0].text(shown.across[unit])}, {tells[1].text(shown.up[unit])}"
        if spread:
            words += f" ± {tells[1].text(spread)}"
            ends = y(shown.up[unit] - spread), y(shown.up[unit] + spread)
            parts.append(tag("line", x1=at[0], x2=at[0], y1=ends[0], y2=ends[1], class_="fine"))
        class_ = "dot" if unit in shown.outlined else "dot hollow"
        parts.append(tag("circle", tag("title", words), cx=at[0], cy=at[1], r=3.4, class_=class_))
    parts.append(axis_label((left + width - 14) / 2, height - 6, shown.across_words))
    middle = (top + height - 40) / 2
    parts.append(
        tag("text", shown.up_words, x=12.0, y=middle, text_anchor="middle", class_="axis",
            transform=f"rotate(-90 12 {middle:.0f})")
    )  # fmt: skip
    return picture(width, height, shown.title, [tag("g", *parts, class_="d0")])


def steps(losses: Sequence[float], last: float | None, stable: float | None) -> Markup:
    """A loss at even looks up to the step `last`, and where it was found stable."""
    width, height, left, top = 440.0, 170.0, 52.0, 10.0
    marks = ticks(min(losses), max(losses), 4)
    end = last if last is not None and last > 0 else float(len(losses) - 1)
    x = Scale(0.0, end, left, width - 14.0)
    y = Scale(marks[0], marks[-1], height - 40.0, top)
    decimals = tick_decimals(marks)
    parts: list[Markup] = []
    for mark in marks:
        parts.append(tag("line", x1=left, x2=width - 14, y1=y(mark), y2=y(mark), class_="grid"))
        parts.append(label(left - 6, y(mark) + 3.5, _mark(mark, decimals), "end"))
    at = [(x(end * place / (len(losses) - 1)), y(loss)) for place, loss in enumerate(losses)]
    points = " ".join(f"{one[0]:.1f},{one[1]:.1f}" for one in at)
    parts.append(tag("polyline", points=points, class_="trace"))
    if stable is not None and 0.0 <= stable <= end:
        parts.append(tag("line", x1=x(stable), x2=x(stable), y1=top, y2=height - 40,
                         class_="border"))  # fmt: skip
    parts += [label(x(0.0), height - 25, "0", "middle"),
              label(x(end), height - 25, formats.count(end), "middle")]  # fmt: skip
    what = "optimiser steps" if last else "looks"
    parts.append(axis_label((left + width - 14) / 2, height - 8, what))
    title = f"Loss of the probe rows: first {losses[0]:.3f}, last {losses[-1]:.3f}"
    return picture(width, height, title, [tag("g", *parts, class_="d0")])
