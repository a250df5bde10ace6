"""The rule `scores` of a merge: layers ranked by a file, not by a pass over the models.

Read while a recipe is prepared, before a data byte: what does not fit is told by `lamina check`,
too, for all models in one message.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lamina.core.errors import DataError, LaminaError, LayerError, RecipeError
from lamina.core.layers import Grain
from lamina.core.modules import Linears, check_units, unit_of
from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores
from lamina.jobs.scores_file import read_scores
from lamina.lata.choose import scores as by_importance
from lamina.merge.inputs import Inputs
from lamina.merge.nouns import MergeRecipe, ModelEntry
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.linears import linears_of
from lamina.weights.locate import expanded


@dataclass(frozen=True)
class Given:
    """One expert's scores, spread to the units of its plan, and the plan."""

    scores: LayerScores
    plan: LayerPlan
    grain: Grain
    """What was ranked, before it was spread."""


def given_scores(recipe: MergeRecipe, inputs: Inputs, home: Path) -> dict[str, Given]:
    """The ranking of every expert, from the files that the recipe names; `home` is its folder.

    Raises:
        DataError: files that are not there or hold no scores.
        LayerError: scores that are not finite, of another architecture, or of other models. All
            problems of one kind in one message.
    """
    if recipe.rule != "scores":
        return {}
    linears = linears_of(inputs.target)
    found: dict[str, Given] = {}
    problems: list[LaminaError] = []
    for entry in recipe.models:
        try:
            found[entry.name] = _of_model(recipe, entry, inputs, linears, home)
        except (DataError, LayerError) as exc:
            problems.append(exc)
    for kind in (DataError, LayerError):
        told = dict.fromkeys(str(exc) for exc in problems if isinstance(exc, kind))
        if told:
            raise kind("\n".join(told))
    return found


def refuse_sublayers(given: Mapping[str, Given]) -> None:
    """That coefficients can be dealt: each layer that was ranked has one of its own.

    Raises:
        RecipeError: sub-layers were ranked, whose modules share a coefficient.
    """
    shared = [name for name, one in given.items() if one.grain == "sublayer"]
    if shared:
        raise RecipeError(
            f"--controls deals the coefficients to other layers; the scores of {', '.join(shared)} "
            "are of sub-layers, whose modules share one. Give scores of modules or blocks."
        )


def _of_model(
    recipe: MergeRecipe, entry: ModelEntry, inputs: Inputs, linears: Linears, home: Path
) -> Given:
    assert entry.scores is not None, "checked by the recipe"
    assert recipe.shape is not None
    written = expanded(entry.scores)
    path = home / written if (home / written).exists() else written
    found = read_scores(path, entry.expert, name=entry.name)
    ranked = _ranked(path, found, inputs, linears)
    if recipe.check_base:
        _check_base(path, found, entry.name, inputs)
    numbers = by_importance(found, shape=recipe.shape, share=recipe.share)
    others = recipe.others_coefficient
    share = {} if recipe.share is None else {"share": recipe.share}
    plan = LayerPlan(
        granularity="block" if found.granularity == "block" else "module",
        coefficients={u: others if n is None else numbers[n] for u, n in ranked.items()},
        others=others,
        rule="scores",
        from_scores=entry.scores,
        parameters={"shape": recipe.shape, **share},
    )
    return Given(_spread(found, ranked, path), plan, found.granularity)


def _ranked(
    path: Path, found: LayerScores, inputs: Inputs, linears: Linears
) -> dict[str, str | None]:
    """Every unit of a plan, a block or a module, with the unit of the scores that it belongs to.

    None for what the scores do not speak of: norms, where they are of linear modules.

    Raises:
        LayerError: the scores are of other layers than the model has.
    """
    grain, what = found.granularity, f"{path}: scores ({found.method})"
    units = inputs.layers.units("block" if grain == "block" else "module")
    if grain == "block":
        check_units(found.values, units, what=what)
        return {unit: unit for unit in units}
    if grain == "sublayer":
        check_units(found.values, linears.units("sublayer"), what=what)
        return {u: unit_of(linears.by_id[u], grain) if u in linears.by_id else None for u in units}
    beside = set(units) - linears.by_id.keys()
    linear = {unit: value for unit, value in found.values.items() if unit not in beside}
    check_units(linear, tuple(linears.by_id), what=what)
    return {unit: unit if unit in found.values else None for unit in units}


def _check_base(path: Path, found: LayerScores, name: str, inputs: Inputs) -> None:
    """That the scores were measured on a model of this merge, whatever its part in it.

    Raises:
        LayerError: they were measured on other weights.
    """
    known = set()
    for role in ("reference", "target", name):
        model = inputs.named().get(role)
        if isinstance(model, AdaptedCheckpoint):
            known |= {model.base.fingerprint, model.adapter.fingerprint}
        known |= set() if model is None else {model.fingerprint}
    if known & set(found.inputs.values()):
        return
    raise LayerError(
        f"{path}: these scores were measured on other weights ({found.model}) than `{name}`, the "
        "instruct model and the target. Rank one of those (`lamina rank`), or, where the models "
        "are near enough, set `parameters.check_base: false`."
    )


def _spread(found: LayerScores, ranked: Mapping[str, str | None], path: Path) -> LayerScores:
    """The scores with a value for each unit of the plan that they speak of, and their places."""

    def spread(table: Mapping[str, float]) -> dict[str, float]:
        return {u: table[n] for u, n in ranked.items() if n is not None and n in table}

    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    places = {unit: float(place) for unit, place in found.rank().items()}
    return LayerScores(
        method=found.method,
        unit=found.unit,
        granularity="block" if found.granularity == "block" else "module",
        higher_means=found.higher_means,
        values=spread(found.values),
        columns={"rank": spread(places)},
        spread=None if found.spread is None else spread(found.spread),
        model=found.model,
        inputs={**found.inputs, "scores": digest},
        prefix=found.prefix,
    )
