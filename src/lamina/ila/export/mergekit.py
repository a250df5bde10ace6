"""mergekit: the tuned model's planned modules in the base, as a task arithmetic merge by slices.

    out = base + coefficient * (tuned - base)       for every tensor of a module

mergekit's filter is a substring of a tensor's name, the first that fits counts, and tensors outside
the blocks are asked of the first slice (embeddings) or the last one (final norm, head). So every
block is a slice of its own, and a filter names block and module whole: `.1.mlp.up_proj.` is in no
name of block 11. Any finite coefficient can be said. Tensors of a block that the plan does not name
(norms, in most plans) stay the base's.
"""

import re
from collections.abc import Mapping
from typing import Any

from lamina.core.errors import LayerError, RecipeError
from lamina.core.layers import HEADS
from lamina.core.plan import LayerPlan
from lamina.ila.export.targets import check_names, path_of
from lamina.ila.export.words import yaml_text

USE = "mergekit-yaml FILE OUT. Sums run in the tensors' dtype: `dtype: float32` is more exact."


def write(plan: LayerPlan, *, base: str, tuned: str) -> str:
    """The YAML of a merge that takes the planned modules of `tuned`, all else of `base`.

    Raises:
        RecipeError: no base, nothing taken, or a module whose name a filter cannot tell.
        LayerError: no prefix, ids that are no modules, or blocks missing.
    """
    check_names(plan)
    if not base:
        raise RecipeError("the plan names no model; mergekit needs the base: give --base MODEL")
    weights = {**plan.coefficients, **dict.fromkeys(plan.full, 1.0)}
    if not any(weights.values()) and not plan.others:
        raise RecipeError(
            f"the plan takes none of {len(plan.coefficients)} units: the merge would be the base."
            " Make a plan with `lamina plan`."
        )
    num_blocks = _count_blocks(plan)
    inside: list[dict[str, float]] = [{} for _ in range(num_blocks)]
    outside: dict[str, float] = {}
    for unit, weight in weights.items():
        block = re.match(r"\d+", unit)
        if block:
            inside[int(block[0])][f".{unit}."] = weight
        else:
            outside[_loose_filter(plan, unit)] = weight
    slices = []
    for number, filters in enumerate(inside):
        at_end = number in (0, num_blocks - 1)
        weight = _setting(filters, number, outside, plan.others, at_end=at_end)
        slices.append({"sources": _sources(number, weight, base, tuned)})
    return yaml_text(
        plan, "mergekit", USE, {"merge_method": "task_arithmetic", "base_model": base}
        | {"parameters": {"normalize": False, "lambda": 1.0}, "slices": slices},
    )  # fmt: skip


def _setting(
    filters: Mapping[str, float],
    number: int,
    outside: Mapping[str, float],
    others: float,
    *,
    at_end: bool,
) -> Any:
    """The `weight` of one slice: a number, or filters from the most special to the rest."""
    listed = [{"filter": name, "value": value} for name, value in filters.items() if value]
    if not at_end or (not others and not outside):
        return [*listed, {"value": 0.0}] if listed else 0.0
    loose = [{"filter": name, "value": value} for name, value in outside.items()]
    here = {"filter": f".{number}.", "value": 0.0}
    return [*listed, *loose, here, {"value": others}]


def _sources(number: int, weight: Any, base: str, tuned: str) -> list[dict[str, Any]]:
    span = [number, number + 1]
    return [
        {"model": base, "layer_range": span},
        {"model": tuned, "layer_range": span, "parameters": {"weight": weight}},
    ]


def _count_blocks(plan: LayerPlan) -> int:
    """How many blocks the model has: slices make the output, so none may be missing.

    Raises:
        LayerError: blocks without a coefficient.
    """
    seen = {int(unit.partition(".")[0]) for unit in plan.coefficients}
    count = max([len(seen), *(number + 1 for number in seen), int(plan.price.get("num_blocks", 0))])
    missing = [str(number) for number in range(count) if number not in seen]
    if missing or not seen:
        raise LayerError(
            f"the plan has no coefficient in blocks {', '.join(missing[:8]) or 'of any number'}:"
            " mergekit would leave these blocks out of the merged model. Make a plan that has all"
            " modules, chosen or not."
        )
    return count


def _loose_filter(plan: LayerPlan, module: str) -> str:
    """A substring that only one module outside the blocks has in its name."""
    name = path_of(plan, module)
    if "." not in name and name not in HEADS:
        raise RecipeError(
            f"mergekit's filter is a part of a name, and `{name}` at the top of this model is a"
            " part of others. Take it out of `full`."
        )
    return f"{name}."
