"""The innermost loops: eight pixels in registers while all lines (or angles) go by.

Lines of pixels are shifted by whole and half pixels and added to two results, one for the even and one for the odd
halves. With U the sum of all lines and V that of the odd ones, these are U - V and V: one load, one addition and
one fused multiply-add with 0 or 1 per value and line, and no branch. The adjoint needs one load and one addition.

The blocks are emitted as LLVM code because Numba would not keep eighteen vectors in registers across a loop.
"""

# ruff: noqa: ARG001  (Numba calls an intrinsic with its arguments' types, and its code with fixed arguments)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bluesky_streamrecon.recon.kernels.simd import (
    FLOAT,
    INT32,
    INT64,
    broadcast_ir,
    call_ir,
    load_ir,
    maximum_ir,
    prefetch_ir,
    register_as_name,
    store_ir,
    vector_ir,
)

__all__ = ["BLOCK", "GATHER", "INCREASE", "MULTIPLY", "Rule", "back_set", "back_update", "forward_add"]

BLOCK = 8
"""Pixels per block: with their two sums each, sixteen of the 32 registers of AVX-512."""

Values = list[Any]


def _loop(
    builder: Any, lanes: int, base: Any, offsets: Any, count: Any, step: Any, use: Callable[[Any, int, Any], None]
) -> None:
    """Emit a loop over `count` lines that gives each of 8 pixels to `use`: line, place in the block, value.

    Line i starts `offsets[i]` (int32, vectors) after `base`; its pixels are `step` bytes apart.
    """
    steps = [builder.mul(step, INT64(i)) for i in range(BLOCK)]
    first_offset = builder.inttoptr(offsets, INT32.as_pointer())
    with cgutils.for_range(builder, count) as loop:
        offset = builder.sext(builder.load(builder.gep(first_offset, [loop.index])), INT64)
        line = builder.add(base, builder.mul(offset, INT64(4 * lanes)))
        for i in range(BLOCK):
            use(loop.index, i, load_ir(builder, builder.add(line, steps[i]), lanes))


def _zeros(builder: Any, lanes: int) -> Values:
    zero = ir.Constant(vector_ir(lanes), [0.0] * lanes)
    return [cgutils.alloca_once_value(builder, zero) for _ in range(BLOCK)]


