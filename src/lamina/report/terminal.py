"""What both views in a terminal are made of: bars and lines of block characters, tables, readings.

Nothing is printed here. Names from files never count as markup.
"""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lamina.report import facts, tables, verdicts

EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS = "▁▂▃▄▅▆▇█"
TONES = {"better": "blue", "worse": "yellow"}


class Bar:
    """A share between 0 and 1 as a bar, as wide as there is room up to `most` columns."""

    def __init__(self, share: float, *, most: int = 14) -> None:
        self.share = min(1.0, max(0.0, share))
        self.most = most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(self.most, options.max_width)
        if options.ascii_only:
            yield Segment(("#" * round(self.share * width)).ljust(width))
            return
        whole, rest = divmod(round(self.share * width * 8), 8)
        text = EIGHTHS[8] * whole + (EIGHTHS[rest] if rest else "")
        yield Segment(text.ljust(width), Style(color="cyan"))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(4, options.max_width), min(self.most, options.max_width))


class Line:
    """Values as one row of characters of eight heights, between `low` and `high`."""

    def __init__(self, values: Sequence[float | None], low: float, high: float) -> None:
        self.values = values
        self.low, self.high = low, high

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(len(self.values), options.max_width)
        marks = "012345678" if options.ascii_only else LEVELS
        text = ""
        for place in range(width):
            value = self.values[place * len(self.values) // width]
            span = self.high - self.low
            share = 0.5 if value is None or not span else (value - self.low) / span
            text += " " if value is None else marks[max(0, min(7, int(share * 8)))]
        yield Segment(text, Style(color="cyan"))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        most = min(len(self.values), options.max_width)
        return Measurement(min(8, most), most)


def reading(parts: Iterable[verdicts.Part]) -> RenderableType:
    told: list[RenderableType] = []
    for part in parts:
        told += [Text(part.heading, style="bold cyan"), Padding(Text(part.text), (0, 0, 0, 2))]
    return Group(*told)


def new_table(title: str) -> Table:
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def draw_table(shown: tables.Table) -> Table:
    """A table of the page; the best is bold with its mark, clear differences are coloured."""
    drawn = new_table(shown.caption)
    drawn.add_column("")
    for head in shown.head:
        drawn.add_column(Text(head), justify="right", no_wrap=True)
    for row in shown.rows:
        cells: list[Text] = []
        for cell in row.cells:
            mark = {"all": "●", "merges": "○"}.get(cell.best, " " if cell.under else "")
            text = Text(cell.text + mark, style="bold" if cell.best else "")
            if cell.under:
                tone = TONES.get(cell.tone.split("-")[0], "dim")
                text.append("\n" + cell.under.split(" ± ")[0] + " ", style=tone)
            cells.append(text)
        drawn.add_row(Text(row.name, style="bold" if row.group == "merge" else ""), *cells)
    return drawn


def fact_table(found: Sequence[facts.Fact]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for fact in found:
        table.add_row(
            Text(fact.name, style="cyan"), Text(fact.value, style="bold"), Text(fact.note)
        )
    return table
