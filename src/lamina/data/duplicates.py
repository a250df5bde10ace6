"""Training rows that equal, or nearly equal, a held-out row: they would make its loss too good.

Exact: the texts are the same but for case, white space and Unicode's ways to write a character.

Near: of the runs of 5 words in the shorter text, at least 70 % stand in the other one, too (the
containment of two sets of shingles; a text that holds the other whole counts, so does a row with a
few words changed). Runs that stand in more than 20 different rows are templates and common phrases:
they are left out on both sides. A text with fewer than 8 runs left is compared exactly only. In
Chinese and Japanese every letter counts as a word.

Nothing is sampled: an index of the held-out runs is looked up for each training row, in batches.
Time grows with the number of words, memory with a batch and the held-out rows.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.data.normal import normalised

if TYPE_CHECKING:
    import numpy as np

RUN = 5
"""Words of a run."""
CONTAINED = 0.7
"""The share of the shorter text's runs from which two rows are near duplicates."""
COMMON = 20
"""A run in more different rows than this says nothing about two of them."""
FEWEST = 8
"""Runs that a text must have left to be compared."""
_BATCH = 4096
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Han and kana, which are written without blanks: each letter counts as a word."""
_WORD = re.compile(rf"[^\W{_ALONE}]+|[{_ALONE}]")
# Odd 64-bit constants: a run's number is the sum of its words' numbers times these.
_MIX = (
    0x9E3779B97F4A7C15,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0xD6E8FEB86659FD93,
    0xFF51AFD7ED558CCD,
)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Numbers of training rows, each with the number of a held-out row that it repeats."""

    exact: Mapping[int, int]
    near: Mapping[int, int]


def find_duplicates(training: Sequence[str], heldout: Sequence[str]) -> Duplicates:
    """The training texts that repeat a held-out text; no text is in both parts of the answer."""
    held = [normalised(text) for text in heldout]
    first: dict[str, int] = {}
    for number, text in enumerate(held):
        if text:
            first.setdefault(text, number)
    exact: dict[int, int] = {}
    rest: dict[str, list[int]] = {}
    for number, text in enumerate(map(normalised, training)):
        if text in first:
            exact[number] = first[text]
        elif text:
            rest.setdefault(text, []).append(number)
    found = _near(list(rest), list(first))
    numbers, originals = list(rest.values()), list(first.values())
    near = {number: originals[h] for t, h in found.items() for number in numbers[t]}
    return Duplicates(exact, dict(sorted(near.items())))


def _near(training: list[str], heldout: list[str]) -> dict[int, int]:
    """Different training texts -> the held-out text that each nearly repeats.

    Legend: a run is named by its place in `runs`, the sorted numbers of all held-out runs.
    """
    import numpy as np

    vocabulary: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
    owners, numbers, num_runs_held = _runs(heldout, vocabulary)
    runs, run_of = np.unique(numbers, return_inverse=True)
    if not len(runs):
        return {}
    rows_with = np.bincount(run_of, minlength=len(runs))
    num_runs = np.zeros(len(training), np.int64)
    hits = []  # [2, hits of the batch]: training text, run
    for start in range(0, len(training), _BATCH):
        texts, found, counts = _runs(training[start : start + _BATCH], vocabulary)
        num_runs[start : start + len(counts)] = counts
        at = np.minimum(np.searchsorted(runs, found), len(runs) - 1)
        known = runs[at] == found
        hits.append(np.stack([texts[known] + start, at[known]]))
        rows_with += np.bincount(at[known], minlength=len(runs))
    row, run = np.concatenate(hits, axis=1) if hits else np.zeros((2, 0), np.int64)
    common = rows_with > COMMON
    num_runs -= np.bincount(row[common[run]], minlength=len(training))
    num_runs_held = num_runs_held - np.bincount(owners[common[run_of]], minlength=len(heldout))
    pairs = _shared(row[~common[run]], run[~common[run]], owners, run_of)
    return _best(pairs, num_runs, num_runs_held)


def _shared(
    row: "np.ndarray", run: "np.ndarray", owners: "np.ndarray", run_of: "np.ndarray"
) -> Iterator[tuple[int, int, int]]:
    """(training text, held-out text, runs in both), for all pairs that share one."""
    import numpy as np

    order = np.argsort(run_of, kind="stable")
    by_run = owners[order]
    begins = np.searchsorted(run_of[order], run, side="left")
    lengths = np.searchsorted(run_of[order], run, side="right") - begins
    if not lengths.sum():
        return
    offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    held = by_run[np.repeat(begins, lengths) + offsets]
    pairs, counts = np.unique(np.stack([np.repeat(row, lengths), held]), axis=1, return_counts=True)
    yield from zip(pairs[0].tolist(), pairs[1].tolist(), counts.tolist(), strict=True)


def _best(
    pairs: Iterator[tuple[int, int, int]], num_runs: "np.ndarray", num_runs_held: "np.ndarray"
) -> dict[int, int]:
    """Each training text's nearest held-out text, where it is near enough; ties to the first."""
    best: dict[int, tuple[float, int]] = {}
    for text, held, shared in pairs:
        fewer = int(min(num_runs[text], num_runs_held[held]))
        if fewer >= FEWEST and shared >= CONTAINED * fewer:
            contained = shared / fewer
            if text not in best or contained > best[text][0]:
                best[text] = (contained, held)
    return {text: held for text, (_, held) in sorted(best.items())}


def _runs(
    texts: Sequence[str], vocabulary: defaultdict[str, int]
) -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """The different runs of each text: (text, run's number) pairs, sorted; and how many each has.

    Words that are new get the next number of the vocabulary.
    """
    import numpy as np

    words: list[int] = []
    lengths = []
    for text in texts:
        before = len(words)
        words += map(vocabulary.__getitem__, _WORD.findall(text))
        lengths.append(len(words) - before)
    flat = np.array(words, np.uint64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    num = max(len(flat) - RUN + 1, 0)
    numbers = np.zeros(num, np.uint64)
    for step, mix in enumerate(_MIX):
        numbers += flat[step : step + num] * np.uint64(mix)
    whole = owner[:num] == owner[RUN - 1 :][:num]  # a run does not reach into the next text
    owner, numbers = owner[:num][whole], numbers[whole]
    order = np.lexsort((numbers, owner))
    owner, numbers = owner[order], numbers[order]
    new = np.ones(len(owner), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (numbers[1:] != numbers[:-1])
    owner, numbers = owner[new], numbers[new]
    return owner, numbers, np.bincount(owner, minlength=len(texts))
