"""What a ranking is made of before it tunes or measures: model, rows, folder. Imports torch.

Everything that small files and headers show is refused here, before an earlier run is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.core.errors import CheckpointError, RecipeError, did_you_mean
from lamina.core.modules import Linears
from lamina.data.load import DomainData
from lamina.engine import parallel
from lamina.engine.arguments import check_arguments
from lamina.engine.load import Source, find_model, fingerprint, load_tokenizer, quiet
from lamina.engine.state import Identity, check_fits, digest, newest_state
from lamina.ila.recipe import NEEDS_DATA, OF_ADAPTER, RankRecipe
from lamina.jobs.claimed import LOG, RANKING, refuse_inside, take
from lamina.jobs.log import Log
from lamina.jobs.rank import Place, write_recipe
from lamina.jobs.tune import write_json
from lamina.jobs.tune_run import data_report, load_rows, near
from lamina.jobs.watch import Watcher
from lamina.weights.adapter import adapt, open_adapter
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.linears import linears_of


@dataclass(slots=True)
class Ranking:
    """What the parts of one ranking share."""

    recipe: RankRecipe
    place: Place
    source: Source
    tokenizer: Any
    data: Mapping[str, DomainData]
    report: Mapping[str, Any]
    """`data.json`."""
    identity: Identity
    watch: Watcher
    log: Log
    ranks: Mapping[str, int]
    """Module id -> rank of the adapter that was given."""
    stage: dict[str, Any] = field(default_factory=dict)
    """How stage 1 ended."""
    passes: dict[str, int] = field(default_factory=dict)
    """Forward/backward batches by way, over all seeds."""
    tokens: int = 0
    """Trained tokens in the batches of all seeds."""
    losses: dict[str, float] = field(default_factory=dict)
    """Without and with the adapter, on the rows of the first measurement."""

    @property
    def out(self) -> Path:
        return self.place.out

    @property
    def tunes(self) -> bool:
        """Whether stage 1 makes the adapter."""
        return self.source.adapter is None and bool(self.recipe.ways & set(OF_ADAPTER))

    def rank_of(self, unit: str) -> int:
        """The rank of a module's adapter; of one that has none what its neighbours have most."""
        return self.ranks.get(unit, max(self.ranks.values(), default=self.recipe.train.rank))


def prepare(recipe: RankRecipe, place: Place, watch: Watcher) -> Ranking:
    """Finds the model, reads the rows, and makes the folder."""
    check_arguments(recipe.train)
    if parallel.sharding_asked():
        raise RecipeError(
            "accelerate's configuration asks for sharding (FSDP), and gates stand on a model that "
            "is whole in every process. Ask for no sharding (ACCELERATE_USE_FSDP=false)."
        )
    source = _find(recipe, place)
    refuse_inside(place.out, [path for path in (source.folder, source.adapter) if path is not None])
    ranks = _check_model(recipe, source, watch)
    with quiet():
        tokenizer = load_tokenizer(source)
    data = _rows(recipe, place, source, tokenizer, watch)
    report = data_report(recipe.data, data)
    identity = Identity(
        data=digest({name: domain.fingerprint for name, domain in data.items()}),
        recipe=digest(_lasting(recipe)),
        model=fingerprint(source),
        world=parallel.world(),
    )
    log = Log(place.out / LOG)
    run = Ranking(
        recipe, place, source, tokenizer, data, report, identity, watch, log, ranks
    )  # fmt: skip
    _open_folder(run)
    return run


def _find(recipe: RankRecipe, place: Place) -> Source:
    cosine = "cosine" in recipe.ways  # its base is the raw model, not the adapter's
    base = None if recipe.base is None or cosine else near(recipe.base, place.home)
    _refuse_run(recipe, Path(near(recipe.model, place.home)))
    source = find_model(near(recipe.model, place.home), base=base)
    if base is not None and source.adapter is None:
        raise RecipeError(
            f"base is {recipe.base}, but {recipe.model} is a whole model. Leave it out; it is for "
            "an adapter that does not name its base, and for `cosine`."
        )
    if cosine and recipe.instruct is None and source.adapter is None:
        raise RecipeError(
            f"`cosine` needs the instruct model that {recipe.model} was tuned from: give "
            "--instruct. (An adapter's is its base.)"
        )
    if recipe.ways & set(OF_ADAPTER) and source.adapter is None and not recipe.domains:
        needing = ", ".join(f"`{way}`" for way in sorted(recipe.ways & set(OF_ADAPTER)))
        raise RecipeError(
            f"{recipe.model} is a model without an adapter, and {needing} ranks an adapter's "
            "deltas: it has to be tuned first. Give rows by --data, or a PEFT adapter's folder."
        )
    return source


