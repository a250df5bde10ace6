"""Where a written text ends: at an end token, or where a stop string is complete.

As lm-evaluation-harness 0.4.13 has it (`HFLM.generate_until`, one text at a time): writing stops
once a stop string is in the text with its special tokens shown; the answer is the text without
special tokens, cut at the stop strings one after the other, the text of the end token last. In a
batch the harness writes on until all texts have ended. That changes an answer only where one stop
string overlaps with another, or where an end token is not in the model's settings for generation.

Looking costs a look into a dict for most tokens: a stop string can only be complete after a token
that has its last character, and only then are the last tokens decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ended = Literal["stop", "eos", "length"]

_MORE = 2
"""Tokens decoded beyond those a stop string can take: a decoder may strip what comes first."""
_BROKEN = "\ufffd"


class Stops:
    """What ends the texts of some items."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        strings: Sequence[str],
        *,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        """
        Args:
            strings: in the task's order; empty ones are left out.
            ends: end tokens; the tokenizer's own is one in any case.
        """
        own = tokenizer.eos_token_id
        texts = [text for text in strings if text]
        if own is not None:
            text = str(tokenizer.decode([own], skip_special_tokens=False))
            texts += [text] if text and text not in texts else []
        self.strings = tuple(texts)
        self.ends = ends | ({own} if own is not None else frozenset())
        self._tokenizer = tokenizer
        self._window = max((len(text.encode()) for text in texts), default=0) + _MORE
        lasts = {text[-1] for text in texts}
        # A space can be lost where a decoder strips, and is then not seen in a token alone.
        self._always = any(last.isspace() and last != "\n" for last in lasts)
        self._lasts = lasts | {_BROKEN}
        self._may_end: dict[int, bool] = {}

    def ended(self, tokens: Sequence[int]) -> Ended | None:
        """Whether the last token ended the text; asked after every token."""
        last = tokens[-1]
        if last in self.ends:
            return "eos"
        may = self._may_end.get(last)
        if may is None:
            piece = self._tokenizer.decode([last], skip_special_tokens=False)
            may = self._always or any(character in piece for character in self._lasts)
            self._may_end[last] = may
        if not may:
            return None
        tail = self._tokenizer.decode(list(tokens[-self._window :]), skip_special_tokens=False)
        return "stop" if any(text in tail for text in self.strings) else None

    def text(self, tokens: Sequence[int]) -> str:
        """The answer: without special tokens, cut at the stop strings in their order."""
        text = str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))
        for stop in self.strings:
            text = text.split(stop)[0]
        return text
