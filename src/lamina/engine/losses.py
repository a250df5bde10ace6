"""Sums of token losses of packed batches: exact, in float32, a chunk of logits at a time.

Only positions that predict a target get logits. They are computed in chunks, and so is the gradient
in the same walk, so no [N, V] tensor is ever held: beyond the model's own activations this costs
one chunk of logits, the gradient of the hidden states, and for a trained output embedding its
gradient in float32. Sums, never means: who adds over batches and ranks divides last.

Letters: B rows, L positions, H hidden size, N targets, E examples, V vocabulary.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lamina.core.errors import DataError
from lamina.engine.distil import Teacher, only_examples_at
from lamina.engine.heads import (
    Autocast,
    OutputHead,
    capture,
    core_model,
    find_head,
    nothing,
    output_module,
    takes_positions,
    without_adapter,
)

# Logits (float32) held at once. A CPU's matmuls gain nothing above this, and lose below 128 rows.
_CHUNK_CPU = 2**21
_CHUNK_ACCELERATOR = 2**27
_CHUNK_ROWS = 128

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class LossSums:
    """What one batch costs."""

    loss: torch.Tensor
    """Scalar float32: the sum of -log p over all targets, in nats; differentiable."""
    per_example: torch.Tensor
    """float64 [E]: the same for each example, without a gradient."""
    tokens: torch.Tensor
    """int64 [E]: targets of each example."""
    kl: torch.Tensor
    """Scalar float32: the sum of KL(teacher || model) over the chosen targets; 0 without one."""


class LossHead:
    """Computes the losses of one model; made once, after adapters and before any DDP wrapper.

    Where the output embedding cannot be used apart from the model (`fallback` then says why), the
    model's own logits at the predictors are used: as exact, with all [B, L, V] logits in memory.

    Args:
        chunk_tokens: positions whose logits are held at once; by default about 8 MB of them on a
            CPU and 512 MB on an accelerator.
        inside: compute the predictors' logits in the model's own forward pass, all at once: weights
            that are sharded over processes are whole only there.
    """

    def __init__(
        self, model: nn.Module, *, chunk_tokens: int | None = None, inside: bool = False
    ) -> None:
        self._head, self.fallback = find_head(model)
        self._inside = inside
        self._chunk_tokens = chunk_tokens
        self._with_positions = takes_positions(model)
        self.num_embeddings = int(core_model(model).get_input_embeddings().weight.shape[0])

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        teacher: Teacher | None = None,
        chosen: torch.Tensor | None = None,
    ) -> LossSums:
        """The losses of one batch of `collate`.

        Args:
            model: the model this was made for, now perhaps inside DistributedDataParallel.
            teacher: the starting model, to measure how far chosen examples have moved from it.
            chosen: bool [E], the examples whose KL is wanted; all where None.

        Raises:
            DataError: the batch has no target.
        """
        targets_N = batch["targets"]
        if not targets_N.numel():
            raise DataError(
                "A batch has no token to learn from, and a loss of 0 would hide it. "
                "Each example needs a completion of one token or more."
            )
        states = self._states(model, batch, batch["predictors"], self._head)
        loss, per_token_N = states.cross_entropy(targets_N)
        sums_E = torch.segment_reduce(per_token_N.double(), "sum", lengths=batch["tokens"])
        kl = torch.zeros_like(loss)
        if teacher is not None:
            kl = self._divergence(states, teacher, batch, chosen)
        return LossSums(loss, sums_E, batch["tokens"], kl)

    def _states(
        self, model: nn.Module, inputs: Batch, places_N: torch.Tensor, head: OutputHead | None
    ) -> States:
        """What the model makes of the inputs at some places, before logits are computed."""
        given: dict[str, Any] = {"input_ids": inputs["input_ids"], "use_cache": False}
        if self._with_positions:
            given["position_ids"] = inputs["position_ids"]
        if head is None:
            own_NV = model(**given).logits.flatten(0, 1).index_select(0, places_N)
            return States(own_NV, None, None, self._chunk(own_NV))
        if self._inside:
            with capture(
                head.module, keep=lambda h: h.flatten(0, 1).index_select(0, places_N)[None]
            ):
                own_NV = model(**given).logits[0]
            return States(own_NV, None, None, self._chunk(own_NV))
        with capture(head.module, keep=nothing) as seen:
            model(**given)
        assert seen.hidden is not None, "the output embedding was not called"
        hidden_NH = seen.hidden.flatten(0, 1).index_select(0, places_N)
        return States(hidden_NH, head, seen.autocast, self._chunk(hidden_NH))

    def _divergence(
        self, states: States, teacher: Teacher, batch: Batch, chosen: torch.Tensor | None
    ) -> torch.Tensor:
        """Sum of KL(teacher || model) over the targets of chosen examples, in nats."""
        places_N = batch["predictors"]
        if chosen is None:
            chosen = torch.ones_like(batch["tokens"], dtype=torch.bool)
        picked_n = chosen[batch["owners"]].nonzero()[:, 0]
        head = None
        if self._head is not None:
            head = OutputHead(output_module(teacher.model), self._head.after)
        if not len(picked_n):
            if self._inside:  # other processes may run it, and weights are gathered by all
                with states.autocast(cache=False), teacher.running() as model:
                    self._states(model, batch, places_N[:1], head)
            return torch.zeros((), dtype=torch.float32, device=places_N.device)
        inputs, places_n = only_examples_at(batch, places_N[picked_n])
        with states.autocast(cache=False), teacher.running() as model:
            old = self._states(model, inputs, places_n, head)
        if old.head is not None:
            plain = OutputHead(without_adapter(old.head.module), old.head.after)
            old = dataclasses.replace(old, head=plain)
        new = dataclasses.replace(states, hidden=states.hidden.index_select(0, picked_n))
        return new.divergence_from(old)

    def _chunk(self, hidden_NH: torch.Tensor) -> int:
        if self._chunk_tokens is not None:
            return self._chunk_tokens
        held = _CHUNK_CPU if hidden_NH.device.type == "cpu" else _CHUNK_ACCELERATOR
        return max(_CHUNK_ROWS, held // self.num_embeddings)


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states at the predictors and the way from them to logits."""

    hidden: torch.Tensor
    """[N, H]; the logits themselves, [N, V], where there is no head."""
    head: OutputHead | None
    cast: Autocast | None
    """Autocast as it was where the model called its output embedding."""
    chunk: int
    """Positions whose logits are held at once."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits (float64 of a float64 model) of some of the hidden states."""
        if self.head is None:
            return _at_least_float32(hidden)
        return _at_least_float32(self.head(hidden))

    def cross_entropy(self, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The differentiable sum over targets, and each target's own without a gradient [N]."""

        def cost(logits: torch.Tensor, chosen: slice) -> torch.Tensor:
            return F.cross_entropy(logits, targets_N[chosen], reduction="none")

        return self.walk(cost)

    def divergence_from(self, old: States) -> torch.Tensor:
        """The differentiable sum of KL(old || these) over all positions."""

        def cost(logits: torch.Tensor, chosen: slice) -> torch.Tensor:
            with torch.no_grad():
                old_nV = F.log_softmax(old.logits(old.hidden[chosen]), -1)
            new_nV = F.log_softmax(logits, -1)
            return F.kl_div(new_nV, old_nV, reduction="none", log_target=True).sum(-1)

        return self.walk(cost)[0]

    def walk(self, cost: Cost) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of `cost` over all positions, differentiable, and each position's [N] without."""
        trained = self._trained()
        with self.autocast():
            if torch.is_grad_enabled() and (trained or self.hidden.requires_grad):
                return _Walk.apply(self, cost, self.hidden, *trained)
            with torch.no_grad():
                costs_N = torch.cat([cost(self.logits(self.hidden[n]), n) for n in self.slices()])
        return _total(costs_N), costs_N

    def slices(self) -> list[slice]:
        """The chunks of the N positions."""
        return [slice(n, n + self.chunk) for n in range(0, len(self.hidden), self.chunk)]

    def _trained(self) -> list[nn.Parameter]:
        if self.head is None:
            return []
        return [p for p in self.head.module.parameters() if p.requires_grad]

    def autocast(self, *, cache: bool = True) -> contextlib.AbstractContextManager[Any]:
        """Autocast as the model had it. A cast cached without a gradient must not be met later."""
        if self.cast is None:
            return contextlib.nullcontext()
        device, dtype, enabled = self.cast
        return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cache)


