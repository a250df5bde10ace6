"""Which modules a tuning takes: a plan's file, or a rule on scores, made to fit one model.

Headers only: neither torch nor the weights are read. What is asked for is checked against the model
that will be tuned, its names and its fingerprint, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.core.errors import LayerError, RecipeError, did_you_mean
from lamina.core.modules import Linears, check_units, unit_of
from lamina.core.plan import LayerPlan
from lamina.core.rules import choose
from lamina.core.scores import LayerScores
from lamina.engine.plan_recipe import PlanSection
from lamina.ila.price import Counted, priced
from lamina.jobs.plan_file import read_plan
from lamina.jobs.scores_file import read_scores
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.checkpoint import Checkpoint
from lamina.weights.linears import head_weights, linears_of, network_prefix
from lamina.weights.locate import open_model

SCORES = "scores.json"


def settle_plan(
    section: PlanSection,
    *,
    model_folder: Path,
    model_name: str,
    fingerprint: str,
    home: Path,
    rank: int | None,
) -> LayerPlan:
    """The plan by module that a recipe's `plan:` means for one model, with its price.

    Args:
        fingerprint: of the model, `base` or `base+adapter`.
        home: the recipe's folder, where relative paths begin.
        rank: of the adapters; None where planned matrices are tuned whole.

    Raises:
        RecipeError: neither or both of a file and scores, a rule that cannot work, or modules to
            unfreeze that the model has not.
        DataError: a file that is missing or is not what it must be.
        LayerError: scores or a plan of another architecture or base, values missing or not finite,
            or nothing left to tune.
    """
    if problems := section.problems("full" if rank is None else "lora"):
        raise RecipeError("\n".join(problems))
    checkpoint = whole_model(model_folder)
    linears = linears_of(checkpoint)
    counted = Counted.of(linears, rank=rank, head=head_weights(checkpoint))
    if section.file is not None:
        path = beside(section.file, home)
        plan = _fitted(read_plan(path), linears, str(path))
        if section.check_base:
            check_base(plan.inputs, fingerprint, what=f"{path} was made", model=model_name)
    else:
        scores = scores_for(section, checkpoint, linears, home)
        if section.scores is not None and section.check_base:
            what = f"the scores of {section.scores} were measured"
            check_base(scores.inputs, fingerprint, what=what, model=model_name)
        sizes = {one: counted.trained[one] for one in linears.by_id if one in scores.values}
        plan = choose(section.rule, scores, sizes=sizes, parameters=section.parameters)
        every = {one: plan.coefficients.get(one, 0.0) for one in linears.by_id}
        plan = plan.model_copy(update={"coefficients": every, "from_scores": section.scores or ""})
    plan = plan.model_copy(
        update={
            "prefix": network_prefix(checkpoint),
            "model": model_name,
            "inputs": {**plan.inputs, "model": fingerprint},
        }
    )
    plan = _with_whole(plan, section.unfreeze, checkpoint, linears)
    if not plan.chosen and not plan.full:
        raise LayerError(
            f"the plan leaves nothing to tune: none of {len(linears.by_id)} modules is chosen and "
            "none is unfrozen. Choose a larger share, or name modules under `unfreeze`."
        )
    counted = Counted.of(linears, rank=rank, head=head_weights(checkpoint), ranks=plan.ranks)
    sizes = {one: _values(checkpoint, one) for one in plan.full}
    return plan.model_copy(update={"price": priced(plan, counted, sizes)})


def whole_model(folder: Path) -> Checkpoint:
    """The headers of a model; of an adapter's base.

    Raises:
        CheckpointError: files that are not a model.
    """
    model = open_model(str(folder), None)
    return model.base if isinstance(model, AdaptedCheckpoint) else model


def beside(text: str, home: Path) -> Path:
    """A path as a recipe means it: beside the recipe, or from the working folder."""
    path = Path(text).expanduser()
    return home / path if not path.is_absolute() and (home / path).exists() else path


def scores_at(path: Path) -> Path:
    """The file of scores: itself, or that in a run's folder."""
    return path / SCORES if path.is_dir() else path


def scores_for(
    section: PlanSection, checkpoint: Checkpoint, linears: Linears, home: Path
) -> LayerScores:
    """A score for each linear module of a model, as a section says; zeros where none is needed."""
    if section.scores is None:
        return _unscored(linears)
    path = scores_at(beside(section.scores, home))
    return by_linear(read_scores(path, section.expert), checkpoint, linears, str(path))


