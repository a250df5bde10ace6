"""The work of `lamina rank`, from data to adapter to measurements. Imports torch."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

from lamina.core.errors import CheckpointError, RecipeError
from lamina.core.manifest import read_json
from lamina.core.modules import Linears, unit_of
from lamina.core.plan import LayerPlan
from lamina.engine import parallel
from lamina.engine.fast import attending_by_example
from lamina.engine.load import Source, first_line, load_network, quiet
from lamina.engine.losses import LossHead
from lamina.engine.planned import linears
from lamina.engine.recipe import TrainSection
from lamina.engine.run import Finished, run_windows
from lamina.engine.state import digest
from lamina.engine.tunable import load_tunable, save_model
from lamina.ila.gates import Gates, computed_again, gating
from lamina.ila.measure import Rows, draw
from lamina.ila.recipe import OF_ADAPTER, RankRecipe
from lamina.ila.stage import UntilStable
from lamina.ila.ways import Found, measured, num_advances
from lamina.jobs.log import peak_memory
from lamina.jobs.rank import Place
from lamina.jobs.rank_prepare import Ranking, prepare
from lamina.jobs.tune import write_json
from lamina.jobs.tune_end import name_base
from lamina.jobs.watch import Watcher
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.linears import linears_of


def rank(recipe: RankRecipe, place: Place, watch: Watcher) -> dict[str, Any]:
    """See `jobs.rank.run_rank`."""
    from lamina.jobs.rank_end import finish
    from lamina.jobs.rank_files import from_files

    run = prepare(recipe, place, watch)
    ways = tuple(dict.fromkeys((recipe.way, *recipe.beside)))
    tables: dict[str, list[Found]] = {}
    if recipe.ways & {*OF_ADAPTER, "block_influence"}:
        model = _adapted(run)
        with _ended_by_term():
            tables = _measure_all(run, model, [w for w in ways if w not in ("snr", "cosine")])
        known = linears(model)
    else:
        known = linears_of(open_checkpoint(run.source.folder))
    for way in ways:
        if way in ("snr", "cosine"):
            tables[way] = from_files(run, way)
    manifest: dict[str, Any] = {}
    if parallel.is_main():
        manifest = finish(run, {way: tables[way] for way in ways}, known)
        run.log.write(event="written")
    parallel.barrier()
    return parallel.decided(manifest)


@contextlib.contextmanager
def _ended_by_term() -> Iterator[None]:
    """SIGTERM ends the measuring as Ctrl-C does: at once, with what was measured on the disk."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(int(number))

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- the adapter --------------------------------------------------------------------------------


def _adapted(run: Ranking) -> Any:
    """The model with the adapter that is ranked: given, or tuned until the loss is stable."""
    run.watch.stage("loading the model", 0)
    if run.tunes:
        return _stage_one(run)
    model: Any
    if run.source.adapter is not None:
        model = _given(run.source, run.recipe)
    else:
        model = _network(run.source, run.recipe.train)
    run.stage = {"steps": 0, "stopped": None, "stable_at": None}
    return model.to("cuda") if torch.cuda.is_available() else model


def _given(source: Source, recipe: RankRecipe) -> Any:
    """A PEFT model with the user's adapter as it is, its factors in float32.

    Raises:
        CheckpointError: PEFT cannot put it on its base.
    """
    from peft import PeftModel

    assert source.adapter is not None
    network = _network(Source(source.name, source.folder, None), recipe.train)
    with quiet():
        try:
            model = PeftModel.from_pretrained(network, str(source.adapter), local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"The adapter {source.adapter} does not fit its base {source.folder}: "
                f"{first_line(error)} Say the right base with --base."
            ) from error
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    return model


def _network(source: Source, train: TrainSection) -> Any:
    """The model in the dtype and with the attention that the recipe names.

    Raises:
        RecipeError: an attention that does not run here.
    """
    attention = None if train.attention == "auto" else train.attention
    with quiet():
        try:
            network = load_network(source, getattr(torch, train.dtype), attention=attention)
        except CheckpointError as error:
            if attention is not None and "att" in str(error).lower():
                raise RecipeError(f"train.attention is `{attention}`: {error}") from error
            raise
    network.config.use_cache = False
    return network


def _stage_one(run: Ranking) -> Any:
    """LoRA on all linear modules of a fresh model, tuned until stable; kept in OUT/adapter."""
    train, stable = run.recipe.train, run.recipe.stable
    known = linears_of(open_checkpoint(run.source.folder))
    # PEFT's own `all-linear` takes routers and fused experts, too, whose deltas have no gate.
    model = load_tunable(run.source, train, _all(known) if train.targets == "all-linear" else None)
    sizes = {name: len(domain.train) for name, domain in run.data.items()}
    steering = UntilStable(
        weights={name: size / sum(sizes.values()) for name, size in sizes.items()},
        change=stable.change,
        looks=stable.looks,
        after=round(stable.after * train.windows),
    )
    run.watch.stage("stage 1: LoRA on all linear modules", train.steps)
    pad = run.tokenizer.pad_token_id
    finished: Finished = run_windows(
        model,
        run.data,
        train,
        steering=steering,
        folder=run.out / "checkpoints",
        identity=run.identity,
        pad_id=0 if pad is None else pad,
        resume=run.place.resume,
        tell=run.watch.tell,
        advance=run.watch.advance,
    )
    if finished.interrupted:
        raise KeyboardInterrupt(finished.interrupted)
    run.stage = {
        "steps": finished.step,
        "stopped": finished.stopped,
        "stable_at": steering.stable_since,
        "losses": list(steering.seen),
    }
    run.log.write(event="stage 1", peak_memory_mb=peak_memory(), steps=finished.step)
    return model


