"""What is told of a domain's rows: its entry of `data.json`, and a few lines for a person."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lamina.data.encode import Examples
    from lamina.data.pack import Rows

SAMPLES = 3


def samples(
    examples: "Examples", tokenizer: "PreTrainedTokenizerBase", *, number: int = SAMPLES
) -> list[dict[str, Any]]:
    """A few examples as they are trained on: the first, the last and some evenly between."""
    chosen = sorted(set(np.linspace(0, len(examples) - 1, number).astype(int).tolist()))
    return [{"place": examples.places[n], "pieces": pieces(examples, n, tokenizer)} for n in chosen]


def pieces(
    examples: "Examples", number: int, tokenizer: "PreTrainedTokenizerBase"
) -> list[list[Any]]:
    """One example decoded, as [text, trained] pieces: its runs of tokens that are or are not.

    The texts end to end are the whole example decoded. A character whose bytes are split between
    two pieces is in the later one.
    """
    begin, end = (int(place) for place in examples.starts[number : number + 2])
    ids = examples.ids[begin:end].tolist()
    trained = examples.trained[begin:end]
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    whole = _decode(tokenizer, ids)
    told: list[list[Any]] = []
    done = 0
    for left, right in itertools.pairwise(edges):
        if right == len(ids):
            reached = len(whole)
        else:
            reached = max(done, _common(_decode(tokenizer, ids[:right]), whole))
        told.append([whole[done:reached], bool(trained[left])])
        done = reached
    return told


def _common(part: str, whole: str) -> int:
    """Characters at the beginning of both."""
    if whole.startswith(part):
        return len(part)
    return next((n for n, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), len(part))


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), type(text)
    return text


def sizes(train: "Rows", heldout: "Examples", *, max_length: int) -> dict[str, Any]:
    """The counts of tokens and rows that are trained on; `fill` is the mean share of a row used."""
    tokens = int(train.tokens.sum())
    return {
        "examples": len(train.examples),
        "heldout": len(heldout),
        "heldout_tokens": int(heldout.trained_tokens.sum()),
        "tokens": tokens,
        "trained_tokens": int(train.trained_tokens.sum()),
        "rows": len(train),
        "fill": tokens / (len(train) * max_length),
    }


_REMARKS = (
    ("truncated", ("example", "cut at `max_length`")),
    ("merged_borders", ("turn", "not trained to the letter: a token reaches over the border")),
    ("no_end_mark", ("turn", "without an end mark: the model does not learn to stop there")),
    ("turn_by_turn", ("conversation", "trained turn by turn, as the template rewrites them")),
    ("left_out", ("conversation", "of which the template leaves a turn out")),
    ("spelled_tokens", ("row", "that spell a special token, which became that token")),
)
"""A key of the entry, what it counts, and what is told of those where there are any."""


def left_out(*, max_length: int, too_long: int, empty: int) -> str:
    """How many rows became no example, and why; nothing where all did."""
    told = []
    if too_long:
        told.append(f"{_many(too_long, 'row')} too long for {max_length:,} tokens")
    if empty:
        told.append(f"{_many(empty, 'row')} without a completion")
    return " and ".join(told)


def account(name: str, entry: dict[str, Any], *, max_length: int, dropped: bool) -> Iterator[str]:
    """Lines that tell a person what is trained on, and what was left out and why.

    `entry` is the domain's entry of `data.json`; `dropped`: repeats of held-out rows are left out.
    """
    yield (
        f"{name}: {_many(entry['examples'], 'example')} in {_many(entry['rows'], 'row')}"
        f" ({entry['fill']:.0%} full), {entry['tokens']:,} tokens, of which"
        f" {entry['trained_tokens'] / entry['tokens']:.0%} trained;"
        f" {_many(entry['heldout'], 'example')} held out"
    )
    lost = left_out(
        max_length=max_length, too_long=entry["dropped_too_long"], empty=entry["empty_completions"]
    )
    if lost:
        yield f"{name}: left out: {lost}"
    for key, what in _REMARKS:
        if entry[key]:
            yield f"{name}: {_many(entry[key], what[0])} {what[1]}"
    repeats = entry["exact_duplicates"] + entry["near_duplicates"]
    if repeats:
        here, there = entry["repeats"][0]
        done = "left out of training" if dropped else "kept: held-out losses will be too low"
        yield (
            f"{name}: {_many(repeats, 'training row')} the same or nearly the same as held-out"
            f" rows, such as {here} as {there}; {done}"
        )


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
