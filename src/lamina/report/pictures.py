"""The pictures of the page: bars or dots over blocks, a grid for modules, shares, controls.

A picture of 42 blocks is about 8 kB, a grid of 210 modules 40 kB. Every mark has its value as a
tooltip.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lamina.report import formats, grid
from lamina.report.nouns import Control, Expert
from lamina.report.svg import Scale, label, picture, tag, tick_decimals, ticks
from lamina.report.verdicts import control_words

WIDTH, HEIGHT = 440.0, 158.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 6.0, 8.0, 34.0
ROLES = ("attention", "mlp", "router", "norm", "embedding", "head", "other")


@dataclass(frozen=True, slots=True)
class Panel:
    """One number per layer, ready to draw.

    `after` is drawn inside the bars; a hollow dot is a layer left out.
    """

    title: str
    note: str
    values: Mapping[str, float]
    kind: str
    low: float
    high: float
    style: str = "decimal"
    after: Mapping[str, float] | None = None
    hollow: frozenset[str] = frozenset()
    line: float | None = None

    def text(self, value: float) -> str:
        if self.style == "percent":
            return formats.percent(value)
        if self.style == "rank":
            return formats.number(value, 0 if value == int(value) else 1)
        return formats.number(value, formats.decimals_for((self.low, self.high)))


def _range(experts: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    finite = [value for values in experts for value in values.values() if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def panels(expert: Expert, all_experts: Sequence[Expert], threshold: float | None) -> list[Panel]:
    """What there is to show of one expert; experts measured alike share their scales."""
    alike = [one for one in all_experts if one.method == expert.method]
    low, high = _range([one.values for one in alike])
    found: list[Panel] = []
    if expert.by_similarity:
        dropped = frozenset(
            layer for layer, weight in (expert.coefficients or {}).items() if weight == 0.0
        )
        note = "cosine with the instruction vector"
        if dropped:
            note += "; hollow: left out"
        line = threshold if expert.rule == "threshold" else None
        ends = [value for value in (low, high, line) if value is not None]
        found.append(
            Panel(
                "Similarity",
                note,
                expert.values,
                "dots",
                min(ends),
                max(ends),
                hollow=dropped,
                line=line,
            )
        )
        ranks = expert.ranks()
        note = "1: most like the instruction vector"
        found.append(Panel("Rank", note, ranks, "dots", 1.0, float(len(ranks) or 1), style="rank"))
    else:
        title = "Size" if expert.unit == "l2" else "Score"
        note = expert.higher_means and f"higher: {expert.higher_means}"
        found.append(Panel(title, note, expert.values, "bars", min(0.0, low), max(0.0, high)))
    if expert.coefficients and not grid.one_for_all(expert):
        low, high = _range([one.coefficients or {} for one in alike])
        note = "coefficient of each layer"
        if expert.weight is not None:
            note += f", to be times {formats.short(expert.weight)}"
        low, high = min(0.0, low), max(0.0, high)
        found.append(Panel("Weight", note, expert.coefficients, "bars", low, high))
    shares, after = expert.shares(), {} if grid.one_for_all(expert) else expert.carried()
    if shares:
        most = max(max(one.values(), default=0.0) for one in (shares, after))
        high = max(
            [most, *(max([*e.shares().values(), *e.carried().values()], default=0) for e in alike)]
        )
        note = "of the squared norm"
        if after and not grid.has_modules(expert):
            note += "; pale: as tuned, dark: as merged"
        found.append(
            Panel(
                "Norm share", note, shares, "bars", 0.0, high, style="percent", after=after or None
            )
        )
    return found


def draw(panel: Panel, expert: Expert) -> Markup:
    """The panel as a row over blocks, or as a grid of modules by blocks."""
    if grid.has_modules(expert):
        return _over_modules(panel, expert.name)
    return _row(panel, expert.name, expert.layers)


def _row(panel: Panel, name: str, layers: Sequence[str]) -> Markup:
    marks = ticks(panel.low, panel.high, 3)
    if panel.style == "rank":
        last = panel.high
        marks = sorted(
            {1.0, last, *(mark for mark in marks if 1 < mark < last - (marks[1] - marks[0]) / 2)}
        )
    top, bottom = TOP, HEIGHT - BOTTOM
    if panel.style == "rank":
        y = Scale(marks[0], marks[-1], top + 4, bottom - 4)
    else:
        y = Scale(marks[0], marks[-1], bottom, top)
    x = Scale(0.0, float(max(1, len(layers))), LEFT, WIDTH - RIGHT)
    step = (WIDTH - RIGHT - LEFT) / max(1, len(layers))
    parts: list[Markup] = []
    decimals = tick_decimals(marks)
    for mark in marks:
        written = (
            formats.percent(mark) if panel.style == "percent" else formats.number(mark, decimals)
        )
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(mark), y2=y(mark), class_="grid"))
        parts.append(label(LEFT - 6, y(mark) + 3.5, written, "end"))
    drawn = [
        (place, layer) for place, layer in enumerate(layers) if grid.finite(panel.values.get(layer))
    ]
    if panel.line is not None:
        height = y(panel.line)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height, class_="limit"))
        gaps = [abs(panel.values[layer] - panel.line) for _, layer in drawn]
        words = f"threshold {formats.short(panel.line)}"
        if sum(gaps[-3:]) > sum(gaps[:3]):
            parts.append(label(WIDTH - RIGHT - 4, height - 4, words, "end", "strong"))
        else:
            parts.append(label(LEFT + 4, height - 4, words, class_="strong"))
    if panel.kind == "dots":
        path = " ".join(
            f"{x(place + 0.5):.1f},{y(panel.values[layer]):.1f}" for place, layer in drawn
        )
        if panel.style != "rank":
            parts.append(tag("polyline", points=path, class_="thread"))
    for place, layer in drawn:
        value = panel.values[layer]
        words = f"{_layer_words(layer)}: {panel.text(value)}"
        if panel.after is not None:
            words += f" as tuned, {panel.text(panel.after.get(layer, 0.0))} as merged"
        title = tag("title", words)
        middle = x(place + 0.5)
        if panel.kind == "dots":
            class_ = "dot hollow" if layer in panel.hollow else "dot"
            radius = max(2.0, min(4.0, step * 0.34))
            parts.append(tag("circle", title, cx=middle, cy=y(value), r=radius, class_=class_))
            continue
        class_ = "bar" if panel.after is None else "bar pale"
        parts.append(_bar(middle, step * 0.78, y(0.0), y(value), class_, title))
        if panel.after is not None:
            height = y(panel.after.get(layer, 0.0))
            parts.append(_bar(middle, step * 0.42, y(0.0), height, "bar", title))
    parts += _block_axis(layers, x)
    return picture(WIDTH, HEIGHT, _title(panel, name), parts)


def _bar(
    middle: float, width: float, zero: float, end: float, class_: str, title: Markup
) -> Markup:
    return tag(
        "rect",
        title,
        x=middle - width / 2,
        y=min(zero, end),
        width=width,
        height=max(abs(zero - end), 0.6) if zero != end else 0,
        class_=class_,
    )


def _block_axis(layers: Sequence[str], x: Scale) -> list[Markup]:
    whole = all(formats.is_block(layer) for layer in layers)
    every = next(
        step for step in (1, 2, 4, 5, 10, 20, 50, 100, 1000, 10**9) if len(layers) <= 16 * step
    )
    base = HEIGHT - BOTTOM
    parts = [
        label(x(place + 0.5), base + 14, layer if whole else str(place + 1), "middle")
        for place, layer in enumerate(layers)
        if place % every == 0
    ]
    parts.append(
        label(
            (LEFT + WIDTH - RIGHT) / 2, base + 29, "block" if whole else "layer", "middle", "axis"
        )
    )
    return parts


def _over_modules(panel: Panel, name: str) -> Markup:
    cells = grid.cells(panel.values)
    after = grid.cells(panel.after) if panel.after else {}
    modules = grid.modules_of(cells)
    blocks = sorted({block for block, _ in cells})
    left = 10.0 + 6.2 * max(len(grid.module_words(module)) for module in modules)
    row = 16.0 if len(modules) <= 12 else 12.0
    x = Scale(0.0, float(len(blocks)), left, WIDTH - RIGHT)
    step = x(1.0) - x(0.0)
    low, high = _range([cells])  # type: ignore[list-item]
    parts = [
        label(left - 6, TOP + row * (place + 0.5) + 3.5, grid.module_words(module), "end")
        for place, module in enumerate(modules)
    ]
    for (block, module), value in cells.items():
        words = f"block {block}, {module}: {panel.text(value)}"
        if (block, module) in after:
            words += f" as tuned, {panel.text(after[block, module])} as merged"
        shade = (value - low) / (high - low) if high > low else 0.5
        if panel.style == "rank":
            shade = 1.0 - shade
        parts.append(
            tag(
                "rect",
                tag("title", words),
                x=x(blocks.index(block)) + 0.3,
                y=TOP + row * modules.index(module) + 0.5,
                width=step - 0.6,
                height=row - 1.0,
                fill_opacity=0.06 + 0.94 * shade,
                class_="cell",
            )
        )
    base = TOP + row * len(modules)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 10**9) if len(blocks) <= 16 * step)
    parts += [
        label(x(place + 0.5), base + 13, str(block), "middle")
        for place, block in enumerate(blocks)
        if place % every == 0
    ]
    parts += _shades(panel, low, high, base + 20, left)
    return picture(WIDTH, base + 36, _title(panel, name), parts)


def _shades(panel: Panel, low: float, high: float, y: float, left: float) -> list[Markup]:
    """The key of a grid: pale to dark, with the values at both ends."""
    first, last = (high, low) if panel.style == "rank" else (low, high)
    middle = (left + WIDTH - RIGHT) / 2
    parts = [label(middle - 48, y + 10, panel.text(first), "end")]
    parts += [
        tag("rect", x=middle - 42 + 12 * place, y=y + 1, width=12, height=10, class_="cell",
            fill_opacity=0.06 + 0.94 * place / 6)
        for place in range(7)
    ]  # fmt: skip
    parts.append(label(middle + 48, y + 10, panel.text(last)))
    return parts


def _layer_words(layer: str) -> str:
    return f"block {layer}" if formats.is_block(layer) else layer


def _title(panel: Panel, name: str) -> str:
    finite = [value for value in panel.values.values() if grid.finite(value)]
    ends = f", from {panel.text(min(finite))} to {panel.text(max(finite))}" if finite else ""
    return f"{panel.title} of {name}, layer by layer{ends}"


def where(expert: Expert) -> Markup:
    """Where in the network the update sits: one bar, cut by role."""
    width, height, start = 900.0, 30.0, 0.0
    parts: list[Markup] = []
    for role in sorted(expert.where, key=lambda one: ROLES.index(one) if one in ROLES else 99):
        share = expert.where[role]
        if not math.isfinite(share) or share <= 0.0:
            continue
        wide = share * width
        class_ = f"role-{role if role in ROLES else 'other'}"
        title = tag("title", f"{role}: {formats.percent(share)}")
        parts.append(
            tag(
                "rect",
                title,
                x=start,
                y=0,
                width=max(wide - 1.5, 0.5),
                height=height,
                class_=class_,
            )
        )
        start += wide
    words = ", ".join(
        f"{role} {formats.percent(share)}" for role, share in sorted(expert.where.items())
    )
    title = f"Where the update of {expert.name} sits: {words}"
    return tag(
        "svg", tag("title", title), *parts, viewBox="0 0 900 30", preserveAspectRatio="none",
        role="img", aria_label=title, class_="shares",
    )  # fmt: skip


def controls(rows: Sequence[Control]) -> Markup:
    """Each control's mean loss above the merge's own, with two standard errors to each side."""
    shown = [row for row in rows if math.isfinite(row.difference)]
    reach = [row.difference + side * 2.0 * (row.se or 0.0) for row in shown for side in (-1, 1)]
    marks = ticks(min([0.0, *reach]), max([0.0, *reach]), 3)
    longest = max((len(control_words(row.name)) for row in shown), default=0)
    left, row_height, top = min(230.0, 22.0 + 6.1 * longest), 25.0, 6.0
    bottom = top + row_height * len(shown)
    x = Scale(marks[0], marks[-1], left, 440.0 - 20.0)
    decimals = tick_decimals(marks)
    parts: list[Markup] = []
    for mark in marks:
        class_ = "zero" if mark == 0.0 else "grid"
        parts.append(tag("line", x1=x(mark), x2=x(mark), y1=top, y2=bottom, class_=class_))
        parts.append(label(x(mark), bottom + 15, formats.signed(mark, decimals), "middle"))
    for place, row in enumerate(shown):
        y = top + row_height * (place + 0.5)
        parts.append(label(left - 10, y + 4, control_words(row.name), "end"))
        words = f"{control_words(row.name)}: {formats.signed(row.difference, 4)}"
        if row.se:
            words += f" ± {formats.number(row.se, 4)}"
            ends = x(row.difference - 2 * row.se), x(row.difference + 2 * row.se)
            parts.append(tag("line", x1=ends[0], x2=ends[1], y1=y, y2=y, class_="whisker"))
            parts += [
                tag("line", x1=end, x2=end, y1=y - 4, y2=y + 4, class_="whisker") for end in ends
            ]
        class_ = "dot own" if row.name == "lata" else "dot"
        parts.append(
            tag("circle", tag("title", words), cx=x(row.difference), cy=y, r=4.5, class_=class_)
        )
    parts.append(
        label(
            (left + 420) / 2,
            bottom + 32,
            "mean loss above the merge's own (right: worse)",
            "middle",
            "axis",
        )
    )
    title = "Mean loss of each control, less that of the merge: " + ", ".join(
        f"{control_words(row.name)} {formats.signed(row.difference, 3)}" for row in shown
    )
    return picture(440, bottom + 40, title, parts)
