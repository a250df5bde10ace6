"""`MixtureTrainer`: transformers' Trainer with domain weights that move; one window = one epoch.

Four seams, each with a contract test of what we rely on: the sampler (rows of a window), the loss
(a sum over the tokens of the whole optimiser step, divided once), the end of a step (a window is
closed before its checkpoint is written) and the checkpoint (written aside, sealed, renamed).
Everything else, optimisers, schedules, trackers, DDP, FSDP, is transformers'.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from lamina.core.domains import DomainLosses
from lamina.core.errors import DataError
from lamina.data.load import DomainData
from lamina.data.mixture import advance, still_owed, window_counts, window_rows
from lamina.engine import parallel
from lamina.engine.collate import PackedRow, packed_row
from lamina.engine.distil import starting_model
from lamina.engine.layerwise.interface import (
    Layerwise,
    LayerwiseSteps,
    average_gradients,
    leave_sync_to_us,
    save_state,
)
from lamina.engine.losses import LossHead
from lamina.engine.prefix import end_at_prefix
from lamina.engine.state import WRITING, MixtureState, rotate, seal
from lamina.engine.tally import Tally


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """What the mover of the weights learns at the end of a window."""

    window: int
    step: int
    weights: Mapping[str, float]
    """In force in it."""
    rows: Mapping[str, int]
    tokens: Mapping[str, int]
    """Trained tokens of each domain, over all processes."""
    train_loss: Mapping[str, float | None]
    """Mean training loss a token; None for a domain without a row."""
    rows_read: Mapping[str, int]
    """Rows of each domain read since the start."""
    repeats: Mapping[str, float]
    """How often each domain's rows have been read since the start."""
    losses: DomainLosses
    """Held out, at its end."""
    watched: DomainLosses | None = None
    """Of text that is only watched, never trained on."""


@dataclass(frozen=True, slots=True)
class NextWindow:
    """What the mover of the weights decides."""

    weights: Mapping[str, float]
    stop: str | None = None
    """Why the run ends here, or None to go on."""
    unit: str = "tokens"


class Steering(Protocol):
    """Moves the weights. All processes call it with the same numbers; rank 0's answer counts."""

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow: ...
    def close(self, closed: ClosedWindow) -> NextWindow: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


class RowSet(Dataset):
    """The packed rows of all domains, by (number of the domain, number of the row)."""

    def __init__(self, data: Mapping[str, DomainData], window_length: int) -> None:
        self._rows = [domain.train for domain in data.values()]
        self._length = window_length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: tuple[int, int]) -> PackedRow:
        domain, row = index
        rows = self._rows[domain]
        return packed_row(rows.examples, rows.members[row], domain=domain, row=row)


class MixtureSampler(Sampler):
    """The rows of the window in work: a pure function of seed, window, weights and cursors."""

    def __init__(
        self, data: Mapping[str, DomainData], *, seed: int, num_rows: int, weights: NextWindow
    ) -> None:
        self.names = tuple(data)
        self.sizes = {name: len(domain.train) for name, domain in data.items()}
        self.tokens_per_row = {
            name: float(domain.train.trained_tokens.mean()) for name, domain in data.items()
        }
        self.seed, self.num_rows = seed, num_rows
        self.window = 0
        self.cursors = dict.fromkeys(self.names, 0)
        self.owed = dict.fromkeys(self.names, 0.0)
        self.weights, self.unit = dict(weights.weights), weights.unit

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        plan = window_rows(
            seed=self.seed,
            window=self.window,
            counts=self.counts(),
            cursors=self.cursors,
            sizes=self.sizes,
        )
        return iter([(int(domain), int(row)) for domain, row in plan])

    def counts(self) -> dict[str, int]:
        """Rows of each domain in this window."""
        return window_counts(
            self.weights, self.num_rows, tokens_per_row=self._per_row(), owed=self.owed
        )

    def _per_row(self) -> dict[str, float] | None:
        return self.tokens_per_row if self.unit == "tokens" else None

    def rows_read(self) -> dict[str, int]:
        """Rows of each domain that have been read by the end of this window."""
        return advance(self.cursors, self.counts())

    def repeats(self) -> dict[str, float]:
        """How often each domain has been read by the end of this window."""
        ahead = self.rows_read()
        return {name: ahead[name] / self.sizes[name] for name in self.names}

    def close(self, following: NextWindow) -> None:
        """Goes on to the next window."""
        self.cursors = advance(self.cursors, self.counts())
        self.owed = still_owed(
            self.weights, self.num_rows, tokens_per_row=self._per_row(), owed=self.owed
        )
        self.window += 1
        self.weights, self.unit = dict(following.weights), following.unit


