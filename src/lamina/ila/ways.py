"""Every way to rank an adapter's modules by data, from one table: rows and gates in, values out.

Each gives a number per module (per sub-layer or block where it says so) and high means important.
The ways that read files alone, `snr` and `cosine`, are called by the job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lamina.core.layers import Grain
from lamina.ila.integrate import integrate
from lamina.ila.learn import LEARN_STEPS, SPARSE_STEPS, learn
from lamina.ila.taylor import taylor

if TYPE_CHECKING:
    from lamina.ila.gates import Gates
    from lamina.ila.measure import Rows
    from lamina.ila.recipe import GateSection


@dataclass(frozen=True, slots=True)
class Kind:
    """What the numbers of a way are."""

    unit: str
    higher_means: str
    grain: Grain = "module"


_LOSS = "nats per token"
KINDS: dict[str, Kind] = {
    "integrate": Kind(_LOSS, "more of what the whole adapter gained came from this module"),
    "taylor": Kind(_LOSS, "the loss would rise more without this module's delta (estimated)"),
    "learn": Kind("gate", "gradient descent left this module's gate further open"),
    "sparse": Kind("gate", "this module's gate stayed open although open gates cost"),
    "leave_one_out": Kind(_LOSS, "the loss rises more without this module's delta"),
    "shapley": Kind(_LOSS, "the loss rises more without this sub-layer's deltas", "sublayer"),
    "block_influence": Kind("1 - cosine", "the block changes its input more", "block"),
    "snr": Kind("place in its type", "the weight's spectrum stands out more from noise"),
    "delta_norm": Kind("l2", "the delta is larger"),
    "lora_drop": Kind("mean square", "the delta's output is larger"),
    "cosine": Kind("cosine", "the tuning went more the way of the instruction vector"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """One measurement."""

    values: dict[str, float]
    columns: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What the way knows beside: completeness, losses, rates."""


def measured(
    way: str, rows: Rows, gates: Gates | None, section: GateSection, *, seed: int
) -> Found:
    """One measurement of a way; the gates are 1 again afterwards.

    Args:
        gates: None for a model without an adapter, of which only `block_influence` knows something.
    """
    if gates is None:
        assert way == "block_influence", way
        return _block_influence(rows, gates, section, seed)
    try:
        return _MEASURES[way](rows, gates, section, seed)
    finally:
        gates.set(1.0)


def num_advances(way: str, rows: Rows, num_gates: int, section: GateSection, players: int) -> int:
    """How often `rows.advance` is told 1 in one measurement, in this process; 0: not at all.

    Args:
        players: sub-layers with a gate.
    """
    match way:
        case "integrate":
            return (section.points + 2) * rows.share
        case "taylor":
            return 2 * len(rows.batches)
        case "learn" | "sparse":
            return section.steps or (LEARN_STEPS if way == "learn" else SPARSE_STEPS)
        case "leave_one_out":
            return num_gates
        case "shapley":
            return players * section.samples
        case "lora_drop" | "block_influence":
            return rows.share
        case _:
            return 0


def _integrate(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    def at(gamma: float) -> tuple[float, np.ndarray]:
        gates.set(gamma)
        found = rows.gradient(gates)
        return found.loss, found.gradient

    found = integrate(at, section.points)
    gates.set(1.0)
    after = rows.loss()
    gates.set(0.0)
    before = rows.loss()
    total, worth = float(found.values.sum()), before - after
    error = abs(total - worth) / abs(worth) if worth else None
    complete = {"sum": total, "difference": worth, "relative_error": error}
    return Found(_named(gates, found.values), notes={"completeness": complete})


def _taylor(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    def at(values: np.ndarray, batch: int) -> np.ndarray:
        gates.set(torch.from_numpy(values))
        return rows.gradient(gates, [batch]).gradient

    found = taylor(at, num_gates=len(gates.ids), num_batches=len(rows.batches), seed=seed)
    columns = {"slope": _named(gates, found.slope), "curvature": _named(gates, found.curvature)}
    return Found(_named(gates, found.values), columns=columns)


def _learn(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    return _learnt(rows, gates, section, steps=LEARN_STEPS, optimizer=section.optimizer)


def _sparse(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    return _learnt(
        rows, gates, section, steps=SPARSE_STEPS, optimizer="adamw", sparsity=section.sparsity
    )


def _learnt(
    rows: Rows,
    gates: Gates,
    section: GateSection,
    *,
    steps: int,
    optimizer: str,
    sparsity: float = 0.0,
) -> Found:
    def at(values: np.ndarray, step: int) -> tuple[float, np.ndarray]:
        gates.set(torch.from_numpy(values))
        found = rows.gradient(gates, [step % len(rows.batches)])
        return found.loss, found.gradient

    found = learn(
        at,
        num_gates=len(gates.ids),
        start=section.start,
        steps=section.steps or steps,
        learning_rate=section.learning_rate,
        optimizer=optimizer,
        sparsity=sparsity,
    )
    notes = {"learning_rate": found.learning_rate, "last_loss": found.losses[-1]}
    return Found(_named(gates, found.values), notes=notes)


def _leave_one_out(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    from lamina.ila.leave_one_out import FromBlock, leave_one_out

    fast = FromBlock(rows.model, rows.head, rows.batches)
    found = leave_one_out(gates, fast.loss, beginning=fast.beginning, advance=rows.advance)
    rows.passes += found.passes * len(rows.batches)
    return Found(found.values, notes={"loss": found.whole, "passes": found.passes})


def _shapley(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    from lamina.ila.shapley import of_adapter, shapley

    quiet = rows.quiet()
    players, value = of_adapter(gates, quiet.loss)
    found = shapley(players, value, seed=seed, samples=section.samples, advance=rows.advance)
    rows.passes += quiet.passes
    notes = {"cornerstones": sorted(found.cornerstones)}
    return Found(dict(found.values), columns={"s.e.": dict(found.errors)}, notes=notes)


def _delta_norm(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    from lamina.ila.norms import delta_norms

    found = delta_norms(rows.model)
    return Found(dict(found.values), columns={"relative": dict(found.relative)})


def _lora_drop(rows: Rows, gates: Gates, section: GateSection, seed: int) -> Found:
    from lamina.ila.norms import lora_drop

    rows.passes += len(rows.batches)
    return Found(lora_drop(rows.model, rows.batches, advance=rows.advance))


def _block_influence(rows: Rows, gates: Gates | None, section: GateSection, seed: int) -> Found:
    from lamina.ila.block_influence import block_influence

    rows.passes += len(rows.batches)
    return Found(block_influence(rows.model, rows.batches, advance=rows.advance))


_MEASURES: dict[str, Callable[[Rows, Gates, GateSection, int], Found]] = {
    "integrate": _integrate,
    "taylor": _taylor,
    "learn": _learn,
    "sparse": _sparse,
    "leave_one_out": _leave_one_out,
    "shapley": _shapley,
    "delta_norm": _delta_norm,
    "lora_drop": _lora_drop,
    "block_influence": _block_influence,
}


def _named(gates: Gates, values: np.ndarray) -> dict[str, float]:
    return {one: float(value) for one, value in zip(gates.ids, values, strict=True)}
