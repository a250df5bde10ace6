"""A model made ready to be tuned: what is trained in float32, what is frozen in the asked dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lamina.core.errors import CheckpointError, RecipeError
from lamina.core.plan import LayerPlan
from lamina.engine.heads import is_mixed
from lamina.engine.load import Source, load_network, quiet
from lamina.engine.lora import add_lora
from lamina.engine.planned import apply_plan
from lamina.engine.planned_start import start_from
from lamina.engine.recipe import TrainSection
from lamina.weights.checkpoint import open_checkpoint, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_tunable(
    source: Source,
    train: TrainSection,
    plan: LayerPlan | None = None,
    *,
    start: Path | None = None,
) -> Any:
    """The model with its trainable part, as the recipe's `train:` says; on the CPU, in train mode.

    `lora`: every weight of the model is frozen in `train.dtype`, the adapter's are float32 and
    drawn with `train.seed`. `full`: every weight is float32 and trained. With a plan either is so
    for the planned modules alone (`engine.planned`).

    Args:
        start: an adapter whose factors the planned modules' adapters begin with.

    Raises:
        CheckpointError: files that do not load; an adapter to start from that does not fit.
        LayerError: a plan that does not fit the model.
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
    dtype = getattr(torch, train.dtype) if lora or plan is not None else torch.float32
    exact = source.adapter is None and _stored(source) == train.dtype
    if plan is not None and (not lora or plan.full) and not exact:
        dtype = torch.float32  # whole modules begin with what is stored; the others are cast later
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
    if plan is not None:
        model = apply_plan(network, plan, train)
        if start is not None:
            start_from(model, plan, start)
        return model.train()
    if not lora:
        network.requires_grad_(True)
        return network.train()
    return _with_adapter(network, train).train()


def casting(model: Any, train: TrainSection) -> contextlib.AbstractContextManager[Any]:
    """Autocast for a forward pass outside the Trainer, where the model does not run without.

    Flash attention takes no float32, which the weights of a fully tuned model are; and of modules
    trained whole in float32 between others frozen in bfloat16 one does not take what the other
    gives.
    """
    flash = "flash" in str(model.config._attn_implementation)
    device = "cuda" if flash else model.device.type
    enabled = (flash or is_mixed(model)) and train.dtype != "float32"
    return torch.autocast(device, dtype=torch.bfloat16, enabled=enabled)


def _stored(source: Source) -> str:
    """The dtype that a model's config says its files have; `float32` where it says none."""
    config = read_config(source.folder)
    return str(config.get("dtype", config.get("torch_dtype", "float32")))


def _with_adapter(network: PreTrainedModel, train: TrainSection) -> Any:
    """The network with a LoRA adapter on the modules that the recipe names, and on no other."""
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
    return add_lora(network, train, targets)


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


def _rounded(
    state: dict[str, torch.Tensor], dtype: torch.dtype | None, own: Mapping[str, torch.dtype]
) -> dict[str, torch.Tensor]:
    """Tensors in another dtype, or their own; those that share memory, tied ones, still do."""
    if dtype is None:
        return state
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.shape)
        if key not in done:
            done[key] = value.to(own.get(name, dtype)) if value.is_floating_point() else value
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
    source: Source | None = None,
    frozen: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Writes the model as an ordinary folder: an adapter, or full weights in their first dtype.

    Args:
        dtype: of the full weights on the disk; rounded once. None: as they are in memory.
        weights: what `whole_weights` gave.
        source: where frozen tensors are taken from, if they were held in less than they have there.
        frozen: by name where frozen tensors have a dtype of their own (`stored_dtypes`).
    """
    from peft import PeftModel

    with quiet():
        if isinstance(network, PeftModel):
            network.save_pretrained(str(folder), safe_serialization=True, state_dict=weights)
            return
        state = network.state_dict() if weights is None else weights
        if source is not None:
            state = _unmoved(network, dict(state), source)
        trained = _trained(network)
        own = {name: of for name, of in (frozen or {}).items() if name not in trained}
        network.save_pretrained(str(folder), state_dict=_rounded(state, dtype, own))


def stored_dtypes(source: Source) -> dict[str, torch.dtype]:
    """The dtypes of a model's tensors on the disk, by their names there.

    A file may hold some in another one than its config says, norms in float32 for instance.
    """
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    tensors = open_checkpoint(source.folder).tensors
    return {name: kinds[one.dtype] for name, one in tensors.items() if one.dtype in kinds}


def _trained(network: Any) -> set[str]:
    """Names of trained parameters, a tied one's all."""
    named = network.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if parameter.requires_grad}


def _unmoved(
    network: Any, state: dict[str, torch.Tensor], source: Source
) -> dict[str, torch.Tensor]:
    """The state with what was frozen as it is stored, to the bit; the model's memory once more."""
    trained = _trained(network)
    stored = load_network(source, torch.float32).state_dict()
    return {name: value if name in trained else stored[name] for name, value in state.items()}
