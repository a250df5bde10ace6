"""Attention of packed rows on a CPU: one call for each example instead of a mask over the batch.

transformers keeps packed examples apart by a block-diagonal mask: of [B, 1, L, L], or, where the
batch is one flat row, of [1, 1, T, T]. A CPU's kernels compute every masked score all the same.
Here each example's tokens are cut out of the flat row and attended on their own, so the work is the
sum of the squares of the examples' lengths, and a flat row needs no padding. Attention itself is 3
times faster than with a mask on rows of 512 tokens that hold 5 examples each, a training step of
the demo model 1.4 times, against padded rows 1.8 times (docs/performance.md).

Not for an accelerator: there one call for all of them is what is fast.

Letters: B rows, T tokens of all rows, H heads, D their size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lamina.engine.heads import core_model, evaluating, takes_positions

NAME = "lamina_examples"
"""What `config._attn_implementation` says while this attention is in use."""
_LENGTHS = (7, 5, 12)
_APART = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@contextlib.contextmanager
def attending_by_example(model: nn.Module) -> Iterator[bool]:
    """While this holds the model attends example by example, if it can: then True is given.

    It can where its weights are on a CPU, its attention is torch's (`sdpa`), and packed examples
    come out as they do alone, which is tried on 24 tokens. Batches must then
    have the `position_ids` of `collate`, flat or in rows; nothing may be generated with a cache.
    """
    core = core_model(model)
    before = core.config._attn_implementation
    device = core.get_input_embeddings().weight.device
    if device.type != "cpu" or before != "sdpa" or not takes_positions(model):
        yield False
        return
    _register()
    alone = _logits_alone(core)
    try:
        core.set_attn_implementation(NAME)
        possible = core.config._attn_implementation == NAME and _agrees(core, alone)
        if not possible:
            core.set_attn_implementation(before)
        yield possible
    finally:
        core.set_attn_implementation(before)


class NotHere(RuntimeError):
    """The model asks of its attention what is not done here: a soft cap, sinks, a bias, a cache."""


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each example; an attention function of transformers.

    Args:
        query: [B, H, L, D]; key and value may have fewer heads.
        position_ids: [B, L]; an example begins where it is 0.

    Returns: [B, L, H, D], and no weights.

    Raises:
        NotHere: a cache, a mask, or a kind of attention that this is not.
    """
    kinds = [name for name in _REFUSED if others.get(name) is not None]
    kinds += ["is_causal=False"] if others.get("is_causal") is False else []
    if kinds:
        raise NotHere(f"{type(module).__name__} asks for {', '.join(kinds)}")
    if position_ids is None or attention_mask is not None or key.shape[2] != query.shape[2]:
        raise NotHere(f"{type(module).__name__} brings a mask or a cache, or no positions")
    lengths = example_lengths(position_ids)
    rows, length = query.shape[0], query.shape[2]
    # [B, H, L, D] -> [T, H, D]: a view, as models make heads out of [B, L, H * D].
    parts = (
        state.transpose(1, 2).flatten(0, 1).split(lengths, dim=0) for state in (query, key, value)
    )
    grouped = query.shape[1] != key.shape[1]
    out_THD = torch.cat(
        [
            F.scaled_dot_product_attention(
                *(part.transpose(0, 1)[None] for part in (q, k, v)),
                attn_mask=_band(len(q), sliding_window, q.device),
                dropout_p=dropout,
                is_causal=sliding_window is None or len(q) <= sliding_window,
                scale=scaling,
                enable_gqa=grouped,
            )[0].transpose(0, 1)
            for q, k, v in zip(*parts, strict=True)
        ]
    )
    return out_THD.reshape(rows, length, *out_THD.shape[1:]), None


_REFUSED = ("softcap", "s_aux", "position_bias", "cache")


def example_lengths(position_ids: torch.Tensor) -> list[int]:
    """Tokens of each example of [B, L], row by row; a run of padding counts as one example.

    Padding has position 0 throughout, and nobody reads what it attends to. An example of one token
    looks the same, but there is none: it would have nothing to predict.
    """
    zero_BL = position_ids == 0
    begins_BL = zero_BL.clone()
    begins_BL[:, :-1] &= position_ids[:, 1:] == 1
    begins_BL[:, -1] = False
    padding_BL = zero_BL & ~begins_BL
    begins_BL[:, 0] = True
    begins_BL[:, 1:] |= padding_BL[:, 1:] & ~padding_BL[:, :-1]
    begins = begins_BL.flatten().nonzero().flatten().tolist()
    return [b - a for a, b in zip(begins, [*begins[1:], zero_BL.numel()], strict=True)]


def _band(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """The mask of a sliding window [length, length]; None where the window holds it all."""
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=device)
    back = place[:, None] - place
    return (back >= 0) & (back < sliding_window)


def _register() -> None:
    """Makes transformers know the attention, and that it wants no mask."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def _examples(core: Any) -> list[torch.Tensor]:
    """Short examples of ids that every vocabulary has."""
    num_ids = core.get_input_embeddings().weight.shape[0]
    return [(torch.arange(n) * 7 + 3 * n) % num_ids for n in _LENGTHS]


def _logits_alone(core: Any) -> list[torch.Tensor]:
    with evaluating(core), torch.no_grad():
        return [core(input_ids=ids[None], use_cache=False).logits[0] for ids in _examples(core)]


def _agrees(core: Any, alone: list[torch.Tensor]) -> bool:
    """Whether packed examples have the logits that they have alone, up to rounding."""
    ids = torch.cat(_examples(core))[None]
    positions = torch.cat([torch.arange(n) for n in _LENGTHS])[None]
    try:
        with evaluating(core), torch.no_grad():
            packed = core(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    except NotHere:
        return False
    expected = torch.cat(alone).double()
    spread = (expected - expected.mean(-1, keepdim=True)).square().mean().sqrt()
    apart = (packed.double() - expected).square().mean().sqrt() / spread.clamp_min(1e-12)
    return bool(apart <= _APART[packed.dtype])
