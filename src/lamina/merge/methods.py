"""Merge methods as formulas: a recipe's numbers for one tensor in, the kernel's numbers out.

Every method is one formula with parts switched on or off (`lamina.weights.kernels.combine`):

    out = target + lambda * sum_k w_k * S_k(c_k * (expert_k - reference)) / divisor

task arithmetic (arXiv 2212.04089): S = identity. TIES (2306.01708): S keeps the largest magnitudes,
the sum is over what agrees with the elected sign. DARE (2311.03099): S drops at random. Linear:
target = reference = 0. Slerp: linear, with weights from the angle. LATA (2502.20186 eq. 8-12):
c_k is the layer's coefficient; a sparsifier works on the weighted vectors.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from lamina.core.layers import LayerMap
from lamina.core.plan import LayerPlan
from lamina.merge.nouns import MergeRecipe, density_of, weight_of
from lamina.merge.values import resolve

WHOLE, TRIM, DROP = 0, 1, 2
MERGEKIT_EPSILON = 1e-8
"""A divisor below this counts as 1, as in mergekit."""


@dataclass(frozen=True, slots=True)
class TensorNumbers:
    """All that the kernel needs to know about one tensor; tuples are per expert, in order."""

    weights: tuple[float, ...]
    scales: tuple[float, ...]
    densities: tuple[float, ...]
    mode: int
    """WHOLE, TRIM or DROP: what happens to a vector before it is weighted."""
    elect: bool
    normalize: bool
    """Divide by the weights that agree (only where signs are elected)."""
    divisor: float
    factor: float


def tensor_numbers(
    recipe: MergeRecipe,
    name: str,
    layers: LayerMap,
    plans: Mapping[str, LayerPlan],
) -> TensorNumbers:
    """The numbers of one tensor; slerp's weights are (1 - t, t), `slerp_weights` bends them."""
    if recipe.method == "slerp":
        t = resolve(recipe.t or (), name, layers)
        ones = (1.0, 1.0)
        return TensorNumbers((1.0 - t, t), ones, ones, WHOLE, False, False, 1.0, 1.0)
    entries = recipe.models
    weights = tuple(weight_of(entry, name, layers) for entry in entries)
    scales = tuple(
        plans[entry.name].coefficient_of(layers, name) if entry.name in plans else 1.0
        for entry in entries
    )
    densities = tuple(density_of(entry, name, layers) for entry in entries)
    trims = recipe.method == "ties" or recipe.sparsifier == "ties"
    drops = recipe.method in ("dare_linear", "dare_ties") or recipe.sparsifier == "dare"
    elect = trims or recipe.method == "dare_ties"
    divisor = 1.0
    if recipe.normalize and not elect:
        total = math.fsum(weights)
        divisor = 1.0 if abs(total) < MERGEKIT_EPSILON else total
    return TensorNumbers(
        weights=weights,
        scales=scales,
        densities=densities,
        mode=TRIM if trims else DROP if drops else WHOLE,
        elect=elect,
        normalize=recipe.normalize and elect,
        divisor=divisor,
        factor=recipe.lambda_,
    )


def slerp_weights(t: float, first_square: float, second_square: float, product: float):
    """The two weights of a spherical interpolation from <v0,v0>, <v1,v1> and <v0,v1>.

    Nearly parallel vectors (|cos| > .9995) are interpolated linearly, as in mergekit.
    """
    norms = [math.sqrt(square) for square in (first_square, second_square)]
    first, second = (norm if norm > MERGEKIT_EPSILON else 1.0 for norm in norms)
    cosine = max(-1.0, min(1.0, product / (first * second)))
    if abs(cosine) > 0.9995:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def kept_count(density: float, num_elements: int) -> int:
    """How many values a density keeps: at least one, else truncated, as in mergekit."""
    if density >= 1.0:
        return num_elements
    return max(1, int(density * num_elements))


def noise_key(seed: int, tensor: str, expert: int) -> int:
    """64 bits from which DARE's noise for one tensor of one expert is made."""
    text = f"lamina.dare\0{seed}\0{tensor}\0{expert}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
