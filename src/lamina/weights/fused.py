"""Whole steps of the common merge in one sweep over a block, where every pass costs.

`take` subtracts, weights and adds an expert and sums its squares; `finish` adds the update to the
target, rounds, compares and sums. The same operations in the same order as the separate steps of
`blocks`, so the same bits, at half the time.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from lamina.weights import lanes as ln
from lamina.weights.codes import BF16, F16, F32


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


@ln.inlined
def elect(typing_context, weighted, weights, num, normalize, total):
    """TIES' election over `num` blocks of weighted deltas that lie one behind the other.

    total = the sum of what agrees in sign with the sum of all (>= 0 counts as positive), divided,
    if `normalize`, by the sum of the weights that agree (where that is not 0).
    """

    def codegen(context, builder, signature, args):
        rows = ln.pointer(builder, args[0], ln.FLOAT)
        factors = builder.inttoptr(args[1], ln.FLOAT.as_pointer())
        count = args[2]
        out = ln.pointer(builder, args[4], ln.FLOAT)
        stripes = ir.Constant(ln.I64, ln.BLOCK // ln.LANES)
        zero, one = ln.full(0.0, ln.FLOAT), ln.full(1.0, ln.FLOAT)
        kind = ln.vector(ln.FLOAT)
        mass, kept, divisor = (cgutils.alloca_once(builder, kind) for _ in range(3))

        def body(i: Any) -> None:
            for total in (mass, kept, divisor):
                builder.store(zero, total)

            def value_of(k: Any) -> ir.Value:
                return ln.get(builder, rows, builder.add(builder.mul(k, stripes), i))

            with cgutils.for_range(builder, count) as loop:
                builder.store(builder.fadd(builder.load(mass), value_of(loop.index)), mass)
            positive = builder.fcmp_ordered(">=", builder.load(mass), zero)
            with cgutils.for_range(builder, count) as loop:
                value = value_of(loop.index)
                above = builder.fcmp_ordered(">", value, zero)
                below = builder.fcmp_ordered("<", value, zero)
                agrees = builder.select(positive, above, below)
                part = builder.select(agrees, value, zero)
                builder.store(builder.fadd(builder.load(kept), part), kept)
                weight = ln.splat(
                    builder, builder.load(builder.gep(factors, [loop.index])), ln.FLOAT
                )
                share = builder.select(agrees, weight, zero)
                builder.store(builder.fadd(builder.load(divisor), share), divisor)
            result, by = builder.load(kept), builder.load(divisor)
            safe = builder.select(builder.fcmp_ordered("!=", by, zero), by, one)
            chosen = builder.select(
                ln.splat(builder, args[3], ir.IntType(1)), builder.fdiv(result, safe), result
            )
            ln.put(builder, chosen, out, i)

        ln.each(builder, body)
        return context.get_dummy_value()

    address = types.uintp
    return types.void(address, address, types.int64, types.boolean, address), codegen
