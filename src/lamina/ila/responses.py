"""A model's greedy answers to prompts, and the rank of each of their tokens in another model.

Answers are made batch by batch with left padding and the cache of keys and values; a model that
keeps none reads its whole text again for each token, one prompt at a time. Ranks take one forward
pass of prompts and answers, and logits at the answers' tokens only.

Letters: B rows, T tokens so far, N answer tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lamina.core.errors import CheckpointError
from lamina.engine.collate import PackedRow, collate
from lamina.engine.heads import capture, evaluating, output_module, takes_positions
from lamina.engine.prefix import given


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to one prompt, as token ids."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    """At least one; with its end token where it ended by itself."""
    ended: bool


def answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    ends: Collection[int],
    max_new_tokens: int,
    num_ids: int,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda prompts: None,
) -> list[Answer]:
    """The greedy answer to each prompt, in order.

    Args:
        ends: tokens that end an answer.
        num_ids: ids from here on are never said: an embedding may have more rows than there are.

    Raises:
        CheckpointError: the model's output is not a number.
    """
    order = sorted(range(len(prompts)), key=lambda n: (len(prompts[n]), n))
    found: dict[int, Answer] = {}
    with evaluating(model), torch.inference_mode():
        size = batch_size if _keeps_cache(model) else 1
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            said = _batch([prompts[n] for n in chosen], _Reader(model, num_ids, size > 1), ends,
                          max_new_tokens)  # fmt: skip
            for number, ids in zip(chosen, said, strict=True):
                found[number] = Answer(tuple(prompts[number]), tuple(ids), ids[-1] in ends)
            advance(len(chosen))
    return [found[number] for number in range(len(prompts))]


def _batch(
    prompts: Sequence[Sequence[int]],
    reader: _Reader,
    ends: Collection[int],
    max_new_tokens: int,
) -> list[list[int]]:
    longest = max(map(len, prompts))
    padded = [[0] * (longest - len(one)) + list(one) for one in prompts]
    mask = [[0] * (longest - len(one)) + [1] * len(one) for one in prompts]
    new_BT, mask_BT = torch.tensor(padded), torch.tensor(mask)
    said: list[list[int]] = [[] for _ in prompts]
    for _ in range(max_new_tokens):
        chosen = reader.next(new_BT, mask_BT).tolist()
        for ids, token in zip(said, chosen, strict=True):
            if not ids or ids[-1] not in ends:
                ids.append(token)
        if all(ids[-1] in ends for ids in said):
            break
        new_BT = torch.tensor(chosen)[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(new_BT)], dim=1)
    return said


class _Reader:
    """Reads tokens and says the likeliest next one."""

    def __init__(self, model: nn.Module, num_ids: int, caches: bool) -> None:
        self._model, self._num_ids, self._caches = model, num_ids, caches
        self._device = next(model.parameters()).device
        self._cache: Any = None
        self._whole_BT: torch.Tensor | None = None

    def next(self, new_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """The likeliest token after what was read so far and these tokens, int64 [B]."""
        if not self._caches:
            whole = new_BT if self._whole_BT is None else torch.cat([self._whole_BT, new_BT], dim=1)
            self._whole_BT = new_BT = whole
        inputs: dict[str, Any] = {"input_ids": new_BT.to(self._device), "use_cache": self._caches}
        if self._caches:
            inputs["attention_mask"] = mask_BT.to(self._device)
            inputs["past_key_values"] = self._cache
            if takes_positions(self._model):
                positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -new_BT.shape[1] :]
                inputs["position_ids"] = positions_BT.to(self._device)
        with capture(output_module(self._model), keep=lambda hidden: hidden[:, -1:]):
            outputs = self._model(**inputs)
        self._cache = outputs.get("past_key_values")
        logits_BV = outputs.logits[:, -1, : self._num_ids]
        _refuse_nan(logits_BV)
        return logits_BV.argmax(-1).cpu()


def _keeps_cache(model: nn.Module) -> bool:
    ids = torch.zeros((1, 2), dtype=torch.long, device=next(model.parameters()).device)
    return model(input_ids=ids, use_cache=True).get("past_key_values") is not None


def ranks(
    model: nn.Module,
    said: Sequence[Answer],
    *,
    num_ids: int,
    batch_size: int = 8,
) -> list[np.ndarray]:
    """The rank of each token of each answer in what `model` expects there: 1 is its own choice.

    One plus the tokens that it holds likelier, int64; equal ones do not count.

    Raises:
        CheckpointError: the model's output is not a number.
    """
    found = []
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for first in range(0, len(said), batch_size):
            chosen = said[first : first + batch_size]
            batch = collate([_row(one) for one in chosen], pad_id=0, flatten=False)
            ranks_N = _ranks(model, {name: v.to(device) for name, v in batch.items()}, num_ids)
            found += np.split(ranks_N, np.cumsum([len(one.ids) for one in chosen])[:-1])
    return found


def _row(one: Answer) -> PackedRow:
    ids = np.array([*one.prompt, *one.ids], dtype=np.int64)
    trained = np.arange(len(ids)) >= len(one.prompt)
    return PackedRow(ids, trained, np.array([len(ids)]))


def _ranks(model: nn.Module, batch: dict[str, torch.Tensor], num_ids: int) -> np.ndarray:
    places_N = batch["predictors"]

    def at_answers(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.flatten(0, 1).index_select(0, places_N)[None]

    with capture(output_module(model), keep=at_answers):
        logits_NV = model(**given(model, batch)).logits[0, :, :num_ids]
    _refuse_nan(logits_NV)
    own_N1 = logits_NV.gather(1, batch["targets"][:, None])
    return (1 + (logits_NV > own_N1).sum(-1)).cpu().numpy()


def _refuse_nan(logits: torch.Tensor) -> None:
    if torch.isnan(logits).any():
        raise CheckpointError(
            "The model's output is not a number (NaN), so it has no likeliest token. Its weights "
            "are damaged, or its dtype is too small: try float32."
        )
