"""Have the models a common ancestor? Unrelated ones merge smoothly, into noise."""

import numpy as np

from lamina.core.errors import CheckpointError
from lamina.merge.inputs import Inputs
from lamina.merge.sources import Sources
from lamina.weights import kernels
from lamina.weights.sources import DTYPE_CODES, Source

SAMPLED_TENSORS, SAMPLED_ELEMENTS = 24, 1 << 16
UNRELATED_BELOW = 0.5
"""Models tuned from one ancestor have cosines near 1 (continued pre-training still above .9),
unrelated ones near 0."""


def require_related(inputs: Inputs, sources: Sources, *, allow: bool) -> list[str]:
    """Compare a sample of the weights of every model with the target's; returns warnings.

    Raises:
        CheckpointError: the cosine of some model's weights with the target's is below .5.
    """
    names = _sample(inputs)
    others = {"reference": sources.reference, "base": sources.base, **sources.experts}
    found = {
        role: weight_cosine(sources.target, source, names)
        for role, source in others.items()
        if source is not None and source is not sources.target
    }
    low = {role: c for role, c in found.items() if c is not None and c < UNRELATED_BELOW}
    if not low:
        return []
    lines = "\n".join(
        f"  {role} ({inputs.typed.get(role, role)}): {cosine:.3f}" for role, cosine in low.items()
    )
    told = (
        f"no common ancestor in sight. Cosine of sampled weights with the target's "
        f"({inputs.target.path}; tuned models have .9 and more, unrelated ones about 0):\n{lines}"
    )
    if allow:
        return [told]
    raise CheckpointError(
        told
        + "\nMerging unrelated models gives gibberish. Give models tuned from one ancestor, or "
        "--allow-unrelated if you know better."
    )


def _sample(inputs: Inputs) -> list[str]:
    """Weight matrices of the blocks, evenly spread; whatever there is if there are none."""
    layers, tensors = inputs.layers, inputs.target.tensors
    matrices = [
        name
        for name, tensor in tensors.items()
        if layers.of(name).role in ("attention", "mlp")
        and len(tensor.shape) == 2
        and tensor.dtype in DTYPE_CODES
    ] or [name for name, tensor in tensors.items() if tensor.dtype in DTYPE_CODES]
    step = max(1, len(matrices) // SAMPLED_TENSORS)
    return matrices[::step][:SAMPLED_TENSORS]


def weight_cosine(first: Source, second: Source, names: list[str]) -> float | None:
    """Cosine of the sampled weights of two models; None where one of them is all zeros."""
    sums, scratch = np.zeros((3, 32)), np.empty(SAMPLED_ELEMENTS, np.float32)
    for name in names:
        sizes = [model.checkpoint.tensors[name].num_elements for model in (first, second)]
        n = min(SAMPLED_ELEMENTS, *sizes)
        kernels.products(
            n,
            first.chunk(name, 0, n, None),
            first.dtype(name),
            second.chunk(name, 0, n, scratch),
            second.dtype(name),
            sums,
        )
        first.release(name, 0, n)
        second.release(name, 0, n)
    a, b, ab = (float(total) for total in sums.sum(axis=1))
    if not (a > 0 and b > 0 and np.isfinite(ab)):
        return None
    return ab / (a * b) ** 0.5
