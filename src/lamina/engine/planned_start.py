"""`plan.start`: planned modules' adapters that begin with the factors of a trained adapter.

The ranking that a plan comes from has an adapter already; going on from it is the option beside
training anew from theta_0 (shared notes on ILA, arXiv 2410.17875, section 3).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from lamina.core.errors import CheckpointError
from lamina.core.plan import LayerPlan
from lamina.engine.heads import core_model
from lamina.engine.planned import linears
from lamina.weights.adapter import Adapter, open_adapter


def start_from(model: Any, plan: LayerPlan, folder: Path) -> None:
    """Copies an adapter's factors into the planned modules; its other modules are left out.

    Args:
        model: from `apply_plan`, with the one adapter `default`.

    Raises:
        CheckpointError: no adapter that can be read, or planned modules that it has not, or has in
            another rank, shape or scale; all of them at once.
    """
    from safetensors import safe_open

    adapter = open_adapter(folder)
    core = core_model(model)
    known = linears(model).by_id
    layers = {
        path: core.get_submodule(path)
        for unit in plan.chosen
        if unit not in plan.full
        for path in [known[unit].path]
    }
    problems = [told for path, layer in layers.items() if (told := _unfit(adapter, path, layer))]
    if problems:
        raise CheckpointError(
            f"plan.start: the adapter {folder} does not fit {len(problems)} of {len(layers)} "
            f"planned modules: {'; '.join(problems[:6])}{' ...' if problems[6:] else ''}. Give "
            "train.rank and train.alpha as it has them, or leave `start` out."
        )
    with safe_open(str(adapter.header.file), framework="pt") as file, torch.no_grad():
        for path, layer in layers.items():
            a, b, _ = adapter.modules[path]
            layer.lora_A["default"].weight.copy_(file.get_tensor(a.name))
            layer.lora_B["default"].weight.copy_(file.get_tensor(b.name))


def _unfit(adapter: Adapter, path: str, layer: Any) -> str:
    """Why an adapter's module cannot be begun with, or nothing."""
    if path not in adapter.modules:
        return f"{path}: it has none there"
    a, b, scale = adapter.modules[path]
    needed = (layer.lora_A["default"].weight.shape, layer.lora_B["default"].weight.shape)
    if (tuple(a.shape), tuple(b.shape)) != tuple(map(tuple, needed)):
        seen = f"rank {a.shape[0]}, {a.shape[1]} to {b.shape[0]}"
        return f"{path}: {seen} there, rank {needed[0][0]}, {needed[0][1]} to {needed[1][0]} here"
    if not math.isclose(scale, layer.scaling["default"], rel_tol=1e-9):
        return f"{path}: alpha/rank {scale:g} there, {layer.scaling['default']:g} here"
    return ""
