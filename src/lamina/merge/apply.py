"""The second pass of a merge: stream every tensor through the kernel into its final place.

Reads each input once per output setting from the page cache, writes each output byte once. What is
learnt on the way (sums, counts, checksums) goes into the journal, so a resumed run knows it too.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.core.plan import LayerPlan
from lamina.merge.inputs import Inputs
from lamina.merge.methods import TensorNumbers, noise_key, slerp_weights, tensor_numbers
from lamina.merge.nouns import MergeRecipe
from lamina.merge.sources import Sources, address_of
from lamina.merge.sparsify import sparsifier
from lamina.merge.thresholds import Threshold
from lamina.weights import kernels
from lamina.weights.layout import Place
from lamina.weights.sources import DTYPE_CODES, Source, digest_of
from lamina.weights.stream import Scratch, chunks, each_tensor
from lamina.weights.writer import PartialOutput

Progress = Callable[[int], None]
"""Called with the number of bytes just written, from any thread."""


@dataclass(frozen=True)
class Output:
    """One setting of a recipe and where it goes."""

    folder: str
    """Sub-folder of the output, "" for the output itself."""
    recipe: MergeRecipe
    plans: Mapping[str, LayerPlan]
    thresholds: Mapping[tuple[str, str], Threshold]
    """TIES over the whole model: (tensor, expert) -> threshold; empty for TIES tensor by tensor."""


def apply(
    inputs: Inputs,
    sources: Sources,
    outputs: list[Output],
    partial: PartialOutput,
    *,
    threads: int,
    progress: Progress,
) -> None:
    """Write every tensor of every output that the journal does not have yet."""

    def work(name: str, scratch: Scratch, stop: threading.Event) -> None:
        for output in outputs:
            if (output.folder, name) in partial.done:
                continue
            place = partial.layouts[output.folder].places[name]
            if inputs.target.tensors[name].dtype not in DTYPE_CODES:
                record = _copy(sources, place, output.folder, partial)
            else:
                record = _merge(inputs, sources, output, place, partial, scratch, stop)
            if record is None:
                return
            partial.finish(output.folder, name, record)
            progress(place.end - place.begin)

    each_tensor(list(inputs.target.tensors), work, threads=threads)


def _copy(sources: Sources, place: Place, folder: str, partial: PartialOutput) -> dict[str, Any]:
    """An integer table: the target's, byte for byte."""
    data = sources.target.raw(place.name)
    partial.write(folder, place, 0, data)
    array = np.frombuffer(data, np.uint8)
    lanes = np.zeros(32, np.uint64)
    kernels.checksum(array.ctypes.data, array.size, lanes)
    return {"checksum": digest_of(lanes, array.size), "copied": True}


def _merge(
    inputs: Inputs,
    sources: Sources,
    output: Output,
    place: Place,
    partial: PartialOutput,
    scratch: Scratch,
    stop: threading.Event,
) -> dict[str, Any] | None:
    """One tensor of one output: its journal record, or None when the run is being stopped."""
    name, recipe = place.name, output.recipe
    numbers = tensor_numbers(recipe, name, inputs.layers, output.plans)
    total = inputs.target.tensors[name].num_elements
    columns = total // max(1, inputs.target.tensors[name].shape[0] if place.shape else 1)
    experts = list(inputs.experts)
    num = len(experts)
    weights = list(numbers.weights)
    if recipe.method == "slerp":
        weights = _slerp(sources, name, total, numbers, scratch)
    linear = inputs.reference is None
    target = None if linear else sources.target
    reference = None if linear else sources.reference
    have = {
        role: columns * rows[name] if name in rows else total for role, rows in inputs.rows.items()
    }
    ends = [have.get(expert, total) for expert in experts] + [have.get("reference", total)]
    used = [linear or weights[k] * numbers.scales[k] != 0.0 for k in range(num)]
    limits = [end if k == num or used[k] else 0 for k, end in enumerate(ends)]
    modes, bounds, rescales = sparsifier(
        sources, recipe, output.thresholds, name, numbers, limits, total, used, scratch
    )
    quotas = np.array([bound.quota for bound in bounds], np.int64)
    keys = np.array([noise_key(recipe.seed, name, k) for k in range(num)], np.uint64)
    dtypes = np.array([sources.experts[e].dtype(name) for e in experts], np.int64)
    thresholds = np.array([bound.bits for bound in bounds], np.uint32)
    kinds, scales = np.array(modes, np.int64), np.array(numbers.scales, np.float32)
    factors, shares = np.array(rescales, np.float32), np.array(weights, np.float32)
    hashes = np.zeros((num + 3, 32), np.uint64)
    sums, counts = np.zeros(num + 2), np.zeros(4 + num, np.int64)
    unused = np.zeros((num, 3, 32))
    out_code = DTYPE_CODES[place.dtype]
    out_size = 4 if place.dtype == "F32" else 2
    out = scratch.get("output")
    out_bytes = out.data.cast("B")
    for first, n in chunks(total):
        if stop.is_set():
            return None
        target_at = address_of(target, name, first, n, total, None)
        shared = reference is target
        reference_at = target_at
        if not shared:
            reference_at = address_of(
                reference, name, first, n, ends[num], scratch.get("reference")
            )
        addresses = np.zeros(num, np.uint64)
        for k, expert in enumerate(experts):
            source = sources.experts[expert]
            buffer = scratch.get(f"expert{k}") if source.needs_scratch else None
            addresses[k] = address_of(source, name, first, n, ends[k], buffer)
            if not used[k] and addresses[k] and first < ends[k]:
                assert reference is not None, "linear uses all of its inputs"
                m, own = min(n, ends[k] - first), (int(addresses[k]), source.dtype(name))
                _measure_only(m, reference_at, reference.dtype(name), own, hashes[k], unused[k])
                addresses[k] = 0
        kernels.combine(
            n,
            first,
            target_at,
            0 if target is None else target.dtype(name),
            reference_at,
            0 if reference is None else reference.dtype(name),
            addresses,
            dtypes,
            np.array([max(0, min(n, limit - first)) for limit in limits], np.int64),
            scales,
            kinds,
            thresholds,
            quotas,
            keys,
            factors,
            shares,
            numbers.elect,
            numbers.normalize,
            numbers.divisor,
            numbers.factor,
            out.ctypes.data,
            out_code,
            hashes,
            True,
            sums,
            counts,
        )
        partial.write(output.folder, place, first * out_size, out_bytes[: n * out_size])
        for source in sources.all():
            source.release(name, first, n)
    squares = unused[:, 1].sum(axis=1)
    sums[:num] += np.where(np.isfinite(squares), squares, 0.0)
    return _record(inputs, sources, place, experts, ends, hashes, sums, counts, total)


