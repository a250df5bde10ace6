"""The code of the kernels, for numba: read only when a machine compiles them (`native`).

One call works on one chunk (a megabyte or so) block by block; a block's buffers, the rows of `work`
(R, BLOCK) fp32, stay in the first-level cache, so the memory sees each input once and the output
once. Nothing is allocated here and nothing can raise: that is what makes the compiled code run
without numba. Shapes and meanings stand with the callers in `kernels`.
"""

import numba as nb
import numpy as np

from lamina.weights.blocks import (
    add_vectors,
    count_nonfinite,
    drop,
    elect_signs,
    finish,
    item_bytes,
    lane_total,
    load,
    load_delta,
    padded,
    scale_by,
    store,
    subtract,
    take,
    trim,
)
from lamina.weights.codes import (
    BLOCK,
    DROP,
    LANES,
    NONFINITE_IN,
    NONFINITE_OUT,
    TRIM,
    WHOLE,
)
from lamina.weights.lanes import (
    add_products,
    add_scaled,
    bits,
    block_squares,
    copy_bytes,
    hash_bytes,
)

_ABS = np.uint32(0x7FFFFFFF)


@nb.njit(nogil=True, error_model="numpy")
def combine(
    n, first, target, target_dtype, reference, reference_dtype, experts, dtypes, limits, scales,
    modes, thresholds, quotas, keys, rescales, weights, elect, normalize, divisor, factor, out,
    out_dtype, hashes, hash_inputs, sums, counts, work,
):  # fmt: skip
    num = experts.shape[0]
    base, kept, update, result = work[0], work[1], work[2], work[3]
    sums_row, tail = work[4], work[5]
    pads, deltas = work[6 : num + 9], work[num + 9 : 2 * num + 9]
    base[:] = np.float32(0.0)
    kept[:] = np.float32(0.0)
    same = reference == target
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        target_at = target
        if target != 0:
            target_at = padded(
                target + np.uintp(start * item_bytes(target_dtype)), target_dtype, m, pads[num]
            )
            load(target_at, target_dtype, kept)
            if hash_inputs:
                hash_bytes(target_at, m * item_bytes(target_dtype), hashes[num], tail)
        have = min(m, limits[num] - start)
        if reference != 0 and not same and have > 0:
            at = reference + np.uintp(start * item_bytes(reference_dtype))
            at = padded(at, reference_dtype, have, pads[num + 1])
            load(at, reference_dtype, base)
            if hash_inputs:
                hash_bytes(at, have * item_bytes(reference_dtype), hashes[num + 1], tail)
        elif reference != 0 and not same:
            base[:] = np.float32(0.0)
        origin = kept if same else base
        update[:] = np.float32(0.0)
        for k in range(num):
            delta = deltas[k]
            have = min(m, limits[k] - start)
            if have <= 0 or experts[k] == 0:
                delta[:] = np.float32(0.0)
                continue
            at = padded(
                experts[k] + np.uintp(start * item_bytes(dtypes[k])), dtypes[k], have, pads[k]
            )
            if hash_inputs:
                hash_bytes(at, have * item_bytes(dtypes[k]), hashes[k], tail)
            if modes[k] == WHOLE and not elect and have == m and rescales[k] == np.float32(1.0):
                take(at, dtypes[k], origin, update, scales[k], weights[k], sums_row)
                sums[k] += lane_total(sums_row[:LANES])
                continue
            if have == m:
                square = subtract(at, dtypes[k], origin, delta, sums_row)
            else:
                load_delta(at, dtypes[k], origin, delta)
                delta[have:] = np.float32(0.0)
                square = block_squares(delta, sums_row)
            sums[k] += square
            if (modes[k] != WHOLE or elect) and not (square < np.inf):
                counts[NONFINITE_IN + k] += count_nonfinite(delta)
            if scales[k] != np.float32(1.0):
                scale_by(delta, scales[k])
            if modes[k] == TRIM:
                quotas[k] = trim(delta, thresholds[k], quotas[k])
            elif modes[k] == DROP:
                drop(delta, keys[k], np.uint64(first + start), thresholds[k])
            if rescales[k] != np.float32(1.0):
                scale_by(delta, rescales[k])
            if elect:
                scale_by(delta, weights[k])
            else:
                add_scaled(update.ctypes.data, delta.ctypes.data, weights[k])
        if elect:
            elect_signs(deltas, weights, normalize, update)
        if divisor != np.float32(1.0):
            for i in range(BLOCK):
                update[i] = update[i] / divisor
        if factor != np.float32(1.0):
            scale_by(update, factor)
        whole = m == BLOCK
        real_out = out + np.uintp(start * item_bytes(out_dtype))
        out_at = real_out if whole else np.uintp(pads[num + 2].ctypes.data)
        before = np.int64(counts[NONFINITE_OUT])
        raw = target_at
        if target == 0 or target_dtype != out_dtype:
            store(kept, np.uintp(result.ctypes.data), out_dtype)
            raw = np.uintp(result.ctypes.data)
        finish(kept, update, raw, out_at, out_dtype, counts, sums_row)
        sums[num] += lane_total(sums_row[:LANES])
        sums[num + 1] += lane_total(sums_row[LANES : 2 * LANES])
        if counts[NONFINITE_OUT] > before:
            counts[NONFINITE_IN + num] += count_nonfinite(kept)
            for k in range(num):
                have = min(m, limits[k] - start)
                if have > 0 and experts[k] != 0 and modes[k] == WHOLE and not elect:
                    at = experts[k] + np.uintp(start * item_bytes(dtypes[k]))
                    load(padded(at, dtypes[k], have, pads[k]), dtypes[k], result)
                    counts[NONFINITE_IN + k] += count_nonfinite(result)
        hash_bytes(out_at, m * item_bytes(out_dtype), hashes[num + 2], tail)
        if not whole:
            copy_bytes(out_at, real_out, m * item_bytes(out_dtype))


