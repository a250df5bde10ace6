"""The page's content in a terminal: the same words and tables, with bars of block characters.

Nothing is printed here; numpy and Jinja2 are not needed. Names from files never count as markup.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lamina.core.errors import DataError
from lamina.report import facts, formats, grid, tables, verdicts, words
from lamina.report.nouns import Expert, Metrics
from lamina.report.read import read_metrics, read_run, runs_below

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
            text += " " if value is None else marks[min(7, int(share * 8))]
        yield Segment(text, Style(color="cyan"))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        most = min(len(self.values), options.max_width)
        return Measurement(min(8, most), most)


def render_show(path: Path) -> RenderableType:
    """What is known of a run folder, for a terminal; of a folder of runs, their comparison.

    Raises:
        DataError: the folder holds nothing of a run, or a file of it cannot be read.
    """
    if path.is_file() or (
        (path / "metrics.json").is_file() and not (path / "manifest.json").is_file()
    ):
        return render_comparison(path)
    run = read_run(path)
    parts: list[RenderableType] = [Text(words.title_of(run), style="bold")]
    parts += [
        Text(f"! {warning}", style="yellow") for warning in words.warnings_of([(run.name, run)])
    ]
    parts += ["", _reading(words.reading(run))]
    for expert in run.experts:
        if expert.values:
            parts += ["", _layers(expert)]
    if any(expert.where for expert in run.experts):
        what = "update" if words.adds_updates(run) else "model"
        parts += ["", _where(run.experts, what)]
    if run.metrics is not None:
        parts += ["", _measured(run.metrics, verdicts.merges_of(run.metrics, run.inputs))]
    found = facts.facts(run, cost=True)
    if found:
        parts += ["", _facts(found)]
    return Group(*(Text("") if part == "" else part for part in parts))


def render_comparison(folder: Path) -> RenderableType:
    """Losses and controls of a folder with several merges, or of a file of losses.

    Raises:
        DataError: no losses are there, or they cannot be read.
    """
    metrics = read_metrics(folder)
    if metrics is None:
        raise DataError(
            f"{folder}: no losses of models are here. Name a folder of a run, or the file that "
            "`lamina eval` wrote."
        )
    told, merges = _told(folder, metrics)
    return Group(_reading(told), Text(""), _measured(metrics, merges))


def render_reading(folder: Path) -> RenderableType:
    """What the losses and controls of a folder say, in words alone."""
    metrics = read_metrics(folder)
    return Text("") if metrics is None else _reading(_told(folder, metrics)[0])


def _told(folder: Path, metrics: Metrics) -> tuple[list[verdicts.Part], list[str]]:
    """The reading of a folder with several merges, and which of its models are merges."""
    runs = [(path.name.replace("_", " "), read_run(path)) for path in runs_below(folder)]
    merges = verdicts.merges_of(metrics, {name for _, run in runs for name in run.inputs})
    told = [words.overview(runs)] if runs else []
    return [*told, *verdicts.measured_reading(metrics, merges)], merges


def _measured(metrics: Metrics, merges: Sequence[str]) -> RenderableType:
    losses = tables.losses(metrics, merges)
    parts: list[RenderableType] = [
        _table(losses),
        Text(_losses_note(losses.note), style="dim"),
    ]
    parts += [Text(f"! {warning}", style="yellow") for warning in metrics.warnings]
    if metrics.controls is not None:
        parts += [Text(""), _table(tables.controls(metrics.controls))]
    return Group(*parts)


def _reading(parts: Iterable[verdicts.Part]) -> RenderableType:
    told: list[RenderableType] = []
    for part in parts:
        told += [Text(part.heading, style="bold cyan"), Padding(Text(part.text), (0, 0, 0, 2))]
    return Group(*told)


def _new_table(title: str) -> Table:
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _layers(expert: Expert) -> Table:
    weight = f", weight {formats.short(expert.weight)}" if expert.weight is not None else ""
    name = "similarity" if expert.by_similarity else "size" if expert.unit == "l2" else "score"
    title = f"{expert.name}{weight}: {name} of each layer"
    if grid.has_modules(expert):
        return _modules(expert, title, name)
    table = _new_table(title)
    table.add_column(
        "block" if all(formats.is_block(layer) for layer in expert.layers) else "layer"
    )
    values, ranks = expert.values, expert.ranks()
    low, high = _ends(values.values())
    if not expert.by_similarity:
        low = min(0.0, low)
    columns: list[tuple[str, Mapping[str, float], float, float, str]] = [
        (name, values, low, high, "number")
    ]
    varied = not grid.one_for_all(expert)
    if expert.coefficients and varied:
        columns.append(
            ("weight", expert.coefficients, 0.0, _ends(expert.coefficients.values())[1], "number")
        )
    carried = expert.carried() if varied else {}
    shares = carried or expert.shares()
    if shares:
        head = "share as merged" if carried else "share"
        columns.append((head, shares, 0.0, _ends(shares.values())[1], "percent"))
    for head, *_ in columns:
        table.add_column(head, justify="right", no_wrap=True)
        table.add_column("")
        if head == name and expert.by_similarity:
            table.add_column("rank", justify="right")
    decimals = max(3, formats.decimals_for(values.values()))
    for layer in expert.layers:
        cells: list[RenderableType] = [Text(layer)]
        for head, found, least, most, style in columns:
            value = found.get(layer)
            text = formats.percent(value) if style == "percent" else formats.number(value, decimals)
            span = most - least
            share = (value - least) / span if value is not None and span > 0 else 0.0
            cells += [Text(text), Bar(share if math.isfinite(share) else 0.0)]
            if head == name and expert.by_similarity:
                cells.append(Text(formats.number(ranks.get(layer), 0)))
        table.add_row(*cells)
    return table


def _modules(expert: Expert, title: str, name: str) -> Table:
    """A line of blocks for each kind of module."""
    table = _new_table(f"{title}, from the first block to the last")
    table.add_column("module", no_wrap=True)
    shown = [(name, grid.cells(expert.values))]
    if expert.coefficients:
        shown.append(("weight", grid.cells(expert.coefficients)))
    for head, _ in shown:
        table.add_column(head)
        table.add_column("lowest", justify="right")
        table.add_column("highest", justify="right")
    blocks = sorted({block for block, _ in shown[0][1]})
    for module in grid.modules_of(shown[0][1]):
        cells: list[RenderableType] = [Text(grid.module_words(module))]
        for _, found in shown:
            here = {block: found[block, module] for block in blocks if (block, module) in found}
            line = Line([here.get(block) for block in blocks], *_ends(found.values()))
            ends = [Text(formats.number(end)) for end in _ends(here.values())]
            cells += [line, *ends]
        table.add_row(*cells)
    return table


def _ends(values: Iterable[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _where(experts: Sequence[Expert], what: str) -> Table:
    table = _new_table(f"Where the {what} sits (share of its squared norm)")
    table.add_column("expert")
    roles = sorted({role for one in experts for role, share in one.where.items() if share > 0})
    for role in roles:
        table.add_column(Text(role), justify="right")
    for one in experts:
        shares = [Text(formats.percent(one.where.get(role, 0.0))) for role in roles]
        table.add_row(Text(one.name), *shares)
    return table


def _table(shown: tables.Table) -> Table:
    """A table of the page; the best is bold with its mark, clear differences are coloured."""
    table = _new_table(shown.caption)
    table.add_column("")
    for head in shown.head:
        table.add_column(Text(head), justify="right", no_wrap=True)
    for row in shown.rows:
        cells: list[Text] = []
        for cell in row.cells:
            mark = {"all": "●", "merges": "○"}.get(cell.best, " " if cell.under else "")
            text = Text(cell.text + mark, style="bold" if cell.best else "")
            if cell.under:
                tone = TONES.get(cell.tone.split("-")[0], "dim")
                text.append("\n" + cell.under.split(" ± ")[0] + " ", style=tone)
            cells.append(text)
        table.add_row(Text(row.name, style="bold" if row.group == "merge" else ""), *cells)
    return table


def _losses_note(note: str) -> str:
    short = note.split(", ±")[0]
    return "● lowest of all  ○ lowest of the merges" + (f". {short}." if short else "")


def _facts(found: Sequence[facts.Fact]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for fact in found:
        table.add_row(
            Text(fact.name, style="cyan"), Text(fact.value, style="bold"), Text(fact.note)
        )
    return table
