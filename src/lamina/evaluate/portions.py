"""A portion of the items of a task: what is answered whole before anything is written down.

A plan, a list of portions, is a pure function of the model's tokenizer and length, the items and
the budget; so a run that was killed makes the same plan again and skips what it has answered. What
a portion holds for its answering (`content`) is its maker's own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Portion(Generic[Content]):
    """Items that are answered together."""

    ids: tuple[str, ...]
    """The items answered whole by it, in the order they are answered."""
    tokens: int
    """What it costs, for progress: about as many tokens as are read and written."""
    cut: Mapping[str, int]
    """By item the tokens of context lost as the model reads no more; items that lost none are
    left out."""
    content: Content


def cut_items(portions: Iterable[Portion[Content]]) -> dict[str, int]:
    """By item the tokens of context lost, over a whole plan; known before anything runs."""
    return {id_: lost for portion in portions for id_, lost in portion.cut.items()}