@nb.njit(nogil=True, error_model="numpy")
def gram(
    n,
    base,
    base_dtype,
    instruct,
    instruct_dtype,
    experts,
    dtypes,
    limits,
    hashes,
    sums,
    counts,
    work,
):
    num = experts.shape[0]
    origin, values, vector, delta = work[0], work[1], work[2], work[3]
    sums_row, tail, pads = work[4], work[5], work[6 : num + 8]
    origin[:] = np.float32(0.0)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        here = padded(
            instruct + np.uintp(start * item_bytes(instruct_dtype)), instruct_dtype, m, pads[num]
        )
        load(here, instruct_dtype, values)
        hash_bytes(here, m * item_bytes(instruct_dtype), hashes[num], tail)
        have = min(m, limits[num] - start)
        if base != 0 and have > 0:
            at = padded(
                base + np.uintp(start * item_bytes(base_dtype)), base_dtype, have, pads[num + 1]
            )
            load(at, base_dtype, origin)
            hash_bytes(at, have * item_bytes(base_dtype), hashes[num + 1], tail)
        load_delta(here, instruct_dtype, origin, vector)
        if base != 0:
            vector[max(have, 0) :] = np.float32(0.0)
        add_products(vector, vector, sums[0])
        if not (block_squares(vector, sums_row) < np.inf):
            counts[num] += count_nonfinite(values)
            counts[num + 1] += count_nonfinite(origin)
        for k in range(num):
            have = min(m, limits[k] - start)
            if have <= 0:
                continue
            at = padded(
                experts[k] + np.uintp(start * item_bytes(dtypes[k])), dtypes[k], have, pads[k]
            )
            hash_bytes(at, have * item_bytes(dtypes[k]), hashes[k], tail)
            if have == m:
                squares, with_vector = sums[1 + 2 * k], sums[2 + 2 * k]
                if not add_vectors(at, dtypes[k], values, vector, squares, with_vector):
                    load(at, dtypes[k], delta)
                    counts[k] += count_nonfinite(delta)
                continue
            load_delta(at, dtypes[k], values, delta)
            delta[have:] = np.float32(0.0)
            add_products(delta, delta, sums[1 + 2 * k])
            add_products(delta, vector, sums[2 + 2 * k])
            if not (block_squares(delta, sums_row) < np.inf):
                load(at, dtypes[k], delta)
                counts[k] += count_nonfinite(delta)


@nb.njit(nogil=True, error_model="numpy")
def count_magnitudes(n, reference, reference_dtype, expert, dtype, scale, histogram, within, work):
    """Histogram |scale * (expert - reference)| by the halves of its fp32 form.

    histogram (65536,) int64. within < 0: bin = bits >> 16 (32,768 bins are used). within >= 0: only
    elements whose upper bits equal it, bin = bits & 0xffff. Two passes give the exact k-th largest
    magnitude, for any number of tensors together.
    """
    origin, delta, pads = work[0], work[1], work[2:4]
    origin[:] = np.float32(0.0)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        if reference != 0:
            at = reference + np.uintp(start * item_bytes(reference_dtype))
            load(padded(at, reference_dtype, m, pads[0]), reference_dtype, origin)
        at = expert + np.uintp(start * item_bytes(dtype))
        load_delta(padded(at, dtype, m, pads[1]), dtype, origin, delta)
        if scale != np.float32(1.0):
            scale_by(delta, scale)
        for i in range(m):
            word = bits(delta[i]) & _ABS
            if within < 0:
                histogram[word >> np.uint32(16)] += 1
            elif (word >> np.uint32(16)) == np.uint32(within):
                histogram[word & np.uint32(0xFFFF)] += 1


