"""ms-swift: a YAML file for `swift sft --config FILE`, with one regular expression.

`target_regex` goes to PEFT as it is and must match a module's whole name. For full tuning
everything is frozen (`freeze_parameters_ratio: 1.0`), then what `trainable_parameters_regex` finds
anywhere in a parameter's name is trained again: hence the anchors.
"""

from typing import Any

from lamina.ila.export.axolotl import check_integers
from lamina.ila.export.llamafactory import refuse_ranks
from lamina.ila.export.peft_config import check_whole
from lamina.ila.export.targets import Targets
from lamina.ila.export.words import yaml_text

USE = "For `swift sft --config FILE` (ms-swift 4; 3 calls tuner_type train_type)."


def write(targets: Targets) -> str:
    """The arguments of ms-swift that choose what is tuned.

    Raises:
        RecipeError: ranks that differ, or a whole module PEFT would mistake.
    """
    if not targets.adapted:
        full = {
            "tuner_type": "full",
            "freeze_parameters_ratio": 1.0,
            "trainable_parameters_regex": f"^{targets.parameters_pattern}$",
        }
        return yaml_text(targets.plan, "ms-swift", USE, full)
    refuse_ranks(targets, "ms-swift", "lora_rank")
    check_integers(targets, "ms-swift")
    check_whole(targets, "ms-swift (through PEFT)")
    values: dict[str, Any] = {
        "tuner_type": "lora",
        "lora_rank": targets.rank,
        "lora_alpha": targets.alpha,
    }
    if targets.mixture:
        values["target_modules"] = list(targets.adapted)
    else:
        values["target_regex"] = targets.pattern
    if targets.whole:
        values["modules_to_save"] = list(targets.whole)
    return yaml_text(targets.plan, "ms-swift", USE, values)
