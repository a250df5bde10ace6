"""A model made ready to be tuned: what is trained in float32, what is frozen in the asked dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lamina.core.errors import CheckpointError, RecipeError
from lamina.engine.load import Source, first_line, load_network, quiet
from lamina.engine.recipe import TrainSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_tunable(source: Source, train: TrainSection) -> Any:
    """The model with its trainable part, as the recipe's `train:` says; on the CPU, in train mode.

    `lora`: every weight of the model is frozen in `train.dtype`, the adapter's are float32 and
    drawn with `train.seed`. `full`: every weight is float32 and trained.

    Raises:
        CheckpointError: files that do not load.
        RecipeError: modules to tune that the model does not have; an adapter to be tuned further;
            flash attention in float32.
    """
    if "flash" in train.attention and train.dtype == "float32":
        raise RecipeError(
            f"train.attention is `{train.attention}`, which takes no float32, and train.dtype is "
            "`float32`. Write dtype: bfloat16, or another attention."
        )
    if source.adapter is not None and train.method == "lora":
        raise RecipeError(
            f"{source.name} is an adapter, and train.method is `lora`: the new adapter would need "
            "a base that is on no disk. Merge the adapter into its base first (`lamina merge`), "
            "or write method: full."
        )
    lora = train.method == "lora"
    dtype = getattr(torch, train.dtype) if lora else torch.float32
    attention = None if train.attention == "auto" else train.attention
    torch.manual_seed(train.seed)
    with quiet():
        try:
            network = load_network(source, dtype, attention=attention)
        except CheckpointError as error:
            told = str(error).lower()
            if attention is not None and ("attn" in told or "attention" in told):
                raise RecipeError(f"train.attention is `{attention}`: {error}") from error
            raise
    network.config.use_cache = False
    if not lora:
        network.requires_grad_(True)
        return network.train()
    return _with_adapter(network, train).train()


def casting(model: Any, train: TrainSection) -> contextlib.AbstractContextManager[Any]:
    """Autocast for a forward pass outside the Trainer, where flash attention is in use.

    It takes no float32, which the weights of a fully tuned model are.
    """
    flash = "flash" in str(model.config._attn_implementation)
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=flash and train.dtype != "float32")


def _with_adapter(network: PreTrainedModel, train: TrainSection) -> Any:
    """The network with a LoRA adapter on the modules that the recipe names, and on no other."""
    from peft import LoraConfig, get_peft_model

    targets = train.targets if isinstance(train.targets, str) else list(train.targets)
    known = sorted({name.rpartition(".")[2] for name in _linear_names(network)})
    asked = [targets] if isinstance(targets, str) else targets
    if targets != "all-linear":
        missing = [name for name in asked if name.rpartition(".")[2] not in known]
        if missing:
            raise RecipeError(
                f"train.targets names {', '.join(f'`{name}`' for name in missing)}, which no "
                f"linear module of {network.name_or_path} is called; it has {', '.join(known)}."
            )
        _refuse_tied(network, asked)
        targets = asked
    config = LoraConfig(
        r=train.rank,
        lora_alpha=train.alpha,  # type: ignore[arg-type]
        lora_dropout=train.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with quiet():
            model = get_peft_model(network, config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RecipeError(
            f"an adapter on {train.targets} cannot be added: {first_line(error)}"
        ) from error
    # PEFT keeps a set, and writes it in the order of this process's hashes.
    added = model.peft_config["default"]
    assert isinstance(added, LoraConfig), f"a {type(added).__name__} where a LoraConfig was made"
    if isinstance(added.target_modules, set):
        added.target_modules = sorted(added.target_modules)
    return model


def _refuse_tied(network: PreTrainedModel, targets: Sequence[str]) -> None:
    """An adapter on a tied output embedding, once merged, would change the input embedding, too.

    Raises:
        RecipeError: such a module is a target.
    """
    tied = network.get_input_embeddings().weight
    shared = [
        name
        for name, module in network.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
        and isinstance(module, torch.nn.Linear)
        and module.weight is tied
    ]
    if shared:
        raise RecipeError(
            f"train.targets names `{', '.join(shared)}`, which shares its weights with the input "
            "embedding in this model: merged, the adapter would change both. Leave it out, or "
            "write method: full."
        )


def _linear_names(network: PreTrainedModel) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]


def num_embeddings(network: Any) -> int:
    """Rows of the input embedding: the ids that the model knows."""
    return int(network.get_input_embeddings().weight.shape[0])


def trained_parameters(network: Any) -> int:
    """Values that training changes."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _rounded(state: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Tensors in another dtype; those that share their memory, tied ones, still do."""
    if dtype is None:
        return state
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for value in state.values():
        key = (value.data_ptr(), value.shape)
        if key not in done:
            done[key] = value.to(dtype) if value.is_floating_point() else value
    return {name: done[value.data_ptr(), value.shape] for name, value in state.items()}


def whole_weights(network: Any) -> dict[str, torch.Tensor] | None:
    """All weights of a network that is spread over processes, in the first one's memory.

    Every process has to call this. None where the network is whole in each of them.
    """
    from torch.distributed.fsdp import FSDPModule

    if not any(isinstance(module, FSDPModule) for module in network.modules()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = get_model_state_dict(network, options=options)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def save_model(
    network: Any,
    folder: Path,
    *,
    dtype: torch.dtype | None,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes the model as an ordinary folder: an adapter, or full weights in their first dtype.

    Args:
        dtype: of the full weights on the disk; rounded once. None: as they are in memory.
        weights: what `whole_weights` gave.
    """
    from peft import PeftModel

    with quiet():
        if isinstance(network, PeftModel):
            network.save_pretrained(str(folder), safe_serialization=True, state_dict=weights)
            return
        state = _rounded(network.state_dict() if weights is None else weights, dtype)
        network.save_pretrained(str(folder), state_dict=state)
