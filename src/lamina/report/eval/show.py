"""An evaluation in a terminal: the same words and tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lamina.report import tables as plain_tables
from lamina.report.eval import tables, words
from lamina.report.eval.read import read_evaluation
from lamina.report.terminal import TONES, new_table, reading

_MODELS = 3
"""As many columns fit beside each other."""


def render_evaluation(path: Path) -> RenderableType:
    """What a result file says, for a terminal."""
    read = read_evaluation(path)
    parts: list[RenderableType] = [Text(words.title_of(read), style="bold")]
    parts += [Text(f"! {warning}", style="yellow") for warning in words.warnings_of(read)]
    for start in range(0, len(read.models), _MODELS):
        results = tables.results(read, read.models[start : start + _MODELS])
        if results is not None:
            parts += [Text(""), _draw(results), Text(results.note, style="dim")]
    for table in tables.comparisons(read):
        parts += [Text(""), _draw(_narrow(table))]
    harness = tables.harness(read)
    parts += [] if harness is None else [Text(""), _draw(harness)]
    parts += [Text(""), reading(words.reading(read))]
    if read.sandbox:
        parts.append(Text(read.sandbox, style="dim"))
    return Group(*parts)


def _narrow(shown: plain_tables.Table) -> plain_tables.Table:
    """A comparison that fits 80 columns: without the measure, and without items that stay."""
    kept = [place for place, head in enumerate(shown.head) if head not in ("measure", "same")]
    rows = [replace(row, cells=tuple(row.cells[place] for place in kept)) for row in shown.rows]
    return replace(shown, head=tuple(shown.head[place] for place in kept), rows=tuple(rows))


def _draw(shown: plain_tables.Table) -> Table:
    """A table whose words may wrap, its numbers not."""
    drawn = new_table(shown.caption)
    drawn.add_column("task", no_wrap=True)
    first: Sequence[plain_tables.Cell] = shown.rows[0].cells if shown.rows else ()
    for head, cell in zip(shown.head, first, strict=False):
        side = "right" if cell.numeric else "left"
        least = None if cell.numeric else 13
        drawn.add_column(
            Text(head), justify=side, no_wrap=cell.numeric, overflow="fold", min_width=least
        )
    for row in shown.rows:
        drawn.add_row(
            Text(row.name, style="dim" if row.group == "sub" else ""), *map(_cell, row.cells)
        )
    return drawn


def _cell(cell: plain_tables.Cell) -> Text:
    tone = TONES.get(cell.tone.split("-")[0], "dim")
    text = Text(cell.text, style="" if cell.numeric or not cell.tone else tone)
    if cell.under:
        text.append(f"\n{cell.under}", style=tone)
    return text
