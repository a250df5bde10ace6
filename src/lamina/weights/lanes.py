"""One block of elements at a time, as LLVM vectors: what every kernel is made of.

numba widens 16- and 32-bit integers to 64 bits, which costs a factor of three in loops such as
rounding to bf16; here each loop is written as vectors of 32 lanes, which LLVM splits into what the
machine has. So the order of every sum, and with it every bit, is the same on every machine and for
any number of threads. No fast-math, no contraction.

Everything takes addresses of whole blocks of BLOCK elements, aligned or not: a safetensors file may
put a tensor at any byte.
"""

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lamina.weights.codes import BF16, BLOCK, F16, F32, LANES, STRIPE_BYTES

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
FLOAT, DOUBLE, HALF = ir.FloatType(), ir.DoubleType(), ir.HalfType()


def inlined(codegen: Callable[..., Any]) -> Any:
    """A function whose LLVM code we write ourselves; its first argument is the compiler's."""
    return intrinsic(codegen)


def vector(kind: ir.Type) -> ir.VectorType:
    return ir.VectorType(kind, LANES)


def full(value: float, kind: ir.Type) -> ir.Constant:
    return ir.Constant(vector(kind), [value] * LANES)


def splat(builder: ir.IRBuilder, value: ir.Value, kind: ir.Type) -> ir.Value:
    empty = ir.Constant(vector(kind), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(vector(I32), [0] * LANES))


def pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, vector(kind).as_pointer())


