"""Sums over batches, and rows drawn for a seed."""

from typing import Any

import numpy as np
import pytest
import torch
from scored_pico import adapted_pico, batches

from lamina.core.errors import DataError
from lamina.data.encode import Examples
from lamina.data.load import DomainData
from lamina.data.pack import Rows as PackedRows
from lamina.engine import parallel
from lamina.engine.losses import LossHead
from lamina.ila.gates import Gates, gating
from lamina.ila.measure import Rows, draw

LENGTHS = {"law": (5, 7, 4), "code": (6, 3, 8, 9)}


def examples(name: str) -> Examples:
    """Tokens that tell the domain and the example."""
    lengths = LENGTHS[name]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    first = 100 if name == "law" else 200
    ids = np.repeat(first + np.arange(len(lengths)), lengths).astype(np.int32)
    trained = np.ones(starts[-1], dtype=bool)
    trained[starts[:-1]] = False
    places = tuple(f"{name}.jsonl:{n + 1}" for n in range(len(lengths)))
    return Examples(ids, trained, starts, np.array(lengths), places)


def data() -> dict[str, DomainData]:
    """One example in each row."""
    return {
        name: DomainData(
            name,
            PackedRows(examples(name), tuple(np.array([n]) for n in range(len(LENGTHS[name])))),
            examples(name),
            {},
            name,
        )
        for name in LENGTHS
    }


def drawn(*, seed: int = 0, num_batches: int = 3, num_rows: int = 2) -> list[Any]:
    return draw(
        data(), num_batches=num_batches, num_rows=num_rows, seed=seed, pad_id=0, flatten=False,
        device="cpu",
    )  # fmt: skip


def firsts(found: list[Any]) -> list[int]:
    """The token of each row: which row it is."""
    return [int(row[0]) for batch in found for row in batch["input_ids"]]


def test_a_seed_draws_the_same_rows_again_and_another_one_others():
    assert firsts(drawn()) == firsts(drawn())
    assert firsts(drawn()) != firsts(drawn(seed=1))


def test_rows_come_again_when_all_were_drawn():
    """Seven rows: 14 draws are each row twice, and no row twice in the first seven."""
    found = firsts(drawn(num_batches=7))
    every = {100, 101, 102, 200, 201, 202, 203}
    assert set(found[:7]) == set(found[7:]) == every


@pytest.fixture(scope="module")
def model() -> Any:
    return adapted_pico()


def by_hand(model: Any, gates: Gates) -> tuple[float, np.ndarray, int]:
    """All rows in one graph: the whole loss divided by all tokens."""
    head = LossHead(model)
    found = [head(model, batch) for batch in batches()]
    tokens = sum(int(one.tokens.sum()) for one in found)
    loss = sum(one.loss.double() for one in found) / tokens  # type: ignore[misc]
    (slope,) = torch.autograd.grad(loss, gates.values)
    return float(loss.detach()), slope.double().numpy(), tokens


def test_a_gradient_is_the_mean_over_all_tokens(model: Any):
    with gating(model) as gates:
        gates.set(0.6)
        loss, slope, tokens = by_hand(model, gates)
        rows = Rows(model, LossHead(model), batches())
        found = rows.gradient(gates)
        assert found.loss == pytest.approx(loss, rel=1e-6)
        assert found.tokens == tokens
        assert found.gradient == pytest.approx(slope, rel=1e-4, abs=1e-7)
        assert rows.loss() == pytest.approx(loss, rel=1e-6)
        assert rows.passes == 2 * 3
        assert gates.values.grad is None


def test_some_batches_are_measured_alone(model: Any):
    with gating(model) as gates:
        rows = Rows(model, LossHead(model), batches())
        alone = [rows.gradient(gates, [n]) for n in range(3)]
        whole = rows.gradient(gates)
    tokens = [one.tokens for one in alone]
    mean = sum(one.loss * n for one, n in zip(alone, tokens, strict=True)) / sum(tokens)
    assert whole.loss == pytest.approx(mean)


def test_the_shares_of_two_processes_make_the_whole(model: Any, monkeypatch: pytest.MonkeyPatch):
    with gating(model) as gates:
        rows = Rows(model, LossHead(model), batches())
        whole = rows.gradient(gates)
        sums = []
        monkeypatch.setattr(parallel, "world", lambda: 2)
        monkeypatch.setattr(parallel, "total", lambda values: sums.append(values) or values)
        for rank, share in ((0, 2), (1, 1)):
            monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
            assert rows.share == share
            rows.gradient(gates)
    added = sums[0] + sums[1]
    assert added[0] / added[1] == pytest.approx(whole.loss)
    assert added[2:] / added[1] == pytest.approx(whole.gradient)


def test_who_watches_is_told_each_batch_but_not_of_quiet_rows(model: Any):
    told: list[int] = []
    with gating(model) as gates:
        rows = Rows(model, LossHead(model), batches(), advance=told.append)
        rows.gradient(gates)
        assert told == [1, 1, 1]
        quiet = rows.quiet()
        quiet.loss()
        assert told == [1, 1, 1]
        assert (rows.passes, quiet.passes) == (3, 3)


def test_a_loss_that_is_not_finite_is_refused():
    model = adapted_pico()
    with gating(model) as gates:
        gates.set(float("nan"))
        rows = Rows(model, LossHead(model), batches())
        for measure in (lambda: rows.gradient(gates), rows.loss):
            with pytest.raises(DataError, match="not finite: the adapter or its base is damaged"):
                measure()