def _refuse_run(recipe: RankRecipe, folder: Path) -> None:
    """A run's folder in place of the model in it."""
    inside = [name for name in ("adapter", "model") if (folder / name).is_dir()]
    if inside and (folder / "manifest.json").is_file() and not (folder / "config.json").is_file():
        raise RecipeError(
            f"{recipe.model} is a run's folder and no model; what it made is "
            f"{recipe.model.rstrip('/')}/{inside[0]}. Give that."
        )


# ---- what headers show --------------------------------------------------------------------------


def _check_model(recipe: RankRecipe, source: Source, watch: Watcher) -> dict[str, int]:
    """That there is something to rank; the ranks of the adapter that was given, by module id."""
    if source.adapter is None:
        if recipe.ways != {"block_influence"}:
            checkpoint = open_checkpoint(source.folder)
            _check_targets(recipe, linears_of(checkpoint))
            if any("experts" in name.split(".") for name in checkpoint.tensors):
                watch.tell(
                    "the experts of this model are no linear modules (transformers keeps those of "
                    "a block in one tensor): they get no adapter and no score"
                )
        return {}
    return _check_adapter(source, watch)


def _check_targets(recipe: RankRecipe, known: Linears) -> None:
    """That the modules to be tuned are there, and inside the blocks."""
    targets = recipe.train.targets
    asked = () if targets == "all-linear" else (targets,) if isinstance(targets, str) else targets
    names = {part: None for one in known.by_id for part in (one.rpartition(".")[2],)}
    wrong = [name for name in asked if name.rpartition(".")[2] not in names]
    if wrong:
        raise RecipeError(
            f"train.targets names {', '.join(f'`{name}`' for name in wrong)}, which no linear "
            f"module inside the blocks of {recipe.model} is called; "
            f"{did_you_mean(wrong[0].rpartition('.')[2], names)} "
            f"(known: {', '.join(sorted(names))})"
        )


def _check_adapter(source: Source, watch: Watcher) -> dict[str, int]:
    """Rank, factors, shapes, kinds, whether it fits its base and has linear modules alone."""
    assert source.adapter is not None
    adapter, base = open_adapter(source.adapter), open_checkpoint(source.folder)
    fitted = adapt(base, adapter)
    if not adapter.modules:
        raise CheckpointError(
            f"{source.adapter} holds whole tensors and no LoRA factor: there is no delta to rank."
        )
    ids = {f"{one.path}.weight": unit for unit, one in linears_of(base).by_id.items()}
    strange = [name.removesuffix(".weight") for name in fitted.factors if name not in ids]
    if strange:
        raise CheckpointError(
            f"{len(strange)} of {len(fitted.factors)} adapted modules of {source.adapter} are no "
            f"linear module of an attention or a feed-forward inside the blocks: "
            f"{', '.join(strange[:6])}. What is ranked are those; tune an adapter without the "
            "others, or give the model and let lamina tune one."
        )
    if adapter.replaced:
        watch.tell(
            f"the adapter holds {len(adapter.replaced)} whole tensors, too "
            f"({', '.join(list(adapter.replaced)[:3])} ...): they stay as they were trained in "
            "every measurement, and have no score"
        )
    return {ids[name]: factors.a.shape[0] for name, factors in fitted.factors.items()}


# ---- rows and folder ----------------------------------------------------------------------------


def _rows(
    recipe: RankRecipe, place: Place, source: Source, tokenizer: Any, watch: Watcher
) -> dict[str, DomainData]:
    """The rows by domain; none where no way reads them."""
    tell = watch.tell if parallel.is_main() else None
    if not recipe.ways & {*NEEDS_DATA, *OF_ADAPTER}:
        if recipe.domains and tell is not None:
            tell(f"`{recipe.way}` reads the weights alone: the rows are not used")
        return {}
    if not recipe.domains:
        return {}
    watch.stage("reading the data", 0)
    return load_rows(recipe.domains, recipe.data, tokenizer, source, home=place.home, tell=tell)


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
        check_fits(newest, run.identity, frozenset(), offered=())
    parallel.barrier()
    if parallel.is_main():
        going_on = place.resume and (place.out / LOG).is_file()
        take(place.out, keep=going_on, kind=RANKING)
        run.log.write(event="resumed" if going_on else RANKING.event)
        write_recipe(run.recipe, place)
        if run.data:
            write_json(place.out / "data.json", run.report)
    parallel.barrier()
