"""Texts written side by side: a row that ends gives its place to the next prompt.

The longest prompts begin, so the rows that run together are of like length. Prompts of a few tokens
are read several at once, long ones alone: there padding would cost more than calls do. What all
prompts begin with (the same few-shot examples) is read once, always alone, so that it is the same
whichever portions were answered before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch

from lamina.evaluate.models import LanguageModel
from lamina.evaluate.stops import Stops
from lamina.evaluate.write_pick import Pick, Text
from lamina.evaluate.write_slots import Slots, States, read

_TOGETHER = 512
"""Prompts are read together as long as they have no more tokens than this."""
_PADDED = 1.125
"""...and as padding makes them no longer than this many times."""
_WAITING = 4
"""Places are filled again when one in so many is free, or when a whole reading waits for them."""
_SHARED = 32
"""Tokens that a shared beginning must have to be kept apart."""


def write_together(
    model: LanguageModel,
    texts: Sequence[Text],
    pick: Pick,
    stops: Mapping[tuple[str, ...], Stops],
    *,
    num_rows: int,
) -> None:
    """Writes the texts; their tokens are then in them.

    Args:
        texts: longest prompts first; the samples of one item one after the other.

    Raises:
        CheckpointError: the model's output is not a number.
    """
    prefix = _Prefix(model, texts)
    slots = Slots(model, num_rows)
    waiting, running = deque(texts), list[Text]()
    while waiting or running:
        while waiting and _worth_reading(waiting, len(running), num_rows, prefix):
            group = _next_group(waiting, num_rows - len(running), prefix)
            _begin(model, group, pick, stops, prefix, slots, running)
        if not running:
            continue
        last = torch.tensor([text.tokens[-1] for text in running], device=model.device)
        tokens = pick(slots.step(last), running)
        for place in range(len(running) - 1, -1, -1):
            text = running[place]
            text.tokens.append(tokens[place])
            if text.end(stops[text.prompt.stops]):
                slots.leave(place)
                running[place] = running[-1]
                running.pop()


class _Prefix:
    """What the prompts begin with, read once."""

    def __init__(self, model: LanguageModel, texts: Sequence[Text]) -> None:
        whole = [text.prompt.tokens for text in texts if not text.prompt.cut]
        shared = _shared(min(whole), max(whole)) if len(set(whole)) > 1 else ()
        shared = shared[: min(map(len, whole), default=0) - 1]  # something is left to be read
        self.tokens = shared if len(shared) >= _SHARED else ()
        self.states: States | None = None
        if self.tokens:
            self.states = read(model, [self.tokens], None).states

    def in_front_of(self, text: Text) -> int:
        """Tokens of the text's prompt that need not be read again."""
        return 0 if text.prompt.cut else len(self.tokens)

    def to_read(self, text: Text) -> int:
        return len(text.prompt.tokens) - self.in_front_of(text)


def _shared(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """What both begin with; of the least and the greatest of many it is what all begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))]


def _worth_reading(
    waiting: Sequence[Text], num_running: int, num_rows: int, prefix: _Prefix
) -> bool:
    free = num_rows - num_running
    if free == 0:
        return False
    if not num_running or free * _WAITING >= num_rows:
        return True
    ready = min(free, len(waiting))
    return sum(prefix.to_read(waiting[i]) for i in range(ready)) >= _TOGETHER


def _next_group(waiting: deque[Text], free: int, prefix: _Prefix) -> list[Text]:
    """The texts that are read next, taken out of those that wait."""
    group = [waiting.popleft()]
    begun = prefix.in_front_of(group[0])
    shortest = longest = prefix.to_read(group[0])
    prompts = 1
    while waiting and len(group) < free and prefix.in_front_of(waiting[0]) == begun:
        length = prefix.to_read(waiting[0])
        if waiting[0].prompt is not group[-1].prompt:
            shortest, longest, prompts = min(shortest, length), max(longest, length), prompts + 1
            if prompts * longest > _TOGETHER or longest > shortest * _PADDED + 1:
                break
        group.append(waiting.popleft())
    return group


def _begin(
    model: LanguageModel,
    group: Sequence[Text],
    pick: Pick,
    stops: Mapping[tuple[str, ...], Stops],
    prefix: _Prefix,
    slots: Slots,
    running: list[Text],
) -> None:
    """Reads prompts, writes their first tokens, and gives those that go on a place."""
    begun = prefix.in_front_of(group[0])
    prompts = list({text.prompt.number: text.prompt for text in group}.values())
    place = {prompt.number: row for row, prompt in enumerate(prompts)}
    done = read(model, [p.tokens[begun:] for p in prompts], prefix.states if begun else None)
    rows = [place[text.prompt.number] for text in group]
    tokens = pick(done.logits_BV[rows], group)
    for text, row, token in zip(group, rows, tokens, strict=True):
        text.tokens.append(token)
        if not text.end(stops[text.prompt.stops]):
            slots.enter(done.states, row, done.lengths[row])
            running.append(text)
