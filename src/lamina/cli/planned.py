"""What `lamina plan` and `lamina compare` print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamina.cli.output import _console, print_warnings

if TYPE_CHECKING:
    from lamina.core.plan import LayerPlan
    from lamina.ila.price import Offer
    from lamina.jobs.compare import Compared
    from lamina.jobs.planning import Planned

TUNED, WHOLE, FROZEN = "■", "□", "·"


def print_plan(planned: Planned, out: Path | None) -> None:
    """The map of the chosen modules, the price, and what a frozen prefix would cost in score."""
    from lamina.ila.price import in_words

    console, plan, cost = _console(), planned.plan, planned.plan.price
    given = ", ".join(f"{name} {value:g}" for name, value in plan.parameters.items())  # type: ignore
    told = f"{plan.rule} ({given})" if given else plan.rule
    console.print(
        f"{told} on {planned.scores.method}: {int(cost['modules'])} of {int(cost['of_modules'])} "
        f"modules, {int(cost['parameters']):,} trained values against "
        f"{int(cost['of_parameters']):,} for all"
    )
    _print_map(console, plan, int(cost["num_blocks"]))
    console.print(in_words(cost))
    if planned.offers:
        console.print(_offers_table(planned.offers))
        console.print(
            Text(
                "the best set of as many modules with none below a block (rule prefix_friendly); "
                "kept: of the positive score of the top set; steps in forward passes",
                style="dim",
            )
        )
    print_warnings(console, list(planned.notes))
    if out is not None:
        console.print(f"plan: {out}", soft_wrap=True)


def _print_map(console: Console, plan: LayerPlan, num_blocks: int) -> None:
    """A line for each type of module, a column for each block."""
    types = list(dict.fromkeys(one.partition(".")[2] for one in plan.coefficients))
    width = max(map(len, types))
    tens = "".join(str(b // 10) if b % 10 == 0 and b else " " for b in range(num_blocks))
    ones = "".join(str(b % 10) for b in range(num_blocks))
    for ruler in ([tens] if num_blocks > 10 else []) + [ones]:
        console.print(Text(f"{'':{width}}  {ruler}", style="dim"), no_wrap=True, overflow="ignore")
    for kind in types:
        cells = "".join(_cell(plan, f"{block}.{kind}") for block in range(num_blocks))
        console.print(Text(f"{kind:{width}}  {cells}"), no_wrap=True, overflow="ignore")
    beside = [one for one in plan.full if one not in plan.coefficients]
    legend = f"{TUNED} tuned  {FROZEN} frozen" + (f"  {WHOLE} whole" if plan.full else "")
    whole = f"; whole besides: {', '.join(beside)}" if beside else ""
    console.print(Text(f"{'':{width}}  {legend}{whole}", style="dim"))


def _cell(plan: LayerPlan, module: str) -> str:
    if module not in plan.coefficients:
        return " "
    if module in plan.full:
        return WHOLE
    return TUNED if plan.coefficients[module] else FROZEN


def _offers_table(offers: Sequence[Offer]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for column in ("lowest block", "kept", "trained values", "step", "checkpointed", "cached"):
        table.add_column(column, justify="right")
    for one in offers:
        table.add_row(
            str(one.lowest_block),
            f"{100 * one.kept:.0f} %" if one.kept else "-",
            f"{one.parameters:,}",
            f"{one.step:.2f}",
            f"{one.step_checkpointed:.2f}",
            f"{one.step_cached:.2f}",
        )
    return table


def print_compared(compared: Compared) -> None:
    """Spearman and the overlap of the top sets, each pair, beside chance."""
    console, found = _console(), compared.comparison
    console.print(f"{len(found.names)} rankings of {found.units} units, by {found.granularity}")
    for name, method, meaning in zip(
        found.names, compared.methods, compared.higher_means, strict=True
    ):
        console.print(Text(f"  {name}: {method}; high: {meaning}", style="dim"))
    top = f"top {100 * found.share:g} %, {found.chosen} of {found.units}"
    for title, matrix in {
        "Spearman": found.spearman,
        f"shared of the {top} (by chance {found.chance:.3f})": found.shared,
        "shared, corrected for chance (0: chance, 1: the same)": found.corrected,
        f"Jaccard of the {top} (by chance {found.jaccard_chance:.3f})": found.jaccard,
    }.items():
        console.print(Text(title, style="italic"))
        console.print(_matrix(found.names, matrix))


def _matrix(names: Sequence[str], rows: Sequence[Sequence[float]]) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("")
    for number, _ in enumerate(names, start=1):
        table.add_column(str(number), justify="right")
    for number, (name, row) in enumerate(zip(names, rows, strict=True), start=1):
        table.add_row(Text(f"{number} {name}"), *(f"{value:.3f}" for value in row))
    return table
