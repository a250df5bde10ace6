"""What a detection's results warn of."""

import pytest

from lamina.versatune.journal import Sampled
from lamina.versatune.results import _warnings
from lamina.versatune.shares import Confusion, Judgement


def test_a_judge_that_always_says_the_largest_domain_is_no_better_than_chance() -> None:
    always: list[Judgement] = [(1.0, 0.0)]
    confusion = Confusion.of([always * 90, always * 10])
    assert confusion.accuracy == pytest.approx(0.9)
    assert (confusion.balanced, confusion.balanced_se) == (0.5, 0.0)
    assert _warnings(always, [Sampled("a", 1, True)], confusion) == [
        "the judge is right on 50% of labelled rows (every domain counts the same), hardly more "
        "than by chance (50%): the shares say little"
    ]


def test_a_judge_that_is_right_is_not_warned_of() -> None:
    confusion = Confusion.of([[(0.9, 0.1)] * 9 + [(0.2, 0.8)], [(0.3, 0.7)] * 10])
    assert confusion.balanced == pytest.approx(0.95)
    assert confusion.balanced_se == pytest.approx((0.9 * 0.1 / 10) ** 0.5 / 2)
    assert _warnings([(1.0, 0.0)], [Sampled("a", 1, True)], confusion) == []
