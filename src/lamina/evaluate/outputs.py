"""From a model's output to log-probabilities: of the tokens asked for, at the places they follow.

Log-softmax in float32, in chunks of 16 MB; sums over a continuation in float64.
lm-evaluation-harness takes the log-softmax of every position of a batch, and sums in float32.

Letters: P places of a batch, V vocabulary, N tokens asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

_MAX_VALUES = 2**22
"""Outputs looked at at once."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a model makes of a continuation."""

    logprob: float
    """Nats, summed over its tokens."""
    greedy: bool
    """Whether the model would have said each of its tokens."""


@dataclass(slots=True)
class Asked:
    """Tokens asked for in one pass: what each follows, what it is, and whose score it adds to."""

    places: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    def add(self, owner: int, places: Sequence[int], targets: Sequence[int]) -> None:
        assert len(places) == len(targets), f"{len(places)} places, {len(targets)} targets"
        self.places += places
        self.targets += targets
        self.owners += [owner] * len(targets)


def scores(
    asked: Asked,
    num_owners: int,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    vocabulary: int,
    device: torch.device,
) -> list[Score]:
    """The score of each owner, 0 to `num_owners` - 1.

    Args:
        logits_of: the outputs [P, V] at some places; each place is asked for once, whatever the
            number of tokens that follow it.
        vocabulary: V, or about, to know how many places to take at once.
    """
    place_P, which_N = torch.tensor(asked.places, device=device).unique(return_inverse=True)
    order_N = which_N.argsort(stable=True)
    which_N = which_N[order_N]
    target_N = torch.tensor(asked.targets, device=device)[order_N]
    owner_N = torch.tensor(asked.owners, device=device)[order_N]
    sums = torch.zeros(num_owners, dtype=torch.float64, device=device)
    missed = torch.zeros(num_owners, dtype=torch.int64, device=device)
    step = max(1, _MAX_VALUES // vocabulary)
    done = 0
    for begin in range(0, len(place_P), step):
        logits_PV = logits_of(place_P[begin : begin + step]).float()
        upto = int(torch.searchsorted(which_N, begin + len(logits_PV)))
        some = slice(done, upto)
        row_N, done = which_N[some] - begin, upto
        greedy_N = _greedy(logits_PV, row_N, target_N[some])
        missed.index_add_(0, owner_N[some], (~greedy_N).long())
        # Twice as fast on a CPU as `logsumexp`, which goes over the row once more.
        logprob_N = logits_PV.log_softmax(-1)[row_N, target_N[some]]
        sums.index_add_(0, owner_N[some], logprob_N.double())
    return [
        Score(logprob, count == 0)
        for logprob, count in zip(sums.tolist(), missed.tolist(), strict=True)
    ]


def _greedy(logits_PV: torch.Tensor, row_N: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    """Whether each target is its row's argmax, which is looked for only where it may be."""
    greedy_N = logits_PV[row_N, target_N] == logits_PV.amax(-1)[row_N]
    greedy_N[greedy_N.clone()] = logits_PV[row_N[greedy_N]].argmax(-1) == target_N[greedy_N]
    return greedy_N
