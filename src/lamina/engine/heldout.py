"""Losses of held-out examples, one sum an example: what a policy sees at the end of a window.

Examples are sorted by length and batched by tokens, so that little is padding, and the batches do
not depend on anything but the examples. No gradient, evaluation mode, float32 losses, float64 sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from lamina.core.errors import DataError
from lamina.engine.collate import collate, packed_row
from lamina.engine.heads import evaluating
from lamina.engine.losses import LossHead, LossSums

if TYPE_CHECKING:
    from lamina.data.encode import Examples


@dataclass(frozen=True, slots=True)
class HeldoutSums:
    """Sums in the order of the examples; 0 for those of other ranks, so ranks add up to all."""

    sums: torch.Tensor
    """float64 [N], nats, on the CPU."""
    tokens: torch.Tensor
    """int64 [N], targets of each example."""


def heldout_losses(
    model: nn.Module,
    head: LossHead,
    examples: Examples,
    *,
    batch_tokens: int | None = None,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    in_step: bool = False,
    flatten: bool = False,
) -> HeldoutSums:
    """The summed loss of each held-out example; rank r of w measures examples r, r + w, ...

    Args:
        batch_tokens: positions in one batch, padding counted; an example longer than that is a
            batch of its own. By default 2048 on a CPU, where more is slower, else 32768.
        autocast: the dtype to run the model in, where it does not do so by itself.
        in_step: every rank runs the model equally often, as it must where each holds a part of the
            weights; what is run too often is not counted.
        flatten: a batch is one row without padding, for attention that keeps examples in it apart.

    Raises:
        DataError: an example has no token to learn from.
    """
    lengths = np.diff(examples.starts)
    sums = torch.zeros(len(lengths), dtype=torch.float64)
    tokens = torch.zeros(len(lengths), dtype=torch.int64)
    if not len(lengths):
        raise DataError("There is no held-out example to measure a loss on.")
    if batch_tokens is None:
        batch_tokens = 2048 if torch.device(device).type == "cpu" else 32768
    by_rank = [
        list(_batches(np.arange(r, len(lengths), world), lengths, batch_tokens))
        for r in (range(world) if in_step else [rank])
    ]
    mine = by_rank[rank] if in_step else by_rank[0]
    idle = max(map(len, by_rank)) - len(mine)
    # Not inference mode: FSDP cannot gather weights in it.
    with evaluating(model), torch.no_grad(), _cast(device, autocast):
        for _ in range(idle):
            _run(model, head, examples, (mine or by_rank[0])[0], device, flatten)
        for members in mine:
            found = _run(model, head, examples, members, device, flatten)
            sums[members] = found.per_example.cpu()
            tokens[members] = found.tokens.cpu()
    return HeldoutSums(sums, tokens)


def _run(
    model: nn.Module,
    head: LossHead,
    examples: Examples,
    members: np.ndarray,
    device: torch.device | str,
    flatten: bool,
) -> LossSums:
    """The losses of some examples, in one forward pass."""
    rows = [packed_row(examples, [m], row=int(m)) for m in members]
    batch = collate(rows, pad_id=0, flatten=flatten, multiple_of=1)
    return head(model, {name: value.to(device) for name, value in batch.items()})


def _batches(chosen: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Example numbers, longest first, as many as fit `batch_tokens` with their padding."""
    order = chosen[np.argsort(-lengths[chosen], kind="stable")]
    begin = 0
    while begin < len(order):
        size = max(1, batch_tokens // int(lengths[order[begin]]))
        yield order[begin : begin + size]
        begin += size


@contextlib.contextmanager
def _cast(device: torch.device | str, dtype: torch.dtype | None) -> Iterator[None]:
    if dtype is None:
        yield
        return
    with torch.autocast(torch.device(device).type, dtype=dtype):
        yield
