"""Coefficients from scores of any origin, by hand, and LATA's own rules as their oracle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.scores import LayerScores
from lamina.lata.choose import linear_drop, log_drop, scores


def table(values: list[float], method: str = "integrate") -> LayerScores:
    return LayerScores(
        method=method,
        unit="nats",
        granularity="block",
        higher_means="important",
        values={str(place): value for place, value in enumerate(values)},
        model="m",
        inputs={},
    )


IMPORTANT = table([0.3, 0.9, -0.1, 0.5])


def test_the_most_important_layer_is_taken_whole_and_the_least_a_share_of_one():
    assert scores(IMPORTANT, shape="linear") == {"0": 0.5, "1": 1.0, "2": 0.25, "3": 0.75}


def test_by_logarithm_the_least_important_layer_is_left_out():
    found = scores(IMPORTANT, shape="log")
    assert found == {
        "0": math.log(2) / math.log(4),
        "1": 1.0,
        "2": 0.0,
        "3": math.log(3) / math.log(4),
    }
    assert scores(table([7.0]), shape="log") == {"0": 1.0}


@pytest.mark.parametrize(("share", "taken"), [(0.25, "1"), (0.3, "13"), (0.5, "13"), (1.0, "0123")])
def test_the_top_share_is_rounded_up(share: float, taken: str):
    found = scores(IMPORTANT, shape="top", share=share)
    assert {unit for unit, value in found.items() if value == 1.0} == set(taken)
    assert set(found.values()) <= {0.0, 1.0}


def test_three_tenths_of_ten_are_three():
    assert sum(scores(table([float(i) for i in range(10)]), shape="top", share=0.3).values()) == 3


def test_equal_scores_go_by_the_layers_order():
    assert scores(table([1.0, 1.0, 1.0]), shape="top", share=0.5) == {"0": 1.0, "1": 1.0, "2": 0.0}


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.sampled_from(["lata_cosine", "cosine"])
)
def test_from_latas_cosines_the_rule_is_latas_own(values: list[float], method: str):
    """Of a merge, or of `lamina rank --way cosine`."""
    cosines = table(values, method)
    assert scores(cosines, shape="linear") == linear_drop(cosines)
    assert scores(cosines, shape="log") == log_drop(cosines)
