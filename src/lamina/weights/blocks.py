"""Steps of a kernel on one block of elements: load, subtract, trim, drop, elect, round, count.

Every function works on whole blocks of `lanes.BLOCK` fp32 values that stay in the first-level
cache, and is compiled into the kernels that call it. Where a tensor ends inside a block, `padded`
gives a copy filled up by zeros.
"""

import numba as nb
import numpy as np

from lamina.weights import fused
from lamina.weights import lanes as ln
from lamina.weights.codes import BF16, BLOCK, F16, LANES
from lamina.weights.lanes import bits, copy_bytes

_ABS = np.uint32(0x7FFFFFFF)


@nb.njit(nogil=True)
def item_bytes(dtype):
    """Bytes of one element of a dtype, by its code."""
    return 2 if dtype in (BF16, F16) else 4


@nb.njit(nogil=True)
def padded(address, dtype, m, pad):
    """The address of a whole block: itself, or a copy of the m elements left, padded by zeros."""
    if m == BLOCK:
        return np.uintp(address)
    pad[:] = np.float32(0.0)
    copy_bytes(address, pad.ctypes.data, m * item_bytes(dtype))
    return np.uintp(pad.ctypes.data)


@nb.njit(nogil=True)
def load(address, dtype, values):
    """values = the BLOCK elements at an address, in fp32."""
    if dtype == BF16:
        ln.load_bf16(address, values.ctypes.data)
    elif dtype == F16:
        ln.load_f16(address, values.ctypes.data)
    else:
        ln.load_f32(address, values.ctypes.data)


@nb.njit(nogil=True)
def load_delta(address, dtype, reference, delta):
    """delta = the BLOCK elements at an address minus the reference, in fp32."""
    if dtype == BF16:
        ln.delta_bf16(address, reference.ctypes.data, delta.ctypes.data)
    elif dtype == F16:
        ln.delta_f16(address, reference.ctypes.data, delta.ctypes.data)
    else:
        ln.delta_f32(address, reference.ctypes.data, delta.ctypes.data)


@nb.njit(nogil=True)
def take(address, dtype, reference, update, scale, weight, squares):
    """`load_delta`, `scale_by`, `add_scaled` and the lanes of `block_squares` in one sweep."""
    squares[:LANES] = np.float32(0.0)
    at, total, lanes = reference.ctypes.data, update.ctypes.data, squares.ctypes.data
    if dtype == BF16:
        fused.take_bf16(address, at, total, scale, weight, lanes)
    elif dtype == F16:
        fused.take_f16(address, at, total, scale, weight, lanes)
    else:
        fused.take_f32(address, at, total, scale, weight, lanes)


@nb.njit(nogil=True)
def subtract(address, dtype, reference, delta, squares):
    """`load_delta` and the sum of squares in one sweep."""
    squares[:LANES] = np.float32(0.0)
    at, target, lanes = reference.ctypes.data, delta.ctypes.data, squares.ctypes.data
    if dtype == BF16:
        fused.subtract_bf16(address, at, target, lanes)
    elif dtype == F16:
        fused.subtract_f16(address, at, target, lanes)
    else:
        fused.subtract_f32(address, at, target, lanes)
    return lane_total(squares[:LANES])


@nb.njit(nogil=True)
def add_vectors(address, dtype, instruct, vector, squares, products):
    """`load_delta` and two `add_products` in one sweep; whether the deltas were all finite."""
    at, other, first, second = (
        instruct.ctypes.data,
        vector.ctypes.data,
        squares.ctypes.data,
        products.ctypes.data,
    )
    if dtype == BF16:
        return fused.vectors_bf16(address, at, other, first, second)
    if dtype == F16:
        return fused.vectors_f16(address, at, other, first, second)
    return fused.vectors_f32(address, at, other, first, second)


@nb.njit(nogil=True)
def finish(kept, update, raw, out, dtype, counts, squares):
    """Add, `store`, count what changed, and the lanes of two `block_squares`, in one sweep."""
    squares[: 2 * LANES] = np.float32(0.0)
    at, moved, numbers, lanes = (
        kept.ctypes.data,
        update.ctypes.data,
        counts.ctypes.data,
        squares.ctypes.data,
    )
    if dtype == BF16:
        fused.finish_bf16(at, moved, raw, out, numbers, lanes)
    elif dtype == F16:
        fused.finish_f16(at, moved, raw, out, numbers, lanes)
    else:
        fused.finish_f32(at, moved, raw, out, numbers, lanes)


@nb.njit(nogil=True)
def lane_total(lanes):
    """The lanes of a sum, added in order in fp64."""
    total = 0.0
    for lane in lanes:
        total += lane
    return total


@nb.njit(nogil=True)
def store(values, address, dtype):
    """Round BLOCK fp32 values to nearest even and put them at an address."""
    if dtype == BF16:
        ln.store_bf16(values.ctypes.data, address)
    elif dtype == F16:
        ln.store_f16(values.ctypes.data, address)
    else:
        ln.store_f32(values.ctypes.data, address)


@nb.njit(nogil=True)
def count_nonfinite(values):
    """How many values of a block are NaN or infinite."""
    return fused.count_nonfinite(values.ctypes.data)


@nb.njit(nogil=True)
def trim(delta, threshold, quota):
    """Zero what is below the threshold (|.| as 32 bits); of what equals it keep the first `quota`.

    Returns the quota left.
    """
    equal = fused.count_equal(delta.ctypes.data, np.uint32(threshold))
    if equal == 0 or quota >= equal:
        fused.cut(delta.ctypes.data, np.uint32(threshold))
        return quota - equal
    if quota == 0:
        fused.cut(delta.ctypes.data, np.uint32(threshold + 1))
        return quota
    for i in range(BLOCK):
        magnitude = bits(delta[i]) & _ABS
        if magnitude == threshold and quota > 0:
            quota -= 1
        elif magnitude <= threshold:
            delta[i] = np.float32(0.0)
    return quota


@nb.njit(nogil=True)
def drop(delta, key, first, keep_below):
    """Keep an element if a hash of (key, element number) is small.

    There is no state, so any order and any number of threads give the same.
    """
    for i in range(BLOCK):
        h = (first + np.uint64(i)) * np.uint64(0x9E3779B97F4A7C15) + key
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = h ^ (h >> np.uint64(31))
        delta[i] = delta[i] if (h >> np.uint64(32)) < keep_below else np.float32(0.0)


@nb.njit(nogil=True)
def scale_by(values, factor):
    """values *= factor."""
    fused.scale(values.ctypes.data, np.float32(factor))


@nb.njit(nogil=True)
def elect_signs(weighted, weights, normalize, total):
    """TIES: keep what agrees with the sign of the sum of the weighted deltas, rows of `weighted`.

    With `normalize` it is divided by the sum of the weights that agree.
    """
    rows, factors = weighted.ctypes.data, weights.ctypes.data
    num, at = weighted.shape[0], total.ctypes.data
    if num == 2:
        fused.elect_2(rows, factors, num, normalize, at)
    elif num == 3:
        fused.elect_3(rows, factors, num, normalize, at)
    else:
        fused.elect_any(rows, factors, num, normalize, at)
