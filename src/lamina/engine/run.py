"""One tuning run: windows of training between looks at the held-out losses, resumable anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from lamina.core.domains import DomainLosses, RowLosses
from lamina.core.errors import DataError, RecipeError
from lamina.data.encode import Examples
from lamina.data.load import DomainData
from lamina.engine import parallel
from lamina.engine.arguments import training_arguments
from lamina.engine.around import enough_memory, logging_to, signal_of, signals
from lamina.engine.collate import collate
from lamina.engine.fast import attending_by_example
from lamina.engine.heldout import heldout_losses
from lamina.engine.layerwise.interface import Layerwise, begun, load_state
from lamina.engine.load import first_line, quiet
from lamina.engine.losses import LossHead
from lamina.engine.prefix_cache import PrefixAt, PrefixCache, reading
from lamina.engine.recipe import TrainSection
from lamina.engine.state import (
    Identity,
    MixtureState,
    check_comparable,
    check_fits,
    digest,
    latest,
)
from lamina.engine.tally import Tally
from lamina.engine.trainer import MixtureSampler, MixtureTrainer, NextWindow, Steering
from lamina.engine.tunable import casting

_NOT_FINITE = (
    "the loss of {name} is not finite in {num} of {of} held-out examples at step {step} ({places} "
    "...). {why}"
)
_AT_START = "The model gives it before any training: its weights are damaged, or overflow in dtype."
_DIVERGED = (
    "The run has diverged, and the last checkpoint is whole. Lower train.learning_rate, or add "
    "train.warmup."
)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended."""

    step: int
    interrupted: int
    """The signal that ended it, or 0."""
    stopped: str | None
    """Why the steering ended it early."""
    resumed_from: int | None


def run_windows(
    model: Any,
    data: Mapping[str, DomainData],
    train: TrainSection,
    *,
    steering: Steering,
    folder: Path,
    identity: Identity,
    pad_id: int,
    resume: bool = False,
    allowed: frozenset[str] = frozenset(),
    tell: Callable[[str], None] = lambda line: None,
    advance: Callable[[int], None] = lambda steps: None,
    on_window: Callable[[], None] = lambda: None,
    watched: Mapping[str, Examples] | None = None,
    kept: Sequence[str] = (),
    distil_weight: float = 0.0,
    layerwise: Layerwise | None = None,
    prefix: PrefixAt | None = None,
) -> Finished:
    """Tunes a model in place, window by window, with checkpoints in `folder`.

    Args:
        model: from `load_tunable`; its trainable part is changed.
        data: by domain; the order of the names is the order of everything.
        steering: decides the weights of each window.
        identity: what a checkpoint must belong to.
        pad_id: any id the model knows; padding is never seen.
        resume: go on from the newest whole checkpoint, if there is one.
        allowed: what may have changed since that checkpoint.
        kept: domains whose rows are held near the starting model by `distil_weight` times the
            divergence from it, a mean over the same tokens as the loss.
        on_window: called in the first process when a window was closed.
        watched: texts whose loss is told to the steering, but never trained on.
        layerwise: a fresh tuner that treats layers unlike one another.
        prefix: where what the frozen blocks give is kept, if it is to be.

    Raises:
        RecipeError: a checkpoint that does not belong to this run; an optimiser, tracker or
            attention that is not known here; sharding that did not take effect.
        CheckpointError: a damaged checkpoint.
        DataError: a loss that is not finite, with the rows that have it.
    """
    parallel.start()
    groups = [{name: domain.heldout for name, domain in data.items()}, watched or {}]
    measured = _measured(groups)
    found = latest(folder, tell) if resume else None
    if found is not None:
        for line in check_fits(found[1], identity, allowed):
            tell(line)
        check_comparable(found[1], tuple(data), measured)
    arguments = training_arguments(train, folder)
    model.to(arguments.device)
    with casting(model, train):
        head = LossHead(model, inside=parallel.sharding_asked())
    if head.fallback:
        tell(f"logits are computed whole: {head.fallback}")
    with attending_by_example(model) as by_example, begun(layerwise, model):
        flatten = by_example or "flash" in str(model.config._attn_implementation)
        autocast = torch.bfloat16 if train.dtype == "bfloat16" else None

        def measure(step: int) -> tuple[DomainLosses, DomainLosses | None]:
            held_out, others = (
                _measure(model, head, group, step, arguments.device, autocast, flatten)
                for group in groups
            )
            return held_out, others if watched else None

        cache = None
        over = found is not None and (found[1].step >= train.steps or found[1].stopped is not None)
        if prefix is not None and not over:
            assert layerwise is None or not layerwise.freezes, "the lowest trained block moves"
            cache = PrefixCache.settled(
                model, prefix, autocast=autocast, flatten=flatten, tell=tell
            )
        num_rows = train.window_steps * train.accumulate * train.batch_size * parallel.world()
        if found is None:
            with reading(cache, model):
                losses = measure(0)
            first = parallel.decided(steering.begin(*losses))
        else:
            steering.restore(found[1].steering)
            first = NextWindow(found[1].weights, unit=found[1].unit)
        sampler = MixtureSampler(data, seed=train.seed, num_rows=num_rows, weights=first)

        interrupted: list[int] = []
        with logging_to(folder.parent / "logs"):  # trackers read where to when they are made
            trainer = _trainer(
                model, arguments, data, train, sampler, head, steering, measure,
                describe=partial(_describe, identity=identity, train=train, measured=measured),
                collate_rows=partial(collate, pad_id=pad_id, flatten=flatten),
                kept=kept, distil_weight=distil_weight, layerwise=layerwise,
                advance=advance, on_window=on_window, interrupted=interrupted,
            )  # fmt: skip
        if found is not None:
            _restore(trainer, found[1])
            if layerwise is not None:
                load_state(layerwise, found[0])
            advance(found[1].step)
            if over:
                _load_final(trainer, found[0])
                return Finished(found[1].step, 0, found[1].stopped, found[1].step)
        with quiet(), signals(interrupted, tell), enough_memory(train), reading(cache, model):
            trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))
        return Finished(
            step=trainer.state.global_step,
            interrupted=signal_of(interrupted),
            stopped=trainer.stopped,
            resumed_from=None if found is None else found[1].step,
        )


