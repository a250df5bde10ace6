"""A recipe's numbers for one tensor."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.layers import LayerMap
from lamina.core.plan import LayerPlan
from lamina.merge.methods import (
    DROP,
    TRIM,
    WHOLE,
    kept_count,
    noise_key,
    slerp_weights,
    tensor_numbers,
)
from lamina.merge.recipe import from_dict

NAMES = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)] + ["model.norm.weight"]
LAYERS = LayerMap.from_names(NAMES)


def recipe(merge_method: str, weights: list[Any], **parameters: Any) -> Any:
    models = [
        {"model": f"./m{i}", "name": f"m{i}", "parameters": {"weight": weight}}
        for i, weight in enumerate(weights)
    ]
    text = {"merge_method": merge_method, "models": models, "parameters": parameters}
    if merge_method == "lata":
        text["instruct_model"] = "./instruct"
    if merge_method != "linear":
        text["base_model"] = "./base"
    return from_dict(text, "test")


@pytest.mark.parametrize(
    ("method", "mode", "elect", "divisor"),
    [
        ("linear", WHOLE, False, 0.75),
        ("task_arithmetic", WHOLE, False, 1.0),
        ("ties", TRIM, True, 1.0),
        ("dare_linear", DROP, False, 1.0),
        ("dare_ties", DROP, True, 1.0),
        ("lata", WHOLE, False, 1.0),
    ],
)
def test_parts_of_each_method(method: str, mode: int, elect: bool, divisor: float) -> None:
    more = {"rule": "linear_drop"} if method == "lata" else {}
    found = tensor_numbers(recipe(method, [0.5, 0.25], **more), NAMES[0], LAYERS, {})
    assert (found.mode, found.elect, found.divisor) == (mode, elect, divisor)
    assert found.weights == (0.5, 0.25)
    assert found.scales == (1.0, 1.0)
    assert found.normalize is (method == "ties")


def test_weights_over_the_blocks() -> None:
    one = recipe("task_arithmetic", [[0.0, 1.0]], **{"lambda": 2})
    weights = [tensor_numbers(one, name, LAYERS, {}).weights[0] for name in NAMES]
    assert weights == [0.0, 0.5, 1.0, 0.0]
    assert tensor_numbers(one, NAMES[0], LAYERS, {}).factor == 2


def test_coefficients_of_the_plans() -> None:
    plan = LayerPlan(
        granularity="block",
        coefficients={"0": 0.25, "1": 0.5, "2": 1.0},
        others=0.125,
        rule="linear_drop",
        from_scores="",
    )
    one = recipe("lata", [1, 1], rule="linear_drop")
    found = [tensor_numbers(one, name, LAYERS, {"m1": plan}).scales for name in NAMES]
    assert found == [(1.0, 0.25), (1.0, 0.5), (1.0, 1.0), (1.0, 0.125)]


def test_a_sparsifier_after_lata() -> None:
    drops = recipe("lata", [1], rule="log_drop", method="dare", density=0.5)
    assert tensor_numbers(drops, NAMES[0], LAYERS, {}).mode == DROP
    trims = recipe("lata", [1], rule="log_drop", method="ties", density=0.5)
    found = tensor_numbers(trims, NAMES[0], LAYERS, {})
    assert (found.mode, found.elect, found.densities) == (TRIM, True, (0.5,))


def test_slerp_weights() -> None:
    one = from_dict(
        {
            "merge_method": "slerp",
            "base_model": "./a",
            "models": [{"model": "./b"}],
            "parameters": {"t": [0, 1]},
        },
        "test",
    )
    found = [tensor_numbers(one, name, LAYERS, {}).weights for name in NAMES]
    assert found == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0)]


@given(st.floats(0, 1), st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.05, 3.0))
def test_slerp_between_two_directions(t: float, first: float, second: float, angle: float) -> None:
    """For unit vectors the result lies at t * angle from the first and has length one."""
    product = first * second * math.cos(angle)
    a, b = slerp_weights(t, first**2, second**2, product)
    vector = np.array([1, 0]) * a + np.array([math.cos(angle), math.sin(angle)]) * b
    wanted = [math.cos(t * angle), math.sin(t * angle)]
    assert vector == pytest.approx(wanted, abs=1e-6 / math.sin(angle) ** 2)


def test_slerp_of_parallel_opposite_and_zero_vectors() -> None:
    assert slerp_weights(0.3, 1.0, 4.0, 2.0) == (0.7, 0.3)
    assert slerp_weights(0.3, 1.0, 1.0, -1.0) == (0.7, 0.3)
    right_angle = math.sin(0.3 * math.pi / 2)
    assert slerp_weights(0.3, 0.0, 1.0, 0.0)[1] == pytest.approx(right_angle)


def test_kept_count() -> None:
    assert [kept_count(d, 10) for d in (1e-9, 0.1, 0.19, 0.999, 1.0)] == [1, 1, 1, 9, 10]


def test_noise_keys_differ() -> None:
    """By seed, tensor and expert, and by nothing else."""
    keys = {noise_key(s, n, k) for s in range(4) for n in NAMES for k in range(3)}
    assert len(keys) == 4 * len(NAMES) * 3
    assert noise_key(1, NAMES[0], 2) == noise_key(1, NAMES[0], 2)
    assert all(0 <= key < 2**64 for key in keys)


def dropped(key: int, density: float, size: int = 1 << 17) -> np.ndarray:
    from lamina.weights import blocks
    from lamina.weights.lanes import BLOCK

    kept = np.ones(size, np.float32)
    for first in range(0, size, BLOCK):
        bound = int(density * 2**32)
        blocks.drop(kept[first : first + BLOCK], np.uint64(key), np.uint64(first), bound)
    return kept


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9])
def test_noise_keeps_the_share_it_should(density: float) -> None:
    """Mean within four standard errors; neighbours and other keys independent."""
    size = 1 << 17
    error = math.sqrt(density * (1 - density) / size)
    one, other = (dropped(noise_key(0, NAMES[0], k), density) for k in (0, 1))
    for kept in (one, other):
        assert abs(kept.mean() - density) < 4 * error
        by_block = kept.reshape(-1, 2048).mean(axis=1)
        spread = by_block.std() / math.sqrt(density * (1 - density) / 2048)
        assert 0.6 < spread < 1.5
    for first, second in ((one, other), (one[1:], one[:-1]), (one[2048:], one[:-2048])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(size)
