"""What a tune run is made of before it trains: model, rows, and what is said of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.manifest import read_json
from lamina.core.plan import LayerPlan
from lamina.data.load import DomainData, load_domains, refuse_longer
from lamina.data.recipe import DataSection, DomainSpec
from lamina.engine import parallel
from lamina.engine.load import Source, find_model, fingerprint, load_tokenizer, quiet
from lamina.engine.recipe import TrainSection
from lamina.engine.run import refuse_few_rows
from lamina.engine.state import Identity, digest
from lamina.jobs.layerwise import plan_section, ranked
from lamina.jobs.plan import beside, scores_at, settle_plan
from lamina.jobs.tune import Place
from lamina.jobs.tuned import shares_file, watched_text
from lamina.jobs.watch import Watcher
from lamina.versatune.recipe import TuneRecipe
from lamina.weights.adapter import open_adapter
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
    plan: LayerPlan | None
    """By module, as it is followed."""
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

    @property
    def start(self) -> Path | None:
        """The adapter that planned modules begin with."""
        asked = None if self.recipe.plan is None else self.recipe.plan.start
        return None if asked is None else beside(asked, self.place.home)


def prepare(
    recipe: TuneRecipe, place: Place, allowed: frozenset[str], watch: Watcher, tell: Tell
) -> Run:
    """Finds the model, reads and encodes the data, and shows what will be trained on."""
    source = find_model(near(recipe.model, place.home))
    with quiet():
        tokenizer = load_tokenizer(source)
    fingerprinted = fingerprint(source)
    plan = _settled(recipe, source, fingerprinted, place.home)
    if plan is not None:
        tell(_plan_words(plan))
    watch.stage("reading the data", 0)
    data = load_rows(recipe.domains, recipe.data, tokenizer, source, home=place.home, tell=tell)
    _, positions = limits(source.folder)
    watched = watched_text(recipe, place.home, tokenizer)
    for examples in watched.values():
        refuse_longer(examples, positions)
    report = data_report(recipe.data, data)
    _show_data(report, tell)
    identity = Identity(
        data=digest({name: domain.fingerprint for name, domain in data.items()}),
        recipe=_recipe_digest(recipe, watched, plan, place.home),
        model=fingerprinted,
        world=parallel.world(),
    )
    return Run(
        recipe, place, source, tokenizer, data, report, watched, plan, identity, allowed, watch,
        tell,
    )  # fmt: skip


def _settled(
    recipe: TuneRecipe, source: Source, fingerprinted: str, home: Path
) -> LayerPlan | None:
    """The plan that a recipe asks for by `plan:` or by PRILoRA's ranks, made to fit the model."""
    section = plan_section(recipe.layerwise, recipe.plan)
    if section is None:
        return None
    train = recipe.train
    plan = settle_plan(
        section,
        model_folder=source.folder,
        model_name=recipe.model,
        fingerprint=fingerprinted,
        home=home,
        rank=train.rank if train.method == "lora" else None,
    )
    targets = train.targets if recipe.plan is None else None
    return ranked(
        recipe.layerwise, plan, model_folder=source.folder, rank=train.rank, targets=targets
    )


def _plan_words(plan: LayerPlan) -> str:
    beside = f" and {len(plan.full)} whole" if plan.full else ""
    price = plan.price
    return (
        f"the plan ({plan.rule}) tunes {len(plan.chosen)} of {len(plan.coefficients)} linear "
        f"modules{beside}; the lowest stands in block {price['lowest_block']:.0f} of "
        f"{price['num_blocks']:.0f}: a step costs {price['step']:.2f} forward passes, of all "
        f"modules {price['step_all']:.2f}"
    )


def load_rows(
    domains: Mapping[str, DomainSpec],
    section: DataSection,
    tokenizer: Any,
    source: Source,
    *,
    home: Path,
    tell: Tell | None,
) -> dict[str, DomainData]:
    """The rows of a recipe's domains, as a model's config.json says that it can read them."""
    vocabulary, positions = limits(source.folder)
    data = load_domains(
        domains,
        tokenizer,
        section,
        home=home,
        num_embeddings=vocabulary,
        num_positions=positions,
        tell=tell,
    )
    refuse_few_rows(data)
    return data


def data_report(section: DataSection, data: Mapping[str, DomainData]) -> dict[str, Any]:
    """What `data.json` holds."""
    return {
        "schema": "lamina.data/1",
        "max_length": section.max_length,
        "packing": section.packing,
        "chat_template": section.chat_template,
        "domains": {name: domain.report for name, domain in data.items()},
    }


def near(model: str, home: Path) -> str:
    """A model's path as the recipe means it: from the recipe's folder first, then from here."""
    base, plus, adapter = model.partition("+")
    if plus and not (home / model).exists():
        return f"{near(base, home)}+{near(adapter, home)}"
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


def _recipe_digest(
    recipe: TuneRecipe, watched: Mapping[str, Examples], plan: LayerPlan | None, home: Path
) -> str:
    """Of what changes the numbers; where the files lie and who watches does not."""
    values = recipe.to_mapping()
    values["data"].pop("chat_template", None)  # what it makes of the rows is in their fingerprint
    if "model" in values["detect"]:
        values["detect"]["model"].pop("path")
    for stage in values["mixture"]:
        if stage.get("detected"):
            file = shares_file(stage["detected"], home)
            stage["detected"] = read_json(file) if file.is_file() else None
    if values.get("layerwise", {}).get("scores"):
        file = scores_at(beside(values["layerwise"]["scores"], home))
        values["layerwise"]["scores"] = read_json(file) if file.is_file() else None
    if plan is not None:
        start = None if recipe.plan is None else recipe.plan.start
        values["plan"] = {
            **plan.model_dump(mode="json", include={"coefficients", "full", "ranks"}),
            "start": None if start is None else open_adapter(beside(start, home)).fingerprint,
            "cache_prefix": recipe.plan is not None and recipe.plan.cache_prefix,
        }
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


def cost_of_looking(run: Run) -> str:
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