def _trainer(
    model: Any,
    arguments: TrainingArguments,
    data: Mapping[str, DomainData],
    train: TrainSection,
    sampler: MixtureSampler,
    head: LossHead,
    steering: Steering,
    measure: Callable[[int], tuple[DomainLosses, DomainLosses | None]],
    *,
    describe: Callable[[MixtureTrainer], MixtureState],
    collate_rows: Any,
    kept: Sequence[str],
    distil_weight: float,
    layerwise: Layerwise | None,
    advance: Callable[[int], None],
    on_window: Callable[[], None],
    interrupted: list[int],
) -> MixtureTrainer:
    try:
        with quiet():
            trainer = MixtureTrainer(
                model,
                arguments,
                data=data,
                sampler=sampler,
                head=head,
                steering=steering,
                measure=measure,
                describe=describe,
                collate=collate_rows,
                window_steps=train.window_steps,
                save_every=train.save_every,
                keep=train.keep_checkpoints,
                kept=kept,
                distil_weight=distil_weight,
                layerwise=layerwise,
                advance=advance,
                on_window=on_window,
                interrupted=lambda: bool(interrupted),
            )
    except (RuntimeError, ImportError, ValueError) as error:
        raise RecipeError(f"training cannot start: {first_line(error)}") from error
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _measure(
    model: Any,
    head: LossHead,
    group: Mapping[str, Examples],
    step: int,
    device: torch.device,
    autocast: torch.dtype | None,
    flatten: bool,
) -> DomainLosses:
    """Losses of all examples by domain, each process doing its share of them.

    Raises:
        DataError: a loss is not finite.
    """
    by_domain = {}
    for name, examples in group.items():
        found = heldout_losses(
            model,
            head,
            examples,
            rank=parallel.rank(),
            world=parallel.world(),
            device=device,
            autocast=autocast,
            in_step=parallel.sharding_asked(),
            flatten=flatten,
        )
        sums = parallel.total(found.sums.numpy())
        bad = np.flatnonzero(~np.isfinite(sums))
        if len(bad):
            places = ", ".join(examples.places[example] for example in bad[:3])
            raise DataError(_NOT_FINITE.format(
                name=name, num=len(bad), of=len(sums), step=step, places=places,
                why=_AT_START if not step else _DIVERGED,
            ))  # fmt: skip
        by_domain[name] = RowLosses(
            sums=tuple(sums.tolist()),
            tokens=tuple(examples.trained_tokens.tolist()),
            num_bytes=tuple(examples.num_bytes.tolist()),
        )
    return DomainLosses(step=step, by_domain=by_domain)


