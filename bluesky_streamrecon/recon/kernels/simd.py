"""A float32 vector type for Numba: as many values as there are slices in a slab, held in a register.

The operations are LLVM's portable vector instructions, so they become AVX-512, AVX2, SSE or NEON code, whatever the
processor has. Addresses are plain integers (bytes); vectors are loaded from and stored to 4-byte aligned places.

The number of lanes is part of the type of a kernel's argument `lanes`, such as `LANES[16]`.
"""

# ruff: noqa: ARG001  (Numba calls an intrinsic with its arguments' types, and its code with fixed arguments)

from __future__ import annotations

import operator
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel.models import OpaqueModel, PrimitiveModel
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import NativeValue, intrinsic, lower_builtin, register_model, unbox

__all__ = [
    "LANES",
    "Lanes",
    "Vector",
    "absolute",
    "address_of",
    "broadcast",
    "fma",
    "lane",
    "load",
    "maximum",
    "prefetch",
    "select_nan",
    "select_negative",
    "shift_down",
    "shift_up",
    "sqrt",
    "store",
    "widest_lanes",
    "width",
    "zeros",
]

FLOAT = ir.FloatType()
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)
BYTE_POINTER = ir.IntType(8).as_pointer()


def register_as_name(numba_type: Any) -> None:
    """Let arguments of this Numba type have no content, only the type, which they bring along as `_numba_type_`."""
    register_model(numba_type)(OpaqueModel)
    unbox(numba_type)(lambda _kind, _value, context: NativeValue(context.context.get_dummy_value()))


class LanesType(types.Type):
    """Numba type of `Lanes`."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"lanes{count}")


class Lanes:
    """Number of slices side by side, as an argument of a kernel."""

    __slots__ = ("_numba_type_", "count")

    def __init__(self, count: int) -> None:
        self.count = count
        self._numba_type_ = LanesType(count)


register_as_name(LanesType)
LANES = {count: Lanes(count) for count in (4, 8, 16)}


@cache
def widest_lanes() -> int:
    """Return the number of slices that is fastest here: 16 with 32 registers of 16 values (AVX-512), else 8."""
    return 16 if "+avx512f" in ",".join(map(str, cpu_target.target_context.codegen().magic_tuple())) else 8


class Vector(types.Type):
    """Numba type of `count` float32 values in a register."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"float32x{count}")


@register_model(Vector)
class _VectorModel(PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, vector_ir(kind.count))


def vector_ir(count: int) -> ir.VectorType:
    """Return LLVM's type of a vector."""
    return ir.VectorType(FLOAT, count)


def load_ir(builder: ir.IRBuilder, address: ir.Value, count: int) -> ir.Value:
    """Emit a load of `count` values."""
    return builder.load(builder.inttoptr(address, vector_ir(count).as_pointer()), align=4, typ=vector_ir(count))


def store_ir(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Emit a store."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def broadcast_ir(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    """Emit copies of a scalar in all lanes."""
    undefined = ir.Constant(vector_ir(count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, count), [0] * count))


def call_ir(builder: ir.IRBuilder, name: str, *values: ir.Value) -> ir.Value:
    """Emit a call of LLVM's vector function `name`, as ``"fmuladd"``."""
    kind = values[0].type
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(values)), f"llvm.{name}.v{kind.count}f32"
    )
    return builder.call(function, values)


def maximum_ir(builder: ir.IRBuilder, value: ir.Value, bound: ir.Value) -> ir.Value:
    """Emit the larger one, `bound` where `value` is NaN: one instruction on most processors."""
    return builder.select(builder.fcmp_ordered(">", value, bound), value, bound)


def _define(symbol: Any, opcode: str) -> None:
    """Let `symbol` work on two vectors."""

    class Rule(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:  # noqa: ARG002
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    infer_global(symbol)(Rule)
    lower_builtin(symbol, Vector, Vector)(lambda _context, builder, _sig, args: getattr(builder, opcode)(*args))


for _symbol, _opcode in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_symbol, _opcode)


