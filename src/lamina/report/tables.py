"""Tables as values: rows of cells that the page and the terminal both draw."""

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.report import verdicts
from lamina.report.formats import decimals_for, number, percent, signed
from lamina.report.nouns import Controls, Expert, Metrics


@dataclass(frozen=True, slots=True)
class Cell:
    """A number or a text.

    `tone` is `better-1` to `worse-3` where a difference is clear; `best` marks the lowest, of `all`
    or of the `merges`.
    """

    text: str
    under: str = ""
    tone: str = ""
    best: str = ""
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    cells: tuple[Cell, ...]
    group: str = ""
    swatch: int | None = None
    """The number of the domain that the row is of, for its colour."""


@dataclass(frozen=True, slots=True)
class Table:
    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


def losses(metrics: Metrics, merges: Sequence[str]) -> Table:
    """Losses of all members and merges, with their differences from the reference under them."""
    reference = verdicts.reference_of(metrics)
    best = {domain: _lowest(metrics, list(metrics.models), domain) for domain in metrics.domains}
    best_merge = {domain: _lowest(metrics, merges, domain) for domain in metrics.domains}
    paired = True
    rows: list[Row] = []
    members = sorted((name for name in metrics.models if name not in merges), key=_place)
    for model in [*members, *merges]:
        cells: list[Cell] = []
        for domain in metrics.domains:
            measured = metrics.models[model].get(domain)
            if measured is None:
                cells.append(Cell("–"))
                continue
            moved = verdicts.change(metrics, model, domain)
            paired = paired and (moved is None or moved.paired)
            mark = (
                "all" if best[domain] == model else "merges" if best_merge[domain] == model else ""
            )
            under = _under(moved)
            if model == reference and measured.se is not None:
                under = f"± {number(measured.se)}"
            cells.append(Cell(number(measured.loss), under, _tone(moved), mark))
        cells.append(_mean_cell(metrics, model, merges))
        rows.append(Row(model, tuple(cells), "merge" if model in merges else "member"))
    note = (
        f"Below each loss: its difference from {reference}, ± one standard error"
        if reference
        else ""
    )
    if reference and not paired:
        note += " (as if the two were independent, which is too wide for losses on the same text)"
    if reference:
        note += (
            f"; for {reference} itself, the error of its loss. Coloured where it is more than two."
        )
    if metrics.forget is not None:
        note += " Where something was to be forgotten, higher is what was wanted."
    return Table(
        "Mean loss per token, in nats; lower is better",
        (*metrics.domains, "mean"),
        tuple(rows),
        note,
    )


def _mean_cell(metrics: Metrics, model: str, merges: Sequence[str]) -> Cell:
    """The mean over the domains, each counted once."""
    means = {name: verdicts.mean_loss(metrics, name) for name in metrics.models}
    known = {name: mean for name, mean in means.items() if mean is not None}
    own = known.get(model)
    if own is None:
        return Cell("–")
    mark = ""
    if len(known) > 1:
        among = [mean for name, mean in known.items() if name in merges]
        mark = "all" if own == min(known.values()) else ""
        if not mark and len(among) > 1 and model in merges and own == min(among):
            mark = "merges"
    moved = verdicts.mean_change(metrics, model)
    return Cell(number(own), _under(moved), _tone(moved), mark)


def _under(moved: verdicts.Change | None) -> str:
    if moved is None:
        return ""
    return signed(moved.value) + (f" ± {number(moved.se)}" if moved.se is not None else "")


def _place(name: str) -> int:
    order = ("base", "instruct", "target")
    return order.index(name) if name in order else len(order)


def _lowest(metrics: Metrics, models: Sequence[str], domain: str) -> str | None:
    there = [model for model in models if domain in metrics.models[model]]
    return (
        min(there, key=lambda model: metrics.models[model][domain].loss) if len(there) > 1 else None
    )


def _tone(moved: verdicts.Change | None) -> str:
    if moved is None or not moved.clear:
        return ""
    depth = 1 + (abs(moved.value) > 0.05) + (abs(moved.value) > 0.2)
    return f"{'better' if moved.value < 0 else 'worse'}-{depth}"


def perplexities(metrics: Metrics) -> Table | None:
    """Word and byte perplexity, as lm-evaluation-harness defines them."""
    rows = [
        Row(
            model,
            tuple(
                Cell(number(cell.word_perplexity, 2), number(cell.byte_perplexity, 4))
                if (cell := measured.get(domain))
                else Cell("–")
                for domain in metrics.domains
            ),
        )
        for model, measured in metrics.models.items()
    ]
    cells = [cell for measured in metrics.models.values() for cell in measured.values()]
    if not any(cell.word_perplexity is not None for cell in cells):
        return None
    return Table("Perplexity per word, and per byte below it", metrics.domains, tuple(rows))


def controls(read: Controls) -> Table:
    rows = [
        Row(
            verdicts.control_words(row.name),
            (
                Cell(number(row.mean_loss, 4)),
                Cell("–" if row.name == "lata" else signed(row.difference, 4)),
                Cell(number(row.se, 4) if row.se else "–"),
            ),
            "merge" if row.name == "lata" else "",
        )
        for row in read.rows
    ]
    return Table("Mean loss over the domains", ("mean loss", "difference", "s.e."), tuple(rows))


def layers(expert: Expert) -> Table:
    """Every number of every layer."""
    ranks, shares, after = expert.ranks(), expert.shares(), expert.carried()
    columns = [name for name in ("rho", "phi_degrees") if name in expert.columns]
    heads = {"rho": "ρ = |t|/|u|", "phi_degrees": "φ (degrees)"}
    decimals = max(4, decimals_for(expert.values.values()))
    head = ["similarity" if expert.by_similarity else expert.unit or "score", "rank"]
    head += ["weight"] if expert.coefficients else []
    head += (["share as tuned"] if shares else []) + (["share as merged"] if after else [])
    rows: list[Row] = []
    for layer in expert.layers:
        cells = [Cell(number(expert.values[layer], decimals)), Cell(number(ranks.get(layer), 0))]
        if expert.coefficients:
            cells.append(Cell(number(expert.coefficients.get(layer))))
        cells += [Cell(percent(shares.get(layer)))] if shares else []
        cells += [Cell(percent(after.get(layer)))] if after else []
        cells += [Cell(number(expert.columns[name].get(layer), 3)) for name in columns]
        rows.append(Row(layer, tuple(cells)))
    head += [heads[name] for name in columns]
    return Table(f"All layers of {expert.name}", tuple(head), tuple(rows))
