"""The work of `lamina tune`, from data to manifest. Imports torch: `jobs.tune` loads it late."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lamina.core.errors import RecipeError
from lamina.core.manifest import write_atomic
from lamina.data.load import DomainData
from lamina.engine import parallel
from lamina.engine.arguments import check_arguments
from lamina.engine.attention import check_no_leak
from lamina.engine.layerwise.interface import Layerwise, check_whole
from lamina.engine.recipe import TrainSection
from lamina.engine.run import Finished, run_windows, start_losses
from lamina.engine.state import check_fits, newest_state
from lamina.engine.trainer import Steering
from lamina.engine.tunable import (
    casting,
    load_tunable,
    num_embeddings,
    trained_parameters,
    whole_weights,
)
from lamina.jobs.claimed import BEGUN, LOG, take
from lamina.jobs.layerwise import tuner
from lamina.jobs.log import Log, peak_memory
from lamina.jobs.plan_file import NAME as PLAN
from lamina.jobs.plan_file import read_plan
from lamina.jobs.prefix import check_prefix, forget_prefix, prefix_of
from lamina.jobs.tune import INTERRUPTED, Place, write_json, write_lines, write_recipe
from lamina.jobs.tune_end import finish
from lamina.jobs.tune_run import Run, Tell, cost_of_looking, prepare
from lamina.jobs.tuned import settle_stages
from lamina.jobs.watch import Watcher
from lamina.versatune.recipe import TuneRecipe
from lamina.versatune.reference import Alone
from lamina.versatune.steer import Mixture, Stage

if TYPE_CHECKING:
    pass


def tune(
    recipe: TuneRecipe, place: Place, allowed: frozenset[str], watch: Watcher, tell: Tell
) -> dict[str, Any]:
    """See `jobs.tune.run_tune`."""
    check_arguments(recipe.settled_train)
    check_whole(recipe.layerwise)
    run = prepare(recipe, place, allowed, watch, tell)
    check_prefix(run)
    _layerwise(run, run.train)  # its scores are refused before anything is written
    log = Log(place.out / LOG)
    _open_folder(run, log)
    try:
        stages, notes = settle_stages(
            run,
            tune_alone=partial(_tune_alone, run),
            losses_at_start=lambda: start_losses(_model(run), run.data, run.train),
        )
    except _Interrupted as stop:
        return _interrupted(run, 0, stop.signal)
    steering = _steering(run, stages)
    model = _model(run, check=True)
    tell(
        f"tuning {trained_parameters(model):,} values in windows of {run.train.window_steps} "
        f"optimiser steps: {run.train.windows}"
    )
    tell(cost_of_looking(run))
    began = time.monotonic()
    finished = _train(run, model, steering, resume=place.resume, folder=place.out / "checkpoints")
    log.write(
        event="trained",
        seconds=round(time.monotonic() - began, 2),
        steps=finished.step,
        resumed_from=finished.resumed_from,
        peak_memory_mb=peak_memory(),
    )
    if finished.interrupted:
        return _interrupted(run, finished.step, finished.interrupted)
    weights = whole_weights(model)
    manifest: dict[str, Any] = {}
    if parallel.is_main():
        forget_prefix(run.out)
        manifest = finish(run, model, steering, stages, finished, notes, weights=weights)
        log.write(event="written")
    parallel.barrier()
    return parallel.decided(manifest)


class _Interrupted(Exception):
    """A signal came while a reference loss was measured; its checkpoint is written."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def _interrupted(run: Run, step: int, signal: int) -> dict[str, Any]:
    results = {"step": step, "steps": run.train.steps, "signal": signal}
    return {"results": {"status": INTERRUPTED, **results}}


def _open_folder(run: Run, log: Log) -> None:
    """Makes the run's folder or goes on in it, and writes what is known before training.

    Raises:
        RecipeError: the checkpoint to go on from belongs to another run; nothing is written then.
    """
    place = run.place
    newest = newest_state(place.out / "checkpoints") if place.resume else None
    if newest is not None:
        check_fits(newest, run.identity, run.allowed)
    alone = place.out.glob("reference/*/checkpoints/checkpoint-*/")
    if newest is not None or (place.resume and any(alone)):
        _check_same_plan(run)
    parallel.barrier()
    if parallel.is_main():
        going_on = place.resume and (place.out / LOG).is_file()
        take(place.out, keep=going_on)
        log.write(event="resumed" if going_on else BEGUN)
        write_recipe(run.recipe, place)
        write_json(place.out / "data.json", run.report)
        if run.plan is not None:
            write_atomic(place.out / PLAN, run.plan.to_json().encode())
        log.write(event="data", domains={name: len(d.train) for name, d in run.data.items()})
    parallel.barrier()


