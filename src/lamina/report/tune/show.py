"""A tuning or a detection in a terminal: the page's words, with its numbers as lines and bars."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lamina.report.formats import count, number, percent, short, signed
from lamina.report.rank.show import plan_map
from lamina.report.soft import soft_json
from lamina.report.terminal import TONES, Bar, Line, fact_table, new_table, reading
from lamina.report.tune import sums, tables, tables_detection, words
from lamina.report.tune.nouns import Detection, Estimate, Ledger, Tuned
from lamina.report.tune.read import read_tuned
from lamina.report.tune.results import ledger_facts, result_facts

_MOST = 12
"""Windows whose reasons are printed: the last ones."""


def render_tuned(folder: Path) -> RenderableType:
    """What is known of a tuning or a detection.

    Raises:
        DataError: there is nothing of such a run in the folder.
    """
    tuned = read_tuned(folder)
    parts: list[RenderableType] = [Text(words.title_of(tuned), style="bold")]
    parts += [Text(f"! {warning}", style="yellow") for warning in words.warnings_of(tuned)]
    parts += ["", reading(words.reading(tuned))]
    if tuned.plan is not None:
        parts += ["", *plan_map(tuned.plan)]
    if tuned.windows:
        parts += ["", _weights(tuned), "", _losses(tuned)]
    if tuned.ledger is not None and tuned.ledger.losses:
        parts += ["", _ledger(tuned, tuned.ledger)]
    if tuned.windows:
        parts += ["", _reasons(tuned)]
    if tuned.detection is not None and tuned.detection.shares:
        parts += ["", _shares(tuned, tuned.detection)]
    if tuned.data is not None:
        parts += ["", _data(tuned)]
    found = [*ledger_facts(tuned), *result_facts(tuned, cost=True)]
    if found:
        parts += ["", fact_table(found)]
    return Group(*(Text("") if part == "" else part for part in parts))


def render_order(folder: Path) -> RenderableType:
    """What `lamina order` found: which of two domains should come first."""
    problems: list[str] = []
    facts = soft_json(folder / "manifest.json", problems)
    found = soft_json(folder / "order.json", problems)
    words = facts.get("results").get("words").texts()
    target = found.get("target").text()
    of = f"the loss of {target}" if target else "the mean loss of all domains"
    table = new_table(f"Which domain first, for {of}, in {found.get('unit').text() or '?'}")
    for head in ("pair", "difference", "s.e.", "z", "first"):
        table.add_column(head, justify="left" if head in ("pair", "first") else "right")
    for pair in found.get("pairs").listed():
        numbers = [pair.get(key).number() for key in ("value", "se", "z")]
        cells = [Text(short(value)) for value in numbers]
        first = pair.get("first").text() or "either"
        table.add_row(Text(", ".join(pair.get("domains").texts())), *cells, Text(first))
    warnings = [*problems, *facts.get("warnings").texts()]
    return Group(
        Text("Which domain should be trained on first?", style="bold"),
        *(Text(f"! {warning}", style="yellow") for warning in warnings),
        *(Text(line) for line in words),
        Text(""),
        table,
    )


def _ends(values: list[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _lines(title: str, head: tuple[str, ...]) -> Table:
    table = new_table(title)
    table.add_column("")
    for name in head:
        table.add_column(name, justify="left" if name == "over the run" else "right", no_wrap=True)
    return table


def _weights(tuned: Tuned) -> Table:
    table = _lines("Weights over the windows", ("first", "over the run", "last", "achieved"))
    achieved = sums.asked_and_achieved(tuned)
    most = max([0.0, *(max(window.weights.values(), default=0.0) for window in tuned.windows)])
    first, last = tuned.windows[0].weights, tuned.windows[-1].weights
    for name in tuned.domains:
        line = Line([window.weights.get(name) for window in tuned.windows], 0.0, most)
        got = percent(achieved[name].achieved) if name in achieved else "–"
        table.add_row(
            Text(name), Text(percent(first.get(name))), line, Text(percent(last.get(name))),
            Text(got),
        )  # fmt: skip
    return table


def _losses(tuned: Tuned) -> Table:
    table = _lines(
        f"Held-out losses, in {tuned.unit}; each line on its own scale",
        ("first", "over the run", "last", "reference"),
    )
    reference: Mapping[str, float] = tuned.reference.losses if tuned.reference else {}
    for name in tuned.domains:
        points = sums.loss_points(tuned, name)
        if not points:
            continue
        values = [point.value for point in points]
        table.add_row(
            Text(name),
            Text(number(values[0])),
            Line(values, *_ends(values)),
            Text(number(values[-1])),
            Text(number(reference.get(name))),
        )
    return table


def _ledger(tuned: Tuned, read: Ledger) -> Table:
    """Changes by stage; coloured and marked where the interval leaves zero out."""
    table = new_table(f"Changes of the held-out loss, in {tuned.unit}; * shown beyond its error")
    table.add_column("", min_width=6)
    stages = read.stages[1:] if len(read.stages) > 2 else ()
    for stage in stages:
        table.add_column(Text(stage.name), justify="right", no_wrap=True)
    for head in ("whole run", "95 % interval", "lost"):
        table.add_column(head, justify="right", no_wrap=head == "lost")
    rows = [(name, read.changes.get(name, ()), read.total.get(name)) for name in read.domains]
    if (general := sums.general_change(read)) is not None:
        rows.append(("general text", (), general))
    for name, changes, total in rows:
        cells = [_change(one) for one in changes[: len(stages)]]
        cells += [Text("–")] * (len(stages) - len(cells))
        lost = Text(signed(read.forgetting.get(name)))
        table.add_row(Text(name), *cells, _change(total), Text(_interval(total)), lost)
    return table


def _change(one: Estimate | None) -> Text:
    if one is None:
        return Text("–")
    tone = TONES.get(tables.tone(one).split("-")[0], "")
    return Text(signed(one.value) + ("*" if one.clear else " "), style=tone)


def _interval(one: Estimate | None) -> str:
    if one is None or one.low is None or one.high is None:
        return "–"
    return f"{signed(one.low)} to {signed(one.high)}"


def _reasons(tuned: Tuned) -> Table:
    shown = tuned.windows[-_MOST:]
    left = len(tuned.windows) - len(shown)
    more = f" (the last {len(shown)} of {len(tuned.windows)})" if left else ""
    table = new_table(f"Why these weights{more}")
    table.add_column("window", justify="right")
    table.add_column("why")
    for window in shown:
        table.add_row(str(window.number), Text(window.reason or "–"))
    return table


def _shares(tuned: Tuned, found: Detection) -> Table:
    table = new_table(tables_detection.shares(tuned, found).caption)
    table.add_column("")
    for head in ("share", "s.e.", ""):
        table.add_column(head, justify="right", no_wrap=True)
    raw = found.raw if tables_detection.corrected_at_all(found) else {}
    if raw:
        table.add_column("as judged", justify="right")
    most = max([1e-9, *found.shares.values()])
    for name in found.domains:
        share = found.shares.get(name)
        cells: list[RenderableType] = [
            Text(percent(share)),
            Text(percent(found.se.get(name))),
            Bar((share or 0.0) / most),
        ]
        cells += [Text(percent(raw.get(name)))] if raw else []
        table.add_row(Text(name), *cells)
    return table


def _data(tuned: Tuned) -> Table:
    assert tuned.data is not None
    table = new_table("Data")
    table.add_column("")
    heads = {"examples": "examples", "heldout": "held out", "truncated": "cut",
             "empty_completions": "empty", "trained_tokens": "trained tokens"}  # fmt: skip
    for head in (*heads.values(), "of all"):
        table.add_column(head, justify="right")
    shares = sums.trained_shares(tuned)
    for name, one in tuned.data.domains.items():
        cells = [Text(count(one.counts.get(key))) for key in heads]
        table.add_row(Text(name), *cells, Text(percent(shares.get(name))))
    return table
