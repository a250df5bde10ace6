"""`taylor`: leave-one-out to second order, all modules at once, from gate gradients near gamma = 1.

    d_i = L(gamma_i = 0) - L(1)  ~  - dL/dgamma_i + 1/2 d2L/dgamma_i^2           (at gamma = 1)

The slope is what a stationary adapter has lost, and the curvature what is left of the signal there.
Both come from pairs of passes at 1 + delta z and 1 - delta z with signs z: their mean has the slope
(and no curvature), their difference times z the diagonal of the curvature (Hutchinson), where
other gates' cross terms cancel over the draws. Each pair reads its own batch.

Letters: N gated modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WIDTH = 0.25
"""delta: how far the gates are moved."""


@dataclass(frozen=True, slots=True)
class Taylor:
    """The estimate and its two parts, float64 [N], nats a token."""

    values: np.ndarray
    slope: np.ndarray
    """- dL/dgamma_i"""
    curvature: np.ndarray
    """1/2 d2L/dgamma_i^2"""


def taylor(
    gradient: Callable[[np.ndarray, int], np.ndarray],
    *,
    num_gates: int,
    num_batches: int,
    seed: int,
    width: float = WIDTH,
) -> Taylor:
    """Estimates what each delta is worth beside all others; two passes for each batch.

    Args:
        gradient: (gates [N], number of a batch) -> dL/dgamma [N] of that batch.
    """
    generator = np.random.Generator(np.random.PCG64([seed, 0x7A1]))
    slope, curvature = np.zeros(num_gates), np.zeros(num_gates)
    for batch in range(num_batches):
        signs = generator.choice((-1.0, 1.0), size=num_gates)
        above = gradient(1.0 + width * signs, batch)
        below = gradient(1.0 - width * signs, batch)
        slope -= (above + below) / (2 * num_batches)
        curvature += signs * (above - below) / (4 * width * num_batches)
    return Taylor(slope + curvature, slope, curvature)
