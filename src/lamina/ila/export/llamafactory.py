"""LLaMA-Factory: `lora_target` with full names, `additional_target` for what is trained whole.

Both are cut at commas and go to PEFT as lists. There is one rank for all adapters, and `freeze`
tuning takes the first or last n blocks with everything in them that has one name: not single
modules of single blocks.
"""

from typing import Any

from lamina.core.errors import RecipeError
from lamina.ila.export.axolotl import check_integers
from lamina.ila.export.peft_config import check_whole
from lamina.ila.export.targets import Targets
from lamina.ila.export.words import yaml_text


def write(targets: Targets) -> str:
    """The keys of a LLaMA-Factory config that choose what is tuned.

    Raises:
        RecipeError: full tuning, ranks that differ, or a whole module PEFT would mistake.
    """
    if not targets.adapted:
        raise RecipeError(
            "LLaMA-Factory's freeze tuning takes the first or last n blocks"
            " (freeze_trainable_layers), not chosen modules. Export with --method lora, or the full"
            " tuning to axolotl or ms-swift."
        )
    refuse_ranks(targets, "LLaMA-Factory", "lora_rank")
    check_integers(targets, "LLaMA-Factory")
    check_whole(targets, "LLaMA-Factory (through PEFT)")
    values: dict[str, Any] = {
        "finetuning_type": "lora",
        "lora_rank": targets.rank,
        "lora_alpha": targets.alpha,
        "lora_target": ",".join(targets.adapted),
    }
    if targets.whole:
        values["additional_target"] = ",".join(targets.whole)
    return yaml_text(targets.plan, "llamafactory", "Add these keys to your config.", values)


def refuse_ranks(targets: Targets, tool: str, key: str) -> None:
    """That all adapters have one rank.

    Raises:
        RecipeError: they have not.
    """
    if targets.ranks:
        own = sorted({targets.rank, *targets.ranks.values()})
        raise RecipeError(
            f"the plan gives ranks {', '.join(map(str, own))} to its modules, and {tool} has one"
            f" {key} for all. Export to peft or axolotl, or make a plan without ranks."
        )