@intrinsic
def forward_add(
    typing: Any, lanes: Any, image: Any, offsets: Any, odd: Any, count: Any, step: Any, target: Any, apart: Any
) -> Any:
    """Add 8 pixels of `count` lines to consecutive vectors at `target`, and to those `apart` bytes on if a line is odd.

    Where the next block's results go is prefetched.
    """
    n = lanes.count

    def code(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        _, image_, offsets_, odd_, count_, step_, target_, apart_ = args
        both, late = _zeros(builder, n), _zeros(builder, n)
        first_odd = builder.inttoptr(odd_, FLOAT.as_pointer())
        weight: list[Any] = []

        def use(index: Any, i: int, value: Any) -> None:
            if i == 0:
                weight[:] = [broadcast_ir(builder, builder.load(builder.gep(first_odd, [index])), n)]
            builder.store(builder.fadd(builder.load(both[i]), value), both[i])
            builder.store(call_ir(builder, "fmuladd", weight[0], value, builder.load(late[i])), late[i])

        further = builder.add(target_, apart_)
        for plane in (target_, further):
            for i in range(BLOCK, 2 * BLOCK, max(1, 16 // n)):
                prefetch_ir(builder, builder.add(plane, INT64(i * 4 * n)))
        _loop(builder, n, image_, offsets_, count_, step_, use)
        for i in range(BLOCK):
            odd_sum = builder.load(late[i])
            even_sum = builder.fsub(builder.load(both[i]), odd_sum)
            for plane, value in ((target_, even_sum), (further, odd_sum)):
                place = builder.add(plane, INT64(i * 4 * n))
                store_ir(builder, place, builder.fadd(load_ir(builder, place, n), value))
        return context.get_dummy_value()

    return types.void(lanes, *[types.intp] * 7), code


def _gathered(builder: Any, n: int, lines: Any, offsets: Any, count: Any) -> Values:
    """Emit the adjoint for 8 consecutive pixels."""
    sums = _zeros(builder, n)

    def use(_index: Any, i: int, value: Any) -> None:
        builder.store(builder.fadd(builder.load(sums[i]), value), sums[i])

    _loop(builder, n, lines, offsets, count, INT64(4 * n), use)
    return [builder.load(place) for place in sums]


@intrinsic
def back_set(typing: Any, lanes: Any, lines: Any, offsets: Any, count: Any, target: Any, ahead: Any) -> Any:
    """Gather 8 pixels from `count` lines into consecutive vectors at `target`; prefetch as many at `ahead`."""
    n = lanes.count

    def code(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        _, lines_, offsets_, count_, target_, ahead_ = args
        for i in range(0, BLOCK, max(1, 16 // n)):
            prefetch_ir(builder, builder.add(ahead_, INT64(i * 4 * n)))
        for i, value in enumerate(_gathered(builder, n, lines_, offsets_, count_)):
            store_ir(builder, builder.add(target_, INT64(i * 4 * n)), value)
        return context.get_dummy_value()

    return types.void(lanes, *[types.intp] * 5), code


class RuleType(types.Type):
    """Numba type of `Rule`."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        super().__init__(name=f"rule-{rule}")


class Rule:
    """What becomes of a pixel once it is known what its rays say; as an argument of a kernel."""

    __slots__ = ("_numba_type_",)

    def __init__(self, name: str) -> None:
        self._numba_type_ = RuleType(name)


register_as_name(RuleType)
MULTIPLY = Rule("multiply")
"""x <- max(least, x gain gathered); what would be NaN is left as it was: pixels whose gain is NaN."""

INCREASE = Rule("increase")
"""x <- max(least, x + factor gain gathered); what would be NaN is left as it was: pixels whose gain is NaN."""


GATHER = Rule("gather")
"""x <- gathered, whatever it was; neither gains nor bounds are looked at."""


def _multiplied(builder: Any, n: int, old: Any, gathered: Any, gain: Any, _factor: Any) -> Any:
    return builder.fmul(old, builder.fmul(gathered, broadcast_ir(builder, gain, n)))


def _increased(builder: Any, n: int, old: Any, gathered: Any, gain: Any, factor: Any) -> Any:
    return call_ir(builder, "fmuladd", gathered, broadcast_ir(builder, builder.fmul(gain, factor), n), old)


_NEW_VALUE = {"multiply": _multiplied, "increase": _increased}


@intrinsic
def back_update(
    typing: Any,
    lanes: Any,
    rule: Any,
    lines: Any,
    offsets: Any,
    count: Any,
    partial: Any,
    partial_step: Any,
    image: Any,
    image_step: Any,
    gains: Any,
    gains_step: Any,
    factor: Any,
    least: Any,
) -> Any:
    """Gather 8 pixels, add them to what `partial` holds of them already, and change the image by `rule`.

    Consecutive pixels are `..._step` bytes apart in `partial`, `image` and `gains` (one float32 per pixel).
    """
    n = lanes.count
    new_value = _NEW_VALUE.get(rule.rule)

    def code(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        _, _, lines_, offsets_, count_, *places, factor_, least_ = args
        partial_, partial_step_, image_, image_step_, gains_, gains_step_ = places
        bound = broadcast_ir(builder, least_, n)
        for i, value in enumerate(_gathered(builder, n, lines_, offsets_, count_)):
            first = load_ir(builder, builder.add(partial_, builder.mul(partial_step_, INT64(i))), n)
            place = builder.add(image_, builder.mul(image_step_, INT64(i)))
            gathered = builder.fadd(first, value)
            if new_value is None:
                store_ir(builder, place, gathered)
                continue
            gain_place = builder.add(gains_, builder.mul(gains_step_, INT64(i)))
            gain = builder.load(builder.inttoptr(gain_place, FLOAT.as_pointer()))
            old = load_ir(builder, place, n)
            new = new_value(builder, n, old, gathered, gain, factor_)
            kept = builder.fcmp_unordered("uno", new, new)
            store_ir(builder, place, builder.select(kept, old, maximum_ir(builder, new, bound)))
        return context.get_dummy_value()

    return types.void(lanes, rule, *[types.intp] * 9, types.float32, types.float32), code
