"""Which tokens are read once for several continuations: pure functions on token ids.

The pairs of a question mostly have one context; what their inputs have in common from the first
token on is its *prompt*, read once, and each of them goes on in a *tail*. Inputs that are equal
(answers of one token) are one. Questions that begin alike (a subject's examples) share a *prefix*.

Positions are those of the tokens in their own input, wherever they lie in a pass:

    prefix      S tokens, in a pass of its own
    stem        prompt, tail, tail, ...     one after the other, without padding
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from lamina.evaluate.windows import Window

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stem:
    """A prompt and its tails, after a prefix of `begin` tokens that is not part of it."""

    begin: int
    prompt: Tokens
    tails: tuple[Tokens, ...]

    @property
    def tokens(self) -> Tokens:
        """As they lie in a pass."""
        return self.prompt + tuple(token for tail in self.tails for token in tail)

    @property
    def positions(self) -> list[int]:
        """Of each token in its own input."""
        after = self.begin + len(self.prompt)
        return [*range(self.begin, after)] + [
            after + i for tail in self.tails for i in range(len(tail))
        ]

    @property
    def longest(self) -> int:
        """Tokens of the longest input, its prefix with it."""
        return self.begin + len(self.prompt) + max(map(len, self.tails), default=0)


def stem_of(windows: Sequence[Window], begin: int) -> tuple[Stem, list[list[int]]]:
    """Windows as one stem, and for each the places in it whose outputs are scored.

    Args:
        begin: tokens at the beginning of every window that are read elsewhere.
    """
    inputs = list(dict.fromkeys(window.tokens[begin:-1] for window in windows))
    common = common_prefix(inputs)
    prompt = inputs[0][:common]
    tails = tuple(tokens[common:] for tokens in inputs if len(tokens) > common)
    offsets = dict(zip(tails, _offsets(common, tails), strict=True))
    places = []
    for window in windows:
        first = window.first_scored - begin
        assert first >= 0, f"an output in the prefix is asked for: {window}"
        offset = offsets.get(window.tokens[begin + common : -1], common) - common
        span = range(first, window.length - begin)
        places.append([place if place < common else place + offset for place in span])
    return Stem(begin, prompt, tails), places


def common_prefix(rows: Sequence[Tokens]) -> int:
    """How many tokens all rows begin with alike; rows in order are needed only at the ends."""
    low, high = min(rows), max(rows)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=False)))


def _offsets(begin: int, tails: Sequence[Tokens]) -> list[int]:
    found = []
    for tail in tails:
        found.append(begin)
        begin += len(tail)
    return found
