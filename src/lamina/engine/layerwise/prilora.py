"""PRILoRA: adapters whose ranks rise from block to block, and which are pruned (arXiv 2401.11316).

    r_i = r_s + (r_f - r_s) (i - 1) / (L - 1), rounded, for block i of L
    every 40 steps the lowest half of each row of A, by |A_jk| EMA_k, becomes 0

with EMA_k the running mean (.9 of itself, .1 of this step) of the size of input k of the module. A
value that was zeroed may grow back until the next pruning. The ranks are a `LayerPlan`'s; alpha / r
is the same for all modules. Costs, for each step, a sum over each adapted module's input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from lamina.core.modules import Linears
from lamina.core.plan import LayerPlan
from lamina.engine import parallel
from lamina.engine.heads import core_model
from lamina.engine.layerwise.interface import Tensors


def rising_ranks(num_blocks: int, *, first_rank: int, last_rank: int) -> tuple[int, ...]:
    """The rank of each block's adapters, on a line from the first to the last; halves go up."""
    if num_blocks == 1:
        return (last_rank,)
    steps = num_blocks - 1
    rise = last_rank - first_rank
    return tuple(first_rank + (2 * rise * i + steps) // (2 * steps) for i in range(num_blocks))


def with_rising_ranks(
    linears: Linears, *, first_rank: int, last_rank: int, plan: LayerPlan | None = None
) -> LayerPlan:
    """A plan with PRILoRA's ranks: of all linear modules, or of those that another plan chose."""
    ranks = rising_ranks(linears.num_blocks, first_rank=first_rank, last_rank=last_rank)
    if plan is None:
        plan = LayerPlan(
            granularity="module",
            coefficients=dict.fromkeys(linears.by_id, 1.0),
            others=0.0,
            rule="all",
            from_scores="",
            prefix=linears.prefix,
        )
    chosen = {unit: ranks[linears.by_id[unit].block] for unit in plan.chosen}
    return plan.model_copy(update={"ranks": chosen})


def prune_rows(a: torch.Tensor, input_sizes: torch.Tensor, *, keep: float) -> torch.Tensor:
    """A [rank, inputs] with the least important values of each row zeroed.

    Args:
        input_sizes: EMA of the mean |x_k| of each input k, [inputs].
        keep: share of a row that stays; of equal importances the first columns go.
    """
    num_inputs = a.shape[1]
    dropped = num_inputs - min(num_inputs, math.ceil(keep * num_inputs - 1e-9))
    order = torch.argsort(a.abs() * input_sizes, dim=1, stable=True)
    return a.scatter(1, order[:, :dropped], 0.0)


def running_mean(before: torch.Tensor, now: torch.Tensor, *, decay: float) -> torch.Tensor:
    """EMA after a step; it begins at 0, which scales all inputs alike and changes no order."""
    return decay * before + (1 - decay) * now


class Prilora:
    """Watches the inputs of every adapted module, and prunes."""

    freezes = False

    def __init__(self, *, every: int, keep: float, decay: float) -> None:
        self._every, self._keep, self._decay = every, keep, decay
        self._a: dict[str, torch.nn.Parameter] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._means: dict[str, torch.Tensor] = {}
        self._real: torch.Tensor | None = None
        self._hooks: list[Any] = []

    def begin(self, model: torch.nn.Module) -> None:
        from peft.tuners.lora import LoraLayer

        # PEFT calls the forward of what it wraps: a hook there would never run.
        self._hooks.append(model.register_forward_pre_hook(self._see_batch, with_kwargs=True))
        for name, module in core_model(model).named_modules():
            if isinstance(module, LoraLayer) and "default" in module.lora_A:
                assert isinstance(module, torch.nn.Module)
                a = module.lora_A["default"].weight
                assert isinstance(a, torch.nn.Parameter), type(a)
                self._watch(name, module, a)
        assert self._a, "PRILoRA on a model without a LoRA module"

    def _watch(self, name: str, module: torch.nn.Module, a: torch.nn.Parameter) -> None:
        self._a[name] = a
        self._means[name] = torch.zeros(a.shape[1], dtype=torch.float32, device=a.device)
        # The last entry counts the tokens.
        self._sums[name] = torch.zeros(a.shape[1] + 1, dtype=torch.float32, device=a.device)

        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if torch.is_grad_enabled() and module.training:
                self._add(name, inputs[0].detach())

        self._hooks.append(module.register_forward_pre_hook(hook))

    def _see_batch(self, module: Any, inputs: Any, named: Mapping[str, Any]) -> None:
        """Where this batch is not padding, for a model that is told positions."""
        positions = named.get("position_ids")
        self._real = None if positions is None else real_places(positions)

    def _add(self, name: str, inputs: torch.Tensor) -> None:
        """Adds one forward pass's |x| over its tokens; [..., inputs]."""
        flat = inputs.flatten(0, -2)
        sums = self._sums[name]
        if self._real is not None and self._real.numel() == len(flat):
            real = self._real.to(flat.dtype)
            sums[:-1] += (flat.abs() * real[:, None]).sum(0, dtype=torch.float32)
            sums[-1] += self._real.sum()
        else:
            sums[:-1] += flat.abs().sum(0, dtype=torch.float32)
            sums[-1] += len(flat)

    def begin_step(self, step: int, optimizer: Any) -> None:
        for sums in self._sums.values():
            sums.zero_()

    def before_update(self) -> None:
        """Nothing."""

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        total = torch.cat(list(self._sums.values()))
        if parallel.world() > 1:
            dist.all_reduce(total)
        parts = total.split([len(sums) for sums in self._sums.values()])
        for name, part in zip(self._sums, parts, strict=True):
            if part[-1] > 0:
                now = part[:-1] / part[-1]
                self._means[name] = running_mean(self._means[name], now, decay=self._decay)
        if step % self._every == 0:
            for name, a in self._a.items():
                a.copy_(prune_rows(a, self._means[name], keep=self._keep))

    def state(self) -> Tensors:
        """EMA by module."""
        return dict(self._means)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            self._means[name].copy_(value)

    def end(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def real_places(positions: torch.Tensor) -> torch.Tensor:
    """Which places of a packed batch are no padding, bool [B * L].

    Padding has position 0; an example, never shorter than two tokens, goes on from 0 to 1.
    """
    following = torch.nn.functional.pad(positions[:, 1:], (0, 1))
    return ((positions > 0) | (following == 1)).flatten()