def each(builder: ir.IRBuilder, body: Callable[[Any], None], num: Any = BLOCK // LANES) -> None:
    count = ir.Constant(I64, num) if isinstance(num, int) else num
    with cgutils.for_range(builder, count) as loop:
        body(loop.index)


def get(builder: ir.IRBuilder, pointer: ir.Value, index: ir.Value, align: int = 1) -> ir.Value:
    return builder.load(builder.gep(pointer, [index]), align=align)


def put(
    builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, index: ir.Value, align: int = 1
) -> None:
    builder.store(value, builder.gep(pointer, [index]), align=align)


STORAGE = {F32: FLOAT, F16: I16, BF16: I16}


def widen(builder: ir.IRBuilder, value: ir.Value, dtype: int) -> ir.Value:
    if dtype == BF16:
        wide = builder.shl(builder.zext(value, vector(I32)), full(16, I32))
        return builder.bitcast(wide, vector(FLOAT))
    if dtype == F16:
        return builder.fpext(builder.bitcast(value, vector(HALF)), vector(FLOAT))
    return value


def narrow(builder: ir.IRBuilder, value: ir.Value, dtype: int) -> ir.Value:
    """Round to nearest even; a NaN stays a (quiet) NaN."""
    if dtype == BF16:
        word = builder.bitcast(value, vector(I32))
        high = builder.lshr(word, full(16, I32))
        odd = builder.and_(high, full(1, I32))
        rounded = builder.add(builder.add(word, full(0x7FFF, I32)), odd)
        quiet = builder.or_(high, full(0x40, I32))
        is_nan = builder.fcmp_unordered("uno", value, value)
        chosen = builder.select(is_nan, quiet, builder.lshr(rounded, full(16, I32)))
        return builder.trunc(chosen, vector(I16))
    if dtype == F16:
        return builder.bitcast(builder.fptrunc(value, vector(HALF)), vector(I16))
    return value


def prefetch(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, dtype: int) -> None:
    """Ask for the same place of the next block: the hardware's own prefetch stops at each page."""
    line, item = 64, 4 if dtype == F32 else 2
    step = LANES * item
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    here = builder.add(address, builder.mul(index, ir.Constant(I64, step)))
    for part in range(0, step, line):
        ahead = builder.add(here, ir.Constant(I64, BLOCK * item + part))
        place = builder.inttoptr(ahead, ir.IntType(8).as_pointer())
        builder.call(function, [place, *(ir.Constant(I32, n) for n in (0, 2, 1))])


def lane_sum(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The sum of the lanes of a vector of 32-bit integers."""
    kind = ir.FunctionType(I32, [vector(I32)])
    name = f"llvm.vector.reduce.add.v{LANES}i32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [value])


def add_counts(builder: ir.IRBuilder, totals: list[Any], counts: ir.Value) -> None:
    """Add the lanes of some vectors of 16-bit counts to the int64 numbers at an address."""
    numbers = builder.inttoptr(counts, I64.as_pointer())
    for column, total in enumerate(totals):
        found = lane_sum(builder, builder.zext(builder.load(total), vector(I32)))
        at = builder.gep(numbers, [ir.Constant(I64, column)])
        builder.store(builder.add(builder.load(at), builder.zext(found, I64)), at)


def _load(dtype: int) -> Any:
    @inlined
    def load(typing_context, address, values):
        def codegen(context, builder, signature, args):
            source = pointer(builder, args[0], STORAGE[dtype])
            target = pointer(builder, args[1], FLOAT)

            def body(i: Any) -> None:
                prefetch(builder, args[0], i, dtype)
                put(builder, widen(builder, get(builder, source, i), dtype), target, i)

            each(builder, body)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp), codegen

    return load


def _load_delta(dtype: int) -> Any:
    @inlined
    def load_delta(typing_context, address, reference, delta):
        def codegen(context, builder, signature, args):
            source = pointer(builder, args[0], STORAGE[dtype])
            origin, target = (pointer(builder, a, FLOAT) for a in args[1:])

            def body(i: Any) -> None:
                prefetch(builder, args[0], i, dtype)
                value = widen(builder, get(builder, source, i), dtype)
                put(builder, builder.fsub(value, get(builder, origin, i)), target, i)

            each(builder, body)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp), codegen

    return load_delta


def _store(dtype: int) -> Any:
    @inlined
    def store(typing_context, values, address):
        def codegen(context, builder, signature, args):
            source = pointer(builder, args[0], FLOAT)
            target = pointer(builder, args[1], STORAGE[dtype])

            def body(i: Any) -> None:
                put(builder, narrow(builder, get(builder, source, i), dtype), target, i)

            each(builder, body)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp), codegen

    return store


load_f32, load_f16, load_bf16 = _load(F32), _load(F16), _load(BF16)
delta_f32, delta_f16, delta_bf16 = _load_delta(F32), _load_delta(F16), _load_delta(BF16)
store_f32, store_f16, store_bf16 = _store(F32), _store(F16), _store(BF16)


@inlined
def add_scaled(typing_context, update, delta, weight):
    """update += delta * weight, product and sum each rounded."""

    def codegen(context, builder, signature, args):
        total, values = (pointer(builder, a, FLOAT) for a in args[:2])
        factor = splat(builder, args[2], FLOAT)

        def body(i: Any) -> None:
            term = builder.fmul(get(builder, values, i), factor)
            put(builder, builder.fadd(get(builder, total, i), term), total, i)

        each(builder, body)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.float32), codegen


@inlined
def bits(typing_context, value):
    """The 32 bits of an fp32 value."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], I32)

    return types.uint32(types.float32), codegen


def _product(wide: bool) -> Any:
    @inlined
    def product(typing_context, x, y, sums):
        kind = DOUBLE if wide else FLOAT

        def codegen(context, builder, signature, args):
            first, second = (pointer(builder, a, FLOAT) for a in args[:2])
            lanes = pointer(builder, args[2], kind)
            running = cgutils.alloca_once(builder, vector(kind))
            builder.store(builder.load(lanes, align=4), running)

            def body(i: Any) -> None:
                term = builder.fmul(get(builder, first, i), get(builder, second, i))
                term = builder.fpext(term, vector(kind)) if wide else term
                builder.store(builder.fadd(builder.load(running), term), running)

            each(builder, body)
            builder.store(builder.load(running), lanes, align=4)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp), codegen

    return product


_product_f64, _product_f32 = _product(wide=True), _product(wide=False)


@nb.njit(nogil=True)
def add_products(x, y, sums):
    """sums (LANES,) fp64 += x * y over one block: fp32 products, fp64 sums."""
    _product_f64(x.ctypes.data, y.ctypes.data, sums.ctypes.data)


@nb.njit(nogil=True)
def block_squares(x, lanes):
    """Sum of squares over one block: fp32 in 32 lanes of 64 terms each, then fp64. For statistics.

    The first LANES values of `lanes` are scratch.
    """
    lanes[:LANES] = np.float32(0.0)
    _product_f32(x.ctypes.data, x.ctypes.data, lanes.ctypes.data)
    total = 0.0
    for i in range(LANES):
        total += lanes[i]
    return total


@inlined
def _hash_stripes(typing_context, address, lanes, stripes):
    """lanes = mix(lanes ^ words) over whole stripes.

    mix multiplies by an odd constant and folds the high half down.
    """

    def codegen(context, builder, signature, args):
        words, lanes = (pointer(builder, a, I64) for a in args[:2])
        state = cgutils.alloca_once(builder, vector(I64))
        builder.store(builder.load(lanes, align=8), state)
        prime, half = full(0x9E3779B97F4A7C15, I64), full(32, I64)

        def body(i: Any) -> None:
            word = get(builder, words, i)
            mixed = builder.mul(builder.xor(builder.load(state), word), prime)
            builder.store(builder.xor(mixed, builder.lshr(mixed, half)), state)

        each(builder, body, args[2])
        builder.store(builder.load(state), lanes, align=8)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp), codegen


@inlined
def copy_bytes(typing_context, source, target, n):
    """n bytes from one address to another."""

    def codegen(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        source, target = builder.inttoptr(args[0], byte), builder.inttoptr(args[1], byte)
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp), codegen


@nb.njit(nogil=True)
def hash_bytes(address, num_bytes, lanes, tail):
    """Take bytes into the lanes (LANES,) uint64. A part stripe is padded by zeros and may only end
    a tensor. `tail` is scratch of a stripe's size at least.
    """
    stripes = num_bytes // STRIPE_BYTES
    _hash_stripes(address, lanes.ctypes.data, stripes)
    rest = num_bytes - stripes * STRIPE_BYTES
    if rest > 0:
        tail[: STRIPE_BYTES // 4] = np.float32(0.0)
        copy_bytes(address + np.uintp(stripes * STRIPE_BYTES), tail.ctypes.data, rest)
        _hash_stripes(tail.ctypes.data, lanes.ctypes.data, 1)
