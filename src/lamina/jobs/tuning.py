"""The work of `lamina tune`, from data to manifest. Imports torch: `jobs.tune` loads it late."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lamina.core.errors import OutputError
from lamina.core.manifest import Manifest, read_json
from lamina.data.load import DomainData, load_domains, refuse_longer
from lamina.data.templates import choose_template
from lamina.engine import parallel
from lamina.engine.attention import check_no_leak
from lamina.engine.load import Source, find_model, fingerprint, load_tokenizer, quiet
from lamina.engine.recipe import TrainSection
from lamina.engine.run import Finished, check_arguments, refuse_few_rows, run_windows, start_losses
from lamina.engine.state import Identity, check_fits, digest, newest_state
from lamina.engine.trainer import Steering
from lamina.engine.tunable import (
    casting,
    load_tunable,
    num_embeddings,
    save_model,
    trained_parameters,
    whole_weights,
)
from lamina.jobs.carried import OF_THE_MODEL, carried_files
from lamina.jobs.claimed import BEGUN, LOG, take
from lamina.jobs.tune import DONE, FORGOT, INTERRUPTED, Place, write_json, write_lines, write_recipe
from lamina.jobs.tuned import account, model_card, settle_stages, shares_file, watched_text
from lamina.jobs.watch import Watcher
from lamina.versatune.ledger import StageEnd, ledger
from lamina.versatune.recipe import TuneRecipe
from lamina.versatune.reference import Alone
from lamina.versatune.steer import Mixture, Stage
from lamina.weights.checkpoint import read_config

if TYPE_CHECKING:
    from lamina.data.encode import Examples

Tell = Callable[[str], None]
READ_OF_TRAINED = {"lora": 0.47, "full": 0.33}
MUCH = 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """What the parts of one run share."""

    recipe: TuneRecipe
    place: Place
    source: Source
    tokenizer: Any
    data: Mapping[str, DomainData]
    report: Mapping[str, Any]
    """`data.json`."""
    watched: Mapping[str, Examples]
    identity: Identity
    allowed: frozenset[str]
    watch: Watcher
    tell: Tell

    @property
    def out(self) -> Path:
        return self.place.out

    @property
    def train(self) -> TrainSection:
        return self.recipe.settled_train


def tune(
    recipe: TuneRecipe, place: Place, allowed: frozenset[str], watch: Watcher, tell: Tell
) -> dict[str, Any]:
    """See `jobs.tune.run_tune`."""
    check_arguments(recipe.settled_train)
    run = _prepare(recipe, place, allowed, watch, tell)
    log = _Log(place.out / LOG)
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
    tell(_cost_of_looking(run))
    began = time.monotonic()
    finished = _train(run, model, steering, resume=place.resume, folder=place.out / "checkpoints")
    log.write(
        event="trained",
        seconds=round(time.monotonic() - began, 2),
        steps=finished.step,
        resumed_from=finished.resumed_from,
        peak_memory_mb=_peak_memory(),
    )
    if finished.interrupted:
        return _interrupted(run, finished.step, finished.interrupted)
    weights = whole_weights(model)
    manifest: dict[str, Any] = {}
    if parallel.is_main():
        manifest = _finish(run, model, steering, stages, finished, notes, weights=weights)
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


def _prepare(
    recipe: TuneRecipe, place: Place, allowed: frozenset[str], watch: Watcher, tell: Tell
) -> Run:
    """Finds the model, reads and encodes the data, and shows what will be trained on."""
    source = find_model(_near(recipe.model, place.home))
    with quiet():
        tokenizer = load_tokenizer(source)
    vocabulary, positions = limits(source.folder)
    watch.stage("reading the data", 0)
    data = load_domains(
        recipe.domains,
        tokenizer,
        recipe.data,
        home=place.home,
        num_embeddings=vocabulary,
        num_positions=positions,
        tell=tell,
    )
    refuse_few_rows(data)
    watched = watched_text(recipe, place.home, tokenizer)
    for examples in watched.values():
        refuse_longer(examples, positions)
    report = {
        "schema": "lamina.data/1",
        "max_length": recipe.data.max_length,
        "packing": recipe.data.packing,
        "chat_template": recipe.data.chat_template,
        "domains": {name: domain.report for name, domain in data.items()},
    }
    _show_data(report, tell)
    identity = Identity(
        data=digest({name: domain.fingerprint for name, domain in data.items()}),
        recipe=_recipe_digest(recipe, watched, place.home),
        model=fingerprint(source),
        world=parallel.world(),
    )
    return Run(
        recipe, place, source, tokenizer, data, report, watched, identity, allowed, watch, tell
    )  # fmt: skip


def _open_folder(run: Run, log: _Log) -> None:
    """Makes the run's folder or goes on in it, and writes what is known before training.

    Raises:
        RecipeError: the checkpoint to go on from belongs to another run; nothing is written then.
    """
    place = run.place
    newest = newest_state(place.out / "checkpoints") if place.resume else None
    if newest is not None:
        check_fits(newest, run.identity, run.allowed)
    parallel.barrier()
    if parallel.is_main():
        going_on = place.resume and (place.out / LOG).is_file()
        take(place.out, keep=going_on)
        log.write(event="resumed" if going_on else BEGUN)
        write_recipe(run.recipe, place)
        write_json(place.out / "data.json", run.report)
        log.write(event="data", domains={name: len(d.train) for name, d in run.data.items()})
    parallel.barrier()


def _near(model: str, home: Path) -> str:
    """A model's path as the recipe means it: from the recipe's folder first, then from here."""
    base, plus, adapter = model.partition("+")
    if plus and not (home / model).exists():
        return f"{_near(base, home)}+{_near(adapter, home)}"
    found = home / Path(model).expanduser()
    return os.path.normpath(found) if found.exists() else model


def limits(folder: Path) -> tuple[int | None, int | None]:
    """Rows of the embedding, and tokens that are read at once, as a model's config.json says."""
    config = read_config(folder)
    nested = config.get("text_config")
    found = {**(nested if isinstance(nested, dict) else {}), **config}
    positions = found.get("max_position_embeddings", found.get("n_positions"))
    sizes = (found.get("vocab_size"), positions)
    rows, tokens = (size if isinstance(size, int) else None for size in sizes)
    return rows, tokens