@nb.njit(nogil=True, error_model="numpy")
def add_lora(n, first, columns, base, base_dtype, left, right, values, work):
    """values[:n] = base + (left @ right), from element `first` of a matrix of `columns` columns.

    left (rows, r), right (r, columns) fp32, the scale is in one of them. Terms are added in the
    order of the rank and the sum then to the base, so the result does not depend on where a chunk
    begins.
    """
    pad, block, delta = work[0], work[1], work[2]
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        at = padded(base + np.uintp(start * item_bytes(base_dtype)), base_dtype, m, pad)
        load(at, base_dtype, block)
        done = 0
        while done < m:
            row, column = (first + start + done) // columns, (first + start + done) % columns
            width = min(columns - column, m - done)
            delta[:width] = np.float32(0.0)
            for j in range(left.shape[1]):
                factor = left[row, j]
                source = right[j, column : column + width]
                for i in range(width):
                    delta[i] += factor * source[i]
            for i in range(width):
                block[done + i] += delta[i]
            done += width
        values[start : start + m] = block[:m]


@nb.njit(nogil=True, error_model="numpy")
def checksum(address, num_bytes, lanes, work):
    """Take bytes into a checksum's lanes; every call but a tensor's last brings whole stripes."""
    hash_bytes(address, num_bytes, lanes, work[0])


@nb.njit(nogil=True, error_model="numpy")
def to_f32(n, address, dtype, values, work):
    """values[:n] = n elements at an address, in fp32."""
    pad, block = work[0], work[1]
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        at = padded(address + np.uintp(start * item_bytes(dtype)), dtype, m, pad)
        load(at, dtype, block)
        values[start : start + m] = block[:m]


@nb.njit(nogil=True, error_model="numpy")
def sum_magnitudes(
    n, reference, reference_dtype, expert, dtype, scale, threshold, quotas, sums, work
):
    """sums[0] += |delta|, sums[1] += |delta| after `trim`, over n elements, fp64.

    Returns the quota left.
    """
    origin, delta, pads = work[0], work[1], work[2:4]
    origin[:] = np.float32(0.0)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        if reference != 0:
            at = reference + np.uintp(start * item_bytes(reference_dtype))
            load(padded(at, reference_dtype, m, pads[0]), reference_dtype, origin)
        at = expert + np.uintp(start * item_bytes(dtype))
        load_delta(padded(at, dtype, m, pads[1]), dtype, origin, delta)
        delta[m:] = np.float32(0.0)
        if scale != np.float32(1.0):
            scale_by(delta, scale)
        for i in range(m):
            sums[0] += abs(np.float64(delta[i]))
        quotas[0] = trim(delta, threshold, quotas[0])
        for i in range(m):
            sums[1] += abs(np.float64(delta[i]))


@nb.njit(nogil=True, error_model="numpy")
def products(n, first, first_dtype, second, second_dtype, sums, work):
    """sums (3, 32) fp64 lanes += <a,a>, <b,b>, <a,b> over n elements; products in fp32."""
    a, b, pads = work[0], work[1], work[2:4]
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        at = first + np.uintp(start * item_bytes(first_dtype))
        load(padded(at, first_dtype, m, pads[0]), first_dtype, a)
        at = second + np.uintp(start * item_bytes(second_dtype))
        load(padded(at, second_dtype, m, pads[1]), second_dtype, b)
        add_products(a, a, sums[0])
        add_products(b, b, sums[1])
        add_products(a, b, sums[2])


@nb.njit(nogil=True, error_model="numpy")
def count_both(n, reference, reference_dtype, expert, dtype, scale, upper, lowest, lower, work):
    origin, delta, pads = work[0], work[1], work[2:4]
    origin[:] = np.float32(0.0)
    window, begin = np.uint64(lower.shape[0]), np.uint64(lowest)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        if reference != 0:
            at = reference + np.uintp(start * item_bytes(reference_dtype))
            load(padded(at, reference_dtype, m, pads[0]), reference_dtype, origin)
        at = expert + np.uintp(start * item_bytes(dtype))
        load_delta(padded(at, dtype, m, pads[1]), dtype, origin, delta)
        if scale != np.float32(1.0):
            scale_by(delta, scale)
        for i in range(m):
            word = np.uint64(bits(delta[i]) & _ABS)
            bin_ = word >> np.uint64(16)
            upper[bin_] += 1
            place = bin_ - begin
            if place < window:
                lower[place, word & np.uint64(0xFFFF)] += 1