Cost = Callable[[torch.Tensor, slice], torch.Tensor]
"""(logits [n, V], which of the N) -> what each position costs [n]."""


class _Walk(torch.autograd.Function):
    """Chunk by chunk: logits, cost and gradient at once. The backward pass only scales."""

    @staticmethod
    def forward(
        ctx: Any, states: States, cost: Cost, hidden_NH: torch.Tensor, *trained: nn.Parameter
    ) -> tuple[torch.Tensor, torch.Tensor]:
        to_hidden = hidden_NH.requires_grad
        hidden_grad = torch.empty_like(hidden_NH) if to_hidden else None
        totals = [torch.zeros_like(p, dtype=_wide(p.dtype)) for p in trained]
        costs = []
        for chosen in states.slices():
            with torch.enable_grad():
                chunk = hidden_NH[chosen].detach().requires_grad_(to_hidden)
                values = cost(states.logits(chunk), chosen)
                leaves = [chunk, *trained] if to_hidden else list(trained)
                grads = list(torch.autograd.grad(values.sum(), leaves))
            if hidden_grad is not None:
                hidden_grad[chosen] = grads.pop(0)
            for total, grad in zip(totals, grads, strict=True):
                total += grad
            costs.append(values.detach())
        costs_N = torch.cat(costs)
        ctx.grads = [hidden_grad, *(t.to(p.dtype) for t, p in zip(totals, trained, strict=True))]
        ctx.mark_non_differentiable(costs_N)
        return _total(costs_N), costs_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad = grad_outputs[0]
        return None, None, *(g if g is None else g * grad.to(g.dtype) for g in ctx.grads)


def _total(costs_N: torch.Tensor) -> torch.Tensor:
    return costs_N.double().sum().to(costs_N.dtype)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
