"""The next token of texts that are being written: the likeliest, or one that is drawn.

A drawn text has uniform numbers of its own (a Philox stream keyed by the seed and the item, at a
place of its own for each sample), so it is the same text in any batch, up to ties in float
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lamina.core.errors import CheckpointError
from lamina.engine.generate import Sampling, distribution, draw, harder, uniforms
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.stops import Ended, Stops
from lamina.evaluate.write_prompts import Prompt


@dataclass(slots=True)
class Text:
    """One text of an item, as far as it is written."""

    prompt: Prompt
    sample: int
    tokens: list[int] = field(default_factory=list)
    ended: Ended | None = None

    def end(self, stops: Stops) -> bool:
        """Notes whether its last token was the last one; asked after every token."""
        self.ended = stops.ended(self.tokens)
        if self.ended is None and len(self.tokens) >= self.prompt.max_tokens:
            self.ended = "length"
        return self.ended is not None


class Pick:
    """How the next token is chosen."""

    def __init__(self, model: LanguageModel, *, sampling: Sampling | None, seed: int) -> None:
        self._name = model.name
        self._sampling = sampling
        self._seed = seed
        penalty = model.network.generation_config.repetition_penalty if sampling is None else None
        self._penalty = (penalty or 1.0) if sampling is None else sampling.repetition_penalty
        self._drawn: dict[tuple[int, int], np.ndarray] = {}

    def __call__(
        self, logits_BV: torch.Tensor, texts: Sequence[Text], *, processed: bool = False
    ) -> list[int]:
        """A token for each text.

        Args:
            processed: the model's own penalty is in the logits already.

        Raises:
            CheckpointError: logits that are not numbers.
        """
        seen_BV = None
        if self._penalty != 1.0 and (self._sampling is not None or not processed):
            seen_BV = _seen(logits_BV, texts)
        if self._sampling is None:
            if seen_BV is not None:
                logits_BV = harder(logits_BV.float(), seen_BV, self._penalty)
            best_B, tokens_B = logits_BV.max(-1)
            tokens = tokens_B.tolist()
            good = best_B.isfinite().tolist()
        else:
            finite_B = logits_BV.amax(-1).isfinite()
            uniforms_B = torch.tensor([self._uniform(text) for text in texts], dtype=torch.float64)
            probabilities_BV = distribution(logits_BV, seen_BV, self._sampling)
            drawn_B = draw(probabilities_BV, uniforms_B.to(logits_BV.device))
            tokens, good = drawn_B.tolist(), finite_B.tolist()
        if not all(good):
            raise _not_numbers(
                self._name, [text for text, fine in zip(texts, good, strict=True) if not fine]
            )
        return tokens

    def _uniform(self, text: Text) -> float:
        key = text.prompt.number, text.sample
        if key not in self._drawn:
            self._drawn[key] = uniforms(
                self._seed, text.prompt.number, text.prompt.max_tokens, sample=text.sample
            )
        return float(self._drawn[key][len(text.tokens)])


def _seen(logits_BV: torch.Tensor, texts: Sequence[Text]) -> torch.Tensor:
    seen_BV = torch.zeros(logits_BV.shape, dtype=torch.bool, device=logits_BV.device)
    for row, text in enumerate(texts):
        ids = torch.tensor([*text.prompt.tokens, *text.tokens], device=logits_BV.device)
        seen_BV[row, ids] = True
    return seen_BV


_SHOWN = 5


def _not_numbers(name: str, texts: Sequence[Text]) -> CheckpointError:
    ids = list(dict.fromkeys(text.prompt.id for text in texts))
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    written = max(len(text.tokens) for text in texts)
    return CheckpointError(
        f"The output of {name} is not a number (NaN or infinite) after {written} written tokens "
        f"of item {', '.join(ids[:_SHOWN])}{more}, so there is no next token. Its weights are "
        "damaged, or its dtype is too small: try float32."
    )
