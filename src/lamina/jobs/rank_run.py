"""The work of `lamina rank`, from data to adapter to measurements. Imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lamina.core.errors import CheckpointError, RecipeError
from lamina.core.manifest import read_json
from lamina.data.load import DomainData, load_domains
from lamina.engine import parallel
from lamina.engine.arguments import check_arguments
from lamina.engine.fast import attending_by_example
from lamina.engine.load import Source, find_model, fingerprint, load_network, load_tokenizer, quiet
from lamina.engine.losses import LossHead
from lamina.engine.planned import linears
from lamina.engine.run import Finished, refuse_few_rows, run_windows
from lamina.engine.state import Identity, check_fits, digest, newest_state
from lamina.engine.tunable import load_tunable, save_model
from lamina.ila.gates import Gates, gating
from lamina.ila.measure import Rows, draw
from lamina.ila.recipe import NEEDS_DATA, OF_ADAPTER, RankRecipe
from lamina.ila.stage import UntilStable
from lamina.ila.ways import Found, measured
from lamina.jobs.claimed import LOG, RANKING, take
from lamina.jobs.log import Log, peak_memory
from lamina.jobs.rank import Place, write_recipe
from lamina.jobs.tune import write_json
from lamina.jobs.tune_run import limits, near
from lamina.jobs.watch import Watcher
from lamina.weights.adapter import adapt, open_adapter
from lamina.weights.checkpoint import open_checkpoint

CHECK = "leave_one_out"


@dataclass(slots=True)
class Ranking:
    """What the parts of one ranking share."""

    recipe: RankRecipe
    place: Place
    source: Source
    tokenizer: Any
    data: Mapping[str, DomainData]
    report: Mapping[str, Any]
    identity: Identity
    watch: Watcher
    log: Log
    stage: dict[str, Any] = field(default_factory=dict)
    """How stage 1 ended."""
    passes: dict[str, int] = field(default_factory=dict)
    """Forward/backward batches by way, over all seeds."""
    tokens: int = 0
    """Trained tokens in the batches of one measurement."""
    losses: dict[str, float] = field(default_factory=dict)
    """Without and with the adapter, on the rows of the first measurement."""

    @property
    def out(self) -> Path:
        return self.place.out


def rank(recipe: RankRecipe, place: Place, watch: Watcher) -> dict[str, Any]:
    """See `jobs.rank.run_rank`."""
    from lamina.jobs.rank_end import finish
    from lamina.jobs.rank_files import from_files

    run = _prepare(recipe, place, watch)
    ways = tuple(dict.fromkeys((recipe.way, *recipe.beside)))
    tables: dict[str, list[Found]] = {}
    if set(ways) & {*OF_ADAPTER, "block_influence"}:
        model = _adapted(run)
        tables = _measure_all(run, model, [way for way in ways if way not in ("snr", "cosine")])
        known = linears(model)
    for way in ways:
        if way in ("snr", "cosine"):
            tables[way], known = from_files(run, way)
    manifest: dict[str, Any] = {}
    if parallel.is_main():
        manifest = finish(run, {way: tables[way] for way in ways}, known)
        run.log.write(event="written")
    parallel.barrier()
    return parallel.decided(manifest)


def _prepare(recipe: RankRecipe, place: Place, watch: Watcher) -> Ranking:
    """Finds the model, reads the rows, and makes the folder."""
    ways = {recipe.way, *recipe.beside}
    check_arguments(recipe.train)
    source = find_model(
        near(recipe.model, place.home),
        base=None
        if recipe.base is None or recipe.way == "cosine"
        else near(recipe.base, place.home),
    )
    if source.adapter is not None and ways & set(OF_ADAPTER):
        _check_adapter(source)
    with quiet():
        tokenizer = load_tokenizer(source)
    data: dict[str, DomainData] = {}
    if recipe.domains and ways & {*NEEDS_DATA, *OF_ADAPTER}:
        vocabulary, positions = limits(source.folder)
        watch.stage("reading the data", 0)
        data = load_domains(
            recipe.domains,
            tokenizer,
            recipe.data,
            home=place.home,
            num_embeddings=vocabulary,
            num_positions=positions,
            tell=watch.tell if parallel.is_main() else None,
        )
        refuse_few_rows(data)
    elif ways & set(OF_ADAPTER) and source.adapter is None:
        raise RecipeError(
            f"{source.name} is a model without an adapter, and `{recipe.way}` ranks an adapter's "
            "deltas: it has to be tuned first. Give rows by --data, or a PEFT adapter's folder."
        )
    report = {
        "schema": "lamina.data/1",
        "max_length": recipe.data.max_length,
        "packing": recipe.data.packing,
        "chat_template": recipe.data.chat_template,
        "domains": {name: domain.report for name, domain in data.items()},
    }
    identity = Identity(
        data=digest({name: domain.fingerprint for name, domain in data.items()}),
        recipe=digest(_lasting(recipe)),
        model=fingerprint(source),
        world=parallel.world(),
    )
    run = Ranking(
        recipe, place, source, tokenizer, data, report, identity, watch, Log(place.out / LOG)
    )
    _open_folder(run)
    return run


def _check_adapter(source: Source) -> None:
    """From the headers alone: rank, factors, shapes, kinds, and whether it fits its base."""
    assert source.adapter is not None
    adapter = open_adapter(source.adapter)
    adapt(open_checkpoint(source.folder), adapter)
    if not adapter.modules:
        raise CheckpointError(
            f"{source.adapter} holds whole tensors and no LoRA factor: there is no delta to rank."
        )


def _lasting(recipe: RankRecipe) -> dict[str, Any]:
    """What changes the numbers of stage 1; ways and seeds may be added to a run that goes on."""
    values = recipe.model_dump(mode="json")
    train = values["train"]
    for key in ("report_to", "log_every", "workers", "keep_checkpoints", "save_every"):
        train.pop(key, None)
    return {"train": train, "stable": values["stable"]}


def _open_folder(run: Ranking) -> None:
    """Makes the folder or goes on in it.

    Raises:
        RecipeError: the checkpoint to go on from belongs to another run; nothing is written then.
    """
    place = run.place
    newest = newest_state(place.out / "checkpoints") if place.resume else None
    if newest is not None:
        check_fits(newest, run.identity, frozenset())
    parallel.barrier()
    if parallel.is_main():
        going_on = place.resume and (place.out / LOG).is_file()
        take(place.out, keep=going_on, kind=RANKING)
        run.log.write(event="resumed" if going_on else RANKING.event)
        write_recipe(run.recipe, place)
        if run.data:
            write_json(place.out / "data.json", run.report)
    parallel.barrier()


# ---- the adapter --------------------------------------------------------------------------------


def _adapted(run: Ranking) -> Any:
    """The model with the adapter that is ranked: given, or tuned until the loss is stable."""
    if run.source.adapter is not None:
        model = _given(run.source, run.recipe)
        run.stage = {"steps": 0, "stopped": None, "stable_at": None}
        return model.to("cuda") if torch.cuda.is_available() else model
    if run.recipe.way == "block_influence" and not set(run.recipe.beside) & set(OF_ADAPTER):
        network = load_network(run.source, getattr(torch, run.recipe.train.dtype))
        network.config.use_cache = False
        return network.to("cuda") if torch.cuda.is_available() else network
    return _stage_one(run)


def _given(source: Source, recipe: RankRecipe) -> Any:
    """A PEFT model with the user's adapter as it is, its factors in float32.

    Raises:
        CheckpointError: PEFT cannot put it on its base.
    """
    from peft import PeftModel

    from lamina.engine.load import first_line

    assert source.adapter is not None
    bare = Source(source.name, source.folder, None)
    with quiet():
        network = load_network(bare, getattr(torch, recipe.train.dtype))
        network.config.use_cache = False
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


def _stage_one(run: Ranking) -> Any:
    """LoRA on all linear modules of a fresh model, tuned until stable; kept in OUT/adapter."""
    train, stable = run.recipe.train, run.recipe.stable
    model = load_tunable(run.source, train)
    if not linears(model).by_id:
        raise CheckpointError(f"{run.source.name} has no linear module inside its blocks to rank.")
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


def write_adapter(run: Ranking, model: Any) -> None:
    """OUT/adapter, under another name until it is whole."""
    import shutil

    final, part = run.out / "adapter", run.out / ".adapter.part"
    shutil.rmtree(part, ignore_errors=True)
    save_model(model, part, dtype=None)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


# ---- measuring ----------------------------------------------------------------------------------


def _measure_all(run: Ranking, model: Any, ways: list[str]) -> dict[str, list[Found]]:
    """Every way on the rows of every seed."""
    if run.source.adapter is None and parallel.is_main() and run.stage:
        write_adapter(run, model)
    tables: dict[str, list[Found]] = {way: [] for way in ways}
    with _Rows(run, model) as rows_of:
        for way in ways:
            for seed in range(run.recipe.seeds if way != "delta_norm" else 1):
                tables[way].append(_once(run, way, seed, rows_of))
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
        if run.data and self.gates is not None:
            rows = self(0)
            run.losses["loss_with"] = rows.loss()
            self.gates.set(0.0)
            run.losses["loss_without"] = rows.loss()
            self.gates.set(1.0)
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
            run.tokens = sum(int(batch["targets"].numel()) for batch in batches)
            self.drawn[seed] = Rows(self.model, self.head, batches, advance=run.watch.advance)
        return self.drawn[seed]


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
    key = digest([run.identity.data, run.identity.model, run.recipe.gates.model_dump(mode="json")])
    if run.place.resume and file.is_file():
        kept = read_json(file)
        if kept.get("key") == key:
            run.passes[way] = run.passes.get(way, 0) + kept["passes"]
            return Found(kept["values"], kept["columns"], kept["notes"])
    rows = rows_of(seed)
    rows.passes = 0
    run.watch.stage(f"{way.replace('_', ' ')}, rows {seed + 1}", 0)
    found = measured(way, rows, rows_of.gates, run.recipe.gates, seed=seed)  # type: ignore[arg-type]
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
