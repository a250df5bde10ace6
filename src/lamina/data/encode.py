"""Records become tokens, and for each token whether it is trained: the completion, and no more.

Of a conversation all assistant turns are trained, each with its end-of-turn token: the model must
learn to stop. Of running text all but the first token, and the end. `templates.py` says where the
turns stand; here characters become tokens. A token is trained if it lies wholly inside a turn.
About 10,000 rows of 100 words a second on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded examples of one domain, end to end in flat arrays: N examples, T tokens."""

    ids: np.ndarray
    """int32 [T]."""
    trained: np.ndarray
    """bool [T]: the token is a target, its loss counts. Never the first token of an example."""
    starts: np.ndarray
    """int64 [N + 1]: example n is `starts[n]:starts[n + 1]`."""
    num_bytes: np.ndarray
    """int64 [N]: bytes of UTF-8 of the trained text, without tokens such as end of turn."""
    places: tuple[str, ...]
    """Where each came from: `file.jsonl:17`. A place may come twice (`Counts.turn_by_turn`)."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return np.diff(self.starts)

    @property
    def trained_tokens(self) -> np.ndarray:
        """Trained tokens of each example, int64 [N]."""
        before = np.concatenate([[0], np.cumsum(self.trained, dtype=np.int64)])
        return np.diff(before[self.starts])

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples of these numbers, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = np.repeat(self.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        return Examples(
            ids=self.ids[tokens],
            trained=self.trained[tokens],
            starts=starts,
            num_bytes=self.num_bytes[chosen],
            places=tuple(self.places[number] for number in chosen.tolist()),
        )