def _measure_only(
    n: int,
    reference: int,
    reference_dtype: int,
    expert: tuple[int, int],
    lanes: np.ndarray,
    sums: np.ndarray,
) -> None:
    """An input that takes no part here is still read: for its checksum and |delta|^2.

    `expert` is its address and dtype; sums (3, 32) as in `kernels.gram`. A coefficient of zero says
    nothing of how far the expert moved, and the page tells that.
    """
    address, dtype = expert
    hashes = np.zeros((3, 32), np.uint64)
    hashes[0] = lanes
    kernels.gram(
        n,
        0,
        0,
        reference,
        reference_dtype,
        np.array([address], np.uint64),
        np.array([dtype], np.int64),
        np.array([n, 0], np.int64),
        hashes,
        sums,
        np.zeros(3, np.int64),
    )
    lanes[:] = hashes[0]


def _slerp(
    sources: Sources, name: str, total: int, numbers: TensorNumbers, scratch: Scratch
) -> list[float]:
    """The weights of the two models from their angle: one pass for norms and product."""
    first_source, second_source = sources.experts.values()
    sums = np.zeros((3, 32))
    for first, n in chunks(total):
        addresses = [
            source.chunk(name, first, n, scratch.get(f"expert{k}"))
            for k, source in enumerate((first_source, second_source))
        ]
        kernels.products(
            n,
            addresses[0],
            first_source.dtype(name),
            addresses[1],
            second_source.dtype(name),
            sums,
        )
        for source in (first_source, second_source):
            source.release(name, first, n)
    a, b, ab = (float(total) for total in sums.sum(axis=1))
    return list(slerp_weights(numbers.weights[1], a, b, ab))


def _record(
    inputs: Inputs,
    sources: Sources,
    place: Place,
    experts: list[str],
    ends: list[int],
    hashes: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
    total: int,
) -> dict[str, Any]:
    num = len(experts)

    def checksum(row: int, source: Source | None, end: int) -> str | None:
        if source is None:
            return None
        return digest_of(hashes[row], end * (4 if source.dtype(place.name) == 0 else 2))

    read = {name: checksum(k, sources.experts[name], ends[k]) for k, name in enumerate(experts)}
    if inputs.reference is not None:
        read["target"] = checksum(num, sources.target, total)
        shared = sources.reference is sources.target
        read["reference"] = (
            read["target"] if shared else checksum(num + 1, sources.reference, ends[num])
        )
    broken = {name: int(counts[kernels.NONFINITE_IN + k]) for k, name in enumerate(experts)}
    broken["target"] = int(counts[kernels.NONFINITE_IN + num])
    size = 4 if place.dtype == "F32" else 2
    return {
        "checksum": digest_of(hashes[num + 2], total * size),
        "inputs": {name: value for name, value in read.items() if value is not None},
        "elements": total,
        "changed": int(counts[kernels.CHANGED]),
        "vanished": int(counts[kernels.VANISHED]),
        "nonfinite": int(counts[kernels.NONFINITE_OUT]),
        "nonfinite_in": {name: count for name, count in broken.items() if count},
        "delta_squares": {name: float(sums[k]) for k, name in enumerate(experts)},
        "update_square": float(sums[num]),
        "target_square": float(sums[num + 1]),
    }
