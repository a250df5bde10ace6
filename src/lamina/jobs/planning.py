"""`lamina plan`: a rule on scores, its price, and what a frozen prefix would cost in score.

Reads the headers of the model that was ranked; where that is on no disk, the sizes that the scores
carry (`columns`: weights, parameters) do for everything but the output head's part of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import CheckpointError, LayerError, RecipeError
from lamina.core.plan import LayerPlan
from lamina.core.recipe import apply_overrides
from lamina.core.rules import block_of, check_rule, choose
from lamina.core.scores import LayerScores
from lamina.engine.plan_recipe import PlanSection
from lamina.ila.price import Counted, Offer, priced, trade_off
from lamina.jobs.plan import by_linear, scores_at, settle_plan, whole_model
from lamina.jobs.plan_file import check_plan_place, write_plan
from lamina.jobs.scores_file import read_scores
from lamina.weights.linears import head_weights, linears_of
from lamina.weights.locate import HUB_NAME, locate

RANK = 16
BY_HIGH_SCORE = ("top", "budget", "threshold", "per_type", "prefix_friendly")
"""Rules for which a high score is reason to tune; the others have no score to keep part of."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and what is told about it."""

    plan: LayerPlan
    scores: LayerScores
    """By module."""
    offers: tuple[Offer, ...]
    """Of as many modules as the plan has; empty for rules that do not take high scores."""
    notes: tuple[str, ...]


def run_plan(
    file: Path,
    *,
    rule: str,
    overrides: Sequence[str] = (),
    expert: str | None = None,
    model: str | None = None,
    rank: int | None = None,
    unfreeze: tuple[str, ...] = (),
    out: Path | None = None,
) -> Planned:
    """A plan from a file of scores, or from the folder that holds it; written where `out` says.

    Args:
        overrides: the rule's parameters, `share=0.3`.
        model: that will be tuned; default: the one that was ranked.
        rank: of the adapters; default 16, or the ranked adapter's where no model is at hand.

    Raises:
        RecipeError: a rule that cannot work, or something that only the model could tell.
        DataError, LayerError: scores that do not fit.
        OutputError: `out` is no plan of ours, or cannot be written.
    """
    parameters = apply_overrides({}, overrides)
    check_rule(rule, parameters)
    if rank is not None and rank < 1:
        raise RecipeError(f"--rank is the rank of the adapters, at least 1, not {rank}")
    if out is not None:
        check_plan_place(out)
    path = scores_at(file)
    scores = read_scores(path, expert)
    folder = _model_folder(model, scores.model, path.parent)
    if folder is None:
        if rank is not None or unfreeze:
            raise RecipeError(_needed(scores, "--rank and --unfreeze need"))
        planned = _without_model(scores, rule, parameters, str(path))
    else:
        section = PlanSection(
            scores=str(path.absolute()),
            expert=expert,
            rule=rule,
            parameters=parameters,
            unfreeze=unfreeze,
        )
        planned = _with_model(section, scores, folder, model or scores.model, rank or RANK)
    named = planned.plan.model_copy(update={"from_scores": str(path)})
    if out is not None:
        write_plan(out, named)
    return Planned(named, planned.scores, planned.offers, planned.notes)


def _with_model(
    section: PlanSection, scores: LayerScores, folder: Path, name: str, rank: int
) -> Planned:
    checkpoint = whole_model(folder)
    linears = linears_of(checkpoint)
    counted = Counted.of(linears, rank=rank, head=head_weights(checkpoint))
    plan = settle_plan(
        section,
        model_folder=folder,
        model_name=name,
        fingerprint=checkpoint.fingerprint,
        home=folder,
        rank=rank,
    )
    assert section.scores is not None, "a plan of the command line has scores"
    mine = by_linear(scores, checkpoint, linears, section.scores)
    unranked = len(linears.by_id) - len(mine.values)
    notes = (
        (f"{unranked} of {len(linears.by_id)} modules have no score and stay frozen",)
        if unranked
        else ()
    )
    return Planned(plan, mine, _offers(plan, mine, counted), notes)


def _without_model(
    scores: LayerScores, rule: str, parameters: Mapping[str, Any], path: str
) -> Planned:
    """From the sizes that scores carry.

    Raises:
        RecipeError: they do not carry them for each module.
    """
    weights = {one: int(size) for one, size in scores.columns.get("weights", {}).items()}
    adapters = {one: int(size) for one, size in scores.columns.get("parameters", {}).items()}
    whole = scores.values.keys() <= weights.keys() & adapters.keys()
    if scores.granularity != "module" or not whole:
        raise RecipeError(f"{path}: {_needed(scores, 'a plan by module needs')}")
    blocks = 1 + max(map(block_of, scores.values))
    ordered = {one: weights[one] for one in scores.values}
    counted = Counted(blocks, ordered, {one: adapters[one] for one in ordered})
    try:
        plan = choose(rule, scores, sizes=counted.trained, parameters=parameters)
    except LayerError as exc:
        raise LayerError(f"{path}: {exc}") from exc
    plan = plan.model_copy(update={"price": priced(plan, counted, {})})
    note = (
        f"{scores.model or 'the ranked model'} is not at hand: sizes are those of the scores, the "
        "output head is not counted; --model counts it"
    )
    return Planned(plan, scores, _offers(plan, scores, counted), (note,))


def _offers(plan: LayerPlan, scores: LayerScores, counted: Counted) -> tuple[Offer, ...]:
    """What a frozen prefix would cost, for a set of as many modules as the plan has."""
    if plan.rule not in BY_HIGH_SCORE:
        return ()
    values = {one: scores.values[one] for one in counted.weights if one in scores.values}
    num = len(plan.chosen)
    return trade_off(values, counted, num / len(values)) if 0 < num < len(values) else ()


def _model_folder(asked: str | None, ranked: str, home: Path) -> Path | None:
    """The folder of the model, or None where the ranked one is not here.

    Raises:
        CheckpointError: the model that was asked for is not here.
    """
    if asked is not None:
        return locate(asked)
    candidates = [Path(ranked).expanduser(), home / ranked] if ranked else []
    found = next((path for path in candidates if path.is_dir()), None)
    if found is not None or not HUB_NAME.fullmatch(ranked):
        return found
    try:
        return locate(ranked)
    except CheckpointError:
        return None


def _needed(scores: LayerScores, what: str) -> str:
    return (
        f"{what} the sizes of the model's modules, and {scores.model or 'the ranked model'} is not "
        f"here (scores by {scores.granularity}): give --model FOLDER."
    )
