"""ILA (arXiv 2410.17875) from a ranking to a choice, worked by hand for two Llama blocks.

Fourteen modules (q, k, v, o, gate, up, down of each block) with these scores, high is important:

    block   q    k    v    o    gate  up   down
    0       .02  .01  .30  .25  .10   .40  .35
    1       .05  .03  .50  .45  .15   .60  .70

    by falling score: 1.down 1.up 1.v 1.o 0.up | 0.down 0.v 0.o 1.gate 0.gate 1.q | 1.k 0.q 0.k

    share  ceil(share * 14)   what it is for
    .10    ceil 1.4  = 2      tune 10 % of the modules
    .20    ceil 2.8  = 3
    .30    ceil 4.2  = 5      tune 30 %: up to the first bar
    .75    ceil 10.5 = 11     freeze the lowest quarter: up to the second bar

The positive score of the top 5 is .70 + .60 + .50 + .45 + .40 = 2.65. With block 0 frozen the best
five are .70 + .60 + .50 + .45 + .15 = 2.40, which is .906 of it: with `keep` .9 that is enough.

Two top sets of 12 out of 16 modules that share 11 have a Jaccard index of 11/13 = .846, "nearly
90 % overlap". By chance m of 12 are shared with these weights (of C(16, 12) = 1820):

    m     8     9     10    11    12
          495   880   396   48    1
    m/(24-m)  8/16  9/15  10/14  11/13  12/12     mean = 1099.97 / 1820 = .6044, and p/(2-p) = .6
"""

import pytest

from lamina.core.agreement import jaccard_by_chance, overlap, spearman
from lamina.core.rules import choose
from lamina.core.scores import LayerScores

TYPES = ("q", "k", "v", "o", "gate", "up", "down")
SIZES = {"q": 64, "k": 32, "v": 32, "o": 64, "gate": 96, "up": 96, "down": 96}
ROWS = ((0.02, 0.01, 0.30, 0.25, 0.10, 0.40, 0.35), (0.05, 0.03, 0.50, 0.45, 0.15, 0.60, 0.70))
VALUES = {f"{b}.{kind}": row[n] for b, row in enumerate(ROWS) for n, kind in enumerate(TYPES)}
FALLING = "1.down 1.up 1.v 1.o 0.up 0.down 0.v 0.o 1.gate 0.gate 1.q 1.k 0.q 0.k".split()


def scores_of(values):
    return LayerScores(
        method="ila_integrate",
        unit="nats a token",
        granularity="module",
        higher_means="important",
        values=values,
        model="base",
        inputs={},
    )


def chosen(rule, **parameters):
    sizes = {one: SIZES[one.partition(".")[2]] for one in VALUES}
    return set(choose(rule, scores_of(VALUES), sizes=sizes, parameters=parameters).chosen)


@pytest.mark.parametrize(("share", "count"), [(0.1, 2), (0.2, 3), (0.3, 5), (0.75, 11), (1, 14)])
def test_the_top_share_is_the_head_of_the_list(share, count):
    assert chosen("top", share=share) == set(FALLING[:count])


def test_the_lowest_quarter_is_frozen_by_tuning_the_rest():
    assert VALUES.keys() - chosen("top", share=0.75) == {"1.k", "0.q", "0.k"}
    assert chosen("bottom", share=0.25) == {"1.k", "0.q", "0.k", "1.q"}  # ceil(3.5) = 4


def test_a_frozen_block_that_keeps_nine_tenths_of_the_score():
    above = {"1.down", "1.up", "1.v", "1.o", "1.gate"}
    assert chosen("prefix_friendly", share=0.3) == above
    assert chosen("prefix_friendly", share=0.3, lowest_block=1) == above
    assert chosen("prefix_friendly", share=0.3, keep=0.91) == set(FALLING[:5])


def test_a_budget_of_three_tenths_of_the_parameters():
    # 2 * 480 = 960 values, .3 of them 288: 96 + 96 + 32 + 64 (1.down, 1.up, 1.v, 1.o), full
    assert chosen("budget", share_of_parameters=0.3) == set(FALLING[:4])
    # 0.7 less: 1.o (64) no longer fits, nothing of 96 does, 0.v (32) does
    assert chosen("budget", parameters=287) == {"1.down", "1.up", "1.v", "0.v"}


def test_matched_random_has_the_parameters_of_the_top():
    # the top 5: 96 + 96 + 32 + 64 + 96 = 384
    for seed in range(8):
        drawn = chosen("matched_random", share=0.3, seed=seed)
        assert sum(SIZES[one.partition(".")[2]] for one in drawn) == 384


def test_an_overlap_of_nearly_ninety_percent_beside_its_chance():
    first = scores_of({f"{n}.up": float(n < 12) for n in range(16)})
    second = scores_of({f"{n}.up": float(1 <= n < 13) for n in range(16)})
    found = overlap(first, second, 0.75)
    assert found.jaccard == pytest.approx(11 / 13)
    assert found.jaccard_chance == pytest.approx(
        (495 * 8 / 16 + 880 * 9 / 15 + 396 * 10 / 14 + 48 * 11 / 13 + 1) / 1820
    )
    assert found.jaccard_chance == pytest.approx(0.6044, abs=5e-5)
    assert (found.shared, found.chance) == (11 / 12, 0.75)
    assert found.corrected == pytest.approx((11 / 12 - 3 / 4) / (1 / 4))
    assert jaccard_by_chance(12, 16) == found.jaccard_chance


def test_spearman_with_a_tie():
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4; less 2.5: 2.25 + 2.25 = 4.5 over sqrt(4.5 * 5)
    a, b = (
        dict(zip("wxyz", (1, 2, 2, 4), strict=True)),
        dict(zip("wxyz", (1, 3, 2, 4), strict=True)),
    )
    assert spearman(a, b) == pytest.approx(4.5 / 22.5**0.5)
