"""`block_influence`: how much a block turns the hidden state (ShortGPT, arXiv:2403.03853).

    BI_b = 1 - E over tokens of cos(h before block b, h after it)

Needs no adapter and no gradient: one forward pass of the rows. Cosines and sums in float64.
Scores are per block; padding does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lamina.core.errors import DataError
from lamina.engine.prefix import blocks_of
from lamina.ila.forwards import Batch, summed


def block_influence(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    advance: Callable[[int], None] = lambda batches: None,
) -> dict[str, float]:
    """The influence of every block: `0`, `1`, ... -> [0, 2]; high: important.

    Args:
        model: a model in memory, with or without an adapter (then with its deltas).
        batches: of `engine.collate`, on the model's device.

    Raises:
        DataError: hidden states are not finite.
        LayerError: the model has no list of blocks.
    """
    blocks = blocks_of(model)
    real_BL: list[torch.Tensor] = []
    sums = np.zeros(len(blocks) + 1)

    def hook(number: int) -> Callable[..., None]:
        def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            behind = output[0] if isinstance(output, tuple) else output
            cosines_N = cosine(before[real_BL[-1]], behind[real_BL[-1]])
            sums[number] += float(cosines_N.sum())

        return after

    handles = [b.register_forward_hook(hook(n), with_kwargs=True) for n, b in enumerate(blocks)]
    sums = summed(model, batches, handles, real_BL, sums, advance=advance)
    if not np.isfinite(sums).all():
        raise DataError(
            "hidden states are not finite: the model is damaged, or overflows in this dtype. Try "
            "train.dtype: float32."
        )
    return {str(number): float(1 - sums[number] / sums[-1]) for number in range(len(blocks))}


def cosine(before_NH: torch.Tensor, after_NH: torch.Tensor) -> torch.Tensor:
    """The cosine of each token's two vectors, float64 [N]; 1 where both are 0, 0 where one is."""
    x, y = before_NH.double(), after_NH.double()
    x2, y2 = x.square().sum(-1), y.square().sum(-1)
    norms = (x2 * y2).sqrt()
    plain = ((x * y).sum(-1) / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(-1, 1)
    return torch.where((x2 == 0) & (y2 == 0), torch.ones_like(plain), plain)