def _check_same_plan(run: Run) -> None:
    """Refuses what no switch can allow: a checkpoint holds the tensors that its plan trained.

    Raises:
        RecipeError: the run began with another plan, or with none.
    """
    file = run.out / PLAN
    plans = (read_plan(file) if file.is_file() else None, run.plan)
    then, now = (None if one is None else (one.chosen, one.full, one.ranks) for one in plans)
    if then != now:
        told = [
            "none"
            if one is None
            else f"one of {len(one.chosen)} modules and {len(one.full)} whole ones"
            for one in plans
        ]
        raise RecipeError(
            f"the plan that {run.out} began with is {told[0]}, now it is {told[1]}, and the "
            "checkpoint's trained tensors are others: no switch allows that. Put the plan back, or "
            "give another --out."
        )


def _model(run: Run, *, check: bool = False) -> Any:
    gc.collect()  # a trainer that is done and its model point at each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    model = load_tunable(run.source, run.train, run.plan, start=run.start)
    if check and run.recipe.data.packing:
        flatten = "flash" in str(model.config._attn_implementation)
        if torch.cuda.is_available():  # flash attention is nowhere else
            model.to("cuda")
        with casting(model, run.train):
            check_no_leak(model, flatten=flatten, num_embeddings=num_embeddings(model))
    return model


def _train(
    run: Run,
    model: Any,
    steering: Steering,
    *,
    resume: bool,
    folder: Path,
    data: Mapping[str, DomainData] | None = None,
    train: TrainSection | None = None,
    name: str = "tuning",
) -> Finished:
    """The windows of a run, or of one domain alone."""
    alone = data is not None
    train = train or run.train
    run.watch.stage(name, train.steps)
    folder.mkdir(parents=True, exist_ok=True)
    parallel.barrier()
    pad = run.tokenizer.pad_token_id
    distil = run.recipe.self_distillation
    return run_windows(
        model,
        data or run.data,
        train,
        steering=steering,
        folder=folder,
        identity=run.identity,
        pad_id=0 if pad is None else pad,
        resume=resume,
        allowed=run.allowed,
        tell=run.tell,
        advance=run.watch.advance,
        on_window=partial(_window_closed, run, steering),
        watched={} if alone else run.watched,
        kept=() if alone or distil is None else _kept(run),
        distil_weight=0.0 if alone or distil is None else distil.weight,
        layerwise=_layerwise(run, train),
        prefix=prefix_of(run),
    )


def _layerwise(run: Run, train: TrainSection) -> Layerwise | None:
    """A fresh tuner of the recipe's `layerwise:`, or None; see `jobs.layerwise.tuner`."""
    return tuner(
        run.recipe.layerwise,
        model_folder=run.source.folder,
        fingerprint=run.identity.model,
        home=run.place.home,
        seed=train.seed,
    )


def _window_closed(run: Run, steering: Steering) -> None:
    """Keeps `domains.jsonl` up to date and says where the run stands."""
    if not isinstance(steering, Mixture):
        return
    write_lines(run.out / "domains.jsonl", steering.history)
    line = steering.history[-1]
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in line["loss"].items())
    run.tell(f"window {line['window'] + 1} of {run.train.windows}: held-out losses {losses}")
    if len(steering.history) < run.train.windows:
        run.tell(f"  next: {steering.reason}")


def _kept(run: Run) -> tuple[str, ...]:
    """The domains whose rows are held near the starting model."""
    distil = run.recipe.self_distillation
    assert distil is not None
    if distil.domains is not None:
        return distil.domains
    targets = {stage.parameters.get("target") for stage in run.recipe.mixture}
    return tuple(name for name in run.data if name not in targets)


def _tune_alone(run: Run, name: str, train: TrainSection, steering: Alone, folder: Path) -> None:
    """A fresh copy of the model, tuned on one domain; the weights are not kept."""
    finished = _train(
        run,
        _model(run),
        steering,
        resume=run.place.resume,
        folder=folder / "checkpoints",
        data={name: run.data[name]},
        train=train,
        name=f"reference: {name}",
    )
    if finished.interrupted:
        raise _Interrupted(finished.interrupted)


def _steering(run: Run, stages: tuple[Stage, ...]) -> Mixture:
    train = run.train
    return Mixture(
        stages=stages,
        sizes={name: len(domain.train) for name, domain in run.data.items()},
        rows_per_window=train.window_steps * train.accumulate * train.batch_size * parallel.world(),
        tokens_per_row={
            name: float(domain.train.trained_tokens.mean()) for name, domain in run.data.items()
        },
        max_forgetting=run.recipe.max_forgetting,
    )
