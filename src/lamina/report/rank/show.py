"""A ranking in a terminal: the page's words, its map in characters, and the matrices.

The map can be read without colours: a bar's height is the value, a mark says on which side of the
cut a unit is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lamina.report import grid
from lamina.report.formats import number, percent
from lamina.report.rank import sums, words
from lamina.report.rank.nouns import Agreement, Matrix, Ranked
from lamina.report.rank.paint import shades_of
from lamina.report.rank.plan_nouns import Plan
from lamina.report.rank.plan_words import plan_values
from lamina.report.rank.read import read_ranked
from lamina.report.rank.section_facts import rank_facts
from lamina.report.terminal import LEVELS, Bar, fact_table, new_table, reading

_MARKS = {(True, False): "*", (True, True): "+", (False, True): "~", (False, False): " "}
"""(in the top set, within one spread of the cut)"""


class Map:
    """Types by blocks, two characters a cell: a height and a mark; wide models in several bands."""

    def __init__(
        self,
        values: Mapping[str, float],
        marked: Mapping[str, tuple[bool, bool]],
        *,
        nothing: str = "",
    ) -> None:
        cells = sums.cells_of(values)
        self.nothing = nothing
        self.rows = grid.modules_of(dict.fromkeys(cells, 0.0))
        self.blocks = sorted({block for block, _ in cells})
        self.values = {
            key: sum(values[unit] for unit in units) / len(units) for key, units in cells.items()
        }
        self.marks = {
            key: _MARKS[
                any(marked.get(unit, (False, False))[0] for unit in units),
                any(marked.get(unit, (False, False))[1] for unit in units),
            ]
            for key, units in cells.items()
        }
        self.shades = shades_of(self.values.values())
        self.left = max([5, *(len(grid.module_words(row)) for row in self.rows)]) + 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = max(1, (options.max_width - self.left) // 2)
        wide -= wide % 2 if wide > 1 else 0
        for start in range(0, len(self.blocks), wide):
            band = self.blocks[start : start + wide]
            yield from self._line("block", [_head(block) for block in band])
            for row in self.rows:
                yield Segment(f"{grid.module_words(row):<{self.left}}")
                for block in band:
                    yield from self._cell((block, row), ascii_only=options.ascii_only)
                yield Segment.line()

    def _line(self, name: str, cells: list[str]) -> Iterator[Segment]:
        yield Segment(f"{name:<{self.left}}{''.join(cells)}", Style(dim=True))
        yield Segment.line()

    def _cell(self, key: tuple[int, str], *, ascii_only: bool) -> Iterator[Segment]:
        value = self.values.get(key)
        if value is None:
            yield Segment("  ")
            return
        mark = self.marks[key]
        level = min(7, int(self.shades.share(value) * 8))
        shape = ("12345678" if ascii_only else LEVELS)[level]
        if value < 0.0:
            shape = "v"
        elif value == 0.0 and self.nothing:
            shape = self.nothing
        colour = "yellow" if value < 0.0 else "bright_cyan" if mark in "*+" else "blue"
        yield Segment(shape, Style(color=colour))
        yield Segment(mark, Style(bold=True, color="magenta" if mark in "+~" else None))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        most = min(options.max_width, self.left + 2 * len(self.blocks))
        return Measurement(min(most, self.left + 2), most)


def _head(block: int) -> str:
    """Two characters; of long numbers every other, as it reaches over its neighbour's room."""
    return f"{block:<2}" if block < 10 else f"{block % 1000:<4}" if block % 2 == 0 else ""


def render_ranked(folder: Path) -> RenderableType:
    """What is known of a ranking."""
    ranked = read_ranked(folder)
    parts: list[RenderableType] = [Text(words.title_of(ranked), style="bold")]
    parts += [Text(f"! {warning}", style="yellow") for warning in words.warnings_of(ranked)]
    parts += ["", reading(words.reading(ranked))]
    if ranked.main is not None and sums.blocks_of(ranked.main.values):
        parts += ["", *_map(ranked)]
        types = sums.by_type(ranked)
        if len(types) > 1:
            parts += ["", _types(types)]
    read = ranked.agreement
    if read is not None and len(read.names) > 1:
        parts += _matrices(read, ranked.share)
    if ranked.plan is not None:
        parts += ["", *plan_map(ranked.plan)]
    found = rank_facts(ranked, cost=True)
    if found:
        parts += ["", fact_table(found)]
    return Group(*(Text("") if part == "" else part for part in parts))


def _map(ranked: Ranked) -> list[RenderableType]:
    assert ranked.main is not None
    cut, inside = sums.cut_of(ranked), set(ranked.top)
    unsure = cut.unsure if cut is not None else frozenset()
    values = ranked.main.values
    marked = {unit: (unit in inside, unit in unsure) for unit in values}
    shades = shades_of(values.values())
    unit = f", {ranked.main.unit}" if ranked.main.unit else ""
    title = f"Value{unit}: {shades.text(shades.low)} to {shades.text(shades.high)}"
    legend = f"* in the top {percent(ranked.share)}"
    if ranked.main.spread:
        legend += "; within one spread of the cut: + in it, ~ not in it"
    if shades.signed:
        legend += "; v below 0"
    return [Text(title, style="bold"), Map(values, marked), Text(legend, style="dim")]


def plan_map(plan: Plan) -> list[RenderableType]:
    """Which modules are tuned, in characters; nothing where none is in a block."""
    values, full = plan_values(plan), set(plan.full)
    chosen = set(plan.chosen)
    if not sums.blocks_of(values):
        return []
    marked = {unit: (unit in chosen or unit in full, False) for unit in values}
    legend = "* tuned, . frozen"
    legend += "; higher: a higher rank" if len(set(values.values())) > 2 else ""
    drawn = Map(values, marked, nothing=".")
    return [Text("The plan", style="bold"), drawn, Text(legend, style="dim")]


def _types(found: list[sums.Group]) -> Table:
    table = new_table("By type")
    for head in ("", "mean", "", "in the top set", "by chance"):
        table.add_column(head, justify="left" if not head else "right", no_wrap=True)
    shades = shades_of(one.mean for one in found)
    for one in found:
        share = max(0.0, one.mean) / shades.high if shades.high > 0.0 else 0.0
        table.add_row(
            Text(grid.module_words(one.name)),
            Text(shades.text(one.mean)),
            Bar(share),
            Text(f"{one.chosen} of {len(one.units)}"),
            Text(number(one.expected, 1)),
        )
    return table


def _matrices(read: Agreement, share: float) -> list[RenderableType]:
    """Three matrices, their columns by number, so that many rankings fit."""
    found: list[RenderableType] = []
    chance = f", by chance {percent(read.chance)}" if read.chance is not None else ""
    for title, values, percents in (
        (f"Shared by the top {percent(share)}{chance}", read.shared, True),
        ("The same with chance taken out (0: chance, 1: the same set)", read.corrected, False),
        ("Spearman over all", read.spearman, False),
    ):
        if values:
            found += ["", Text(title, style="bold")]
            found.append(_matrix(read.names, values, percents=percents))
    return [Text("") if part == "" else part for part in found]


def _matrix(names: tuple[str, ...], values: Matrix, *, percents: bool) -> Table:
    table = new_table("")
    table.title = None
    table.add_column("", overflow="ellipsis", no_wrap=True)
    for place in range(len(names)):
        table.add_column(str(place + 1), justify="right", no_wrap=True)
    for place, name in enumerate(names):
        told = [percent(one) if percents else number(one, 2) for one in values[place]]
        table.add_row(Text(f"{place + 1} {name}"), *(Text(one) for one in told))
    return table
