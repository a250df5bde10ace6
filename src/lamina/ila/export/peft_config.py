"""`adapter_config.json` of PEFT: `LoraConfig(**json)` or `PeftConfig.from_pretrained(folder)`.

PEFT matches a listed name by its ending (at a dot), condenses 20 and more names to the shortest
endings that tell them from all others, and reads `rank_pattern` as regular expressions; full names
come out the same through all of these (`tests/contract/test_export_peft.py`). `modules_to_save` it
matches by ending without a dot, so `norm` at the top of a model would take every layer norm too.
The base model's name PEFT writes itself, and it warns where a file has another.
"""

import json
from typing import Any

from lamina.core.errors import RecipeError
from lamina.core.layers import HEADS
from lamina.ila.export.targets import Targets

KEYS = frozenset(
    """
    peft_type task_type inference_mode r lora_alpha bias target_modules
    rank_pattern alpha_pattern modules_to_save
    """.split()
)
"""Every key of ours: a file with other ones (PEFT writes more) is not replaced."""


def write(targets: Targets) -> str:
    """The JSON of a `LoraConfig` for the plan's adapters and whole modules.

    Raises:
        RecipeError: full tuning, or a whole module that PEFT would take for more than itself.
    """
    if not targets.adapted:
        raise RecipeError(
            "PEFT adds adapters; it has no file for tuning modules' own weights alone. Export with"
            " --method lora, or the full tuning to axolotl or ms-swift."
        )
    check_whole(targets, "PEFT")
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": False,
        "r": targets.rank,
        "lora_alpha": targets.alpha,
        "bias": "none",
        "target_modules": list(targets.adapted),
        "rank_pattern": targets.ranks,
        "alpha_pattern": targets.alphas,
        "modules_to_save": list(targets.whole) or None,
    }
    assert set(config) == KEYS
    return json.dumps(config, indent=1) + "\n"


def check_whole(targets: Targets, tool: str) -> None:
    """That `modules_to_save` means what it says: PEFT looks at endings.

    Raises:
        RecipeError: a module at the top of the model with a name that others end with.
    """
    bare = [name for name in targets.whole if "." not in name and name not in HEADS]
    if bare:
        raise RecipeError(
            f"{tool} finds a module that is trained whole by the end of its name, and `{bare[0]}`"
            " stands at the top of this model, where it is the end of others' names, too. Take it"
            " out of `full`, or tune with lamina."
        )
