"""The page's content in a terminal: the same words and tables, with bars of block characters.

Nothing is printed here; numpy and Jinja2 are not needed. Names from files never count as markup.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lamina.core.errors import DataError
from lamina.report import facts, formats, grid, tables, verdicts, words
from lamina.report.eval.read import NAME, is_evaluation
from lamina.report.eval.show import render_evaluation
from lamina.report.nouns import Expert, Metrics
from lamina.report.rank import words as rank_words
from lamina.report.rank.read import is_rank, read_ranked
from lamina.report.read import NO_PAGE, read_metrics, read_run, runs_below
from lamina.report.terminal import Bar, Line, draw_table, fact_table, new_table, reading
from lamina.report.tune import words as tune_words
from lamina.report.tune.read import kind_of, read_tuned, said_kind


def render_show(path: Path) -> RenderableType:
    """What is known of a run folder, for a terminal; of a folder of runs, their comparison.

    Raises:
        DataError: the folder holds nothing of a run, or a file of it cannot be read.
    """
    if path.is_file() and is_evaluation(path):
        return render_evaluation(path)
    shown = _render_run(path)
    if (path / NAME).is_file():
        return Group(shown, Text(""), render_evaluation(path / NAME))
    return shown


def _render_run(path: Path) -> RenderableType:
    if path.is_file() or (
        (path / "metrics.json").is_file() and not (path / "manifest.json").is_file()
    ):
        return render_comparison(path)
    if said_kind(path) == "order":
        from lamina.report.tune.show import render_order

        return render_order(path)
    if said_kind(path) == "shift":
        from lamina.report.rank.show_shift import render_shift

        return render_shift(path)
    if is_rank(path):
        from lamina.report.rank.show import render_ranked

        return render_ranked(path)
    if kind_of(path) is not None:
        from lamina.report.tune.show import render_tuned

        return render_tuned(path)
    run = read_run(path)
    parts: list[RenderableType] = [Text(words.title_of(run), style="bold")]
    parts += [
        Text(f"! {warning}", style="yellow") for warning in words.warnings_of([(run.name, run)])
    ]
    parts += ["", reading(words.reading(run))]
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
        parts += ["", fact_table(found)]
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
    return Group(reading(told), Text(""), _measured(metrics, merges))


def render_reading(folder: Path) -> RenderableType:
    """What the losses and controls of a folder say, in words alone."""
    metrics = read_metrics(folder)
    return Text("") if metrics is None else reading(_told(folder, metrics)[0])


def _told(folder: Path, metrics: Metrics) -> tuple[list[verdicts.Part], list[str]]:
    """The reading of a folder with several merges, and which of its models are merges."""
    ranked = [path for path in runs_below(folder) if is_rank(path)]
    merged = [
        path
        for path in runs_below(folder)
        if path not in ranked and kind_of(path) is None and said_kind(path) not in NO_PAGE
    ]
    runs = [(path.name.replace("_", " "), read_run(path)) for path in merged]
    merges = verdicts.merges_of(metrics, {name for _, run in runs for name in run.inputs})
    told = [words.overview(runs)] if runs else []
    others = [path for path in runs_below(folder) if kind_of(path) is not None]
    told += tune_words.in_short(
        [(path.name.replace("_", " "), read_tuned(path)) for path in others]
    )
    told += [
        verdicts.Part(path.name.replace("_", " "), rank_words.in_short(read_ranked(path)))
        for path in ranked
    ]
    return [*told, *verdicts.measured_reading(metrics, merges)], merges


def _measured(metrics: Metrics, merges: Sequence[str]) -> RenderableType:
    losses = tables.losses(metrics, merges)
    parts: list[RenderableType] = [
        draw_table(losses),
        Text(_losses_note(losses.note), style="dim"),
    ]
    parts += [Text(f"! {warning}", style="yellow") for warning in metrics.warnings]
    if metrics.controls is not None:
        parts += [Text(""), draw_table(tables.controls(metrics.controls))]
    return Group(*parts)


def _layers(expert: Expert) -> Table:
    weight = f", weight {formats.short(expert.weight)}" if expert.weight is not None else ""
    name = "similarity" if expert.by_similarity else "size" if expert.unit == "l2" else "score"
    title = f"{expert.name}{weight}: {name} of each layer"
    if grid.has_modules(expert):
        return _modules(expert, title, name)
    table = new_table(title)
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
    table = new_table(f"{title}, from the first block to the last")
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
    table = new_table(f"Where the {what} sits (share of its squared norm)")
    table.add_column("expert")
    roles = sorted({role for one in experts for role, share in one.where.items() if share > 0})
    for role in roles:
        table.add_column(Text(role), justify="right")
    for one in experts:
        shares = [Text(formats.percent(one.where.get(role, 0.0))) for role in roles]
        table.add_row(Text(one.name), *shares)
    return table


def _losses_note(note: str) -> str:
    short = note.split(", ±")[0]
    return "● lowest of all  ○ lowest of the merges" + (f". {short}." if short else "")
