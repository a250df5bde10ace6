"""Texts sampled from a model, batch by batch, each a function of its own number and the seed.

Text number i draws its tokens with uniform numbers of its own (a Philox stream keyed by seed and
i) by the inverse of the cumulative distribution, so it is the same text in any batch, up to ties
in float arithmetic: between batches of 1 and 64, one of 96 texts differed (4,096 tokens in the
vocabulary, float32, 128 tokens a text). The same batches give the same bits.

All rows begin with one token, so there is no padding; keys and values are cached in buffers that
grow by doubling (torch.cat copies the whole cache at each token: at 512 tokens that cost 40 % more
time); finished rows leave the batch. Memory is the cache of `batch_size` texts, and a few [B, V]
arrays. A model that keeps no cache of keys and values reads its whole text again at each token.

Letters: B rows of the batch, V vocabulary, T tokens so far, H heads, D of a head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lamina.core.errors import CheckpointError

_LEAVE_AT = 8
"""Finished rows leave when they are one in so many: to leave means to copy the others' cache."""
_FIRST_CAPACITY = 32


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. At the defaults the model's own distribution is sampled."""

    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_ids: int | None = None
    """Ids from here on are never drawn: an embedding may have more rows than the tokenizer ids."""

    def __post_init__(self) -> None:
        assert self.temperature > 0, f"temperature {self.temperature}"
        assert 0 < self.top_p <= 1, f"top_p {self.top_p}"
        assert self.repetition_penalty > 0, f"repetition_penalty {self.repetition_penalty}"


def sample(
    model: nn.Module,
    *,
    start_id: int,
    eos_id: int | Collection[int] | None,
    num_texts: int,
    first: int = 0,
    seed: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    batch_size: int = 64,
    num_ids: int | None = None,
) -> Iterator[list[int]]:
    """The texts numbered `first`, `first` + 1, ... as token ids, in order.

    A text is without its start token, and with its end token if it ended by itself. The model is
    put in eval mode and left as it was.

    Args:
        eos_id: the token, or any of the tokens, that ends a text; None: all are `max_new_tokens`.

    Raises:
        CheckpointError: the model's output is not a number.
    """
    ends = frozenset([eos_id] if isinstance(eos_id, int) else eos_id or ())
    how = Sampling(temperature, top_p, repetition_penalty, num_ids)
    for begin in range(first, first + num_texts, batch_size):
        numbers = range(begin, min(begin + batch_size, first + num_texts))
        uniforms_BT = np.stack([uniforms(seed, i, max_new_tokens) for i in numbers])
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                texts = _sample_batch(model, start_id, ends, torch.from_numpy(uniforms_BT), how)
        finally:
            model.train(training)
        yield from texts


def uniforms(seed: int, number: int, count: int, *, sample: int = 0) -> np.ndarray:
    """`count` numbers in [0, 1) of text `number`, float64; a longer row begins with a shorter.

    Args:
        sample: of one text several versions may be drawn, each far along the stream of the text.
    """
    stream = np.random.Philox(key=[seed, number], counter=[0, 0, 0, sample])
    return np.random.Generator(stream).random(count)


