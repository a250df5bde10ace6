"""Does a model keep the examples of a packed row apart? Asked of the real model, before training.

transformers reads packing from positions that start again, but not in every architecture: Falcon,
OPT, BLOOM, MPT and state-space models let a token see the example before it (measured with
transformers 5.23: tests/contract/test_packing.py). Nothing fails then; the model just learns from
the wrong context. Four forward passes of 24 tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from lamina.core.errors import CheckpointError, RecipeError
from lamina.engine.collate import PackedRow, collate
from lamina.engine.heads import core_model, evaluating, takes_positions

_LENGTHS = (11, 9)
# What a neighbour may move: a mask is exact, but a mixture of experts groups tokens otherwise.
_LEAK = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
# What packed and alone may differ by: other shapes, so other kernels and other roundings.
_APART = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def check_no_leak(model: nn.Module, *, flatten: bool, num_embeddings: int) -> None:
    """Refuse a model that mixes packed examples.

    Two short examples of random tokens share a row. The second one's logits must not move when the
    first one's tokens change, and both must be what they are alone, up to rounding: the root mean
    square of the difference over that of the logits. Training mode and the random numbers of the
    process are left as they were.

    Raises:
        RecipeError: examples see each other, or are not read as they are alone.
        CheckpointError: the model gives logits that are not finite.
    """
    draws = np.random.default_rng(20241)
    first, other, second = (
        draws.integers(0, num_embeddings, size) for size in (_LENGTHS[0], *_LENGTHS)
    )
    with evaluating(model), torch.no_grad():
        logits = _reader(model, flatten=flatten)
        packed_first, packed_second = logits(first, second)
        _, moved_second = logits(other, second)
        (alone_first,) = logits(first)
        (alone_second,) = logits(second)
    if not all(part.isfinite().all() for part in (alone_first, alone_second)):
        raise CheckpointError(
            f"{type(core_model(model)).__name__} gives logits that are not finite before any "
            "training: its weights are damaged, or overflow in this dtype. Get the model again, or "
            "write dtype: float32."
        )
    leak = _distance(moved_second, packed_second)
    apart = max(_distance(packed_first, alone_first), _distance(packed_second, alone_second))
    dtype = packed_first.dtype
    if not leak <= _LEAK[dtype]:
        raise RecipeError(_advice(model, f"see each other: a neighbour moves logits by {leak:.1%}"))
    if not apart <= _APART[dtype]:
        raise RecipeError(
            _advice(model, f"are not read as they are alone: logits differ by {apart:.1%}")
        )


def _reader(model: nn.Module, *, flatten: bool) -> Callable[..., list[torch.Tensor]]:
    """A function from examples in one row to each one's logits [length, V]."""
    device = core_model(model).get_input_embeddings().weight.device
    with_positions = takes_positions(model)

    def logits(*examples: np.ndarray) -> list[torch.Tensor]:
        lengths = np.array([len(example) for example in examples])
        ids = np.concatenate(examples)
        trained = np.ones(len(ids), dtype=bool)
        trained[np.cumsum(lengths) - lengths] = False
        batch = collate([PackedRow(ids, trained, lengths)], pad_id=0, flatten=flatten)
        inputs = {"input_ids": batch["input_ids"].to(device)}
        if with_positions:
            inputs["position_ids"] = batch["position_ids"].to(device)
        out = model(**inputs, use_cache=False).logits[0, : len(ids)]
        return list(out.split(lengths.tolist()))

    return logits


def _distance(logits: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square of the difference over that of the logits about each position's mean."""
    logits, other = logits.double(), other.double()
    spread = (other - other.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((logits - other).square().mean().sqrt() / spread.clamp_min(1e-12))


def _advice(model: nn.Module, what: str) -> str:
    core = core_model(model)
    return (
        f"{type(core).__name__} (attention: {core.config._attn_implementation}) cannot be trained "
        f"on packed rows: examples that share a row {what} of their size. "
        "Set `data.packing: false` to give each example a row of its own."
    )
