"""Token shift: which tokens of an aligned model its base would not have said (arXiv:2312.01552).

Along the aligned model's own greedy answers each token is looked up in what the base expects:

    unshifted   the base's own choice, rank 1
    marginal    its second or third
    shifted     further down            (paper: 7.8 % of the tokens of Llama-2 chat, 5.2 % Mistral)

The same for the base with the aligned weights of some modules only: the fewer tokens stay shifted,
the more of the alignment stands in these modules. Fractions have a standard error by prompts: the
tokens of one answer are not independent.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.core.errors import LayerError
from lamina.core.modules import Linears

CLASSES = ("unshifted", "marginal", "shifted")
LAST_RANKS = (1, 3)
"""The last rank of `unshifted` and of `marginal`."""
BUCKETS = (0, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""Where a bucket of positions begins."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many tokens are of which class."""

    tokens: int
    counts: dict[str, int]
    errors: dict[str, float] | None
    """Standard error of each fraction, by prompts; None with one prompt."""

    @property
    def fractions(self) -> dict[str, float]:
        return {name: count / self.tokens for name, count in self.counts.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "counts": self.counts,
            "fractions": self.fractions,
            "se": self.errors,
        }


def classes_of(ranks_T: np.ndarray) -> np.ndarray:
    """0 unshifted, 1 marginal, 2 shifted; int64 [T]."""
    return np.searchsorted(np.array(LAST_RANKS), ranks_T, side="left")


def tally(ranks: Sequence[np.ndarray]) -> Tally:
    """The classes of all answers' tokens; one array of ranks for each answer.

    The fraction is a ratio of two sums over prompts, so its error is that of a ratio.
    """
    by_prompt = np.array([np.bincount(classes_of(one), minlength=3) for one in ranks if len(one)])
    assert len(by_prompt), "no answer has a token"
    totals, sizes = by_prompt.sum(0), by_prompt.sum(1)
    errors = None
    if len(by_prompt) > 1:
        rest = by_prompt - sizes[:, None] * (totals / sizes.sum())
        scale = len(by_prompt) / (len(by_prompt) - 1)
        found = np.sqrt(scale * (rest**2).sum(0)) / sizes.sum()
        errors = dict(zip(CLASSES, found.tolist(), strict=True))
    return Tally(int(sizes.sum()), dict(zip(CLASSES, totals.tolist(), strict=True)), errors)


def by_position(ranks: Sequence[np.ndarray]) -> list[tuple[int, int, Tally]]:
    """(first position, last position, tally) of each bucket that has a token, from 0."""
    longest = max((len(one) for one in ranks), default=0)
    found = []
    for begin, end in zip(BUCKETS, (*BUCKETS[1:], math.inf), strict=True):
        if begin < longest:
            stop = int(min(end, longest))
            found.append((begin, stop - 1, tally([one[begin:stop] for one in ranks])))
    return found


def most_shifted(
    answers: Sequence[Sequence[int]], ranks: Sequence[np.ndarray], *, most: int = 30
) -> list[tuple[int, int, int]]:
    """(token id, times shifted, times said): the tokens that are shifted most often."""
    said: Counter[int] = Counter()
    moved: Counter[int] = Counter()
    for ids, one in zip(answers, ranks, strict=True):
        said.update(ids)
        moved.update(token for token, place in zip(ids, classes_of(one), strict=True) if place == 2)
    ordered = sorted(moved, key=lambda token: (-moved[token], token))
    return [(token, moved[token], said[token]) for token in ordered[:most]]


def by_type(linears: Linears) -> dict[str, frozenset[str]]:
    """The modules of each type, over all blocks: `mlp.up_proj` -> its ids."""
    found: dict[str, set[str]] = {}
    for module in linears.by_id:
        found.setdefault(module.partition(".")[2], set()).add(module)
    return {name: frozenset(members) for name, members in found.items()}


def same_modules(base: Linears, aligned: Linears) -> None:
    """That two networks have the same linear modules of the same shapes.

    Raises:
        LayerError: they do not, so nothing of one can stand in the other.
    """
    mine, theirs = base.by_id, aligned.by_id
    odd = [f"{one}: in one of them only" for one in sorted(mine.keys() ^ theirs.keys())]
    odd += [
        f"{one}: {[m.num_outputs, m.num_inputs]} in the base, "
        f"{[theirs[one].num_outputs, theirs[one].num_inputs]} in the model"
        for one, m in mine.items()
        if one in theirs
        and (m.num_inputs, m.num_outputs) != (theirs[one].num_inputs, theirs[one].num_outputs)
    ]
    if odd:
        more = f"\n  and {len(odd) - 6} more" if odd[6:] else ""
        raise LayerError(
            f"the model and its base differ in {len(odd)} linear modules:\n  "
            + "\n  ".join(odd[:6])
            + f"{more}\nGive the base that the model was tuned from."
        )


@contextlib.contextmanager
def carrying(base: Any, aligned: Any, linears: Linears, chosen: Collection[str]) -> Iterator[None]:
    """While this holds, the base computes with the aligned model's weights in these modules.

    Weights (and biases) are shared, not copied; both networks are as they were afterwards.
    """
    kept = []
    try:
        for module in chosen:
            path = linears.by_id[module].path
            mine, theirs = base.get_submodule(path), aligned.get_submodule(path)
            for name, parameter in mine.named_parameters(recurse=False):
                kept.append((parameter, parameter.data))
                parameter.data = theirs.get_parameter(name).data
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
