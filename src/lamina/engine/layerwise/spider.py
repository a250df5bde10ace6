"""SPIDER: an update is taken back where the start needs a weight more than the data (2411.10928).

Per tensor, with w* the pre-trained weight, G the running sum of its gradients, z(x) = (x - mean) /
std over the tensor and s the logistic function:

    I = s(z(|w*|))    J = s(z(|G|))
    C = 1[I < J] J / (I + J), divided by its mean where it is not 0, at most 1
    after each step   w <- w* (1 - C) + w C

A weight with C = 0 stays at w*, bit for bit. Memory beyond full tuning: G, a float32 value for each
weight, and w*, one more (half of that where bfloat16 holds it without loss). The gradient is the
one the optimiser sees: summed over processes, and clipped. z has the standard deviation of the
whole tensor (over n, not n - 1); where that is 0, I or J is 1/2 throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lamina.engine.layerwise.interface import Tensors


def importance(values: torch.Tensor) -> torch.Tensor:
    """s(z(|values|)), of the same shape; 1/2 throughout where all sizes are equal."""
    sizes = values.detach().float().abs()
    spread, mean = torch.std_mean(sizes, correction=0)
    if not spread > 0:
        return torch.full_like(sizes, 0.5)
    return torch.sigmoid((sizes - mean) / spread)


def share_of_update(start: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """C: how much of its update each value of a tensor keeps, in [0, 1].

    Args:
        start: w*.
        gradients: G, the sum of all gradients so far.
    """
    of_start, of_data = importance(start), importance(gradients)
    raw = torch.where(of_start < of_data, of_data / (of_start + of_data), 0.0)
    kept = raw > 0
    if not kept.any():
        return raw
    return (raw / raw[kept].mean()).clamp_(max=1.0)


class Spider:
    """Remembers w* and G of every trained tensor, and mixes after each step."""

    freezes = False

    def __init__(self) -> None:
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._start: dict[str, torch.Tensor] = {}
        self._sums: dict[str, torch.Tensor] = {}

    def begin(self, model: torch.nn.Module) -> None:
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for name, parameter in self._parameters.items():
            self._start[name] = _compact(parameter)
            self._sums[name] = torch.zeros_like(parameter, dtype=torch.float32)

    def begin_step(self, step: int, optimizer: Any) -> None:
        """Nothing."""

    def before_update(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._sums[name] += parameter.grad

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        for name, parameter in self._parameters.items():
            start = self._start[name].to(parameter.dtype)
            kept = share_of_update(start, self._sums[name]).to(parameter.dtype)
            parameter.copy_(torch.lerp(start, parameter, kept))

    def state(self) -> Tensors:
        """G by name; w* is the model that the run starts from."""
        return dict(self._sums)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            self._sums[name].copy_(value)

    def end(self) -> None:
        """Frees what was remembered."""
        self._start, self._sums, self._parameters = {}, {}, {}


def _compact(parameter: torch.Tensor) -> torch.Tensor:
    """A copy, in bfloat16 where that loses nothing, as with a model that was stored so."""
    copy = parameter.detach().to(torch.bfloat16)
    return copy if torch.equal(copy.to(parameter.dtype), parameter) else parameter.detach().clone()
