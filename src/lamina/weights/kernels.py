"""The fused kernels as Python calls: k inputs of any of three dtypes in, fp32 inside, rounded once.

Inputs are addresses (uint64) with a dtype code; sums and checksums are taken on the way. No call
needs the GIL, and after the first run on a machine none needs numba (`native`).

    combine            the update of every merge method: weighted, masked or elected deltas
    gram               A = <u,u>, B_k = <t_k,t_k>, C_k = <t_k,u> of LATA in one pass
    count_magnitudes   histograms of |delta| for an exact magnitude threshold without sorting
"""

import numpy as np

from lamina.weights.codes import (
    BLOCK,
    CHANGED,
    DROP,
    NONFINITE_IN,
    NONFINITE_OUT,
    TRIM,
    VANISHED,
    WHOLE,
)
from lamina.weights.native import Kernel, ready, rooms

__all__ = [
    "ALL", "BLOCK", "CHANGED", "DROP", "NONFINITE_IN", "NONFINITE_OUT", "TRIM", "VANISHED", "WHOLE",
    "add_lora", "all_ready", "checksum", "combine", "compile_all", "count_both",
    "count_magnitudes", "gram",
    "products", "sum_magnitudes", "to_f32",
]  # fmt: skip

_combine = Kernel(
    "combine",
    "i i u i u i u8:1 i8:1 i8:1 f4:1 i8:1 u4:1 i8:1 u8:1 f4:1 f4:1 b b f f u i u8:2 b f8:1 i8:1 "
    "f4:2",
)
_gram = Kernel("gram", "i u i u i u8:1 i8:1 i8:1 u8:2 f8:2 i8:1 f4:2")
_count = Kernel("count_magnitudes", "i u i u i f i8:1 i f4:2")
_both = Kernel("count_both", "i u i u i f i8:1 i i8:2 f4:2")
_sum = Kernel("sum_magnitudes", "i u i u i f u i8:1 f8:1 f4:2")
_lora = Kernel("add_lora", "i i i u i f4:2 f4:2 f4:1 f4:2")
_checksum = Kernel("checksum", "u i u8:1 f4:2")
_to_f32 = Kernel("to_f32", "i u i f4:1 f4:2")
_products = Kernel("products", "i u i u i f8:2 f4:2")
ALL = (_combine, _gram, _count, _both, _sum, _lora, _checksum, _to_f32, _products)


def all_ready() -> bool:
    """Whether every kernel is compiled for this machine already."""
    return ready(ALL)


def compile_all() -> None:
    """Compile what is not compiled yet: some seconds, once per machine and version."""
    for kernel in ALL:
        kernel.load()


def combine(
    n: int, first: int, target: int, target_dtype: int, reference: int, reference_dtype: int,
    experts: np.ndarray, dtypes: np.ndarray, limits: np.ndarray, scales: np.ndarray,
    modes: np.ndarray, thresholds: np.ndarray, quotas: np.ndarray, keys: np.ndarray,
    rescales: np.ndarray, weights: np.ndarray, elect: bool, normalize: bool, divisor: float,
    factor: float, out: int, out_dtype: int, hashes: np.ndarray, hash_inputs: bool,
    sums: np.ndarray, counts: np.ndarray,
) -> None:  # fmt: skip
    """n elements of a merge, rounded once; delta_k = expert_k - reference:

        out = target + factor * sum_k weights_k * sparse_k(scales_k * delta_k) / divisor

    Shapes: experts, dtypes, scales, modes, thresholds, quotas, keys, rescales, weights (K,);
    hashes (K + 3, 32): the experts, target, reference, output; sums (K + 2,) fp64: |delta_k|^2,
    |update|^2, |target|^2; counts (4 + K,): see `codes`. `first` is the chunk's first element;
    `limits` (K + 1,) how many of the n elements expert k, and last the reference, have (a smaller
    vocabulary ends earlier). An address of 0 means zeros (a linear merge has neither target nor
    reference); the reference may be the target's address. `elect` is TIES' sign election, over the
    weighted deltas. `quotas` go down as equal magnitudes are kept. Where the update is zero the
    target's very value stays, -0.0 too.
    """
    work = rooms(2 * len(experts) + 9, BLOCK)
    _combine(
        n, first, target, target_dtype, reference, reference_dtype, experts, dtypes, limits, scales,
        modes, thresholds, quotas, keys, rescales, weights, elect, normalize, divisor, factor, out,
        out_dtype, hashes, hash_inputs, sums, counts, work,
    )  # fmt: skip