def _recipe_digest(recipe: TuneRecipe, watched: Mapping[str, Examples], home: Path) -> str:
    """Of what changes the numbers; where the files lie and who watches does not."""
    values = recipe.to_mapping()
    values["data"].pop("chat_template", None)  # what it makes of the rows is in their fingerprint
    if "model" in values["detect"]:
        values["detect"]["model"].pop("path")
    for stage in values["mixture"]:
        if stage.get("detected"):
            file = shares_file(stage["detected"], home)
            stage["detected"] = read_json(file) if file.is_file() else None
    values["watched"] = {name: examples.ids.tolist() for name, examples in watched.items()}
    for key in ("model", "domains", "general", "max_forgetting"):
        values.pop(key, None)
    for key in ("report_to", "log_every", "workers", "keep_checkpoints", "save_every"):
        values["train"].pop(key, None)
    return digest(values)


def _show_data(report: Mapping[str, Any], tell: Tell) -> None:
    """The share of trained tokens of each domain and three samples of it, before training."""
    domains = report["domains"]
    total = sum(entry["trained_tokens"] for entry in domains.values())
    shares = (f"{n} {100 * e['trained_tokens'] / total:.1f} %" for n, e in domains.items())
    tell(f"of all trained tokens: {', '.join(shares)}")
    for name, entry in domains.items():
        for sample in entry["samples"]:
            text = "".join(f"[[{t}]]" if trained else t for t, trained in sample["pieces"])
            tell(f"  {name} ({sample['place']}), trained on what stands in [[ ]]: {_short(text)}")


def _cost_of_looking(run: Run) -> str:
    """How much of the time goes into held-out losses, and what to do where that is much."""
    train = run.train
    held_out = sum(int(domain.heldout.starts[-1]) for domain in run.data.values())
    tokens = sum(int(domain.train.tokens.sum()) for domain in run.data.values())
    rows = sum(len(domain.train) for domain in run.data.values())
    window_rows = train.window_steps * train.accumulate * train.batch_size * parallel.world()
    # A token that is only read costs this share of one that is trained on (docs/performance.md).
    relative = READ_OF_TRAINED[train.method]
    share = relative * held_out / (relative * held_out + window_rows * tokens / rows)
    told = f"held-out losses read {held_out:,} tokens a window, about {share:.0%} of the time"
    if share > MUCH:
        told += "; longer windows (train.window_steps) or fewer data.heldout_rows cost less"
    return told


def _short(text: str, limit: int = 300) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= limit else f"{plain[: limit // 2]} ... {plain[-limit // 2 :]}"


def _model(run: Run, *, check: bool = False) -> Any:
    gc.collect()  # a trainer that is done and its model point at each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    model = load_tunable(run.source, run.train)
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


# ---- the end -------------------------------------------------------------------------------------


