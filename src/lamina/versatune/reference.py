"""Reference losses: how low could the loss of each domain come, on rows that nobody trains on?

VersaTune (arXiv 2411.11266) needs l_ref of every domain. The lowest HELD-OUT loss of a tuning on
that domain alone, stopped early, is the default; the paper's code takes training losses, which go
to 0 and leave every domain with the same potential. Costs a short run for each domain, kept in the
cache by the fingerprints of model, rows and settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.core.domains import DomainLosses, Unit
from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.core.manifest import cache_folder, read_json, write_json_atomic
from lamina.data.load import DomainData
from lamina.engine import parallel
from lamina.engine.recipe import TrainSection
from lamina.engine.state import digest
from lamina.engine.trainer import ClosedWindow, NextWindow
from lamina.versatune.policies import degenerate
from lamina.versatune.recipe import ReferenceSection

SCHEMA = "lamina.reference/1"


@dataclass(slots=True)
class Alone:
    """A `Steering` for one domain: no weight moves, and the run stops when it stops learning."""

    name: str
    patience: int
    unit: Unit = "nats per token"
    lowest: float = float("inf")
    lowest_se: float = float("inf")
    at_step: int = 0
    since: int = 0
    seen: list[float] = field(default_factory=list)

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow:
        self._look(losses)
        return NextWindow({self.name: 1.0})

    def close(self, closed: ClosedWindow) -> NextWindow:
        """Stops after `patience` windows without a lower held-out loss."""
        self._look(closed.losses)
        stop = "the held-out loss no longer falls" if self.since >= self.patience else None
        return NextWindow({self.name: 1.0}, stop=stop)

    def state(self) -> dict[str, Any]:
        return {
            "lowest": self.lowest,
            "lowest_se": self.lowest_se,
            "at_step": self.at_step,
            "since": self.since,
            "seen": self.seen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.lowest, self.lowest_se = state["lowest"], state["lowest_se"]
        self.at_step, self.since = state["at_step"], state["since"]
        self.seen = list(state["seen"])

    def _look(self, losses: DomainLosses) -> None:
        loss, se = losses.by_domain[self.name].in_unit(self.unit)
        self.seen.append(loss)
        self.since += 1
        if loss < self.lowest:
            self.lowest, self.lowest_se = loss, se
            self.at_step, self.since = losses.step, 0


def reference_losses(
    section: ReferenceSection,
    data: Mapping[str, DomainData],
    train: TrainSection,
    start: DomainLosses | None,
    *,
    tune_alone: Callable[[str, TrainSection, Alone, Path], None],
    folder: Path,
    model: str,
    tell: Callable[[str], None],
    unit: Unit = "nats per token",
) -> dict[str, Any]:
    """What `reference.json` holds: the losses, where they come from, and what is wrong with them.

    Args:
        start: held-out losses of the untuned model; needed unless the way is `tuned`.
        tune_alone: tunes a fresh copy of the model on one domain, with checkpoints in a folder.
        folder: where unfinished tunings keep their checkpoints.
        model: the model's fingerprint.
        unit: of all losses, as the policy compares them.

    Raises:
        RecipeError: losses are given, but not for every domain.
        DataError: a tuning diverged.
    """
    names = list(data)
    told: dict[str, Any] = {
        "schema": SCHEMA, "way": section.way, "unit": unit, "se": {}, "steps": {}
    }  # fmt: skip
    begun = {} if start is None else start.losses(unit)
    match section.way:
        case "given":
            missing = [name for name in names if name not in section.losses]
            if missing:
                raise RecipeError(
                    f"mixture.reference.losses has no loss for {', '.join(missing)}; give one for "
                    "every domain, or write way: tuned."
                )
            losses = {name: section.losses[name] for name in names}
        case "fraction":
            assert start is not None, "a fraction of the loss at the start needs that loss"
            losses = {name: loss * section.fraction for name, loss in begun.items()}
        case _:
            losses = {}
            for name in names:
                found = _tuned(
                    name, section, data[name], train,
                    tune_alone=tune_alone, folder=folder, model=model, tell=tell, unit=unit,
                )  # fmt: skip
                losses[name], begun[name] = found["loss"], found["seen"][0]
                told["se"][name], told["steps"][name] = found["se"], found["step"]
    warnings = degenerate(begun, losses)
    stuck = [n for n, loss in begun.items() if not 0.05 * loss < losses[n] < loss]
    return {**told, "losses": losses, "warnings": warnings, "degenerate": stuck}


def _tuned(
    name: str,
    section: ReferenceSection,
    domain: DomainData,
    train: TrainSection,
    *,
    tune_alone: Callable[[str, TrainSection, Alone, Path], None],
    folder: Path,
    model: str,
    tell: Callable[[str], None],
    unit: Unit,
) -> dict[str, Any]:
    """The lowest held-out loss of a tuning on one domain; from the cache where it is known."""
    steps = section.window_steps or train.window_steps
    alone = train.model_copy(
        update={"windows": section.windows, "window_steps": steps, "report_to": ()}
    )
    settings = alone.model_dump(exclude={"report_to", "log_every", "workers", "keep_checkpoints"})
    run = [settings, section.patience, unit, parallel.world()]  # a step has rows of all processes
    key = digest([SCHEMA, model, domain.fingerprint, *run])
    file = cache_folder() / "reference" / f"{key}.json"
    known = parallel.decided(_from_cache(file) if parallel.is_main() else None)
    if known is not None:
        tell(f"reference loss of {name}: {known['loss']:.4f} (known from an earlier run)")
        return known
    steering = Alone(name, section.patience, unit)
    place = folder / name
    try:
        tune_alone(name, alone, steering, place)
    except DataError as error:
        raise DataError(f"the tuning on {name} alone, for its reference loss: {error}") from error
    found = {
        "loss": steering.lowest,
        "se": steering.lowest_se,
        "step": steering.at_step,
        "seen": steering.seen,
    }
    tell(f"reference loss of {name}: {steering.lowest:.4f}, at step {steering.at_step}")
    if not parallel.is_main():
        return found
    shutil.rmtree(place, ignore_errors=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(file, {"schema": SCHEMA, **found})
    except (OSError, OutputError):
        tell(f"{file} cannot be written: the reference loss will be measured again next time")
    return found


def _from_cache(file: Path) -> dict[str, Any] | None:
    """What an earlier run measured; a lost or broken file costs that run again, nothing else."""
    try:
        read = read_json(file)
        if read.get("schema") != SCHEMA:
            return None
        return {
            "loss": float(read["loss"]),
            "se": float(read["se"]),
            "step": int(read["step"]),
            "seen": [float(loss) for loss in read["seen"]],
        }
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return None
