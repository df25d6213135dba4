"""The innermost loops: eight pixels in registers while all lines (or angles) go by.

Shifting a line of pixels by k + w, with 0 <= w <= 1, and adding it to a result r is r[j] += (1 - w) x[j - k]
+ w x[j - k - 1]. Summed over lines with U[j] = sum x[j - k] and V[j] = sum w x[j - k], that is
r[j] = U[j] - V[j] + V[j - 1]: one load, one addition and one fused multiply-add per value and line. The adjoint
is b[x] = U[x] - V[x] + V[x + 1] with U and V gathered from the shifted lines.

The blocks are emitted as LLVM code because Numba would not keep eighteen vectors in registers across a loop.
"""

# ruff: noqa: ARG001  (Numba calls an intrinsic with its arguments' types, and its code with fixed arguments)

from __future__ import annotations

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

__all__ = ["BLOCK", "INCREASE", "MULTIPLY", "back_add", "back_set", "back_update", "forward_add"]

BLOCK = 8
"""Pixels per block: with their two sums each, sixteen of the 32 registers of AVX-512."""

Values = list[Any]


def _sums(
    builder: Any, lanes: int, base: Any, offsets: Any, weights: Any, count: Any, step: Any, *, beyond: bool
) -> tuple[Values, Values]:
    """Emit the loop over `count` lines and give U[0..7] and V[0..7], or V[0..8] with `beyond`.

    Line i starts `offsets[i]` (int32, vectors) after `base` and has weight `weights[i]`; its pixels are `step`
    bytes apart.
    """
    kind = vector_ir(lanes)
    zero = ir.Constant(kind, [0.0] * lanes)
    steps = [builder.mul(step, INT64(i)) for i in range(BLOCK + 1)]
    plain = [cgutils.alloca_once_value(builder, zero) for _ in range(BLOCK)]
    weighted = [cgutils.alloca_once_value(builder, zero) for _ in range(BLOCK + beyond)]
    first_offset = builder.inttoptr(offsets, INT32.as_pointer())
    first_weight = builder.inttoptr(weights, FLOAT.as_pointer())
    with cgutils.for_range(builder, count) as loop:
        offset = builder.sext(builder.load(builder.gep(first_offset, [loop.index])), INT64)
        line = builder.add(base, builder.mul(offset, INT64(4 * lanes)))
        weight = broadcast_ir(builder, builder.load(builder.gep(first_weight, [loop.index])), lanes)
        for i in range(BLOCK + beyond):
            value = load_ir(builder, builder.add(line, steps[i]), lanes)
            if i < BLOCK:
                builder.store(builder.fadd(builder.load(plain[i]), value), plain[i])
            builder.store(call_ir(builder, "fmuladd", weight, value, builder.load(weighted[i])), weighted[i])
    return [builder.load(place) for place in plain], [builder.load(place) for place in weighted]


