"""LISA, SPIDER, PRILoRA and cut layers, against numbers worked by hand.

SPIDER (2411.10928), one tensor of four weights; s(x) = 1 / (1 + exp(-x)), a = s(-1) = .26894,
b = s(1) = .73106, c = s(sqrt 2) = .80443, d = s(-sqrt 2) = .19557:

    |w*|   1    1    3    3      mean 2, sd 1          I   a        a        b    b
    |G|    5    3    1    3      mean 3, sd sqrt 2     J   c        1/2      d    1/2
    J / (I + J) where I < J                                .74944   .65024   0    0
    over its mean .69984, at most 1                    C   1        .92913   0    0
"""

import math

import pytest
import torch

from lamina.engine.layerwise.lisa import draw_blocks
from lamina.engine.layerwise.prilora import prune_rows, rising_ranks, running_mean
from lamina.engine.layerwise.spider import Spider, importance, share_of_update

START = torch.tensor([1.0, -1.0, 3.0, -3.0])
SUMS = torch.tensor([-5.0, 3.0, 1.0, -3.0])
A, B, C = 0.2689414, 0.7310586, 0.8044297
SHARES = [1.0, 0.9291287, 0.0, 0.0]


def test_importance_is_the_logistic_of_the_z_score_of_sizes() -> None:
    assert importance(START).tolist() == pytest.approx([A, A, B, B], abs=1e-6)
    assert importance(SUMS).tolist() == pytest.approx([C, 0.5, 1 - C, 0.5], abs=1e-6)


def test_the_share_of_an_update_is_over_the_mean_and_at_most_whole() -> None:
    raw = [C / (A + C), 0.5 / (A + 0.5)]
    assert raw == pytest.approx([0.7494423, 0.6502446], abs=1e-6)
    mean = sum(raw) / 2
    assert SHARES[:2] == pytest.approx([min(1.0, raw[0] / mean), raw[1] / mean], abs=1e-6)
    assert share_of_update(START, SUMS).tolist() == pytest.approx(SHARES, abs=1e-6)


def test_a_step_is_mixed_with_the_start_and_gradients_add_up() -> None:
    """Two gradients that sum to G, rate 1: after the second step w = w* - (g1 C1 + g2) C."""
    layer = torch.nn.Linear(4, 1, bias=False)
    weight = layer.weight
    weight.data.copy_(START[None])
    tuner = Spider()
    tuner.begin(layer)
    first = torch.tensor([-3.0, 1.0, 1.0, -1.0])
    # |G| = 3, 1, 1, 1: mean 1.5, sd sqrt(.75); z = sqrt 3 and three times -1/sqrt 3
    low, high = (1 / (1 + math.exp(-z)) for z in (-1 / math.sqrt(3), math.sqrt(3)))
    raw = [high / (A + high), low / (A + low)]  # .35951 is above a, below b
    after_one = [min(1.0, 2 * one / sum(raw)) for one in raw]
    for step, gradient in enumerate((first, SUMS - first), start=1):
        weight.grad = gradient[None].clone()
        tuner.before_update()
        weight.data -= weight.grad
        tuner.after_update(step)
        if step == 1:
            wanted = [1 + 3 * after_one[0], -1 - 1 * after_one[1], 3.0, -3.0]
            assert weight[0].tolist() == pytest.approx(wanted, abs=1e-5)
    second = [-2.0, 2.0]
    moved = [
        (f * c1 + s) * c for f, c1, s, c in zip((-3, 1), after_one, second, SHARES, strict=False)
    ]
    assert weight[0].tolist() == pytest.approx([1 - moved[0], -1 - moved[1], 3.0, -3.0], abs=1e-5)


def test_ranks_rise_on_a_line() -> None:
    """4 + 8 (i - 1) / (L - 1): 4, 5.14, 6.29, 7.43, 8.57, 9.71, 10.86, 12 for eight blocks."""
    assert rising_ranks(5, first_rank=4, last_rank=12) == (4, 6, 8, 10, 12)
    assert rising_ranks(8, first_rank=4, last_rank=12) == (4, 5, 6, 7, 9, 10, 11, 12)
    assert rising_ranks(12, first_rank=4, last_rank=12) == (4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12)
    assert rising_ranks(3, first_rank=1, last_rank=2) == (1, 2, 2)  # 1.5 goes up


def test_the_lowest_half_of_each_row_is_zeroed_by_size_times_input() -> None:
    """EMA after means (1, 2, 4, 1) and (3, 0, 4, 1): .9 * .1 * first + .1 * second."""
    mean = torch.zeros(4)
    for now in ([1.0, 2.0, 4.0, 1.0], [3.0, 0.0, 4.0, 1.0]):
        mean = running_mean(mean, torch.tensor(now), decay=0.9)
    assert mean.tolist() == pytest.approx([0.39, 0.18, 0.76, 0.19], abs=1e-6)
    #      row of A            |A| EMA                        kept
    #      2, -3, 1, 5         .78, .54, .76, .95             2, 5
    #      -1, 5, .25, -1      .39, .90, .19, .19             -1, 5
    a = torch.tensor([[2.0, -3.0, 1.0, 5.0], [-1.0, 5.0, 0.25, -1.0]])
    pruned = prune_rows(a, mean, keep=0.5)
    assert pruned.tolist() == [[2.0, 0.0, 0.0, 5.0], [-1.0, 5.0, 0.0, 0.0]]


def test_each_block_is_drawn_with_probability_layers_over_blocks() -> None:
    """LISA's Algorithm 1: p = gamma / N = 2/8, in 4000 periods 1000 times, sd 27."""
    counts = [0] * 8
    for number in range(4000):
        for block in draw_blocks(range(8), 2, seed=7, number=number):
            counts[block] += 1
    assert sum(counts) == 8000
    assert max(abs(count - 1000) for count in counts) < 4 * 27.4
