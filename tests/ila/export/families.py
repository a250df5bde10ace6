"""The 13 families of tests/core/test_layers.py as tiny networks, and their modules' names."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from lamina.core.layers import LayerMap
from lamina.core.modules import Linear, Linears
from lamina.core.plan import LayerPlan

_SPEC = importlib.util.spec_from_file_location(
    "families_of_test_layers", Path(__file__).parents[2] / "core" / "test_layers.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_LAYERS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_LAYERS)
FAMILIES: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = _LAYERS.FAMILIES
NUM_BLOCKS: int = _LAYERS.NUM_BLOCKS


def network_of(family: str, *, device: str = "meta") -> Any:
    """A network with random weights, or (meta) without any."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(family, **FAMILIES[family][0])
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@cache
def names_of(family: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All module names and all parameter names of a family, as they are in memory."""
    network = network_of(family)
    modules = tuple(name for name, _ in network.named_modules() if name)
    return modules, tuple(name for name, _ in network.named_parameters())


@cache
def linears_of(family: str) -> Linears:
    """The linear modules inside the blocks of a family."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    network = network_of(family)
    prefix = FAMILIES[family][1]
    layers = LayerMap.from_names(name for name, _ in network.named_parameters())
    by_id = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(f"{prefix}."):
            layer = layers.of(f"{name}.weight")
            rows, columns = module.weight.shape
            by_id[layer.id] = Linear(layer.id, name, layer.block or 0, layer.role, columns, rows)
    return Linears(prefix, NUM_BLOCKS, by_id)


def plan_of(linears: Linears, chosen: set[str], **more: Any) -> LayerPlan:
    """The plan that takes some of the modules."""
    return LayerPlan(
        granularity="module",
        coefficients={one: float(one in chosen) for one in linears.by_id},
        others=0.0,
        rule="by_hand",
        from_scores="",
        prefix=linears.prefix,
        model="base",
        **more,
    )


def choices(linears: Linears) -> dict[str, set[str]]:
    """Sets of modules that went wrong somewhere: ones among tens, one role, scattered, all."""
    ids = list(linears.by_id)
    role = ids[0].partition(".")[2]
    return {
        "one": {ids[0]},
        "block 1 and not 10, 11": {one for one in ids if one.startswith("1.")},
        "blocks 10 and 11": {one for one in ids if one.startswith(("10.", "11."))},
        "one role": {one for one in ids if one.partition(".")[2] == role},
        "every third": set(ids[::3]),
        "all but one": set(ids[:-1]),
        "all": set(ids),
    }


CHOICES = ("one", "block 1 and not 10, 11", "blocks 10 and 11", "one role", "every third",
           "all but one", "all")  # fmt: skip
