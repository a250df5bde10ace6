"""Packed rows -> one batch of plain tensors, in which every example is alone.

Examples that share a row are kept apart by their positions alone: these start at 0 again at each
example, from which transformers builds a block-diagonal mask (tests/contract/test_packing.py).
Padding has position 0 throughout, so each padding token is a segment of its own: it sees itself,
nothing sees it, and no row of the mask is empty. Costs one copy of the batch, in numpy.

Letters: B rows of the batch, L their padded length, R packed rows, E examples, N targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lamina.core.errors import DataError

if TYPE_CHECKING:
    from lamina.data.encode import Examples


@dataclass(frozen=True, slots=True)
class PackedRow:
    """The tokens of one row: one example or several end to end."""

    ids: np.ndarray
    """Token ids, int [T]."""
    trained: np.ndarray
    """bool [T]: this token is a target. Never an example's first token: nothing predicts it."""
    lengths: np.ndarray
    """Tokens of each example, int [E]; they add up to T."""
    domain: int = 0
    row: int = 0
    """Where the row stands in the training data, to name it when its loss is not a number."""


def packed_row(
    examples: Examples, members: Sequence[int] | np.ndarray, *, domain: int = 0, row: int = 0
) -> PackedRow:
    """The examples numbered `members`, end to end."""
    spans = [(int(examples.starts[m]), int(examples.starts[m + 1])) for m in members]
    return PackedRow(
        ids=np.concatenate([examples.ids[begin:end] for begin, end in spans]),
        trained=np.concatenate([examples.trained[begin:end] for begin, end in spans]),
        lengths=np.array([end - begin for begin, end in spans], dtype=np.int64),
        domain=domain,
        row=row,
    )


def collate(
    packed: Sequence[PackedRow], *, pad_id: int, flatten: bool, multiple_of: int = 8
) -> dict[str, torch.Tensor]:
    """A batch for `LossHead` and the model.

    Args:
        flatten: one row [1, sum of lengths], as flash attention needs it: it reads packing from the
            positions only where the batch is one row.
        multiple_of: the length is padded up to a multiple of this.

    Returns:
        input_ids, position_ids: int64 [B, L].
        predictors: int64 [N], the flat place (b * L + t) that predicts each target.
        targets: int64 [N], in the order of the examples.
        owners: int64 [N], the example of the batch that each target belongs to, from 0, in order.
        tokens: int64 [E], how many targets each example has.
        owner_rows: int64 [E], which of `packed` the example stands in.
        rows: int64 [R, 2], (domain, row) of each of `packed`.

    Raises:
        DataError: an example has no target, or its first token is one.
    """
    assert packed, "a batch of no rows"
    lengths_E = np.concatenate([row.lengths for row in packed])
    owner_rows_E = np.repeat(np.arange(len(packed)), [len(row.lengths) for row in packed])
    ids_T = np.concatenate([row.ids for row in packed])
    trained_T = np.concatenate([row.trained for row in packed])
    assert len(ids_T) == len(trained_T) == lengths_E.sum(), "lengths do not add up to the tokens"

    ends_E = np.cumsum(lengths_E)
    starts_E = ends_E - lengths_E
    tokens_E = np.add.reduceat(trained_T, starts_E, dtype=np.int64)
    _refuse_untrained(packed, owner_rows_E, tokens_E, trained_T[starts_E])

    row_lengths_R = np.array([len(row.ids) for row in packed])
    if flatten:
        length = _round_up(len(ids_T), multiple_of)
        places_T = np.arange(len(ids_T))
        num_rows = 1
    else:
        length = _round_up(int(row_lengths_R.max()), multiple_of)
        begins_R = np.cumsum(row_lengths_R) - row_lengths_R
        shift_R = np.arange(len(packed)) * length - begins_R
        places_T = np.arange(len(ids_T)) + np.repeat(shift_R, row_lengths_R)
        num_rows = len(packed)

    input_ids = np.full(num_rows * length, pad_id, dtype=np.int64)
    input_ids[places_T] = ids_T
    positions = np.zeros(num_rows * length, dtype=np.int64)
    positions[places_T] = np.arange(len(ids_T)) - np.repeat(starts_E, lengths_E)
    arrays = {
        "input_ids": input_ids.reshape(num_rows, length),
        "position_ids": positions.reshape(num_rows, length),
        "predictors": places_T[trained_T] - 1,
        "targets": ids_T[trained_T].astype(np.int64),
        "owners": np.repeat(np.arange(len(lengths_E)), tokens_E),
        "tokens": tokens_E,
        "owner_rows": owner_rows_E,
        "rows": np.array([(row.domain, row.row) for row in packed], dtype=np.int64),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


def _round_up(length: int, multiple_of: int) -> int:
    return -(-length // multiple_of) * multiple_of


def _refuse_untrained(
    packed: Sequence[PackedRow], owner_rows: np.ndarray, tokens: np.ndarray, first: np.ndarray
) -> None:
    """A loss of 0 would hide these, so they are refused."""
    places = ", ".join(
        f"domain {packed[row].domain} row {packed[row].row}"
        for row in sorted(set(owner_rows[(tokens == 0)].tolist()))[:8]
    )
    if places:
        raise DataError(
            f"{int((tokens == 0).sum())} examples of this batch have no token to learn from "
            f"({places}). An example needs a completion of one token or more; drop those without."
        )
    assert not first.any(), "an example's first token is a target, but nothing predicts it"
