"""Forward passes for what hooks see on the way: no logits, and which tokens are no padding.

Letters: B rows, L positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lamina.engine import parallel
from lamina.engine.heads import capture, evaluating, nothing, output_module
from lamina.engine.prefix import given

Batch = Mapping[str, torch.Tensor]


def real_tokens(positions_BL: torch.Tensor) -> torch.Tensor:
    """Where a row of `collate` has tokens, bool [B, L].

    Padding ends a row and has position 0 throughout; an example has two tokens or more, so the last
    token of a row is at position 1 or further.
    """
    return (positions_BL > 0).flip(-1).cumsum(-1).flip(-1) > 0


def run(model: nn.Module, batch: Batch) -> None:
    """One forward pass of a batch of `collate`; its logits cost nothing."""
    head = output_module(model)
    silent = contextlib.nullcontext() if head is None else capture(head, keep=nothing)
    with silent:
        model(**given(model, batch))


def passes(model: nn.Module, batches: Sequence[Batch]) -> Iterator[torch.Tensor]:
    """Runs this process's share of the batches; before each, its mask of real tokens [B, L].

    What the consumer hooks on is called between two items. Evaluation mode, no gradients. Over
    several processes the consumer adds its sums (`engine.parallel.total`).
    """
    with evaluating(model), torch.inference_mode():
        for batch in batches[parallel.rank() :: parallel.world()]:
            yield real_tokens(batch["position_ids"])
            run(model, batch)


@contextlib.contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Hooks that are taken away at the end, whatever happens inside."""
    kept = list(handles)
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()


def summed(
    model: nn.Module,
    batches: Sequence[Batch],
    handles: Iterable[Any],
    real_BL: list[torch.Tensor],
    sums: np.ndarray,
    *,
    advance: Callable[[int], None],
) -> np.ndarray:
    """What hooks added to `sums` over all batches and processes; its last entry counts the tokens.

    Args:
        real_BL: holds the mask of real tokens of the batch in work, for the hooks.
    """
    with hooked(handles):
        for mask in passes(model, batches):
            real_BL[:] = [mask]
            sums[-1] += float(mask.sum())
            advance(1)
    return parallel.total(sums)