@intrinsic
def width(typing: Any, lanes: LanesType) -> Any:
    """Bytes of one vector."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.intp, 4 * sig.args[0].count)

    return types.intp(lanes), code


@intrinsic
def zeros(typing: Any, lanes: LanesType) -> Any:
    """Vector of zeros."""
    return Vector(lanes.count)(lanes), lambda _context, _builder, sig, _args: ir.Constant(
        vector_ir(sig.return_type.count), [0.0] * sig.return_type.count
    )


@intrinsic
def broadcast(typing: Any, lanes: LanesType, scalar: Any) -> Any:
    """Return a float32 in all lanes."""
    return Vector(lanes.count)(lanes, types.float32), lambda _context, builder, sig, args: broadcast_ir(
        builder, args[1], sig.return_type.count
    )


@intrinsic
def load(typing: Any, lanes: LanesType, address: Any) -> Any:
    """Vector at an address."""
    return Vector(lanes.count)(lanes, types.intp), lambda _context, builder, sig, args: load_ir(
        builder, args[1], sig.return_type.count
    )


@intrinsic
def store(typing: Any, address: Any, value: Vector) -> Any:
    """Write a vector to an address."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store_ir(builder, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.intp, value), code


def _function(name: str, arguments: int) -> Any:
    def code(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return call_ir(builder, name, *args)

    if arguments == 1:
        return intrinsic(lambda _typing, x: (x(x), code))
    if arguments == 2:
        return intrinsic(lambda _typing, x, y: (x(x, y), code))
    return intrinsic(lambda _typing, x, y, z: (x(x, y, z), code))


fma = _function("fmuladd", 3)
sqrt = _function("sqrt", 1)
absolute = _function("fabs", 1)


@intrinsic
def maximum(typing: Any, value: Vector, bound: Vector) -> Any:
    """Lane by lane, the larger one; `bound` where `value` is NaN."""
    return value(value, bound), lambda _context, builder, _sig, args: maximum_ir(builder, *args)


@intrinsic
def select_nan(typing: Any, tested: Vector, if_nan: Vector, otherwise: Vector) -> Any:
    """Lane by lane, `if_nan` where `tested` is NaN."""
    return tested(tested, if_nan, otherwise), lambda _context, builder, _sig, args: builder.select(
        builder.fcmp_unordered("uno", args[0], args[0]), args[1], args[2]
    )


@intrinsic
def select_negative(typing: Any, tested: Vector, if_negative: Vector, otherwise: Vector) -> Any:
    """Lane by lane, `if_negative` where `tested` is below zero."""
    return tested(tested, if_negative, otherwise), lambda _context, builder, _sig, args: builder.select(
        builder.fcmp_ordered("<", args[0], ir.Constant(args[0].type, [0.0] * args[0].type.count)), args[1], args[2]
    )


def _shifted(builder: Any, value: Any, scalar: Any, step: int, at: Any) -> Any:
    count = value.type.count
    order = [min(max(i - step, 0), count - 1) for i in range(count)]
    moved = builder.shuffle_vector(
        value, ir.Constant(value.type, ir.Undefined), ir.Constant(ir.VectorType(INT32, count), order)
    )
    return builder.insert_element(moved, scalar, at)


@intrinsic
def shift_up(typing: Any, value: Vector, scalar: Any) -> Any:
    """Lane i of the result is lane i - 1, and lane 0 is `scalar`: the slice above each slice."""
    return value(value, types.float32), lambda _context, builder, _sig, args: _shifted(
        builder, args[0], args[1], 1, INT32(0)
    )


@intrinsic
def shift_down(typing: Any, value: Vector, scalar: Any, last: Any) -> Any:
    """Lane i of the result is lane i + 1, and lane `last` is `scalar`: the slice below each slice."""
    return value(value, types.float32, types.int64), lambda _context, builder, _sig, args: _shifted(
        builder, args[0], args[1], -1, builder.trunc(args[2], INT32)
    )


@intrinsic
def lane(typing: Any, value: Vector, number: Any) -> Any:
    """Value of one lane."""
    return types.float32(value, types.int64), lambda _context, builder, _sig, args: builder.extract_element(
        args[0], builder.trunc(args[1], INT32)
    )


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at `address` to be brought to the second-level cache; any address is allowed."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        prefetch_ir(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), code


def prefetch_ir(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Emit a prefetch for reading into the second-level cache."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [BYTE_POINTER, INT32, INT32, INT32]), "llvm.prefetch.p0"
    )
    builder.call(function, [builder.inttoptr(address, BYTE_POINTER), INT32(0), INT32(2), INT32(1)])


@intrinsic
def address_of(typing: Any, array: Any) -> Any:
    """Address of an array's first element."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        struct = context.make_array(sig.args[0])(context, builder, args[0])
        return builder.ptrtoint(struct.data, INT64)

    return types.intp(array), code
