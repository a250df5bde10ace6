"""`lamina order`: which domain should be trained on first, at the point where a model stands.

    OUT/  recipe.yaml order.json manifest.json (last)

Nothing is trained. Gradients are those of the tuning that the recipe describes (the adapter's, or
all weights'), in float32 and in evaluation mode, so without dropout. Costs, for each repeat and
domain, four gradients of `rows` packed rows. One process; on a GPU if there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import DataError, RecipeError
from lamina.core.manifest import NAME as MANIFEST
from lamina.core.manifest import Manifest, write_json_atomic
from lamina.core.recipe import apply_overrides, load_mapping, validate
from lamina.jobs.watch import Watcher
from lamina.versatune.recipe import TuneRecipe, read_tune_recipe

if TYPE_CHECKING:
    import torch

    from lamina.data.load import DomainData
    from lamina.engine.collate import PackedRow
    from lamina.engine.load import Source
    from lamina.versatune.order import Order

RADIUS = 1e-4
"""Displacement for the curvature, as a share of the length of the trained parameters.

Halving it changed H g_T, on the demo's base and its law and code rows, by

    displacement   1e-2    1e-3   1e-4    1e-5     (rounding takes over below)
    all weights    112 %   14 %   .16 %   .05 %
    an adapter     7 %     .08 %  .08 %
