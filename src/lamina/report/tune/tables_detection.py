"""The tables of a detection: shares, the judge's confusion, settings."""

from collections.abc import Mapping

from lamina.report.formats import count, percent, short
from lamina.report.tables import Cell, Row, Table
from lamina.report.tune.nouns import Detection, Tuned
from lamina.report.tune.tables import swatch_of


def shares(tuned: Tuned, read: Detection) -> Table:
    """Detected shares, before and after the correction, and over the repeats."""
    rows: list[Row] = []
    raw = read.raw if corrected_at_all(read) else {}
    accuracy = {d: row.get(d) for d, row in (read.judge.confusion if read.judge else {}).items()}
    for name in read.domains:
        known = [one[name] for one in read.repeats if name in one]
        spread = f"{percent(min(known))} to {percent(max(known))}" if known else "–"
        cells = [Cell(percent(read.shares.get(name))), Cell(percent(read.se.get(name)))]
        cells += [Cell(percent(raw.get(name)))] if raw else []
        cells += [Cell(spread)] if read.repeats else []
        cells += [Cell(percent(accuracy.get(name)))] if accuracy else []
        rows.append(Row(name, tuple(cells), swatch=swatch_of(tuned, name)))
    head = ["share", "s.e."]
    head += ["as judged"] if raw else []
    head += ["over the repeats"] if read.repeats else []
    head += ["judge on its rows"] if accuracy else []
    return Table(_SHARES[read.from_losses], tuple(head), tuple(rows))


def corrected_at_all(read: Detection) -> bool:
    """Whether the shares differ from what the judge said, by the correction or the floor."""
    return any(abs(read.shares.get(name, 0.0) - raw) > 5e-4 for name, raw in read.raw.items())


_SHARES = {
    False: "What the model writes when it is asked for nothing",
    True: "Shares from the model's losses on rows of each domain",
}


def confusion(read: Detection) -> Table | None:
    """How the judge takes rows of each domain; a row sums to one."""
    table = read.judge.confusion if read.judge else {}
    if not table:
        return None
    heads = list(dict.fromkeys([*table, *(key for row in table.values() for key in row)]))
    rows = [
        Row(
            name,
            tuple(
                Cell(
                    percent(row.get(head)),
                    tone=f"hit-{_depth(row.get(head))}" if head == name
                    else f"miss-{_depth(row.get(head))}",
                )
                for head in heads
            ),
        )
        for name, row in table.items()
    ]  # fmt: skip
    return Table(
        "True domain (rows) and the judge's mean probability (columns)", tuple(heads), tuple(rows)
    )


def _depth(share: float | None) -> int:
    return sum((share or 0.0) >= edge for edge in (0.02, 0.1, 0.25, 0.6))


def settings(read: Mapping[str, object]) -> Table | None:
    """Simple settings by name."""
    rows = [
        Row(key.replace("_", " "), (Cell(_setting(value), numeric=False),))
        for key, value in read.items()
        if isinstance(value, str | int | float)
    ]
    return Table("Settings", ("value",), tuple(rows)) if rows else None


def _setting(value: str | int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    return count(value) if isinstance(value, int) else short(value)
