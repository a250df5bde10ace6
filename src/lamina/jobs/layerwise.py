"""What a recipe's `layerwise:` needs from files: PRILoRA's ranks as a plan, LISA's scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.core.errors import RecipeError, did_you_mean
from lamina.core.modules import Linears
from lamina.core.plan import LayerPlan
from lamina.engine.layerwise_recipe import LayerwiseSection
from lamina.engine.plan_recipe import PlanSection
from lamina.ila.price import price
from lamina.jobs.plan import beside, by_linear, check_base, scores_at, whole_model
from lamina.jobs.scores_file import read_scores
from lamina.weights.linears import head_weights, linears_of

if TYPE_CHECKING:
    from lamina.engine.layerwise.interface import Layerwise


def plan_section(
    layerwise: LayerwiseSection | None, plan: PlanSection | None
) -> PlanSection | None:
    """The `plan:` that is settled: the recipe's, or for PRILoRA's ranks one of all modules."""
    if plan is None and layerwise is not None and layerwise.way == "prilora":
        return PlanSection(rule="all")
    return plan


def ranked(
    layerwise: LayerwiseSection | None,
    plan: LayerPlan,
    *,
    model_folder: Path,
    rank: int,
    targets: str | Sequence[str] | None,
) -> LayerPlan:
    """The plan with PRILoRA's ranks and what a step then costs; as it is for the other ways.

    Args:
        rank: of the recipe; what a module without a rank of its own would get.
        targets: the recipe's `train.targets` where it has no `plan:`, else None.

    Raises:
        RecipeError: a target that no linear module inside the blocks is called.
    """
    if layerwise is None or layerwise.way != "prilora":
        return plan
    from lamina.engine.layerwise.prilora import with_rising_ranks

    checkpoint = whole_model(model_folder)
    linears = linears_of(checkpoint)
    if targets is not None and targets != "all-linear":
        plan = _targeted(plan, linears, [targets] if isinstance(targets, str) else targets)
    plan = with_rising_ranks(
        linears, first_rank=layerwise.first_rank, last_rank=layerwise.last_rank, plan=plan
    )
    whole = {
        unit: sum(
            checkpoint.tensors[name].num_elements
            for name, layer in checkpoint.layers.layers.items()
            if layer.id == unit
        )
        for unit in plan.full
    }
    cost = price(plan, linears, rank=rank, head=head_weights(checkpoint), whole=whole)
    return plan.model_copy(update={"price": cost})


def _targeted(plan: LayerPlan, linears: Linears, targets: Sequence[str]) -> LayerPlan:
    known = sorted({one.id.partition(".")[2].rpartition(".")[2] for one in linears.by_id.values()})
    missing = [
        target for target in targets if not any(_is_called(unit, target) for unit in linears.by_id)
    ]
    if missing:
        told = "; ".join(f"`{target}`: {did_you_mean(target, known)}" for target in missing)
        raise RecipeError(
            f"train.targets names what no linear module inside the blocks is called: {told}. Ranks "
            "that rise from block to block are for modules of blocks alone."
        )
    chosen = {
        unit: value if any(_is_called(unit, target) for target in targets) else 0.0
        for unit, value in plan.coefficients.items()
    }
    return plan.model_copy(update={"coefficients": chosen})


def _is_called(unit: str, target: str) -> bool:
    """Whether a target of a recipe names a module, as PEFT would read it."""
    return f".{unit}".endswith(f".{target}")


def tuner(
    layerwise: LayerwiseSection | None,
    *,
    model_folder: Path,
    fingerprint: str,
    home: Path,
    seed: int,
) -> Layerwise | None:
    """A fresh tuner of a recipe for one run, or None; LISA's scores are read and checked.

    Raises:
        DataError: scores that are not there or not what they must be.
        LayerError: scores of another architecture, or of another model.
        RecipeError: no block with a score above 0.
    """
    if layerwise is None:
        return None
    from lamina.engine.layerwise.ways import tuner_of

    weights = None
    if layerwise.scores is not None:
        weights = _drawn_by(layerwise.scores, model_folder, fingerprint, home)
    return tuner_of(layerwise, seed=seed, weights=weights)


def _drawn_by(text: str, model_folder: Path, fingerprint: str, home: Path) -> dict[int, float]:
    """Weights of blocks, the sums of their modules' scores; 0 where no module was ranked."""
    from lamina.engine.layerwise.lisa import block_weights

    checkpoint = whole_model(model_folder)
    linears = linears_of(checkpoint)
    path = scores_at(beside(text, home))
    read = read_scores(path)
    check_base(read.inputs, fingerprint, what=f"{path} was measured", model=str(model_folder))
    scores = by_linear(read, checkpoint, linears, str(path))
    values: dict[int, list[float]] = {}
    for one in linears.by_id.values():
        of_block = values.setdefault(one.block, [])
        if one.id in scores.values:  # a ranked adapter may have no delta on some modules
            of_block.append(scores.values[one.id])
    return block_weights(values)