def _finish(
    run: Run,
    model: Any,
    steering: Mixture,
    stages: tuple[Stage, ...],
    finished: Finished,
    notes: Mapping[str, Any],
    *,
    weights: dict[str, torch.Tensor] | None,
) -> dict[str, Any]:
    """Writes model, lines, ledger, page and manifest; gives the manifest."""
    from lamina.report.page import write_report

    out, recipe = run.out, run.recipe
    lines = steering.history
    write_lines(out / "domains.jsonl", lines)
    told = ledger(
        _stage_ends(run, steering, stages),
        steering.losses,
        unit=steering.unit,
        general_path=_general_name(recipe) if run.watched else None,
        max_forgetting=recipe.max_forgetting,
    )
    write_json(out / "ledger.json", told)
    status = DONE if finished.stopped is None else FORGOT
    card = model_card(recipe, run.source, lines, told, stopped=finished.stopped)
    _write_model(run, model, card, weights=weights)
    results = {
        "status": status,
        "stopped": finished.stopped,
        "steps": finished.step,
        "windows": len(lines),
        "trained_parameters": trained_parameters(model),
        "trained_tokens": {n: sum(line["tokens"][n] for line in lines) for n in run.data},
        "start": {n: row[0]["loss"] for n, row in told["losses"].items()},
        "end": {n: row[-1]["loss"] for n, row in told["losses"].items()},
        "weights": lines[-1]["weights"],
        **({"mean_weights": steering.memory["mean"]} if "mean" in steering.memory else {}),
        **notes.get("results", {}),
    }
    warnings = [*notes.get("warnings", []), *steering.told]
    manifest = Manifest(
        kind="tune",
        status=status,
        versions={
            name: version(name)
            for name in ("lamina", "torch", "transformers", "peft", "tokenizers", "numpy")
        },
        recipe=recipe.to_mapping(),
        inputs={
            "model": {"path": recipe.model, "fingerprint": run.identity.model},
            "data": {"fingerprint": run.identity.data},
        },
        outputs=account(out),
        results=results,
        warnings=warnings,
    )
    write_report(out, manifest.model_dump())
    manifest.write(out)
    return manifest.model_dump()


def _stage_ends(run: Run, steering: Mixture, stages: tuple[Stage, ...]) -> list[StageEnd]:
    """The start and every stage that was ended, or was in work when the run stopped."""

    def at(number: int) -> dict[str, Any]:
        general = steering.watched[number] if steering.watched else None
        return {
            "losses": steering.losses[number],
            "general": None if general is None else next(iter(general.by_domain.values())),
        }

    ends = [StageEnd(name="start", **at(0))]
    windows = 0
    for stage in stages:
        begun, windows = windows, min(windows + stage.windows, len(steering.history))
        if windows > begun:
            target = stage.section.parameters.get("target")
            ends.append(
                StageEnd(
                    name=stage.section.title,
                    policy=stage.section.policy,
                    domains=None if target is None else (target,),
                    **at(windows),
                )
            )
    return ends


def _general_name(recipe: TuneRecipe) -> str:
    return (
        "general text that comes with lamina"
        if recipe.general == "default"
        else str(recipe.general)
    )


def _write_model(
    run: Run, model: Any, card: str, *, weights: dict[str, torch.Tensor] | None
) -> None:
    """`model/`: weights, config, tokenizer and card, under another name until it is whole."""
    final = run.out / "model"
    part = run.out / ".model.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    home = run.source.tokenizer_folder
    stored = read_config(run.source.folder)
    name = stored.get("dtype", stored.get("torch_dtype", "float32"))
    dtype = getattr(torch, name) if name in ("bfloat16", "float16", "float32") else torch.float32
    try:
        save_model(model, part, dtype=dtype, weights=weights)
        if home != run.source.folder:
            for file in set(carried_files(run.source.folder)) & set(OF_THE_MODEL):
                shutil.copyfile(run.source.folder / file, part / file)
        for file in carried_files(home):
            (part / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(home / file, part / file)
        if run.train.method == "full":  # as it was: dtype, use_cache and all
            shutil.copyfile(run.source.folder / "config.json", part / "config.json")
        elif not Path(run.source.name).exists():
            _name_base(part / "adapter_config.json", run.source.name)
        if run.recipe.data.chat_template is not None:
            _write_template(run, part)
        (part / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{final} cannot be written: {error.strerror or error}. Free the disk, then run the "
            "same command with --resume."
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def _name_base(file: Path, hub_name: str) -> None:
    """An adapter names a base from the hub as the hub does, not by a place in this disk's cache."""
    name, _, revision = hub_name.partition("@")
    known = {"base_model_name_or_path": name, "revision": revision or None}
    write_json(file, {**read_json(file), **known})


def _write_template(run: Run, folder: Path) -> None:
    """The template that was trained with, in place of the tokenizer's: answers need the same."""
    template = choose_template(run.recipe.data.chat_template, run.tokenizer, home=run.place.home)
    assert template is not None
    (folder / "chat_template.jinja").write_text(template.text, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    if file.is_file():
        config = read_json(file)
        if config.pop("chat_template", None) is not None:
            write_json(file, config)


class _Log:
    """`log.jsonl`: times and memory, which no other file holds, so that those are reproducible."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **entry: Any) -> None:
        if parallel.is_main():
            stamped = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(stamped) + "\n")


def _peak_memory() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