def _all(known: Linears) -> LayerPlan:
    return LayerPlan(
        granularity="module",
        coefficients=dict.fromkeys(known.by_id, 1.0),
        others=0.0,
        rule="all",
        from_scores="",
    )


def write_adapter(run: Ranking, model: Any) -> None:
    """OUT/adapter, under another name until it is whole."""
    final, part = run.out / "adapter", run.out / ".adapter.part"
    shutil.rmtree(part, ignore_errors=True)
    save_model(model, part, dtype=None)
    name_base(run.source, part)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


# ---- measuring ----------------------------------------------------------------------------------


def _measure_all(run: Ranking, model: Any, ways: list[str]) -> dict[str, list[Found]]:
    """Every way on the rows of every seed."""
    if run.tunes and parallel.is_main():
        write_adapter(run, model)
    tables: dict[str, list[Found]] = {way: [] for way in ways}
    with _Rows(run, model) as rows_of:
        for way in ways:
            for seed in range(run.recipe.seeds if way != "delta_norm" else 1):
                tables[way].append(_once(run, way, seed, rows_of))
        if run.data:
            run.tokens = sum(rows_of.tokens(seed) for seed in range(run.recipe.seeds))
    return tables


class _Rows:
    """The model with gates, and batches for a seed: drawn once, used by every way."""

    def __init__(self, run: Ranking, model: Any) -> None:
        self.run, self.model = run, model
        self.stack = contextlib.ExitStack()
        self.drawn: dict[int, Rows] = {}

    def __enter__(self) -> _Rows:
        run, model = self.run, self.model
        model.eval()
        self.head = LossHead(model)
        self.flatten = self.stack.enter_context(attending_by_example(model))
        self.gates = self.stack.enter_context(_gates(model))
        if run.recipe.train.gradient_checkpointing:
            self.stack.enter_context(computed_again(model))
        if run.data and self.gates is not None:
            rows = self(0)
            run.watch.stage("losses with and without the adapter", 2 * rows.share)
            run.losses["loss_with"] = rows.loss()
            self.gates.set(0.0)
            run.losses["loss_without"] = rows.loss()
            self.gates.set(1.0)
            run.passes["with and without the adapter, forward"] = rows.passes
        return self

    def __exit__(self, *raised: Any) -> None:
        self.stack.close()

    def __call__(self, seed: int) -> Rows:
        run, gates = self.run, self.run.recipe.gates
        if seed not in self.drawn:
            pad = run.tokenizer.pad_token_id
            batches = draw(
                run.data,
                num_batches=gates.batches,
                num_rows=gates.rows,
                seed=seed,
                pad_id=0 if pad is None else pad,
                flatten=self.flatten or "flash" in str(self.model.config._attn_implementation),
                device=next(self.model.parameters()).device,
            ) if run.data else []  # fmt: skip
            self.drawn[seed] = Rows(self.model, self.head, batches, advance=run.watch.advance)
        return self.drawn[seed]

    def tokens(self, seed: int) -> int:
        """Trained tokens in the batches of a seed."""
        return sum(int(batch["targets"].numel()) for batch in self(seed).batches)

    def advances(self, way: str, seed: int) -> int:
        """How often one measurement of a way tells that it is further."""
        gates, section = self.gates, self.run.recipe.gates
        ids = () if gates is None else gates.ids
        players = {unit_of(gates.linears.by_id[one], "sublayer") for one in ids} if gates else ()
        return num_advances(way, self(seed), len(ids), section, len(players))


@contextlib.contextmanager
def _gates(model: Any) -> Iterator[Gates | None]:
    from lamina.engine.heads import is_peft

    if not is_peft(model):
        yield None
        return
    with gating(model) as gates:
        yield gates


def _once(run: Ranking, way: str, seed: int, rows_of: _Rows) -> Found:
    """One way with one seed's rows; read from the disk where an earlier run did it."""
    file = run.out / "measured" / f"{way}-{seed}.json"
    prints = [run.identity.data, run.identity.model, run.identity.recipe]
    key = digest([*prints, run.recipe.gates.model_dump(mode="json")])
    if run.place.resume and file.is_file():
        kept = read_json(file)
        if kept.get("key") == key:
            run.passes[way] = run.passes.get(way, 0) + kept["passes"]
            return Found(kept["values"], kept["columns"], kept["notes"])
    rows = rows_of(seed)
    rows.passes = 0
    of = f", seed {seed + 1} of {run.recipe.seeds}" if run.recipe.seeds > 1 else ""
    run.watch.stage(f"{way.replace('_', ' ')}{of}", rows_of.advances(way, seed))
    found = measured(way, rows, rows_of.gates, run.recipe.gates, seed=seed)
    run.passes[way] = run.passes.get(way, 0) + rows.passes
    if parallel.is_main():
        file.parent.mkdir(exist_ok=True)
        write_json(
            file,
            {
                "key": key,
                "values": found.values,
                "columns": found.columns,
                "notes": found.notes,
                "passes": rows.passes,
            },
        )
    return found
