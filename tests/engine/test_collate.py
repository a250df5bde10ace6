"""Packed rows become batches in which every example is alone."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from lamina.core.errors import DataError
from lamina.engine.collate import PackedRow, collate, packed_row


def test_positions_start_again_at_each_example_and_padding_has_position_zero(
    row: Callable[..., PackedRow],
) -> None:
    batch = collate([row(3, 2), row(4)], pad_id=1, flatten=False, multiple_of=4)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 0, 0], [0, 1, 2, 3, 0, 0, 0, 0]]
    assert (batch["input_ids"][0, 5:] == 1).all()
    assert (batch["input_ids"][1, 4:] == 1).all()


@pytest.mark.parametrize("flatten", [False, True])
def test_each_target_is_the_token_after_its_predictor(
    rows: Sequence[PackedRow], flatten: bool
) -> None:
    batch = collate(rows, pad_id=1, flatten=flatten)
    flat = batch["input_ids"].flatten()
    assert flat[batch["predictors"] + 1].equal(batch["targets"])
    positions = batch["position_ids"].flatten()
    assert (positions[batch["predictors"] + 1] == positions[batch["predictors"]] + 1).all()
    wanted = np.concatenate([r.ids[r.trained] for r in rows])
    assert batch["targets"].tolist() == wanted.tolist()


@pytest.mark.parametrize("flatten", [False, True])
def test_owners_count_examples_in_order(rows: Sequence[PackedRow], flatten: bool) -> None:
    batch = collate(rows, pad_id=1, flatten=flatten)
    assert batch["tokens"].tolist() == [4, 3, 2, 5, 1, 3]
    assert torch.bincount(batch["owners"]).equal(batch["tokens"])
    assert batch["owners"].equal(batch["owners"].sort().values)
    assert batch["owner_rows"].tolist() == [0, 0, 0, 1, 2, 2]
    assert batch["rows"].tolist() == [[0, 0], [0, 1], [1, 4]]


def test_flattened_rows_are_one_row_with_padding_only_at_its_end(
    rows: Sequence[PackedRow],
) -> None:
    batch = collate(rows, pad_id=1, flatten=True, multiple_of=8)
    assert batch["input_ids"].shape == (1, 32)
    assert batch["position_ids"][0].tolist() == [
        *range(7), *range(5), *range(3), *range(9), *range(2), *range(6)
    ]  # fmt: skip


def test_everything_is_int64(rows: Sequence[PackedRow]) -> None:
    assert {value.dtype for value in collate(rows, pad_id=1, flatten=False).values()} == {
        torch.int64
    }


def test_an_example_without_a_target_is_refused_by_its_row(row: Callable[..., PackedRow]) -> None:
    good = row(4, 3)
    untrained = good.trained.copy()
    untrained[4:] = False
    bad = PackedRow(good.ids, untrained, good.lengths, domain=2, row=17)
    with pytest.raises(DataError, match=r"1 examples .*domain 2 row 17.*drop those without"):
        collate([good, bad], pad_id=1, flatten=False)


def test_packed_row_takes_examples_in_the_order_asked() -> None:
    examples = SimpleNamespace(
        ids=np.array([10, 11, 20, 21, 22, 30, 31], dtype=np.int32),
        trained=np.array([0, 1, 0, 1, 1, 0, 1], dtype=bool),
        starts=np.array([0, 2, 5, 7]),
    )
    found = packed_row(cast(Any, examples), [2, 0], domain=1, row=3)
    assert found.ids.tolist() == [30, 31, 10, 11]
    assert found.trained.tolist() == [False, True, False, True]
    assert found.lengths.tolist() == [2, 2]
    assert (found.domain, found.row) == (1, 3)
