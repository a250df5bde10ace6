"""What losses and controls say in plain words, and what they do not show.

A difference is called one only where it is larger than two standard errors.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lamina.report.formats import listing, number, signed
from lamina.report.nouns import Control, Controls, Measured, Metrics


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the reading: a question and its answer."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """A loss against the reference; `paired`: the error is that of the same rows' differences."""

    value: float
    se: float | None
    paired: bool

    @property
    def clear(self) -> bool:
        return self.se is not None and abs(self.value) > 2.0 * self.se


def control_words(name: str) -> str:
    """A control's name as a person would say it."""
    known = {
        "lata": "LATA",
        "same_norm": "task arithmetic, same norm",
        "reversed": "ranking reversed",
    }
    draw = re.fullmatch(r"permuted[_ ]?([0-9]*)", name)
    if draw:
        return f"weights permuted {draw[1]}".strip()
    return known.get(name, name.replace("_", " "))


def measured_reading(metrics: Metrics, merges: Sequence[str]) -> list[Part]:
    """What the losses and the controls say."""
    parts = [Part("What it did to the losses", losses_words(metrics, merges))]
    if metrics.controls is not None:
        words = metrics.controls.text or verdict(metrics.controls)
        parts.append(Part("Did the ranking matter?", words))
    elif any("lata" in name.lower() for name in merges):
        words = (
            "No controls were run, so nothing here tells what the ranking added over any other "
            "merge of the same strength. Run it again with --controls to find out."
        )
        parts.append(Part("Did the ranking matter?", words))
    if metrics.forget is not None and metrics.forget.text:
        parts.append(Part("What was forgotten", metrics.forget.text))
    return parts


def reference_of(metrics: Metrics) -> str | None:
    """The model that losses are compared with: that of the paired differences, or instruct."""
    if metrics.reference in metrics.models:
        return metrics.reference
    return next((name for name in ("instruct", "target", "base") if name in metrics.models), None)


def merges_of(metrics: Metrics, inputs: Iterable[str]) -> list[str]:
    """The models of a table that are not inputs; the one that has controls comes first."""
    known = {"base", "instruct", "reference", "target", *inputs}
    own = metrics.controls.merge if metrics.controls is not None else ""
    names = [name for name in metrics.models if name not in known]
    return sorted(names, key=lambda name: name != own)


def change(metrics: Metrics, model: str, domain: str) -> Change | None:
    """The loss less the reference's; without a paired error the two count as independent."""
    reference = reference_of(metrics)
    if reference is None or model == reference:
        return None
    own, other = metrics.models[model].get(domain), metrics.models[reference].get(domain)
    if own is None or other is None:
        return None
    if own.difference is not None:
        return Change(own.difference, own.difference_se, True)
    if metrics.reference:
        return None  # the two did not read the same tokens
    se = math.hypot(own.se, other.se) if own.se is not None and other.se is not None else None
    return Change(own.loss - other.loss, se, False)


def mean_loss(metrics: Metrics, model: str) -> float | None:
    """Over the domains, each counted once; None where one is missing."""
    cells: list[Measured] = [
        metrics.models[model][domain]
        for domain in metrics.domains
        if domain in metrics.models[model]
    ]
    if not cells or len(cells) < len(metrics.domains):
        return None
    return math.fsum(cell.loss for cell in cells) / len(cells)


def mean_change(metrics: Metrics, model: str) -> Change | None:
    """The mean of the changes over the domains, each counted once, no document in two of them."""
    found = [change(metrics, model, domain) for domain in metrics.domains]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    errors = [one.se for one in known if one.se is not None]
    se = math.hypot(*errors) / len(known) if len(errors) == len(known) else None
    value = math.fsum(one.value for one in known) / len(known)
    return Change(value, se, all(one.paired for one in known))


def losses_words(metrics: Metrics, merges: Sequence[str]) -> str:
    """What each merge did, domain by domain, against the reference."""
    reference = reference_of(metrics)
    if reference is None:
        return (
            "The losses are in the table below; there is no instruct model in it to compare with."
        )
    sentences: list[str] = []
    for model in merges[:4]:
        changes = {domain: change(metrics, model, domain) for domain in metrics.domains}
        known = {domain: one for domain, one in changes.items() if one is not None}
        lower = [_told(d, one) for d, one in known.items() if one.clear and one.value < 0]
        higher = [_told(d, one) for d, one in known.items() if one.clear and one.value > 0]
        same = [d for d, one in known.items() if not one.clear]
        pieces = [f"falls on {listing(lower)}"] if lower else []
        pieces += [f"rises on {listing(higher)}"] if higher else []
        start = f"Against {reference}, the" if not sentences else "The"
        if not pieces:
            sentences.append(
                f"{start} loss of {model} changes on no domain by more than two standard errors."
            )
            continue
        rest = f"; on {listing(same)} it cannot be told apart" if same else ""
        sentences.append(f"{start} loss of {model} {' and '.join(pieces)}{rest}.")
    if len(merges) > 4:
        sentences.append("The other merges are in the table below.")
    return " ".join(sentences) or "The losses of the members are in the table below."


def _told(domain: str, one: Change) -> str:
    return f"{domain} ({signed(one.value, 2 if abs(one.value) >= 0.1 else 3)})"


def verdict(controls: Controls) -> str:
    """Whether the ranking carried information: the merge against its own weights, permuted."""
    permuted = [row for row in controls.rows if row.name.startswith("permuted")]
    if not permuted:
        return "The weights were not permuted over the layers: nothing can be said of the ranking."
    mean = math.fsum(row.difference for row in permuted) / len(permuted)
    se = _mean_se(permuted, mean)
    merge = controls.merge
    many = f"{len(permuted)} draws" if len(permuted) > 1 else "one draw"
    losses = f"over {many}, the same weights permuted over the layers"
    by = f"{number(abs(mean), 4)} ± {number(se, 4)}"
    if mean > 2.0 * se:
        first = f"Yes, on this text: {losses} have a loss {by} higher than {merge}."
    elif mean < -2.0 * se:
        first = f"No, it did harm: {losses} have a loss {by} lower than {merge}."
    else:
        first = (
            f"There is no sign of it: {losses} do as well as {merge} (mean difference "
            f"{signed(mean, 4)} ± {number(se, 4)}). The ranking carried no information that this "
            "text can show."
        )
    return " ".join([first, *_other_controls(controls)])


def _mean_se(rows: Sequence[Control], mean: float) -> float:
    """Of the mean over draws: their own error, taken as common to all, and their spread."""
    own = math.fsum((row.se or 0.0) ** 2 for row in rows) / len(rows)
    spread = math.fsum((row.difference - mean) ** 2 for row in rows) / max(1, len(rows) - 1)
    return math.sqrt(own + spread / len(rows))


def _other_controls(controls: Controls) -> list[str]:
    names = {
        "same_norm": "Plain task arithmetic of the same total norm",
        "reversed": "The reversed ranking",
    }
    told: list[str] = []
    for row in controls.rows:
        if row.name not in names:
            continue
        clear = row.se is not None and abs(row.difference) > 2.0 * row.se
        if not clear:
            told.append(
                f"{names[row.name]} cannot be told apart from it ({signed(row.difference, 4)})."
            )
            continue
        word = "worse" if row.difference > 0 else "better"
        told.append(f"{names[row.name]} is {word} by {number(abs(row.difference), 4)}.")
    return told
