"""Single numbers of a tuning: its ledger in four, its counts, and what its results hold."""

from lamina.report import facts, formats
from lamina.report.formats import count, percent, signed
from lamina.report.tune import sums
from lamina.report.tune.nouns import Tuned

_SKIP = ("windows", "steps", "accuracy")


def ledger_facts(tuned: Tuned) -> list[facts.Fact]:
    """Backward transfer, the gate, and what was lost at most."""
    read = tuned.ledger
    if read is None:
        return []
    found: list[facts.Fact] = []
    if read.bwt is not None:
        note = "mean change since each stage ended; below zero: old domains gained"
        found.append(facts.Fact("Backward transfer", signed(read.bwt), note))
    if read.nbwt is not None:
        note = "the same, as a share of the loss"
        found.append(facts.Fact("Normalised", _signed_percent(read.nbwt), note))
    if read.bwt is None and read.why:
        found.append(facts.Fact("Backward transfer", "–", read.why))
    if read.forgetting:
        name = max(read.forgetting, key=lambda one: read.forgetting[one])
        note = f"{name}, since its own best window"
        if read.forgetting[name] <= 0:
            note = "every domain ended at its own best"
        found.append(facts.Fact("Lost at most", signed(read.forgetting[name]), note))
    if read.gate is not None:
        value = "crossed" if read.gate.crossed else "held"
        most = percent(read.gate.most)
        note = f"a domain may rise {most} above its own lowest loss"
        found.append(facts.Fact("Gate", value, note))
    return found


def _signed_percent(share: float) -> str:
    return ("+" if share > 0 else "") + percent(share)


def result_facts(tuned: Tuned, *, cost: bool) -> list[facts.Fact]:
    """Counts of the run, then every plain number among its results."""
    found: list[facts.Fact] = []
    if tuned.windows:
        stages = len(sums.borders(tuned.windows))
        note = f"in {stages} stages" if stages > 1 else ""
        found.append(facts.Fact("Windows", count(len(tuned.windows)), note))
        found.append(facts.Fact("Optimiser steps", count(tuned.windows[-1].step)))
        tokens = sum(sum(window.tokens.values()) for window in tuned.windows)
        if tokens:
            found.append(facts.Fact("Trained tokens", count(tokens), "targets, over all windows"))
    results = {**tuned.run.results, **(tuned.run.cost if cost else {})}
    for key, value in results.items():
        if is_number(value) and key not in _SKIP:
            name = key.removesuffix("_bytes").removesuffix("_mb").replace("_", " ")
            found.append(facts.Fact(name[:1].upper() + name[1:], _value(key, value)))
    return found


def _value(key: str, value: object) -> str:
    if not isinstance(value, int | float):
        return "–"
    if key.endswith("bytes"):
        return formats.size(value)
    if key.endswith("_mb"):
        return formats.size(value * 1e6)
    if key.endswith("seconds"):
        return formats.duration(value)
    if "per_second" in key or (isinstance(value, int) and abs(value) >= 1000):
        return count(value)
    return formats.short(value)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
