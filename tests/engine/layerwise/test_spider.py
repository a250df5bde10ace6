"""SPIDER: what is taken back, and what it is reckoned from. Worked numbers: tests/papers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lamina.engine.layerwise.spider import Spider, _compact, importance, share_of_update

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))
FLOATS = arrays("float32", SHAPES, elements=st.floats(-8, 8, width=16))


class Watched(Spider):
    """Keeps its sums of gradients and the starting weights."""

    def end(self) -> None:
        self.start, self.sums, self.named = self._start, self._sums, self._parameters
        super().end()


def test_a_weight_that_the_start_needs_more_stays_bit_for_bit(
    run: Callable[..., Any], pico: Callable[..., Any], tmp_path: Path
) -> None:
    before = {name: p.detach().clone() for name, p in pico().named_parameters()}
    tuner = Watched()
    run(tmp_path, None, tuner=tuner, weight_decay=0.01)
    assert len(tuner.named) == len(before) == 39
    for name, parameter in tuner.named.items():
        share = share_of_update(before[name], tuner.sums[name])
        rests, moves = share == 0, share == 1
        assert rests.any(), name
        assert torch.equal(parameter[rests], before[name][rests]), name
        assert (parameter[moves] != before[name][moves]).float().mean() > 0.9, name


def test_the_sums_are_those_of_the_gradients_that_the_optimiser_saw(
    run: Callable[..., Any], pico: Callable[..., Any], tmp_path: Path
) -> None:
    """One step of plain gradient descent: w - rate * gradient, taken back by C."""
    before = {name: p.detach().clone() for name, p in pico().named_parameters()}
    tuner = Watched()
    run(tmp_path, None, tuner=tuner, windows=1, window_steps=1, optimizer="sgd", learning_rate=0.1,
        schedule="constant", max_grad_norm=0.01)  # fmt: skip
    norm = torch.stack([(s**2).sum() for s in tuner.sums.values()]).sum().sqrt()
    torch.testing.assert_close(norm, torch.tensor(0.01), rtol=1e-3, atol=0)
    for name, parameter in tuner.named.items():
        gradient = tuner.sums[name]
        kept = share_of_update(before[name], gradient)
        wanted = before[name] - 0.1 * gradient * kept
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-6, atol=1e-9)


@given(FLOATS, st.integers(0, 9))
def test_shares_lie_between_0_and_1_and_one_of_them_is_whole(start: Any, seed: int) -> None:
    weights = torch.from_numpy(start)
    gradients = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))
    share = share_of_update(weights, gradients)
    assert share.shape == weights.shape
    assert ((share >= 0) & (share <= 1)).all()
    assert not share.any() or share.max() > 1 - 1e-6  # a maximum is its mean or more
    assert ((importance(weights) >= importance(gradients)) == (share == 0)).all()


def test_equal_sizes_are_equally_important() -> None:
    ones = torch.tensor([1.0, -1.0, 1.0])
    assert importance(ones).tolist() == [0.5] * 3
    assert share_of_update(ones, ones).tolist() == [0.0] * 3
    assert share_of_update(torch.ones(1), torch.ones(1)).tolist() == [0.0]


def test_a_start_that_fits_bfloat16_is_held_in_it() -> None:
    exact = torch.tensor([1.0, -0.5, 3.0])
    assert _compact(exact).dtype == torch.bfloat16
    assert _compact(exact + 2**-12).dtype == torch.float32
    assert torch.equal(_compact(exact).float(), exact)
