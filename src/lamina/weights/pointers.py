"""Addresses as typed pointers, for the entries of `native`."""

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

NAMES = ("f4_at", "f8_at", "i8_at", "u4_at", "u8_at", "carray")


def _at(element: Any, kind: ir.Type) -> Any:
    @intrinsic
    def pointer(typing_context, address):
        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], kind.as_pointer())

        return types.CPointer(element)(types.uint64), codegen

    return pointer


f4_at = _at(types.float32, ir.FloatType())
f8_at = _at(types.float64, ir.DoubleType())
i8_at = _at(types.int64, ir.IntType(64))
u4_at = _at(types.uint32, ir.IntType(32))
u8_at = _at(types.uint64, ir.IntType(64))

__all__ = ["carray", "f4_at", "f8_at", "i8_at", "u4_at", "u8_at"]
