"""The siblings of ILA's ranking on numbers small enough to work out with a pencil."""

import math

import numpy as np
import pytest
import torch

from lamina.ila.block_influence import cosine
from lamina.ila.norms import delta_norm
from lamina.ila.shapley import shapley
from lamina.ila.snr import places, ratio, singular_values
from lamina.ila.token_shift import by_position, classes_of, most_shifted, tally


def test_shapley_of_one_left_and_two_right_gloves() -> None:
    """Orders of l, r, s: l adds the pair unless it comes first, 4 of 6; r only right behind l."""

    def value(removed: frozenset[str]) -> float:
        return float("l" not in removed and not {"r", "s"} <= removed)

    found = shapley(("l", "r", "s"), value, seed=0, samples=3000, max_removed=3, window=3)
    for player, wanted in (("l", 2 / 3), ("r", 1 / 6), ("s", 1 / 6)):
        assert abs(found.values[player] - wanted) < 4 * found.errors[player] < 0.03
    assert found.drops == {"l": 1.0, "r": 0.0, "s": 0.0}
    assert found.cornerstones == ("l",)


def test_shapley_of_two_that_work_together_halves_what_they_make() -> None:
    """v = 3 a + 1 b + 2 a b: a gets 3 + 1, b gets 1 + 1."""

    def value(removed: frozenset[str]) -> float:
        a, b = "a" not in removed, "b" not in removed
        return 3.0 * a + 1.0 * b + 2.0 * (a and b)

    found = shapley(("a", "b"), value, seed=0, samples=2, max_removed=2, window=1)
    assert found.values == {"a": 4.0, "b": 2.0}
    assert found.errors == {"a": 0.0, "b": 0.0}
    assert found.drops == {"a": 5 / 6, "b": 3 / 6}


def test_block_influence_of_three_tokens() -> None:
    """Turned by nothing, by 60 degrees, by 90: 1 - (1 + 1/2 + 0) / 3 = 1/2."""
    before = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    after = torch.tensor([[5.0, 0.0], [0.5, 0.5 * math.sqrt(3)], [1.0, 0.0]])
    assert float(1 - cosine(before, after).mean()) == pytest.approx(0.5)


def test_snr_of_nine_singular_values() -> None:
    """1 .. 8 and 20 of a square matrix: IQR 4, sd 4 / 1.349, tau 5.93, (6+7+8+20) / 15 / 20."""
    singular = np.array([20.0, *range(8, 0, -1)])
    assert ratio(singular, 9, 9) == pytest.approx(41 / 15 / 20)
    assert singular_values(np.diag(singular)) == pytest.approx(singular)
    assert places({"0.q": 0.1, "1.q": 0.3, "2.q": 0.2, "0.v": 9.0}) == {
        "0.q": 1 / 6,
        "1.q": 5 / 6,
        "2.q": 3 / 6,
        "0.v": 1 / 2,
    }


def test_the_norm_of_a_delta_of_rank_two() -> None:
    """B A = [[1, 2], [3, 4]] with c = 2: 2 sqrt(1 + 4 + 9 + 16)."""
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.eye(2)
    assert delta_norm(a, b, 2.0) == pytest.approx(2 * math.sqrt(30))


def test_token_shift_of_two_answers() -> None:
    """Ranks 1 7 2 and 1 1 4 3 1 9: of 9 tokens 4 unshifted, 2 marginal, 3 shifted."""
    ranks = [np.array([1, 7, 2]), np.array([1, 1, 4, 3, 1, 9])]
    assert [classes_of(one).tolist() for one in ranks] == [[0, 2, 1], [0, 0, 2, 1, 0, 2]]
    found = tally(ranks)
    assert found.counts == {"unshifted": 4, "marginal": 2, "shifted": 3}
    # p = 1/3; answers differ from it by 1 - 3/3 = 0 and 2 - 6/3 = 0: every answer has its third.
    assert found.errors is not None
    assert found.errors["shifted"] == 0.0
    # p = 4/9; by 1 - 12/9 = -1/3 and 3 - 24/9 = 1/3: sqrt(2 (1/9 + 1/9)) / 9 = 2/27.
    assert found.errors["unshifted"] == pytest.approx(2 / 27)
    assert [(first, one.tokens) for first, _, one in by_position(ranks)] == [(0, 8), (5, 1)]
    assert most_shifted([[5, 6, 5], [5, 5, 6, 5, 5, 8]], ranks) == [(6, 2, 2), (8, 1, 1)]
