"""The ledger of a run: what every domain lost or gained at every stage, with intervals.

Everything is made of held-out losses of the same examples, so every difference is paired. An
interval is normal, 95 %: value -+ 1.96 standard errors; it knows the examples, not other training
seeds. A number that is not defined is null, never infinite: the page and any JSON reader take it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.core.domains import Change, DomainLosses, RowLosses, Unit, change

SCHEMA = "lamina.ledger/1"
WIDTH = 1.959963984540054
"""Standard errors on either side of 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class StageEnd:
    """The losses at the end of a stage; the first of a list is the start, before any."""

    name: str
    losses: DomainLosses
    policy: str | None = None
    domains: tuple[str, ...] | None = None
    """What the stage was for: the target of `expand`; None for all domains."""
    general: RowLosses | None = None
    """The loss on text that is only watched."""


def ledger(
    stages: Sequence[StageEnd],
    measured: Sequence[DomainLosses],
    *,
    unit: Unit = "nats per token",
    general_path: str | None = None,
    max_forgetting: float | None = None,
) -> dict[str, Any]:
    """The whole of `ledger.json`.

    Args:
        stages: the start and the end of every stage.
        measured: the losses at the start and at the end of every window, in order.
        general_path: the text that `StageEnd.general` was measured on.
        max_forgetting: the gate of the run, where it has one.
    """
    assert stages and measured, "a run has a start"
    names = list(stages[0].losses.by_domain)
    rows = {name: [stage.losses.by_domain[name] for stage in stages] for name in names}
    pairs = {name: list(zip(rows[name][1:], rows[name], strict=False)) for name in names}
    gate = None if max_forgetting is None else crossed(measured, max_forgetting, unit=unit)
    return {
        "schema": SCHEMA,
        "domains": names,
        "unit": unit,
        "stages": [_stage(stage) for stage in stages],
        "losses": {name: [_loss(r, unit) for r in rows[name]] for name in names},
        "changes": {
            name: [interval(change(after, before, unit=unit)) for after, before in pairs[name]]
            for name in names
        },
        "total": {
            name: interval(change(rows[name][-1], rows[name][0], unit=unit)) for name in names
        },
        "forgetting": forgotten(measured, unit=unit),
        **backward_transfer(stages, unit=unit),
        "balance": balance(measured[-1], measured[0], unit=unit),
        "general": _general(stages, general_path, unit),
        "gate": {"max_forgetting": max_forgetting, "crossed": gate},
    }


def interval(moved: Change) -> dict[str, float | None]:
    """A paired change with its standard error and 95 % interval; null where there is none."""
    if not math.isfinite(moved.se):
        return {"value": moved.value, "se": None, "low": None, "high": None}
    return {
        "value": moved.value,
        "se": moved.se,
        "low": moved.value - WIDTH * moved.se,
        "high": moved.value + WIDTH * moved.se,
    }


def forgotten(
    measured: Sequence[DomainLosses], *, unit: Unit = "nats per token"
) -> dict[str, float]:
    """R[T][j] - min over t of R[t][j]: how far a domain's loss has risen from its lowest.

    In the unit of the losses, 0 or more; R[0] is the start. The notes' definition, after
    arXiv 2402.17400.
    """
    table = [losses.losses(unit) for losses in measured]
    return {name: table[-1][name] - min(row[name] for row in table) for name in table[0]}


def backward_transfer(
    stages: Sequence[StageEnd], *, unit: Unit = "nats per token"
) -> dict[str, Any]:
    """BWT and nBwT of losses: what later stages did to the domains that earlier ones were for.

    With e[t][i] the loss of domain i after stage t, i's own stage the last one that was for it, and
    T the last stage,

        BWT  = mean over i of  e[T][i] - e[own][i]            in the unit of the losses
        nBwT = mean over i of (e[T][i] - e[own][i]) / e[own][i]

    over the domains whose own stage is not the last. After arXiv 2402.17400 and 2205.03307. These
    are losses: above 0 is forgetting, the opposite sign of the BWT of accuracies. Not defined
    where no domain was learnt before another.
    """
    told = stages[1:]  # the start was for nothing
    last = len(told) - 1
    own: dict[str, int] = {}
    for number, stage in enumerate(told):
        for name in stage.losses.by_domain if stage.domains is None else stage.domains:
            own[name] = number
    earlier = {name: number for name, number in own.items() if number < last}
    if not earlier:
        why = (
            "one stage has no earlier one to forget"
            if last < 1
            else "the last stage was for every domain: none was learnt before it and left alone"
        )
        return {"bwt": None, "nbwt": None, "why": why}
    end = told[-1].losses.losses(unit)
    learnt = {name: told[number].losses.losses(unit)[name] for name, number in earlier.items()}
    moved = {name: end[name] - learnt[name] for name in earlier}
    bwt = math.fsum(moved.values()) / len(moved)
    zero = [name for name in earlier if learnt[name] <= 0]
    if zero:
        return {"bwt": bwt, "nbwt": None, "why": f"nBwT divides by the loss of {zero[0]}: it was 0"}
    shares = [moved[name] / learnt[name] for name in earlier]
    return {"bwt": bwt, "nbwt": math.fsum(shares) / len(shares), "why": None}


