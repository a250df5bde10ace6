"""`learn` and `sparse`: gates gamma = sigmoid(s), s by gradient descent on the frozen deltas.

The paper: argmin over s of E L(theta_0 + c sigmoid(s) B A); s0 = 4 and 128 steps are from memory,
not from a text at hand (docs/papers.md). Plain gradient descent ranks by
how much each gate matters; AdamW gives every gate a step of the same size, and near gamma = 1,
where a trained adapter is stationary, that size is all noise. `sparse` adds lambda sum sigmoid(s),
which pushes every gate down by the same force, so that only those that matter stay open.

Letters: N gated modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Gradient = Callable[[np.ndarray, int], tuple[float, np.ndarray]]
"""(gates [N], step) -> (loss in nats a token, dL/dgamma [N])."""

LEARN_STEPS, SPARSE_STEPS = 128, 256
ADAM_RATE = 0.05
_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class Learnt:
    """Gates after the last step."""

    values: np.ndarray
    """gamma = sigmoid(s), float64 [N]."""
    losses: tuple[float, ...]
    """Of each step's batch, nats a token."""
    learning_rate: float


def learn(
    gradient: Gradient,
    *,
    num_gates: int,
    start: float,
    steps: int,
    learning_rate: float | None = None,
    optimizer: str = "sgd",
    sparsity: float = 0.0,
) -> Learnt:
    """Descends on s from `start` (ILA, sec. 3; `sparsity` is ours).

    Args:
        learning_rate: of `sgd`, without one: such that the gate with the steepest first gradient
            would go from `start` to 0 in all steps; a scale that the paper does not give.
        sparsity: lambda, nats a token for an open gate.
    """
    s = np.full(num_gates, start)
    mean, square = np.zeros(num_gates), np.zeros(num_gates)
    rate = learning_rate if learning_rate is not None or optimizer == "sgd" else ADAM_RATE
    losses = []
    for step in range(steps):
        gates = sigmoid(s)
        loss, slope = gradient(gates, step)
        losses.append(loss)
        down = (slope + sparsity) * gates * (1 - gates)
        if rate is None:
            rate = abs(start or 1.0) / (steps * max(float(np.abs(down).max()), 1e-30))
        if optimizer == "sgd":
            s = s - rate * down
            continue
        mean = _BETAS[0] * mean + (1 - _BETAS[0]) * down
        square = _BETAS[1] * square + (1 - _BETAS[1]) * down**2
        unbiased = mean / (1 - _BETAS[0] ** (step + 1))
        scale = np.sqrt(square / (1 - _BETAS[1] ** (step + 1))) + _EPS
        s = s - rate * unbiased / scale
    assert rate is not None, steps
    return Learnt(sigmoid(s), tuple(losses), float(rate))


def sigmoid(s: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-s), without an overflow."""
    return np.exp(-np.logaddexp(0.0, -s))
