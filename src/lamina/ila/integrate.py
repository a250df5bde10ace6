"""`integrate`: each gate's share of what the whole delta is worth (Aumann-Shapley).

    a_i = - integral from 0 to 1 of dL/dgamma_i at (gamma, ..., gamma) d gamma,

by Gauss-Legendre points. At gamma = 1 a trained adapter is stationary and the signal drowns in
noise; along the path from 0 it does not. No learning rate, no steps, and a numerical test comes
with it: the sum over i is L(0) - L(1), the whole delta's worth (completeness).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Integral:
    """Contributions and the test of their sum."""

    values: np.ndarray
    """a_i, float64 [N], nats a token; high: important."""
    curve: tuple[tuple[float, float], ...]
    """(gamma, loss) at the points, rising."""


def points(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1], exact for polynomials of degree 2 num - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(num)
    return (nodes + 1) / 2, weights / 2


def integrate(gradient: Callable[[float], tuple[float, np.ndarray]], num_points: int) -> Integral:
    """The integral of the gate gradients along the diagonal.

    Args:
        gradient: gamma -> (loss, dL/dgamma [N]) with all gates at gamma.
    """
    nodes, weights = points(num_points)
    total: np.ndarray | None = None
    curve = []
    for node, weight in zip(nodes, weights, strict=True):
        loss, slope = gradient(float(node))
        part = -weight * slope
        total = part if total is None else total + part
        curve.append((float(node), loss))
    assert total is not None, num_points
    return Integral(total, tuple(curve))