def by_linear(
    scores: LayerScores, checkpoint: Checkpoint, linears: Linears, path: str
) -> LayerScores:
    """The scores with a value for each linear module that was ranked.

    Those of a merge know norms too, which are left out. A ranked adapter may have no delta on some
    modules; these have no score, and no rule chooses them.

    Raises:
        LayerError: scores of another architecture, or values missing.
    """
    if scores.granularity == "module":
        others = set(checkpoint.layers.units("module")) - linears.by_id.keys()
        kept = {unit: value for unit, value in scores.values.items() if unit not in others}
        scores = scores.model_copy(update={"values": kept})
    try:
        return _ranked(scores, linears).by_module(scores)
    except LayerError as exc:
        raise LayerError(f"{path}: {exc}") from exc


def _ranked(scores: LayerScores, linears: Linears) -> Linears:
    """The modules that a ranking is about.

    All, without those an adapter did not have (the scores name one), and without whole types that
    are in none of the blocks (`q_proj` and `v_proj` alone were tuned). What is missing besides is
    damage, and stays missing.
    """
    grain = scores.granularity
    missing = set(linears.units(grain)) - scores.values.keys()
    if "adapter" not in scores.inputs:
        types = {unit.partition(".")[2] for unit in scores.values}
        missing = {unit for unit in missing if unit.partition(".")[2] not in types}
    kept = {one.id: one for one in linears.by_id.values() if unit_of(one, grain) not in missing}
    return Linears(linears.prefix, linears.num_blocks, kept or linears.by_id)


def check_base(inputs: Mapping[str, str], fingerprint: str, *, what: str, model: str) -> None:
    """That something was made on this very model; what names no fingerprint is believed.

    Raises:
        LayerError: it was made on others only.
    """
    known = {part for value in inputs.values() for part in value.split("+")}
    if known and not known & set(fingerprint.split("+")):
        seen = ", ".join(f"{name} {value[:24]}" for name, value in inputs.items())
        raise LayerError(
            f"{what} on another model: {model} has the fingerprint {fingerprint[:24]}, and none of"
            f" those is it: {seen}. What matters in one model says little about another: rank this"
            " one, or set plan.check_base: false in a recipe if you know better."
        )


def _unscored(linears: Linears) -> LayerScores:
    return LayerScores(
        method="none",
        unit="",
        granularity="module",
        higher_means="nothing",
        values=dict.fromkeys(linears.by_id, 0.0),
        model="",
        inputs={},
    )


def _fitted(plan: LayerPlan, linears: Linears, path: str) -> LayerPlan:
    """A plan from a file, by module and for this architecture.

    Raises:
        LayerError: other units than the model's, or coefficients that are neither 0 nor 1.
    """
    units = linears.units(plan.granularity)
    check_units(plan.coefficients, units, what=f"{path}: coefficients")
    partly = [f"{u}: {c:g}" for u, c in plan.coefficients.items() if c not in (0, 1)]
    if partly:
        raise LayerError(
            f"{path}: {len(partly)} coefficients are neither 0 (frozen) nor 1 (tuned):"
            f" {', '.join(partly[:6])}. Parts of a layer are for merging; make a tuning plan with"
            " `lamina plan`."
        )
    strange = [one for one in plan.ranks if one not in linears.by_id or plan.ranks[one] < 1]
    if strange:
        raise LayerError(
            f"{path}: ranks of modules that the model has not, or below 1: {', '.join(strange[:6])}"
        )
    coefficients = {
        one: plan.coefficients[unit]
        for unit in units
        for one in linears.members(unit, plan.granularity)
    }
    ordered = {one: coefficients[one] for one in linears.by_id}
    return plan.model_copy(update={"granularity": "module", "coefficients": ordered})


def _with_whole(
    plan: LayerPlan, unfreeze: tuple[str, ...], checkpoint: Checkpoint, linears: Linears
) -> LayerPlan:
    """The plan with modules that are trained whole; those get no adapter besides.

    Raises:
        RecipeError: modules that the model has not.
    """
    full = tuple(dict.fromkeys((*plan.full, *unfreeze)))
    known = {layer.id for layer in checkpoint.layers.layers.values()}
    tied = bool(checkpoint.config.get("tie_word_embeddings")) and "lm_head" not in known
    problems = [
        f"`{one}`: "
        + (
            "shares its weights with the input embedding; name that one"
            if one == "lm_head" and tied
            else did_you_mean(one, sorted(known))
        )
        for one in full
        if one not in known
    ]
    if problems:
        raise RecipeError(
            f"unfreeze names {len(problems)} module(s) that {checkpoint.path.name} has not:"
            f" {'; '.join(problems)}"
        )
    update: dict[str, Any] = {"full": full}
    if set(full) & linears.by_id.keys():
        update["coefficients"] = {
            one: 0.0 if one in full else value for one, value in plan.coefficients.items()
        }
    return plan.model_copy(update=update)


def _values(checkpoint: Checkpoint, module: str) -> int:
    """Values of all tensors of one module, a bias included."""
    return sum(
        checkpoint.tensors[name].num_elements
        for name, layer in checkpoint.layers.layers.items()
        if layer.id == module
    )
