"""One text at a time by transformers' own `generate`: right for every model, and slow.

For models whose rows cannot run side by side at their own lengths (`write_fit`): those that keep
something other than keys and values (Mamba), whose attention needs to know where padding is
(ALiBi), or whose settings for generation ask for more than the likeliest token.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lamina.evaluate.models import LanguageModel, quiet
from lamina.evaluate.stops import Stops
from lamina.evaluate.write_pick import Pick, Text


def write_alone(model: LanguageModel, text: Text, pick: Pick, stops: Stops) -> None:
    """Writes one text; its tokens are then in it.

    Raises:
        CheckpointError: the model's output is not a number.
    """
    ids_1L = torch.tensor([text.prompt.tokens], device=model.device)
    network: Any = model.network
    with quiet():
        network.generate(
            input_ids=ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            max_new_tokens=text.prompt.max_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([_Picked(text, pick)]),
            stopping_criteria=StoppingCriteriaList([_Ended(text, stops)]),
        )


class _Picked(LogitsProcessor):
    """Leaves one token to choose: the one that we pick."""

    def __init__(self, text: Text, pick: Pick) -> None:
        self._text = text
        self._pick = pick

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        token = self._pick(scores, [self._text], processed=True)[0]
        self._text.tokens.append(token)
        only = torch.full_like(scores, -torch.inf)
        only[:, token] = 0
        return only


class _Ended(StoppingCriteria):
    def __init__(self, text: Text, stops: Stops) -> None:
        self._text = text
        self._stops = stops

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> Any:
        ended = self._text.end(self._stops)
        return torch.tensor([ended], device=input_ids.device)
