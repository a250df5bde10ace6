"""A plan on a model in memory: which linear modules it has."""

from __future__ import annotations

from typing import Any

from torch import nn

from lamina.core.layers import LayerMap
from lamina.core.modules import Linear, Linears
from lamina.engine.heads import core_model, is_peft


def linears(network: nn.Module) -> Linears:
    """The linear modules of a model's blocks, PEFT's wrappers looked through.

    Attention and feed-forward modules alone: no routers, embeddings or heads.

    Raises:
        LayerError: its names show no list of blocks.
    """
    from transformers.pytorch_utils import Conv1D

    core = core_model(network)
    sizes: dict[str, tuple[int, int]] = {}
    for name, module in core.named_modules():
        if ".base_layer" in name or ".lora_" in name:
            continue
        plain: Any = module.get_base_layer() if _wraps(module) else module
        if isinstance(plain, nn.Linear):
            sizes[name] = (plain.in_features, plain.out_features)
        elif isinstance(plain, Conv1D):
            sizes[name] = (plain.nx, plain.nf)
    layers = LayerMap.from_names(f"{name}.weight" for name in sizes)
    found = {}
    for unit in layers.units("module"):
        tensor = layers.tensors(unit, "module")[0]
        layer, path = layers.of(tensor), tensor.removesuffix(".weight")
        if layer.block is not None and layer.role in ("attention", "mlp"):
            found[unit] = Linear(unit, path, layer.block, layer.role, *sizes[path])
    return Linears(layers.prefix, layers.num_blocks, found)


def _wraps(module: nn.Module) -> bool:
    """Whether PEFT put a layer of its own around this one."""
    if not is_peft(module):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)
