"""axolotl: `lora_target_modules` as one regular expression, or `unfrozen_parameters`.

A text under `lora_target_modules` goes to PEFT as it is and must match a module's whole name.
`unfrozen_parameters` are matched from the start of a parameter's name, after axolotl has escaped
every dot itself: an escaped dot would become an escaped backslash there and match nothing. They
freeze the adapters, too, so that they go with full tuning only.
"""

from typing import Any

from lamina.core.errors import RecipeError
from lamina.ila.export.peft_config import check_whole
from lamina.ila.export.targets import Targets
from lamina.ila.export.words import yaml_text


def write(targets: Targets) -> str:
    """The keys of an axolotl config that choose what is tuned.

    Raises:
        RecipeError: an alpha that is no whole number, or a whole module PEFT would mistake.
    """
    if not targets.adapted:
        return yaml_text(
            targets.plan,
            "axolotl",
            "Full tuning: add these keys to your config, without `adapter`.",
            {"unfrozen_parameters": [_own_dots(f"^{targets.parameters_pattern}$")]},
        )
    check_whole(targets, "axolotl (through PEFT)")
    check_integers(targets, "axolotl")
    values: dict[str, Any] = {
        "adapter": "lora",
        "lora_r": targets.rank,
        "lora_alpha": targets.alpha,
        "lora_target_modules": list(targets.adapted) if targets.mixture else targets.pattern,
    }
    if targets.ranks:
        values |= {"lora_rank_pattern": targets.ranks, "lora_alpha_pattern": targets.alphas}
    if targets.whole:
        values["lora_modules_to_save"] = list(targets.whole)
    use = "Add these keys to your config, without `lora_target_linear` (it adds every linear)."
    return yaml_text(targets.plan, "axolotl", use, values)


def check_integers(targets: Targets, tool: str) -> None:
    """That every alpha is a whole number, where a tool takes no other.

    Raises:
        RecipeError: one is not; the plan's ranks do not divide so.
    """
    alphas = {targets.rank: targets.alpha}
    alphas |= {rank: targets.alphas[name] for name, rank in targets.ranks.items()}
    bad = [f"{alpha:g} at rank {rank}" for rank, alpha in alphas.items() if alpha != int(alpha)]
    if bad:
        raise RecipeError(
            f"alpha / rank is to be the same for every rank, and this makes alpha {bad[0]}; {tool}"
            " takes whole numbers. Give an --alpha that is a multiple of --rank."
        )


def _own_dots(pattern: str) -> str:
    return pattern.replace("\\.", ".")