def crossed(
    measured: Sequence[DomainLosses],
    max_forgetting: float,
    *,
    z: float = 1.0,
    unit: Unit = "nats per token",
) -> dict[str, Any] | None:
    """The first window in which a domain forgot more than allowed, and the worst domain of it.

    `measured` are the losses at the start and after every window. A domain's forgetting is the
    rise over its lowest earlier loss, as a share of that loss; it counts where the paired change
    is above `z` of its standard errors, and is compared with `max_forgetting` as it is.

    Returns `{"window", "domain", "value"}`, windows from 0; None where the gate holds.
    """
    lowest = {name: (rows, rows.in_unit(unit)[0]) for name, rows in measured[0].by_domain.items()}
    for window, losses in enumerate(measured[1:]):
        risen: dict[str, float] = {}
        for name, rows in losses.by_domain.items():
            best, best_loss = lowest[name]
            moved, loss = change(rows, best, unit=unit), rows.in_unit(unit)[0]
            if best_loss > 0 and moved.z > z and moved.value / best_loss > max_forgetting:
                risen[name] = moved.value / best_loss
            if loss < best_loss:
                lowest[name] = (rows, loss)
        if risen:
            worst = max(risen, key=lambda name: risen[name])
            return {"window": window, "domain": worst, "value": risen[worst]}
    return None


def balance(
    last: DomainLosses, first: DomainLosses, *, unit: Unit = "nats per token"
) -> dict[str, Any]:
    """How evenly the domains learnt: kappa_ab = (dl_a / l_a) / (dl_b / l_b).

    dl is the fall of a loss over the run, l the loss at the start: kappa above 1 says that a lost a
    larger share of its loss than b. After CoMMIT (arXiv 2407.20454), which balances a model's parts
    so. Null where the change of b is within two standard errors: a ratio to noise says nothing.

    Returns `{"fall": {domain: share}, "kappa": {a: {b: number | null}}}`.
    """
    starts = first.losses(unit)
    moved = {
        name: change(rows, first.by_domain[name], unit=unit)
        for name, rows in last.by_domain.items()
    }
    fall = {
        name: -moved[name].value / start if start > 0 else 0.0 for name, start in starts.items()
    }
    shown = {name: abs(moved[name].z) > 2 and fall[name] != 0 for name in fall}
    return {
        "fall": fall,
        "kappa": {
            a: {b: fall[a] / fall[b] if shown[b] else None for b in fall if b != a} for a in fall
        },
    }


def _stage(stage: StageEnd) -> dict[str, Any]:
    told: dict[str, Any] = {"name": stage.name, "step": stage.losses.step}
    if stage.policy is not None:
        told["policy"] = stage.policy
        told["domains"] = None if stage.domains is None else list(stage.domains)
    return told


def _loss(rows: RowLosses, unit: Unit) -> dict[str, float | int | None]:
    loss, se = rows.in_unit(unit)
    return {"loss": loss, "se": se if math.isfinite(se) else None, "tokens": rows.total_tokens}


def _general(stages: Sequence[StageEnd], path: str | None, unit: Unit) -> Mapping[str, Any] | None:
    """The text that is only watched, where every stage has its loss."""
    rows = [stage.general for stage in stages if stage.general is not None]
    if path is None or len(rows) < len(stages):
        return None
    return {
        "path": path,
        "losses": [_loss(r, unit) for r in rows],
        "total": interval(change(rows[-1], rows[0], unit=unit)),
    }
