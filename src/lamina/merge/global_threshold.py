"""TIES with `scope: global`: one magnitude threshold for the whole model, exact, out of core."""

import threading
from collections.abc import Mapping

import numpy as np

from lamina.core.plan import LayerPlan
from lamina.merge.inputs import Inputs
from lamina.merge.methods import TRIM, kept_count, tensor_numbers
from lamina.merge.nouns import MergeRecipe
from lamina.merge.sources import Sources
from lamina.merge.sparsify import histogram
from lamina.merge.thresholds import BINS, KEEP_ALL, Threshold, find_bin
from lamina.weights.sources import DTYPE_CODES
from lamina.weights.stream import Scratch, each_tensor


def model_thresholds(
    recipe: MergeRecipe,
    inputs: Inputs,
    sources: Sources,
    plans: Mapping[str, LayerPlan],
    threads: int,
) -> dict[tuple[str, str], Threshold]:
    """(tensor, expert) -> threshold, where the recipe asks for TIES over the whole model.

    The density is that of the first tensor that the expert changes: over a whole model only one
    number makes sense, and the recipe's reader makes sure that there is one. Values equal to the
    threshold are kept in the order of the tensors' names. Two passes over every expert.
    """
    trims = recipe.method == "ties" or recipe.sparsifier == "ties"
    if not trims or recipe.scope != "model":
        return {}
    names = sorted(n for n, t in inputs.target.tensors.items() if t.dtype in DTYPE_CODES)
    numbers = {n: tensor_numbers(recipe, n, inputs.layers, plans) for n in names}
    found: dict[tuple[str, str], Threshold] = {}
    for k, expert in enumerate(inputs.experts):
        used = [n for n in names if numbers[n].weights[k] * numbers[n].scales[k] != 0.0]
        ends = {n: _end(inputs, expert, n) for n in used}
        density = numbers[used[0]].densities[k] if used else 1.0
        if not used or density >= 1.0:
            found |= {(n, expert): KEEP_ALL for n in names}
            continue
        scales = {n: numbers[n].scales[k] for n in used}
        upper_counts = _count(sources, expert, scales, ends, -1, threads)
        everything = np.sum(list(upper_counts.values()), axis=0)
        upper, keep = find_bin(everything, kept_count(density, sum(ends.values())))
        lower_counts = _count(sources, expert, scales, ends, upper, threads)
        lower, quota = find_bin(np.sum(list(lower_counts.values()), axis=0), keep)
        for name in used:
            equal = int(lower_counts[name][lower])
            found[name, expert] = Threshold(upper << 16 | lower, min(quota, equal))
            quota -= min(quota, equal)
    assert all(numbers[n].mode == TRIM for n in names)
    return found


def _end(inputs: Inputs, expert: str, name: str) -> int:
    tensor = inputs.target.tensors[name]
    rows = inputs.rows.get(expert, {}).get(name)
    return tensor.num_elements if rows is None else tensor.num_elements // tensor.shape[0] * rows


def _count(
    sources: Sources,
    expert: str,
    scales: Mapping[str, float],
    ends: Mapping[str, int],
    within: int,
    threads: int,
) -> dict[str, np.ndarray]:
    """One pass: for every tensor its histogram (within < 0: all, else the bin's own values)."""
    counts: dict[str, np.ndarray] = {}

    def work(name: str, scratch: Scratch, stop: threading.Event) -> None:
        table = np.zeros(BINS, np.int64)
        histogram(sources, expert, name, scales[name], ends[name], scratch, table, within)
        counts[name] = table

    each_tensor(list(scales), work, threads=threads)
    return counts