class MixtureTrainer(Trainer):
    """See the module. `run` in `engine.run` makes it and starts it."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        data: Mapping[str, DomainData],
        sampler: MixtureSampler,
        head: LossHead,
        steering: Steering,
        measure: Callable[[int], tuple[DomainLosses, DomainLosses | None]],
        describe: Callable[[MixtureTrainer], MixtureState],
        collate: Callable[[Sequence[PackedRow]], dict[str, torch.Tensor]],
        window_steps: int,
        save_every: int,
        keep: int,
        kept: Sequence[str] = (),
        distil_weight: float = 0.0,
        layerwise: Layerwise | None = None,
        advance: Callable[[int], None] = lambda steps: None,
        on_window: Callable[[], None] = lambda: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.data, self.sampler, self.head, self.steering = data, sampler, head, steering
        self.measure, self.describe, self._on_window = measure, describe, on_window
        self.window_steps, self.save_every, self.keep = window_steps, save_every, keep
        self.teacher = starting_model(model) if kept else None
        self.distil_weight = distil_weight
        self._kept = [number for number, name in enumerate(data) if name in kept]
        self.stopped: str | None = None
        self._final_folder: Path | None = None
        self._grad_norm: Any = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=RowSet(data, len(sampler)),
            data_collator=collate,
        )
        self.loss_is_scaled_for_ga = True
        self.tally = Tally.empty(len(data), self.args.device)
        self.add_callback(_Windows(self, advance, interrupted))
        self.layerwise = layerwise
        self.averages = layerwise is not None and layerwise.freezes
        if layerwise is not None:
            self.add_callback(LayerwiseSteps(layerwise))  # behind what refuses a gradient

    # ---- the first seam: which rows

    def _get_train_sampler(self, train_dataset: Any = None) -> MixtureSampler:
        return self.sampler

    # ---- the second: the loss, a sum over the tokens of the whole step

    def _get_num_items_in_batch(  # type: ignore[override]
        self, batch_samples: list, device: torch.device
    ) -> float:
        return float(
            parallel.total(np.array([sum(batch["targets"].numel() for batch in batch_samples)]))[0]
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        assert not return_outputs, "losses are measured by engine.losses, not by Trainer.evaluate"
        if self.teacher is None:
            sums = self.head(model, inputs)
            loss = sums.loss
        else:
            domains = inputs["rows"][inputs["owner_rows"], 0]
            chosen = torch.isin(domains, torch.tensor(self._kept, device=domains.device))
            sums = self.head(model, inputs, teacher=self.teacher, chosen=chosen)
            loss = sums.loss + self.distil_weight * sums.kl
        self.tally.add(inputs, sums.per_example)
        # DDP averages gradients over processes; this loss is a part of one sum over all of them.
        return loss * (self.accelerator.num_processes / num_items_in_batch)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.averages and self.accelerator.sync_gradients:
            average_gradients(self.model_wrapped)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        self._grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self._grad_norm

    def refuse_non_finite(self) -> None:
        """Before the optimiser steps.

        Raises:
            DataError: a loss or a gradient is not finite, in any process; names the rows.
        """
        bad = self.tally.bad_rows()
        norm = self._grad_norm
        good_norm = norm is None or bool(torch.isfinite(torch.as_tensor(norm)).all())
        if not parallel.any_of(bool(bad) or not good_norm):
            return
        at = f"step {self.state.global_step + 1}"
        # Before the processes meet again: who goes on first may take its empty folder away.
        checkpoints = list(Path(str(self.args.output_dir)).glob("checkpoint-*"))
        named = [self._named(domain, row) for domain, row in bad]
        named = [name for names in parallel.gathered(named) for name in names]
        if named:
            more = f" and {len(named) - 5} more" if len(named) > 5 else ""
            seen = f"the loss at {at} is not finite, in {'; '.join(named[:5])}{more}"
        else:
            seen = f"the gradient at {at} is not finite, though the losses are"
        kept = "the last checkpoint is whole" if checkpoints else "no checkpoint was written yet"
        raise DataError(
            f"{seen}. The step was not taken; {kept}. Look at these rows, or "
            "lower train.learning_rate, then run the same command with --resume."
        )

    def _named(self, domain: int, row: int) -> str:
        name = self.sampler.names[domain]
        rows = self.data[name].train
        places = [rows.examples.places[example] for example in rows.members[row]]
        shown = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if places[4:] else "")
        return f"{name} ({shown})"

    # ---- the third: the end of a step

    def close_window(self) -> None:
        """Measures, lets the steering decide, and sets the next window's weights."""
        sums, tokens = self.window_sums()
        names = self.sampler.names
        losses, watched = self.measure(self.state.global_step)
        closed = ClosedWindow(
            window=self.sampler.window,
            step=self.state.global_step,
            weights=dict(self.sampler.weights),
            rows=self.sampler.counts(),
            tokens={name: int(tokens[name]) for name in names},
            train_loss={n: sums[n] / tokens[n] if tokens[n] else None for n in names},
            rows_read=self.sampler.rows_read(),
            repeats=self.sampler.repeats(),
            losses=losses,
            watched=watched,
        )
        following = parallel.decided(self.steering.close(closed))
        self.sampler.close(following)
        self.tally = Tally.empty(len(names), self.args.device)
        self.stopped = following.stop
        if parallel.is_main():
            self._on_window()
        held_out = closed.losses.losses()
        self.log(
            {f"held_out/{name}": held_out[name] for name in names}
            | {f"weights/{name}": closed.weights[name] for name in names}
        )

    def window_sums(self) -> tuple[dict[str, float], dict[str, int]]:
        """Nats and trained tokens of this window so far, over all processes."""
        both = torch.stack([self.tally.sums, self.tally.tokens]).cpu().numpy()
        sums, tokens = parallel.total(both)
        names = self.sampler.names
        return (
            {name: float(value) for name, value in zip(names, sums, strict=True)},
            {name: round(value) for name, value in zip(names, tokens, strict=True)},
        )

    # ---- the fourth: the checkpoint

    def _get_output_dir(self, trial: Any) -> str:
        folder = Path(super()._get_output_dir(trial))
        return str(folder / WRITING if self._final_folder is not None else folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        name = f"checkpoint-{self.state.global_step}"
        self._final_folder = folder / name
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._final_folder = None
        state = self.describe(self)  # sums over processes: every one is here
        parallel.barrier()
        if parallel.is_main():
            writing = folder / WRITING / name
            (writing / "training_args.bin").unlink(missing_ok=True)  # a pickle nobody reads
            if self.layerwise is not None:
                save_state(self.layerwise, writing)
            seal(writing, state)
            shutil.rmtree(folder / name, ignore_errors=True)  # one that was never sealed
            writing.rename(folder / name)
            rotate(folder, self.keep)
            shutil.rmtree(folder / WRITING, ignore_errors=True)
        parallel.barrier()


class _Windows(TrainerCallback):
    """What happens at the end of a step; weights are set before the boundary's checkpoint."""

    def __init__(
        self,
        trainer: MixtureTrainer,
        advance: Callable[[int], None],
        interrupted: Callable[[], bool],
    ) -> None:
        self._trainer, self._advance, self._interrupted = trainer, advance, interrupted

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parallel.check_sharding(self._trainer.model_wrapped, parallel.sharding_asked())
        if self._trainer.averages:
            leave_sync_to_us(self._trainer.model_wrapped)
        end_at_prefix(self._trainer.model_wrapped)  # Trainer has just hooked its embedding

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.refuse_non_finite()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        trainer = self._trainer
        boundary = state.global_step % trainer.window_steps == 0
        if boundary:
            trainer.close_window()
        every = trainer.save_every
        if (every and state.global_step % every == 0) or (boundary and not every):
            control.should_save = True
        over = state.global_step >= state.max_steps or trainer.stopped is not None
        if over or parallel.any_of(self._interrupted()):
            control.should_save = control.should_training_stop = True
        # What is logged is a mean since the last time: it starts anew where a run may be gone on.
        control.should_log = control.should_log or control.should_save
        self._advance(1)
        return control
