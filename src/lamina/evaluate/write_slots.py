"""Keys and values of rows that come and go, each at its own length.

Row r of a block's buffers [R, H, C, D] holds its tokens from the left, positions 0 to its length;
what lies behind is masked. So a row needs no padding, may begin when another ends, and takes its
place. Running rows are always the first ones: when one leaves, the last moves into its place. The
model itself is transformers' own; it is given positions, a mask of [B, 1, 1, T] and a cache whose
layers write into the buffers.

Letters: R rows there is room for, B running rows, H heads, C positions there is room for, D of a
head, T positions looked at, V vocabulary, L tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lamina.evaluate.models import LanguageModel

_MORE = 64
"""Positions added at least when there is no more room: to grow copies the buffers."""

States = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of every block, [B, H, L, D] each."""


@dataclass(frozen=True, slots=True)
class Read:
    """Prompts that were read, padded on the right to one length."""

    logits_BV: torch.Tensor
    """After each prompt's last token."""
    states: States
    lengths: list[int]
    """With the shared prefix."""


def read(model: LanguageModel, prompts: Sequence[Sequence[int]], prefix: States | None) -> Read:
    """The prompts in one pass of the model; what follows a prompt cannot change it, so no mask.

    Args:
        prefix: of what all of the prompts begin with, as [1, H, P, D]; `prompts` are without it.
    """
    lengths = [len(prompt) for prompt in prompts]
    known = prefix[0][0].shape[2] if prefix else 0
    ids_BL = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids_BL[row, : len(prompt)] = torch.tensor(prompt)
    positions_BL = torch.arange(known, known + max(lengths)).expand(len(prompts), -1)
    cache = DynamicCache()
    if prefix:
        cache.layers = [_begun(keys, values, len(prompts)) for keys, values in prefix]
    lasts = sorted({length - 1 for length in lengths})
    wanted = {"logits_to_keep": torch.tensor(lasts, device=model.device)}
    logits_BKV = model.network(
        input_ids=ids_BL.to(model.device),
        position_ids=positions_BL.to(model.device),
        past_key_values=cache,
        use_cache=True,
        **(wanted if model.keeps_logits else {}),
    ).logits
    places = [lasts.index(length - 1) if model.keeps_logits else length - 1 for length in lengths]
    layers: list[Any] = cache.layers
    return Read(
        logits_BKV[range(len(prompts)), places],
        [(layer.keys, layer.values) for layer in layers],
        [known + length for length in lengths],
    )


def _begun(keys: torch.Tensor, values: torch.Tensor, rows: int) -> DynamicLayer:
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys = keys.expand(rows, -1, -1, -1)
    layer.values = values.expand(rows, -1, -1, -1)
    return layer


class Slots:
    """The rows that are being written, and the model's next step for all of them."""

    def __init__(self, model: LanguageModel, num_rows: int) -> None:
        self._model = model
        self._num_rows = num_rows
        self._now = _Now(torch.arange(num_rows, device=model.device))
        self._lengths: list[int] = []
        self._layers: list[_SlotLayer] = []
        self._cache = DynamicCache()
        self._mask_RC = torch.empty(0)

    def __len__(self) -> int:
        return len(self._lengths)

    def enter(self, states: States, row: int, length: int) -> None:
        """Row `row` of prompts that were read becomes the last of the running rows."""
        if not self._layers:
            self._begin(states, length)
        self._make_room(length)
        place = len(self._lengths)
        assert place < self._num_rows, f"{place} rows are running"
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            layer.fill(place, keys[row, :, :length], values[row, :, :length])
        self._lengths.append(length)
        self._mark(place)

    def leave(self, place: int) -> None:
        """A row is finished; the last one takes its place."""
        last = len(self._lengths) - 1
        length = self._lengths.pop()
        if place != last:
            for layer in self._layers:
                layer.move(last, place, length)
            self._lengths[place] = length
            self._mark(place)

    def step(self, ids_B: torch.Tensor) -> torch.Tensor:
        """What the model gives after one more token for every running row, [B, V]."""
        longest = max(self._lengths) + 1
        self._make_room(longest)
        now, rows = self._now, len(self._lengths)
        now.begin(self._lengths, longest)
        self._mask_RC[now.rows_B, now.positions_B] = 0
        outputs = self._model.network(
            input_ids=ids_B[:, None],
            position_ids=now.positions_B[:, None],
            attention_mask=self._mask_RC[:rows, None, None, :longest],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._lengths = [length + 1 for length in self._lengths]
        return outputs.logits[:, -1]

    def _begin(self, states: States, length: int) -> None:
        room = length + _MORE
        self._layers = [
            _SlotLayer(
                self._now, _room(keys, self._num_rows, room), _room(values, self._num_rows, room)
            )
            for keys, values in states
        ]
        self._cache.layers = list(self._layers)
        self._mask_RC = _nothing(states[0][0], self._num_rows, room)

    def _make_room(self, length: int) -> None:
        room = self._mask_RC.shape[1]
        if length <= room:
            return
        room = max(length, room + _MORE, room + room // 4)
        for layer in self._layers:
            layer.grow(room, len(self._lengths))
        old_RC = self._mask_RC
        self._mask_RC = _nothing(old_RC, self._num_rows, room)
        self._mask_RC[:, : old_RC.shape[1]] = old_RC

    def _mark(self, place: int) -> None:
        self._mask_RC[place, : self._lengths[place]] = 0
        self._mask_RC[place, self._lengths[place] :] = -torch.inf


class _Now:
    """Where the running step writes: shared by the layers of one cache."""

    def __init__(self, rows_R: torch.Tensor) -> None:
        self._rows_R = rows_R
        self.rows_B = self.positions_B = rows_R[:0]
        self.longest = 0

    def begin(self, lengths: Sequence[int], longest: int) -> None:
        self.rows_B = self._rows_R[: len(lengths)]
        self.positions_B = torch.tensor(lengths, device=self._rows_R.device)
        self.longest = longest


class _SlotLayer(DynamicLayer):
    """Keys and values of one block, [R, H, C, D]."""

    def __init__(self, now: _Now, keys_RHCD: torch.Tensor, values_RHCD: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys_RHCD, values_RHCD)
        self._now = now
        self._buffers = [keys_RHCD, values_RHCD]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes one token of each running row behind the row's others; gives all, as views."""
        now = self._now
        rows = len(key_states)
        assert key_states.shape[2] == 1, "one token for each row"
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[now.rows_B, :, now.positions_B] = states[:, :, 0]
        keys, values = (buffer[:rows, :, : now.longest] for buffer in self._buffers)
        return keys, values

    def get_seq_length(self) -> int:
        return self._now.longest - 1

    def fill(self, place: int, keys_HLD: torch.Tensor, values_HLD: torch.Tensor) -> None:
        """The tokens of a prompt."""
        for buffer, states in zip(self._buffers, (keys_HLD, values_HLD), strict=True):
            buffer[place, :, : states.shape[1]] = states

    def move(self, source: int, target: int, length: int) -> None:
        for buffer in self._buffers:
            buffer[target, :, :length] = buffer[source, :, :length]

    def grow(self, room: int, rows: int) -> None:
        for number, old in enumerate(self._buffers):
            new = _room(old, len(old), room)
            new[:rows, :, : old.shape[2]] = old[:rows]
            self._buffers[number] = new


def _room(like: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    """Zeros, as what is masked is multiplied all the same, and must be a number."""
    return like.new_zeros(rows, like.shape[1], room, like.shape[3])


def _nothing(like: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    """A mask, added to the scores, that lets nothing be seen."""
    return like.new_full((rows, room), -torch.inf)