def start_losses(model: Any, data: Mapping[str, DomainData], train: TrainSection) -> DomainLosses:
    """Held-out losses of a model as it is; on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    group = {name: domain.heldout for name, domain in data.items()}
    autocast = torch.bfloat16 if train.dtype == "bfloat16" else None
    with casting(model, train):
        head = LossHead(model)
    with attending_by_example(model) as by_example:
        return _measure(model, head, group, 0, device, autocast, by_example)


def _measured(groups: Sequence[Mapping[str, Examples]]) -> str:
    """Fingerprint of the examples whose losses are measured."""
    return digest(
        [
            [name, *(hashlib.sha256(a.tobytes()).hexdigest() for a in (e.starts, e.ids, e.trained))]
            for group in groups
            for name, e in group.items()
        ]
    )


def _describe(
    trainer: MixtureTrainer, *, identity: Identity, train: TrainSection, measured: str
) -> MixtureState:
    sums, tokens = trainer.window_sums()
    sampler = trainer.sampler
    own = dict(zip(sampler.names, trainer.tally.sums.tolist(), strict=True))
    return MixtureState(
        step=trainer.state.global_step,
        stopped=trainer.stopped,
        window=sampler.window,
        seed=sampler.seed,
        weights=sampler.weights,
        cursors=sampler.cursors,
        owed=sampler.owed,
        sizes=sampler.sizes,
        world=parallel.world(),
        window_steps=train.window_steps,
        window_rows=sampler.num_rows,
        unit=sampler.unit,
        data=identity.data,
        recipe=identity.recipe,
        model=identity.model,
        measured=measured,
        train_sums=sums,
        train_tokens=tokens,
        rank_sums=tuple(parallel.gathered(own)),
        steering=trainer.steering.state(),
    )


def _restore(trainer: MixtureTrainer, state: MixtureState) -> None:
    """Puts the sampler and the sums of the window in work back to where the checkpoint stands."""
    sampler = trainer.sampler
    sampler.seed, sampler.window = state.seed, state.window
    sampler.weights, sampler.unit = dict(state.weights), state.unit
    sampler.owed = {name: state.owed.get(name, 0.0) for name in sampler.names}
    sampler.cursors = {name: state.cursors.get(name, 0) for name in sampler.names}
    device = trainer.args.device
    tally = Tally.empty(len(sampler.names), device)
    parts = state.rank_sums
    if len(parts) != parallel.world():  # a sum over processes: it is put back once
        parts = (state.train_sums, *[{}] * (parallel.world() - 1))
    sums = [parts[parallel.rank()].get(name, 0.0) for name in sampler.names]
    tally.sums += torch.tensor(sums, dtype=torch.float64, device=device)
    if parallel.is_main():
        tokens = [float(state.train_tokens.get(name, 0)) for name in sampler.names]
        tally.tokens += torch.tensor(tokens, dtype=torch.float64, device=device)
    trainer.tally = tally


def _load_final(trainer: MixtureTrainer, checkpoint: Path) -> None:
    """The weights of a run whose last step is done."""
    with quiet():
        trainer._load_from_checkpoint(str(checkpoint))


def refuse_few_rows(data: Mapping[str, DomainData]) -> None:
    """A domain that has no row to train on cannot have a weight.

    Raises:
        DataError: names every such domain.
    """
    empty = [name for name, domain in data.items() if not len(domain.train)]
    if empty:
        raise DataError(
            f"no row is left to train on in {', '.join(empty)}. Give more rows, or fewer held out "
            "(data.heldout_share)."
        )
