"""Ranking formulas on losses whose answer is known."""

import numpy as np
import pytest
from scored_pico import adapted_pico, batches

from lamina.engine.losses import LossHead
from lamina.ila.gates import gating
from lamina.ila.integrate import integrate, points
from lamina.ila.learn import learn, sigmoid
from lamina.ila.measure import Rows
from lamina.ila.recipe import GATED, WAYS, GateSection
from lamina.ila.stage import stable_looks
from lamina.ila.taylor import taylor
from lamina.ila.ways import KINDS, measured

LINEAR = np.array([-0.8, -0.1, 0.0, 0.2])
BENT = np.array([0.5, 0.1, 0.0, 0.4])


def bowl(gates: np.ndarray) -> tuple[float, np.ndarray]:
    """L = sum over i of l_i g_i + b_i g_i^2 / 2, with one cross term of the first two."""
    cross = 0.2
    loss = LINEAR @ gates + BENT @ gates**2 / 2 + cross * gates[0] * gates[1]
    slope = LINEAR + BENT * gates
    slope[0] += cross * gates[1]
    slope[1] += cross * gates[0]
    return float(loss), slope


def test_legendre_points_are_exact_for_cubics():
    nodes, weights = points(2)
    assert weights.sum() == pytest.approx(1)
    assert weights @ nodes**3 == pytest.approx(1 / 4)


def test_the_integral_of_a_quadratic_by_hand():
    """a_i = -(l_i + b_i / 2 + cross / 2): half of the cross term goes to each of the two."""
    found = integrate(lambda gamma: bowl(np.full(4, gamma)), 3).values
    assert found == pytest.approx([-(-0.8 + 0.25 + 0.1), -(-0.1 + 0.05 + 0.1), 0.0, -0.4])
    assert found.sum() == pytest.approx(-bowl(np.ones(4))[0])


def test_taylor_is_leave_one_out_of_a_quadratic():
    exact = [bowl(np.ones(4) - np.eye(4)[n])[0] - bowl(np.ones(4))[0] for n in range(4)]
    found = taylor(lambda g, batch: bowl(g)[1], num_gates=4, num_batches=4000, seed=0)
    assert found.values == pytest.approx(exact, abs=0.01)
    assert found.slope == pytest.approx(-bowl(np.ones(4))[1], abs=0.01)


def test_descent_opens_the_gates_that_help():
    found = learn(lambda g, step: bowl(g), num_gates=4, start=0.0, steps=200)
    worth = -(LINEAR + BENT * 0.5)
    assert np.argmax(found.values) == np.argmax(worth)
    assert found.values[3] < 0.5
    assert found.values[2] == 0.5
    assert found.losses[-1] < found.losses[0]


def test_the_first_step_is_scaled_by_the_steepest_gate():
    found = learn(lambda g, step: bowl(g), num_gates=4, start=4.0, steps=100)
    gate = sigmoid(np.full(4, 4.0))
    steepest = np.abs(bowl(gate)[1] * gate * (1 - gate)).max()
    assert found.learning_rate == pytest.approx(4.0 / (100 * steepest))


def test_a_price_closes_what_is_worth_nothing():
    found = learn(
        lambda g, step: bowl(g), num_gates=4, start=4.0, steps=256, optimizer="adamw", sparsity=0.01
    )
    assert found.learning_rate == 0.05
    assert found.values[2] < 0.05
    assert found.values[3] < 0.05


def test_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("seen", "looks"),
    [([4.0], 0), ([4.0, 3.0], 0), ([4.0, 3.0, 2.99, 2.985], 2), ([3.0, 3.001, 2.5], 0)],
)
def test_stable_looks_by_hand(seen: list[float], looks: int):
    assert stable_looks(seen, 0.005) == looks


def test_every_way_says_what_its_numbers_are():
    assert set(KINDS) == set(WAYS)


def test_all_gated_ways_rank_the_same_modules_and_leave_the_gates_open():
    model = adapted_pico()
    section = GateSection(steps=3, samples=1)
    with gating(model) as gates:
        rows = Rows(model, LossHead(model), batches())
        for way in (*GATED, "delta_norm", "lora_drop", "block_influence"):
            found = measured(way, rows, gates, section, seed=0)
            if KINDS[way].grain == "module":
                assert tuple(found.values) == gates.ids, way
            assert gates.values.detach().eq(1.0).all(), way
            assert all(np.isfinite(list(found.values.values()))), way


def test_taylor_agrees_with_leave_one_out_on_a_model():
    """Small deltas: the second order is the whole of it."""
    from lamina.core.agreement import spearman

    model = adapted_pico()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.3
    with gating(model) as gates:
        rows = Rows(model, LossHead(model), [batches()[0]] * 96)
        near = measured("taylor", rows, gates, GateSection(), seed=0).values
        rows = Rows(model, LossHead(model), [batches()[0]])
        exact = measured("leave_one_out", rows, gates, GateSection(), seed=0).values
    assert spearman(near, exact) > 0.95
