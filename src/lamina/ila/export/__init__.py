"""A plan as the file that another tool reads: PEFT, axolotl, LLaMA-Factory, ms-swift, mergekit.

`settle` makes the plan's full names, with every refusal that holds for all of them; one file for
each tool turns these into text. No other library is imported: what the tools expect was read in
their sources (docs/exports.md says where and when), and `tests/contract` asks PEFT itself.
"""

from collections.abc import Callable
from typing import Literal

from lamina.core.errors import RecipeError, did_you_mean
from lamina.core.plan import LayerPlan
from lamina.ila.export import axolotl, llamafactory, mergekit, peft_config, swift
from lamina.ila.export.targets import Targets, settle

Method = Literal["lora", "full"]
METHODS: tuple[Method, ...] = ("lora", "full")
TRAINERS: dict[str, Callable[[Targets], str]] = {
    "peft": peft_config.write,
    "axolotl": axolotl.write,
    "llamafactory": llamafactory.write,
    "ms-swift": swift.write,
}
TOOLS = (*TRAINERS, "mergekit")


def export(
    plan: LayerPlan,
    tool: str,
    *,
    method: str = "lora",
    rank: int = 16,
    alpha: int = 32,
    base: str | None = None,
    tuned: str | None = None,
) -> str:
    """The text of the file that a tool reads, for one plan.

    Args:
        method: adapters on the planned modules (`lora`), or their own weights (`full`).
        rank: of the adapters, where the plan gives no other.
        alpha: at this rank; where the plan has another rank, alpha / rank stays.
        base: mergekit: the base model; None: the one that the plan names.
        tuned: mergekit: the tuned model whose modules are taken.

    Raises:
        RecipeError: an unknown tool or method, numbers out of range, or what the tool cannot say.
        LayerError: a plan without a prefix, or with ids that are no modules.
    """
    _check(tool, method, rank=rank, alpha=alpha, models={"--base": base, "--tuned": tuned})
    if tool == "mergekit":
        return mergekit.write(plan, base=base or plan.model, tuned=tuned or "")
    return TRAINERS[tool](settle(plan, full=method == "full", rank=rank, alpha=alpha, tool=tool))


def _check(tool: str, method: str, *, rank: int, alpha: int, models: dict[str, str | None]) -> None:
    problems = []
    if tool not in TOOLS:
        problems.append(f"no tool `{tool}` to export to: {_known(tool, TOOLS)}")
    if method not in METHODS:
        problems.append(f"no method `{method}`: {_known(method, METHODS)}")
    if rank < 1:
        problems.append(f"a rank is at least 1, not {rank}")
    if alpha < 1:
        problems.append(f"alpha is at least 1, not {alpha}")
    if tool == "mergekit" and not models["--tuned"]:
        problems.append("mergekit takes the planned modules from a tuned model: give --tuned MODEL")
    given = [flag for flag, model in models.items() if model]
    if tool in TRAINERS and given:
        problems.append(f"{', '.join(given)}: for mergekit only; {tool} does not merge models")
    if problems:
        raise RecipeError("; ".join(problems))


def _known(word: str, names: tuple[str, ...]) -> str:
    """The nearest name, and all of them: there are only a few."""
    told = did_you_mean(word, names)
    return told if told.startswith("known") else f"{told} (known: {', '.join(names)})"
