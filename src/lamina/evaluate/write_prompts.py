"""Prompts as tokens, as lm-evaluation-harness encodes them for writing.

A prompt keeps its last `max_length - max_tokens` tokens, so that there is room for the answer
(`HFLM.generate_until`, 0.4.13); one that begins with the text of BOS gets no second one. A model
whose generation_config.json has `max_new_tokens` writes so many, whatever the task says: there it
is transformers that has it so. Where an item may write more than the model can read at all the
harness refuses. Here half of the length is then for the prompt, and the answer has what it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.evaluate.encode import start_of
from lamina.evaluate.models import LanguageModel, quiet
from lamina.evaluate.nouns import WriteItem


@dataclass(frozen=True, slots=True)
class Prompt:
    """One item as tokens."""

    id: str
    number: int
    """Its place among all items: with the seed, what its sampled texts depend on."""
    tokens: tuple[int, ...]
    cut: int
    """Tokens lost at its beginning."""
    stops: tuple[str, ...]
    max_tokens: int

    @property
    def span(self) -> int:
        """The most positions that it and its answer take."""
        return len(self.tokens) + self.max_tokens


def encode_prompts(model: LanguageModel, items: Sequence[WriteItem]) -> list[Prompt]:
    """The items' prompts, in their order.

    Raises:
        CheckpointError: an empty prompt, and a tokenizer without a token to start from.
    """
    with quiet():  # of prompts that are longer than the model reads it is told by us
        return [_encode(model, item, number) for number, item in enumerate(items)]


def _encode(model: LanguageModel, item: WriteItem, number: int) -> Prompt:
    bos = model.tokenizer.bos_token
    if bos is not None and item.prompt.startswith(str(bos)):
        tokens = model.tokenizer.encode(item.prompt, add_special_tokens=False)
    else:
        tokens = model.tokenizer.encode(item.prompt)
    tokens = tokens or [start_of(model)]
    own = model.network.generation_config.max_new_tokens
    kept, max_tokens = _room(len(tokens), item.max_tokens, model.max_length, own)
    return Prompt(
        id=item.id,
        number=number,
        tokens=tuple(tokens[-kept:]),
        cut=len(tokens) - kept,
        stops=item.stops,
        max_tokens=max_tokens,
    )


def _room(length: int, asked: int, max_length: int, own: int | None) -> tuple[int, int]:
    """Tokens kept of a prompt, and tokens that may be written.

    Args:
        own: what the model's own settings say of the second; they win, as in the harness.
    """
    if asked >= max_length and own is not None:
        asked = own
    most = max_length - asked if asked < max_length else max(1, max_length // 2)
    kept = min(length, most)
    return kept, max(1, min(own or asked, max_length - kept))
