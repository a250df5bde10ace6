"""Whole steps of the common merge in one sweep over a block, where every pass costs.

`take` subtracts, weights and adds an expert and sums its squares; `finish` adds the update to the
target, rounds, compares and sums. The same operations in the same order as the separate steps of
`blocks`, so the same bits, at half the time.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from lamina.weights import lanes as ln
from lamina.weights.codes import BF16, BLOCK, F16, F32, LANES


def _take(dtype: int) -> Any:
    @ln.inlined
    def take(typing_context, address, reference, update, scale, weight, squares):
        """update += (value - reference) * scale * weight; squares += (value - reference)^2."""

        def codegen(context, builder, signature, args):
            source = ln.pointer(builder, args[0], ln.STORAGE[dtype])
            origin, total = (ln.pointer(builder, a, ln.FLOAT) for a in args[1:3])
            scale, weight = (ln.splat(builder, a, ln.FLOAT) for a in args[3:5])
            squares = ln.pointer(builder, args[5], ln.FLOAT)
            running = cgutils.alloca_once(builder, ln.vector(ln.FLOAT))
            builder.store(builder.load(squares, align=4), running)

            def body(i: Any) -> None:
                ln.prefetch(builder, args[0], i, dtype)
                value = ln.widen(builder, ln.get(builder, source, i), dtype)
                delta = builder.fsub(value, ln.get(builder, origin, i))
                square = builder.fmul(delta, delta)
                builder.store(builder.fadd(builder.load(running), square), running)
                term = builder.fmul(builder.fmul(delta, scale), weight)
                ln.put(builder, builder.fadd(ln.get(builder, total, i), term), total, i)

            ln.each(builder, body)
            builder.store(builder.load(running), squares, align=4)
            return context.get_dummy_value()

        address = types.uintp
        return types.void(address, address, address, types.float32, types.float32, address), codegen

    return take


def _finish(dtype: int) -> Any:
    kind = ln.I32 if dtype == F32 else ln.I16
    infinity = {F32: 0x7F800000, F16: 0x7C00, BF16: 0x7F80}[dtype]

    @ln.inlined
    def finish(typing_context, kept, update, raw, out, counts, squares):
        """out = round(kept + update), compared with `raw`, the target's own bits.

        counts (3,) int64 and squares (2, LANES) fp32 as in `combine`: |update|^2, |kept|^2.
        """

        def codegen(context, builder, signature, args):
            base, moved = (ln.pointer(builder, a, ln.FLOAT) for a in args[:2])
            before, after = (ln.pointer(builder, a, kind) for a in args[2:4])
            squares = ln.pointer(builder, args[5], ln.FLOAT)
            rows = [builder.gep(squares, [ir.Constant(ln.I64, row)]) for row in range(2)]
            totals = [cgutils.alloca_once(builder, ln.vector(ln.I16)) for _ in range(3)]
            running = [cgutils.alloca_once(builder, ln.vector(ln.FLOAT)) for _ in range(2)]
            for total in totals:
                builder.store(ln.full(0, ln.I16), total)
            for row, sums in zip(rows, running, strict=True):
                builder.store(builder.load(row, align=4), sums)

            def body(i: Any) -> None:
                value, step = ln.get(builder, base, i), ln.get(builder, moved, i)
                moves = builder.fcmp_unordered("!=", step, ln.full(0.0, ln.FLOAT))
                result = builder.select(moves, builder.fadd(value, step), value)
                word = ln.narrow(builder, result, dtype)
                word = builder.bitcast(word, ln.vector(kind))
                ln.put(builder, word, after, i)
                differs = builder.icmp_unsigned("!=", word, ln.get(builder, before, i))
                vanished = builder.and_(moves, builder.not_(differs))
                mask = ln.full(infinity, kind)
                broken = builder.icmp_unsigned("==", builder.and_(word, mask), mask)
                for total, hit in zip(totals, (differs, vanished, broken), strict=True):
                    one = builder.zext(hit, ln.vector(ln.I16))
                    builder.store(builder.add(builder.load(total), one), total)
                for sums, part in zip(running, (step, value), strict=True):
                    square = builder.fmul(part, part)
                    builder.store(builder.fadd(builder.load(sums), square), sums)

            ln.each(builder, body)
            for row, sums in zip(rows, running, strict=True):
                builder.store(builder.load(sums), row, align=4)
            ln.add_counts(builder, totals, args[4])
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 6), codegen

    return finish


def _compare_vectors(dtype: int) -> Any:
    @ln.inlined
    def compare_vectors(typing_context, address, instruct, vector, squares, products):
        """squares += t * t and products += t * u over one block, t = value - instruct, u = vector.

        fp32 products, fp64 sums in LANES lanes each. Returns whether all squares were finite.
        """

        def codegen(context, builder, signature, args):
            source = ln.pointer(builder, args[0], ln.STORAGE[dtype])
            origin, other = (ln.pointer(builder, a, ln.FLOAT) for a in args[1:3])
            sums = [ln.pointer(builder, a, ln.DOUBLE) for a in args[3:5]]
            wide, single = ln.vector(ln.DOUBLE), ln.vector(ln.FLOAT)
            running = [cgutils.alloca_once(builder, wide) for _ in sums]
            for total, place in zip(running, sums, strict=True):
                builder.store(builder.load(place, align=8), total)
            check = cgutils.alloca_once(builder, single)
            builder.store(ln.full(0.0, ln.FLOAT), check)

            def body(i: Any) -> None:
                ln.prefetch(builder, args[0], i, dtype)
                value = ln.widen(builder, ln.get(builder, source, i), dtype)
                delta = builder.fsub(value, ln.get(builder, origin, i))
                square = builder.fmul(delta, delta)
                product = builder.fmul(delta, ln.get(builder, other, i))
                builder.store(builder.fadd(builder.load(check), square), check)
                for total, part in zip(running, (square, product), strict=True):
                    added = builder.fadd(builder.load(total), builder.fpext(part, wide))
                    builder.store(added, total)

            ln.each(builder, body)
            for total, place in zip(running, sums, strict=True):
                builder.store(builder.load(total), place, align=8)
            finite = builder.fcmp_ordered("<", builder.load(check), ln.full(float("inf"), ln.FLOAT))
            broken = builder.zext(builder.not_(finite), ln.vector(ln.I32))
            count = ln.lane_sum(builder, broken)
            return builder.icmp_unsigned("==", count, ir.Constant(ln.I32, 0))

        address = types.uintp
        return types.boolean(address, address, address, address, address), codegen

    return compare_vectors


def _subtract(dtype: int) -> Any:
    @ln.inlined
    def subtract(typing_context, address, reference, delta, squares):
        """delta = value - reference; squares += delta^2, fp32 lanes."""

        def codegen(context, builder, signature, args):
            source = ln.pointer(builder, args[0], ln.STORAGE[dtype])
            origin, target, lanes = (ln.pointer(builder, a, ln.FLOAT) for a in args[1:])
            running = cgutils.alloca_once(builder, ln.vector(ln.FLOAT))
            builder.store(builder.load(lanes, align=4), running)

            def body(i: Any) -> None:
                ln.prefetch(builder, args[0], i, dtype)
                value = ln.widen(builder, ln.get(builder, source, i), dtype)
                delta = builder.fsub(value, ln.get(builder, origin, i))
                ln.put(builder, delta, target, i)
                square = builder.fmul(delta, delta)
                builder.store(builder.fadd(builder.load(running), square), running)

            ln.each(builder, body)
            builder.store(builder.load(running), lanes, align=4)
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 4), codegen

    return subtract


subtract_f32, subtract_f16, subtract_bf16 = (_subtract(kind) for kind in (F32, F16, BF16))
vectors_f32, vectors_f16, vectors_bf16 = (_compare_vectors(kind) for kind in (F32, F16, BF16))
take_f32, take_f16, take_bf16 = _take(F32), _take(F16), _take(BF16)
finish_f32, finish_f16, finish_bf16 = _finish(F32), _finish(F16), _finish(BF16)


def _counted(builder: ir.IRBuilder, hits: Any) -> ir.Value:
    """How many lanes of all stripes a condition holds for; `hits` gives it for one stripe."""
    total = cgutils.alloca_once(builder, ln.vector(ln.I32))
    builder.store(ln.full(0, ln.I32), total)

    def body(i: Any) -> None:
        one = builder.zext(hits(i), ln.vector(ln.I32))
        builder.store(builder.add(builder.load(total), one), total)

    ln.each(builder, body)
    return builder.zext(ln.lane_sum(builder, builder.load(total)), ln.I64)


def _magnitude(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    word = builder.bitcast(value, ln.vector(ln.I32))
    return builder.and_(word, ln.full(0x7FFFFFFF, ln.I32))


@ln.inlined
def count_nonfinite(typing_context, values):
    """How many values of a block are NaN or infinite."""

    def codegen(context, builder, signature, args):
        source = ln.pointer(builder, args[0], ln.FLOAT)
        infinity = ln.full(0x7F800000, ln.I32)

        def hits(i: Any) -> ir.Value:
            return builder.icmp_unsigned(
                ">=", _magnitude(builder, ln.get(builder, source, i)), infinity
            )

        return _counted(builder, hits)

    return types.int64(types.uintp), codegen


@ln.inlined
def count_equal(typing_context, values, magnitude):
    """How many values of a block have this magnitude, given as the bits of its fp32 form."""

    def codegen(context, builder, signature, args):
        source = ln.pointer(builder, args[0], ln.FLOAT)
        wanted = ln.splat(builder, args[1], ln.I32)

        def hits(i: Any) -> ir.Value:
            return builder.icmp_unsigned(
                "==", _magnitude(builder, ln.get(builder, source, i)), wanted
            )

        return _counted(builder, hits)

    return types.int64(types.uintp, types.uint32), codegen


@ln.inlined
def cut(typing_context, values, least):
    """Zero every value whose magnitude (bits of its fp32 form) is below `least`."""

    def codegen(context, builder, signature, args):
        source = ln.pointer(builder, args[0], ln.FLOAT)
        least = ln.splat(builder, args[1], ln.I32)

        def body(i: Any) -> None:
            value = ln.get(builder, source, i)
            keep = builder.icmp_unsigned(">=", _magnitude(builder, value), least)
            ln.put(builder, builder.select(keep, value, ln.full(0.0, ln.FLOAT)), source, i)

        ln.each(builder, body)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uint32), codegen


def _elect(known: int | None) -> Any:
    """The election for a known number of experts (unrolled), or for any."""

    @ln.inlined
    def elect(typing_context, weighted, weights, num, normalize, total):
        """TIES' election over `num` blocks of weighted deltas that lie one behind the other.

        total = the sum of what agrees in sign with the sum of all (>= 0 counts as positive),
        divided, if `normalize`, by the sum of the weights that agree (where that is not 0).
        """

        def codegen(context, builder, signature, args):
            rows = ln.pointer(builder, args[0], ln.FLOAT)
            factors = builder.inttoptr(args[1], ln.FLOAT.as_pointer())
            out = ln.pointer(builder, args[4], ln.FLOAT)
            stripes = ir.Constant(ln.I64, BLOCK // LANES)
            zero, one = ln.full(0.0, ln.FLOAT), ln.full(1.0, ln.FLOAT)
            kind = ln.vector(ln.FLOAT)
            mass, kept, divisor = (cgutils.alloca_once(builder, kind) for _ in range(3))

            def every(step: Callable[[ir.Value], None]) -> None:
                if known is None:
                    with cgutils.for_range(builder, args[2]) as loop:
                        step(loop.index)
                for k in range(known or 0):
                    step(ir.Constant(ln.I64, k))

            def add(place: ir.Value, part: ir.Value) -> None:
                builder.store(builder.fadd(builder.load(place), part), place)

            def body(i: Any) -> None:
                for place in (mass, kept, divisor):
                    builder.store(zero, place)

                def value_of(k: ir.Value) -> ir.Value:
                    return ln.get(builder, rows, builder.add(builder.mul(k, stripes), i))

                every(lambda k: add(mass, value_of(k)))
                positive = builder.fcmp_ordered(">=", builder.load(mass), zero)

                def take_side(k: ir.Value) -> None:
                    value = value_of(k)
                    above = builder.fcmp_ordered(">", value, zero)
                    below = builder.fcmp_ordered("<", value, zero)
                    agrees = builder.select(positive, above, below)
                    add(kept, builder.select(agrees, value, zero))
                    weight = builder.load(builder.gep(factors, [k]))
                    add(divisor, builder.select(agrees, ln.splat(builder, weight, ln.FLOAT), zero))

                every(take_side)
                result, by = builder.load(kept), builder.load(divisor)
                safe = builder.select(builder.fcmp_ordered("!=", by, zero), by, one)
                divided = builder.fdiv(result, safe)
                wanted = ln.splat(builder, args[3], ir.IntType(1))
                ln.put(builder, builder.select(wanted, divided, result), out, i)

            ln.each(builder, body)
            return context.get_dummy_value()

        address = types.uintp
        return types.void(address, address, types.int64, types.boolean, address), codegen

    return elect


elect_any, elect_2, elect_3 = _elect(None), _elect(2), _elect(3)


@ln.inlined
def scale(typing_context, values, factor):
    """values *= factor over one block."""

    def codegen(context, builder, signature, args):
        place = ln.pointer(builder, args[0], ln.FLOAT)
        factor = ln.splat(builder, args[1], ln.FLOAT)

        def body(i: Any) -> None:
            ln.put(builder, builder.fmul(ln.get(builder, place, i), factor), place, i)

        ln.each(builder, body)
        return context.get_dummy_value()

    return types.void(types.uintp, types.float32), codegen
