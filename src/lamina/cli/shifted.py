"""What `lamina shift` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lamina.cli.output import _console, print_warnings


def print_shifted(out: Path, told: Mapping[str, Any]) -> None:
    """Fractions by set of modules and, of the base alone, by position; the most shifted tokens."""
    console = _console()
    console.print(
        f"{told['tokens']:,} tokens of {told['prompts']} answers, {told['ended']} of them ended by "
        "themselves"
    )
    console.print(_table("the base with the model's weights in", told["sets"], _set))
    console.print(_table("position (base alone)", told["sets"][0]["by_position"], _bucket))
    words = [f"{one['token']!r} {one['shifted']}/{one['said']}" for one in told["most_shifted"]]
    if words:
        console.print(Text(f"most shifted: {', '.join(words[:10])}"))
    print_warnings(console, told["warnings"])
    console.print(f"numbers: {out / 'shift.json'}", soft_wrap=True)


def _table(title: str, rows: list[Mapping[str, Any]], name: Any) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column(title)
    table.add_column("tokens", justify="right")
    for column in ("unshifted", "marginal", "shifted"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(Text(name(row)), f"{row['tokens']:,}", *_shares(row))
    return table


def _shares(row: Mapping[str, Any]) -> list[str]:
    errors = row["se"] or {}
    return [
        f"{100 * share:.1f} %" + (f" ± {100 * errors[name]:.1f}" if errors else "")
        for name, share in row["fractions"].items()
    ]


def _set(row: Mapping[str, Any]) -> str:
    if not row["modules"]:
        return "nothing (base alone)"
    return f"{row['name']} ({row['modules']} modules)"


def _bucket(row: Mapping[str, Any]) -> str:
    return f"{row['first']} to {row['last']}"
