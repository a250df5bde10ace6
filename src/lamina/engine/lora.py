"""A LoRA adapter put on a network through PEFT, reproducible to the bytes of its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamina.core.errors import RecipeError
from lamina.engine.load import first_line, quiet
from lamina.engine.recipe import TrainSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_lora(
    network: PreTrainedModel,
    train: TrainSection,
    targets: str | Sequence[str],
    *,
    ranks: Mapping[str, int] | None = None,
    whole: Sequence[str] = (),
) -> Any:
    """The network with an adapter, LoRA (arXiv 2106.09685), as `train:` says.

    Args:
        targets: names of modules, whole or their ends, or `all-linear`.
        ranks: by whole name where they differ from `train.rank`; alpha / rank stays that of all.
        whole: names of modules trained whole beside it (PEFT's `modules_to_save`).

    Raises:
        RecipeError: what PEFT refuses.
    """
    from peft import LoraConfig, get_peft_model

    own = dict(ranks or {})
    config = LoraConfig(
        r=train.rank,
        lora_alpha=train.alpha,  # type: ignore[arg-type]
        lora_dropout=train.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        rank_pattern=own,
        alpha_pattern={name: train.alpha * rank / train.rank for name, rank in own.items()},  # type: ignore[misc]
        modules_to_save=sorted(whole) or None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with quiet():
            model = get_peft_model(network, config)
    except (ValueError, TypeError, RuntimeError) as error:
        named = targets if isinstance(targets, str) else f"{len(targets)} modules"
        raise RecipeError(f"an adapter on {named} cannot be added: {first_line(error)}") from error
    # PEFT keeps a set, and writes it in the order of this process's hashes.
    added = model.peft_config["default"]
    assert isinstance(added, LoraConfig), f"a {type(added).__name__} where a LoraConfig was made"
    if isinstance(added.target_modules, set):
        added.target_modules = sorted(added.target_modules)
    return model
