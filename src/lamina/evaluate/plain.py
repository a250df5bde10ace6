"""Windows scored row by row, padded on the right: what every causal model can do.

The way that `shared_prefix` is checked against, and what is used where that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lamina.engine.heads import OutputHead, capture, nothing
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.outputs import Asked, Score, scores
from lamina.evaluate.windows import Window, batches

# Values of output kept at once (float32): 256 MB.
_MAX_OUTPUTS = 2**26


def plain_scores(
    model: LanguageModel,
    windows: Sequence[Window],
    *,
    batch_tokens: int,
    head: OutputHead | None = None,
) -> list[Score]:
    """The score of each window. Windows that differ in their last token only are read once.

    Args:
        head: the output embedding, where it is known: outputs are then made chunk by chunk.
    """
    by_input: dict[tuple[int, ...], list[int]] = {}
    for number, window in enumerate(windows):
        by_input.setdefault(window.tokens[:-1], []).append(number)
    inputs = [
        max((replace(windows[n], row=row) for n in numbers), key=lambda window: window.scored)
        for row, numbers in enumerate(by_input.values())
    ]
    owners = list(by_input.values())
    found: dict[int, Score] = {}
    max_scored = batch_tokens if head else max(1, _MAX_OUTPUTS // model.num_embeddings)
    for batch in batches(inputs, max_tokens=batch_tokens, max_scored=max_scored):
        numbers = [n for window in batch for n in owners[window.row]]
        rows = [row for row, window in enumerate(batch) for _ in owners[window.row]]
        read = _read(model, batch, rows, [windows[n] for n in numbers], head)
        found |= zip(numbers, read, strict=True)
    return [found[number] for number in range(len(windows))]


def _read(
    model: LanguageModel,
    batch: Sequence[Window],
    rows: Sequence[int],
    windows: Sequence[Window],
    head: OutputHead | None,
) -> list[Score]:
    """One pass over `batch`; window i of `windows` is read in row `rows[i]` of it."""
    length = batch[0].length
    first = 0 if head else min(window.first_scored for window in batch)
    # Padding is on the right: in a causal model nothing that is scored can see it.
    inputs_BL = torch.zeros((len(batch), length), dtype=torch.long)
    for row, window in enumerate(batch):
        inputs_BL[row, : window.length] = torch.tensor(window.tokens[:-1])
    asked = Asked()
    for owner, (row, window) in enumerate(zip(rows, windows, strict=True)):
        begin = row * (length - first) - first
        places = range(begin + window.first_scored, begin + window.length)
        asked.add(owner, places, window.tokens[-window.scored :])
    with torch.inference_mode():
        logits_of = _outputs(model, inputs_BL.to(model.device), first, head)
        return scores(
            asked,
            len(windows),
            logits_of,
            vocabulary=model.num_embeddings,
            device=model.device,
        )


def _outputs(
    model: LanguageModel, inputs_BL: torch.Tensor, first: int, head: OutputHead | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The outputs at any places of the flattened batch, whose rows begin at `first`."""
    network: Any = model.network
    if head is not None:
        with capture(head.module, keep=nothing) as seen:
            network(input_ids=inputs_BL, use_cache=False)
        assert seen.hidden is not None, "the output embedding was not called"
        hidden_PH = seen.hidden.flatten(0, 1)
        return lambda place_P: head(hidden_PH[place_P])
    if model.keeps_logits:
        kept = inputs_BL.shape[1] - first
        out = network(input_ids=inputs_BL, use_cache=False, logits_to_keep=kept)
        logits_PV = out.logits.flatten(0, 1)
    else:
        out = network(input_ids=inputs_BL, use_cache=False)
        logits_PV = out.logits[:, first:].flatten(0, 1)
    return lambda place_P: logits_PV[place_P]
