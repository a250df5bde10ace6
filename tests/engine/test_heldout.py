"""Held-out losses: one sum an example, whatever the batches and however many ranks."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lamina.core.errors import DataError
from lamina.engine.collate import PackedRow, collate
from lamina.engine.fast import attending_by_example
from lamina.engine.heldout import heldout_losses
from lamina.engine.losses import LossHead

LENGTHS = (5, 12, 2, 7, 12, 3, 9)


@pytest.fixture
def examples(row: Callable[..., PackedRow]) -> Any:
    found = row(*LENGTHS)
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    return SimpleNamespace(ids=found.ids, trained=found.trained, starts=starts)


def test_each_sum_is_that_of_the_example_alone(network: Callable[..., Any], examples: Any) -> None:
    model = network()
    head = LossHead(model)
    found = heldout_losses(model, head, examples, batch_tokens=24)
    assert found.tokens.tolist() == [n - max(1, n // 2) for n in LENGTHS]
    for number, (begin, end) in enumerate(zip(examples.starts, examples.starts[1:], strict=False)):
        one = PackedRow(
            examples.ids[begin:end], examples.trained[begin:end], np.array([end - begin])
        )
        alone = head(model, collate([one], pad_id=1, flatten=False)).per_example[0]
        torch.testing.assert_close(found.sums[number], alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("batch_tokens", [1, 13, 40, None])
def test_batches_do_not_change_the_losses(
    network: Callable[..., Any], examples: Any, batch_tokens: int | None
) -> None:
    model = network()
    head = LossHead(model)
    found = heldout_losses(model, head, examples, batch_tokens=batch_tokens)
    whole = heldout_losses(model, head, examples, batch_tokens=1000)
    torch.testing.assert_close(found.sums, whole.sums, rtol=1e-6, atol=0)


def test_one_row_without_padding_gives_the_same_losses(
    network: Callable[..., Any], examples: Any
) -> None:
    model = network()
    head = LossHead(model)
    padded = heldout_losses(model, head, examples, batch_tokens=24)
    with attending_by_example(model) as can:
        assert can
        flat = heldout_losses(model, head, examples, batch_tokens=24, flatten=True)
    torch.testing.assert_close(flat.sums, padded.sums, rtol=1e-6, atol=0)
    assert flat.tokens.equal(padded.tokens)


def test_the_same_call_gives_the_same_bits(network: Callable[..., Any], examples: Any) -> None:
    model = network()
    head = LossHead(model)
    first, second = (heldout_losses(model, head, examples).sums for _ in range(2))
    assert first.equal(second)


def test_ranks_add_up_to_all(network: Callable[..., Any], examples: Any) -> None:
    model = network()
    head = LossHead(model)
    whole = heldout_losses(model, head, examples)
    parts = [heldout_losses(model, head, examples, rank=rank, world=3) for rank in range(3)]
    assert parts[1].tokens.nonzero().flatten().tolist() == [1, 4]
    assert sum(part.tokens for part in parts).equal(whole.tokens)
    torch.testing.assert_close(sum(part.sums for part in parts), whole.sums, rtol=1e-6, atol=0)


def test_more_ranks_than_examples_is_no_error(network: Callable[..., Any], examples: Any) -> None:
    model = network()
    found = heldout_losses(model, LossHead(model), examples, rank=8, world=9)
    assert found.sums.tolist() == [0.0] * len(LENGTHS)


def test_the_model_keeps_its_mode_and_gets_no_gradient(
    network: Callable[..., Any], examples: Any
) -> None:
    model = network(attention_dropout=0.5)
    model.train()
    head = LossHead(model)
    first, second = (heldout_losses(model, head, examples).sums for _ in range(2))
    assert first.equal(second)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_window_after_a_measurement_trains_as_before(
    network: Callable[..., Any], examples: Any, row: Callable[..., PackedRow]
) -> None:
    """Nothing of inference mode stays behind."""
    model, batch = network(), collate([row(9)], pad_id=1, flatten=False)
    head = LossHead(model)
    before = head(model, batch).loss
    heldout_losses(model, head, examples)
    after = head(model, batch).loss
    assert after.equal(before)
    after.backward()


def test_autocast_is_asked_for_by_its_dtype(network: Callable[..., Any], examples: Any) -> None:
    model = network()
    head = LossHead(model)
    plain = heldout_losses(model, head, examples).sums
    half = heldout_losses(model, head, examples, autocast=torch.bfloat16).sums
    assert not half.equal(plain)
    torch.testing.assert_close(half, plain, rtol=0.1, atol=0)


def test_no_held_out_example_is_refused(network: Callable[..., Any], examples: Any) -> None:
    model = network()
    examples.starts = examples.starts[:1]
    with pytest.raises(DataError, match="no held-out example"):
        heldout_losses(model, LossHead(model), examples)


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_in_step_every_rank_runs_the_model_equally_often_and_counts_the_same(
    network: Callable[..., Any], examples: Any, world: int
) -> None:
    model = network()
    head = LossHead(model)
    runs: list[int] = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    counts, parts = [], []
    for rank in range(world):
        asked = {"batch_tokens": 24, "rank": rank, "world": world}
        runs.clear()
        parts.append(heldout_losses(model, head, examples, in_step=True, **asked).sums)
        counts.append(len(runs))
        assert parts[-1].equal(heldout_losses(model, head, examples, **asked).sums)
    assert len(set(counts)) == 1
    assert (sum(parts) > 0).all()
