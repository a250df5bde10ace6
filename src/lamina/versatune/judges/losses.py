"""No judge: the model's own losses on labelled rows, from which `shares.from_losses` makes shares.

Rows are read as running text after the start token, cut to `max_tokens`. Cost: one forward pass
of each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from lamina.core.domains import RowLosses

if TYPE_CHECKING:
    from torch import nn

_TOKENS_AT_ONCE = 4096


def text_losses(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    start_id: int,
    max_tokens: int,
) -> RowLosses:
    """The losses of texts, token by token given what came before, in nats.

    Raises:
        DataError: no token, or a loss that is not finite.
    """
    ids = [tokenizer.encode(text, add_special_tokens=False)[:max_tokens] for text in texts]
    ids = [row for row in ids if row]
    sums = [0.0] * len(ids)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for places in _batches(ids):
                for place, loss in zip(
                    places, _losses(model, [ids[p] for p in places], start_id), strict=True
                ):
                    sums[place] = loss
    finally:
        model.train(training)
    num_bytes = tuple(len(tokenizer.decode(row).encode("utf-8", "replace")) for row in ids)
    return RowLosses(tuple(sums), tuple(map(len, ids)), num_bytes)


def _batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Rows of like length together, so many that their padded tokens stay few."""
    batch: list[int] = []
    for place in sorted(range(len(ids)), key=lambda p: len(ids[p])):
        if batch and (len(batch) + 1) * len(ids[place]) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _losses(model: nn.Module, rows: Sequence[Sequence[int]], start_id: int) -> list[float]:
    """Sum of the losses of each row, float64. Padding on the right changes nothing before it."""
    device = next(model.parameters()).device
    longest = max(map(len, rows))
    inputs = torch.full((len(rows), longest), start_id)
    targets = torch.full((len(rows), longest), -100)
    for number, row in enumerate(rows):
        targets[number, : len(row)] = torch.tensor(row)
        inputs[number, 1 : len(row)] = torch.tensor(row[:-1])
    logits = model(input_ids=inputs.to(device), use_cache=False).logits
    each = F.cross_entropy(
        logits.float().transpose(1, 2), targets.to(device), reduction="none", ignore_index=-100
    )
    return each.double().sum(1).tolist()