def draw(probabilities_BV: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    """The token at each row's uniform number in its cumulative distribution, int64 [B].

    Sums run in float64, in the order of the vocabulary. A token of probability 0 is never drawn.
    The rows need not sum to 1; -1 where a row is not a distribution (NaN, or nothing).
    """
    cumulative_BV = probabilities_BV.cumsum(-1, dtype=torch.float64)
    total_B = cumulative_BV[:, -1]
    below_B = torch.nextafter(total_B, torch.zeros_like(total_B))
    mark_B = torch.minimum(uniforms_B * total_B, below_B)
    drawn_B = torch.searchsorted(cumulative_BV, mark_B[:, None], right=True)[:, 0]
    return torch.where(total_B > 0, drawn_B, -1)


def distribution(
    logits_BV: torch.Tensor, seen_BV: torch.Tensor | None, how: Sampling
) -> torch.Tensor:
    """Probabilities [B, V] in float32 after penalty, temperature and top_p, in this order.

    As the logits processors of transformers have it (tests/engine/test_generate.py): the penalty
    divides a positive logit of a token that was seen and multiplies a negative one; top_p keeps
    the likeliest tokens up to the first that reaches it.
    """
    logits_BV = logits_BV.float()
    if how.num_ids is not None:
        logits_BV = logits_BV[:, : how.num_ids]
    if seen_BV is not None:
        logits_BV = harder(logits_BV, seen_BV[:, : logits_BV.shape[1]], how.repetition_penalty)
    if how.temperature != 1.0:
        logits_BV = logits_BV / how.temperature
    probabilities_BV = logits_BV.softmax(-1)
    if how.top_p == 1.0:
        return probabilities_BV
    sorted_BV, order_BV = logits_BV.sort(dim=-1)
    out_BV = sorted_BV.softmax(-1).cumsum(-1) <= 1 - how.top_p
    out_BV[:, -1] = False
    return probabilities_BV.masked_fill(out_BV.scatter(1, order_BV, out_BV), 0.0)


def harder(logits_BV: torch.Tensor, seen_BV: torch.Tensor, penalty: float) -> torch.Tensor:
    """Logits with a penalty on tokens that were seen."""
    harder_BV = torch.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return torch.where(seen_BV, harder_BV, logits_BV)


def _sample_batch(
    model: nn.Module,
    start_id: int,
    ends: frozenset[int],
    uniforms_BT: torch.Tensor,
    how: Sampling,
) -> list[list[int]]:
    num_rows, max_tokens = uniforms_BT.shape
    device = next(model.parameters()).device
    texts: list[list[int]] = [[] for _ in range(num_rows)]
    rows = torch.arange(num_rows)  # which text each row of the batch is
    running = [True] * num_rows  # of the rows of the batch
    ids_B1 = torch.full((num_rows, 1), start_id, device=device)
    steps = _Steps(model, ids_B1)
    seen_BV: torch.Tensor | None = None
    for t in range(max_tokens):
        logits_BV = steps.logits(ids_B1)
        if how.repetition_penalty != 1.0:
            if seen_BV is None:
                seen_BV = torch.zeros(logits_BV.shape, dtype=torch.bool, device=device)
            seen_BV.scatter_(1, ids_B1, True)
        probabilities_BV = distribution(logits_BV, seen_BV, how)
        drawn_B = draw(probabilities_BV, uniforms_BT[rows, t].to(device))
        tokens = drawn_B.tolist()
        for row, (text, token) in enumerate(zip(rows.tolist(), tokens, strict=True)):
            if running[row]:
                if token < 0:
                    raise _not_a_number(t)
                texts[text].append(token)
                running[row] = token not in ends
        if not any(running) or t + 1 == max_tokens:
            break
        ids_B1 = drawn_B.clamp(min=0)[:, None]
        if running.count(False) * _LEAVE_AT >= len(running):
            kept = torch.tensor([row for row, on in enumerate(running) if on])
            rows, running = rows[kept], [True] * len(kept)
            kept = kept.to(device)
            ids_B1 = ids_B1[kept]
            seen_BV = None if seen_BV is None else seen_BV[kept]
            steps.keep(kept)
    return texts


def _not_a_number(t: int) -> CheckpointError:
    return CheckpointError(
        f"The model's output after {t + 1} tokens is not a number (NaN or infinite), so nothing "
        "can be sampled. Its weights are damaged, or its dtype is too small: try float32."
    )


class _Steps:
    """One token after the other, with the cache of what came before."""

    def __init__(self, model: nn.Module, start_B1: torch.Tensor) -> None:
        self._model = model
        self._cache: Any = None
        self._whole_BT = start_B1[:, :0]
        self._cached = True

    def logits(self, ids_B1: torch.Tensor) -> torch.Tensor:
        """What the model gives after one more token [B, V]."""
        first = self._whole_BT.shape[1] == 0
        self._whole_BT = torch.cat([self._whole_BT, ids_B1], dim=1)
        if not self._cached:
            return self._model(input_ids=self._whole_BT, use_cache=False).logits[:, -1]
        outputs = self._model(input_ids=ids_B1, past_key_values=self._cache, use_cache=True)
        if first:
            self._cache = _growing(outputs.get("past_key_values"))
            self._cached = self._cache is not None
        return outputs.logits[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows of the batch go on."""
        self._whole_BT = self._whole_BT[rows]
        if self._cache is not None:
            self._cache.reorder_cache(rows)


def _growing(cache: Any) -> Any:
    """The model's own cache, its plain layers replaced by ours."""
    if type(cache) is DynamicCache:
        cache.layers = [
            _GrowingLayer.of(layer) if type(layer) is DynamicLayer else layer
            for layer in cache.layers
        ]
    return cache


class _GrowingLayer(DynamicLayer):
    """Keys and values of one block in buffers [B, H, capacity, D] with room for more tokens."""

    @classmethod
    def of(cls, layer: DynamicLayer) -> _GrowingLayer:
        """The same content in buffers of ours."""
        ours = cls()
        if layer.is_initialized:
            assert layer.keys is not None and layer.values is not None, "an empty cache layer"
            ours.update(layer.keys, layer.values)
        return ours

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._length = 0
        self._buffers = [_room(states, _FIRST_CAPACITY) for states in (key_states, value_states)]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new states behind the old ones and gives all, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self._length, self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            for number, old in enumerate(self._buffers):
                self._buffers[number] = _room(old, max(end, 2 * old.shape[-2]))
                self._buffers[number][:, :, :begin] = old[:, :, :begin]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        self._length = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Only these rows of the batch."""
        for number, old in enumerate(self._buffers):
            new = _room(old, old.shape[-2], rows=len(beam_idx))
            new[:, :, : self._length] = old[:, :, : self._length].index_select(0, beam_idx)
            self._buffers[number] = new
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


def _room(like: torch.Tensor, capacity: int, *, rows: int | None = None) -> torch.Tensor:
    num_rows, heads, _, size = like.shape
    return like.new_empty(num_rows if rows is None else rows, heads, capacity, size)