"""
DOUBTFUL = 0.05
"""A curvature that changes by more when the displacement is halved is told to be doubtful."""


def run_order(
    asked: Path | str,
    out: Path,
    *,
    domains: Path | None = None,
    target: str | None = None,
    repeats: int = 8,
    rows: int = 8,
    seed: int = 0,
    radius: float = RADIUS,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Asks the commutators of a recipe's domains and gives the manifest; `results` holds them.

    Args:
        asked: a recipe of `lamina tune`; with `domains`, a model.
        domains: a file of domains, for a model without a recipe.
        target: the domain whose held-out loss counts; None: the mean of all.
        repeats: fresh batches; the spread over them is the error.
        rows: packed rows of each domain in a batch.
        overwrite: delete an order that stands in `out` first.

    Raises:
        RecipeError, DataError, CheckpointError, OutputError: each with all it found.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    watch = watch or Watcher()
    recipe, home = _recipe(asked, domains, overrides)
    _check(recipe, target, repeats=repeats, rows=rows, radius=radius)
    from lamina.engine.load import find_model, load_tokenizer, quiet
    from lamina.engine.tunable import load_tunable
    from lamina.jobs.tune import Place, write_recipe

    source = find_model(_near(recipe.model, home))
    _claim(out, [source.folder, *([source.adapter] if source.adapter else [])], overwrite)
    with quiet():
        tokenizer = load_tokenizer(source)
    watch.stage("reading the data", 0)
    data = _load_data(recipe, tokenizer, source.folder, home, watch)
    warnings = _few_rows(data, repeats=repeats, rows=rows)
    watch.stage("loading the model", 0)
    model = load_tunable(source, recipe.train.model_copy(update={"dtype": "float32"}))
    found = _measure(
        model,
        data,
        _Batches(data, repeats=repeats, rows=rows, seed=seed, pad=_pad(tokenizer)),
        size=recipe.train.batch_size,
        target=target,
        repeats=repeats,
        radius=radius,
        watch=watch,
    )
    if found.curvature_error > DOUBTFUL:
        warnings.append(
            f"the curvature changes by {100 * found.curvature_error:.0f} % when the displacement"
            " is halved: these numbers are doubtful. Try another --radius."
        )
    for line in [*words(found), *warnings]:
        watch.tell(line)
    out.mkdir(parents=True, exist_ok=True)
    write_recipe(recipe, Place(out.absolute(), home, False))
    write_json_atomic(out / "order.json", found.to_json(), sort_keys=False)
    return _write_manifest(recipe, source, data, found, warnings, out)


def words(found: Order) -> list[str]:
    """What was found, a line for each pair and one for the whole."""
    of = "the mean loss of all domains" if found.target is None else f"the loss of {found.target}"
    told = []
    for pair in found.pairs:
        if pair.first is None:
            told.append(f"{pair.i}, {pair.j}: either may come first (z {pair.z:+.1f})")
        else:
            last = pair.j if pair.first == pair.i else pair.i
            told.append(f"{pair.first} before {last}: lower {of} (z {abs(pair.z):.1f})")
    if any(pair.first for pair in found.pairs):
        told.append(f"best order by all pairs: {', '.join(found.sequence)}")
    else:
        told.append("no order is shown to be better than another")
    return told


def _recipe(
    asked: Path | str, domains: Path | None, overrides: Sequence[str]
) -> tuple[TuneRecipe, Path]:
    """The recipe and the folder where its paths begin."""
    if domains is None:
        path = Path(asked)
        if path.is_dir():
            raise RecipeError(
                f"{path} is a folder. Give a recipe of `lamina tune`, or a model with --domains."
            )
        return read_tune_recipe(path, overrides), path.absolute().parent
    values = load_mapping(domains)
    values = values if isinstance(values.get("domains"), Mapping) else {"domains": values}
    here = Path(asked).expanduser()
    model = str(here.absolute()) if here.exists() else str(asked)
    values = apply_overrides({**values, "model": model}, overrides)
    values.pop("detect", None)
    return validate(TuneRecipe, values, str(domains)), domains.absolute().parent


def _check(
    recipe: TuneRecipe, target: str | None, *, repeats: int, rows: int, radius: float
) -> None:
    from lamina.versatune.order import check

    problems = check(tuple(recipe.domains), target, repeats)
    if rows < 1:
        problems.append(f"{rows} rows make no batch; give 1 or more")
    if not 0 < radius < 1:
        problems.append(f"radius {radius:g} must lie between 0 and 1; {RADIUS:g} is a good start")
    if problems:
        raise RecipeError("; ".join(problems) + ".")


def _near(model: str, home: Path) -> str:
    """A model's path as the recipe means it: from the recipe's folder first, then from here."""
    base, plus, adapter = model.partition("+")
    if plus and not (home / model).exists():
        return f"{_near(base, home)}+{_near(adapter, home)}"
    found = home / Path(model).expanduser()
    return str(found) if found.exists() else model


def _claim(out: Path, inputs: list[Path], overwrite: bool) -> None:
    from lamina.weights.place import check_output

    check_output(out, inputs, overwrite=overwrite)
    for name in (MANIFEST, "order.json", "recipe.yaml"):
        (out / name).unlink(missing_ok=True)


def _load_data(
    recipe: TuneRecipe, tokenizer: Any, folder: Path, home: Path, watch: Watcher
) -> dict[str, DomainData]:
    from lamina.data.load import load_domains
    from lamina.engine.run import refuse_few_rows
    from lamina.jobs.tune_run import limits

    vocabulary, positions = limits(folder)
    data = load_domains(
        recipe.domains,
        tokenizer,
        recipe.data,
        home=home,
        num_embeddings=vocabulary,
        num_positions=positions,
        tell=watch.tell,
    )
    refuse_few_rows(data)
    return data


def _few_rows(data: Mapping[str, DomainData], *, repeats: int, rows: int) -> list[str]:
    """What makes repeats less than independent, told; held-out rows that do not suffice, refused.

    Raises:
        DataError: a domain has fewer held-out examples than there are repeats.
    """
    short = [f"{n} has {len(d.heldout)}" for n, d in data.items() if len(d.heldout) < repeats]
    if short:
        raise DataError(
            f"{repeats} repeats need {repeats} held-out examples of each domain: "
            f"{', '.join(short)}. Ask for fewer repeats, or hold out more (data.heldout_share)."
        )
    again = [name for name, domain in data.items() if len(domain.train) < repeats * rows]
    if not again:
        return []
    return [
        f"{', '.join(again)}: fewer than {repeats * rows} training rows, so repeats share rows and"
        " the errors told are too small"
    ]


def _pad(tokenizer: Any) -> int:
    return 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id


@dataclass(frozen=True, slots=True)
class _Batches:
    """The rows of each repeat: a pure function of seed, domain and repeat."""

    data: Mapping[str, DomainData]
    repeats: int
    rows: int
    seed: int
    pad: int

    def training(self, name: str, repeat: int) -> list[PackedRow]:
        from lamina.data.mixture import window_rows
        from lamina.engine.collate import packed_row

        train = self.data[name].train
        plan = window_rows(
            seed=self.seed,
            window=repeat,
            counts={name: self.rows},
            cursors={name: repeat * self.rows},
            sizes={name: len(train)},
        )
        return [packed_row(train.examples, train.members[row]) for _, row in plan]

    def heldout(self, name: str, repeat: int) -> list[PackedRow]:
        """Every held-out example is in one repeat."""
        import numpy as np

        from lamina.data.mixture import window_rows
        from lamina.engine.collate import packed_row

        examples = self.data[name].heldout
        count = {f"{name} held out": len(examples)}
        shuffled = window_rows(seed=self.seed, window=0, counts=count, cursors={}, sizes=count)
        mine = np.array_split(shuffled[:, 1], self.repeats)[repeat]
        return [packed_row(examples, [number]) for number in sorted(mine.tolist())]


def _measure(
    model: Any,
    data: Mapping[str, DomainData],
    batches: _Batches,
    *,
    size: int,
    target: str | None,
    repeats: int,
    radius: float,
    watch: Watcher,
) -> Order:
    """The commutators of a model in memory; `size` packed rows go through it at once."""
    import torch

    from lamina.engine.collate import collate
    from lamina.engine.heads import evaluating
    from lamina.engine.losses import LossHead
    from lamina.versatune.order import Parameters, order

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    head, parameters = LossHead(model), Parameters(model)
    flatten = "flash" in str(model.config._attn_implementation)

    def gradient(rows: list[PackedRow], shift: torch.Tensor | None) -> torch.Tensor:
        """Of the mean loss a token over all rows, a few rows at a time."""
        tokens = sum(int(row.trained.sum()) for row in rows)
        total: torch.Tensor | None = None
        for begin in range(0, len(rows), size):
            few = collate(rows[begin : begin + size], pad_id=batches.pad, flatten=flatten)
            batch = {name: value.to(device) for name, value in few.items()}
            part = parameters.gradient(_mean_loss(head, model, batch, tokens), shift)
            total = part if total is None else total.add_(part)
        assert total is not None, "a batch of no rows"
        return total

    watch.stage("gradients", repeats * len(data))
    with evaluating(model):
        return order(
            lambda name, repeat, *, shift: gradient(batches.training(name, repeat), shift),
            lambda name, repeat: gradient(batches.heldout(name, repeat), None),
            domains=tuple(data),
            radius=radius * (parameters.norm or 1.0),
            target=target,
            repeats=repeats,
            advance=lambda: watch.advance(1),
        )


def _mean_loss(
    head: Any, model: Any, batch: Mapping[str, torch.Tensor], tokens: int
) -> Callable[[], torch.Tensor]:
    return lambda: head(model, batch).loss / tokens


def _write_manifest(
    recipe: TuneRecipe,
    source: Source,
    data: Mapping[str, DomainData],
    found: Order,
    warnings: list[str],
    out: Path,
) -> dict[str, Any]:
    from lamina.jobs.detect import identity_of
    from lamina.jobs.tuned import account

    manifest = Manifest(
        kind="order",
        status="done",
        versions={name: version(name) for name in ("lamina", "torch", "transformers", "numpy")},
        recipe=recipe.to_mapping(),
        inputs={
            "model": {"path": recipe.model, "fingerprint": identity_of(source)},
            **{f"rows of {name}": {"fingerprint": d.fingerprint} for name, d in data.items()},
        },
        outputs=account(out),
        results={"words": words(found), "sequence": list(found.sequence)}
        | {"first": {f"{pair.i}, {pair.j}": pair.first for pair in found.pairs}},
        warnings=warnings,
    )
    manifest.write(out)
    return manifest.model_dump()