def gram(
    n: int, base: int, base_dtype: int, instruct: int, instruct_dtype: int, experts: np.ndarray,
    dtypes: np.ndarray, limits: np.ndarray, hashes: np.ndarray, sums: np.ndarray,
    counts: np.ndarray,
) -> None:  # fmt: skip
    """Add A = <u,u>, B_k = <t_k,t_k>, C_k = <t_k,u> over n elements.

    u = instruct - base, t_k = expert_k - instruct: LATA eq. 4, 6, 7 (c = u + t is never formed).
    sums (1 + 2K, 32) fp64 lanes: A, then B_k, C_k; products in fp32. hashes (K + 2, 32): the
    experts, the instruct model, the base; counts (K + 2,): values that are not finite, same order.
    The address 0 for the base stands for zeros. `limits` (K + 1,) as in `combine`, the last one for
    the base.
    """
    work = rooms(len(experts) + 8, BLOCK)
    _gram(
        n, base, base_dtype, instruct, instruct_dtype, experts, dtypes, limits, hashes, sums,
        counts, work,
    )  # fmt: skip


def count_magnitudes(
    n: int, reference: int, reference_dtype: int, expert: int, dtype: int, scale: float,
    histogram: np.ndarray, within: int,
) -> None:  # fmt: skip
    """Histogram |scale * (expert - reference)| by the halves of its fp32 form.

    histogram (65536,) int64. within < 0: bin = bits >> 16 (32,768 bins are used). within >= 0: only
    elements whose upper bits equal it, bin = bits & 0xffff. Two passes give the exact k-th largest
    magnitude, for any number of tensors together.
    """
    work = rooms(4, BLOCK)
    _count(n, reference, reference_dtype, expert, dtype, scale, histogram, within, work)


def count_both(
    n: int, reference: int, reference_dtype: int, expert: int, dtype: int, scale: float,
    upper: np.ndarray, lowest: int, lower: np.ndarray,
) -> None:  # fmt: skip
    """Both histograms of `count_magnitudes` in one pass, where the bin wanted is nearly known.

    upper (65536,) int64: all elements by their upper bits. lower (W, 65536): elements whose upper
    bits are `lowest`, `lowest` + 1, ... by their lower bits.
    """
    work = rooms(4, BLOCK)
    _both(n, reference, reference_dtype, expert, dtype, scale, upper, lowest, lower, work)


def sum_magnitudes(
    n: int, reference: int, reference_dtype: int, expert: int, dtype: int, scale: float,
    threshold: int, quota: int, sums: np.ndarray,
) -> int:  # fmt: skip
    """sums[0] += |delta|, sums[1] += |delta| after the trim, over n elements, fp64.

    Returns the quota left.
    """
    left = np.array([quota], np.int64)
    work = rooms(4, BLOCK)
    _sum(n, reference, reference_dtype, expert, dtype, scale, threshold, left, sums, work)
    return int(left[0])


def add_lora(
    n: int, first: int, columns: int, base: int, base_dtype: int, left: np.ndarray,
    right: np.ndarray, values: np.ndarray,
) -> None:  # fmt: skip
    """values[:n] = base + (left @ right), from element `first` of a matrix of `columns` columns.

    left (rows, r), right (r, columns) fp32, the scale is in one of them. Terms are added in the
    order of the rank and the sum then to the base, so the result does not depend on where a chunk
    begins.
    """
    _lora(n, first, columns, base, base_dtype, left, right, values, rooms(3, BLOCK))


def checksum(address: int, num_bytes: int, lanes: np.ndarray) -> None:
    """Take bytes into a checksum's lanes (32,) uint64; every call but a tensor's last brings whole
    stripes of 256 bytes.
    """
    _checksum(address, num_bytes, lanes, rooms(1, BLOCK))


def to_f32(n: int, address: int, dtype: int, values: np.ndarray) -> None:
    """values[:n] = n elements at an address, in fp32."""
    _to_f32(n, address, dtype, values, rooms(2, BLOCK))


def products(
    n: int, first: int, first_dtype: int, second: int, second_dtype: int, sums: np.ndarray
) -> None:
    """sums (3, 32) fp64 lanes += <a,a>, <b,b>, <a,b> over n elements; products in fp32."""
    _products(n, first, first_dtype, second, second_dtype, sums, rooms(4, BLOCK))