@intrinsic
def forward_add(
    typing: Any, lanes: Any, image: Any, offsets: Any, weights: Any, count: Any, step: Any, target: Any
) -> Any:
    """Shift and add 8 pixels of `count` lines; add the 9 results to consecutive vectors at `target`."""
    n = lanes.count

    def code(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        _, image_, offsets_, weights_, count_, step_, target_ = args
        u, v = _sums(builder, n, image_, offsets_, weights_, count_, step_, beyond=False)
        moved = [builder.fsub(u[i], v[i]) for i in range(BLOCK)]
        results = [moved[0], *(builder.fadd(moved[i], v[i - 1]) for i in range(1, BLOCK)), v[-1]]
        for i, result in enumerate(results):
            place = builder.add(target_, INT64(i * 4 * n))
            store_ir(builder, place, builder.fadd(load_ir(builder, place, n), result))
        return context.get_dummy_value()

    return types.void(lanes, *[types.intp] * 6), code


def _gathered(builder: Any, n: int, lines: Any, offsets: Any, weights: Any, count: Any) -> Values:
    """Emit the adjoint for 8 consecutive pixels."""
    u, v = _sums(builder, n, lines, offsets, weights, count, INT64(4 * n), beyond=True)
    return [builder.fadd(u[i], builder.fsub(v[i + 1], v[i])) for i in range(BLOCK)]


@intrinsic
def back_set(
    typing: Any, lanes: Any, lines: Any, offsets: Any, weights: Any, count: Any, target: Any, ahead: Any
) -> Any:
    """Gather 8 pixels from `count` lines into consecutive vectors at `target`; prefetch as many at `ahead`."""
    n = lanes.count

    def code(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        _, lines_, offsets_, weights_, count_, target_, ahead_ = args
        for i in range(0, BLOCK, max(1, 16 // n)):
            prefetch_ir(builder, builder.add(ahead_, INT64(i * 4 * n)))
        for i, value in enumerate(_gathered(builder, n, lines_, offsets_, weights_, count_)):
            store_ir(builder, builder.add(target_, INT64(i * 4 * n)), value)
        return context.get_dummy_value()

    return types.void(lanes, *[types.intp] * 6), code


@intrinsic
def back_add(
    typing: Any, lanes: Any, lines: Any, offsets: Any, weights: Any, count: Any, target: Any, step: Any
) -> Any:
    """Gather 8 pixels from `count` lines and add them to vectors `step` bytes apart at `target`."""
    n = lanes.count

    def code(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        _, lines_, offsets_, weights_, count_, target_, step_ = args
        for i, value in enumerate(_gathered(builder, n, lines_, offsets_, weights_, count_)):
            place = builder.add(target_, builder.mul(step_, INT64(i)))
            store_ir(builder, place, builder.fadd(load_ir(builder, place, n), value))
        return context.get_dummy_value()

    return types.void(lanes, *[types.intp] * 6), code


class Rule:
    """What becomes of a pixel once it is known what its rays say; as an argument of a kernel."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class RuleType(types.Type):
    """Numba type of `Rule`."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        super().__init__(name=f"rule-{rule}")


MULTIPLY = Rule("multiply")
"""x <- max(least, x gain gathered); what would be NaN is left as it was: pixels whose gain is NaN."""

INCREASE = Rule("increase")
"""x <- max(least, x + factor gain gathered); what would be NaN is left as it was: pixels whose gain is NaN."""

register_as_name(Rule, RuleType, lambda rule: rule.name)


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
    weights: Any,
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
    """Gather 8 pixels, add what `partial` holds of them already, and change the image by `rule`.

    Consecutive pixels are `..._step` bytes apart in `partial`, `image` and `gains` (one float32 per pixel).
    """
    n = lanes.count
    new_value = _NEW_VALUE[rule.rule]

    def code(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        _, _, lines_, offsets_, weights_, count_, *places, factor_, least_ = args
        partial_, partial_step_, image_, image_step_, gains_, gains_step_ = places
        bound = broadcast_ir(builder, least_, n)
        for i, value in enumerate(_gathered(builder, n, lines_, offsets_, weights_, count_)):
            first = load_ir(builder, builder.add(partial_, builder.mul(partial_step_, INT64(i))), n)
            place = builder.add(image_, builder.mul(image_step_, INT64(i)))
            gain_place = builder.add(gains_, builder.mul(gains_step_, INT64(i)))
            gain = builder.load(builder.inttoptr(gain_place, FLOAT.as_pointer()))
            old = load_ir(builder, place, n)
            new = new_value(builder, n, old, builder.fadd(first, value), gain, factor_)
            kept = builder.fcmp_unordered("uno", new, new)
            store_ir(builder, place, builder.select(kept, old, maximum_ir(builder, new, bound)))
        return context.get_dummy_value()

    return types.void(lanes, rule, *[types.intp] * 10, types.float32, types.float32), code
