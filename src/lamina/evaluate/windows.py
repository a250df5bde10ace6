"""Which tokens a model reads and which of them are scored: pure functions on token ids.

A text longer than the model is cut as lm-evaluation-harness cuts it for `loglikelihood_rolling`:
every token is scored once, the first one after a start token; windows do not share scored tokens,
each begins with the last token before it, and the last window is filled up from the left.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens for one pass of the model. It reads all but the last; the last `scored` are scored."""

    row: int
    tokens: tuple[int, ...]
    scored: int

    @property
    def length(self) -> int:
        """Positions the model reads."""
        return len(self.tokens) - 1

    @property
    def first_scored(self) -> int:
        """The position whose output is the first to be scored."""
        return self.length - self.scored


def rolling_windows(
    row: int, tokens: Sequence[int], *, start: int, max_length: int
) -> list[Window]:
    """All tokens of a text, each scored once; none for an empty text."""
    if not tokens:
        return []
    whole = (start, *tokens)
    first = min(len(tokens), max_length)
    windows = [Window(row, whole[: first + 1], first)]
    for begin in range(first, len(tokens), max_length):
        end = min(begin + max_length, len(tokens))
        # The start token is not read again: at least `max_length` tokens lie before `end`.
        windows.append(Window(row, tuple(tokens[end - max_length - 1 : end]), end - begin))
    return windows


def completion_window(
    row: int, prompt: Sequence[int], completion: Sequence[int], *, max_length: int
) -> Window | None:
    """A completion after as much of the end of its prompt as fits; None where it does not fit.

    One token of prompt at least must stay, since the first completion token is scored after it.
    """
    assert prompt, f"row {row} has no token before its completion"
    room = max_length + 1 - len(completion)
    if room < 1:
        return None
    return Window(row, (*prompt[-room:], *completion), len(completion))


def batches(
    windows: Iterable[Window], *, max_tokens: int, max_scored: int
) -> Iterator[list[Window]]:
    """Windows of like length together, longest first.

    A batch, padded to its longest window, has at most `max_tokens` positions, and at most
    `max_scored` positions whose output is kept; a single larger window is a batch of its own.
    """
    batch: list[Window] = []
    first_scored = 0
    for window in sorted(windows, key=lambda w: (-w.length, w.first_scored)):
        if batch:
            rows, length = len(batch) + 1, batch[0].length
            kept = length - min(first_scored, window.first_scored)
            if rows * length > max_tokens or rows * kept > max_scored:
                yield batch
                batch = []
        first_scored = min(first_scored, window.first_scored) if batch else window.first_scored
        batch.append(window)
    if batch:
        yield batch
