"""What this core can do: yardsticks that a benchmark runs beside the kernels.

`multiply_add_rate` is the rate of fused multiply-adds on registers, `update_rate` that of the kernels' inner
operation (a load, an addition and a fused multiply-add per value) on data of a given size, so that it comes from
the first-, second- or third-level cache or from memory. Rates are 1e9 values per second and thread.
"""

# ruff: noqa: ARG001  (Numba calls an intrinsic with its arguments' types, and its code with fixed arguments)

from __future__ import annotations

import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bluesky_streamrecon.jit import kernel
from bluesky_streamrecon.recon.kernels.simd import INT64, LANES, Vector, address_of, call_ir, lane, load_ir, vector_ir

__all__ = ["multiply_add_rate", "update_rate"]

Array = np.ndarray[Any, Any]

_CHAINS = 16
_UNROLLED = 8


def _total(builder: Any, places: list[Any]) -> Any:
    total = builder.load(places[0])
    for place in places[1:]:
        total = builder.fadd(total, builder.load(place))
    return total


@intrinsic
def _multiply_add(typing: Any, lanes: Any, count: Any) -> Any:
    n = lanes.count

    def code(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        kind = vector_ir(n)
        chains = [
            cgutils.alloca_once_value(builder, ir.Constant(kind, [float(number + 1)] * n)) for number in range(_CHAINS)
        ]
        factor, term = ir.Constant(kind, [0.999] * n), ir.Constant(kind, [0.001] * n)
        with cgutils.for_range(builder, args[1]):
            for chain in chains:
                builder.store(call_ir(builder, "fmuladd", builder.load(chain), factor, term), chain)
        return _total(builder, chains)

    return Vector(n)(lanes, types.intp), code


@intrinsic
def _update(typing: Any, lanes: Any, address: Any, count: Any) -> Any:
    n = lanes.count

    def code(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        kind = vector_ir(n)
        zero, weight = ir.Constant(kind, [0.0] * n), ir.Constant(kind, [0.3] * n)
        plain = [cgutils.alloca_once_value(builder, zero) for _ in range(_UNROLLED)]
        weighted = [cgutils.alloca_once_value(builder, zero) for _ in range(_UNROLLED)]
        with cgutils.for_range(builder, builder.sdiv(args[2], INT64(_UNROLLED))) as loop:
            first = builder.add(args[1], builder.mul(loop.index, INT64(4 * n * _UNROLLED)))
            for i in range(_UNROLLED):
                value = load_ir(builder, builder.add(first, INT64(4 * n * i)), n)
                builder.store(builder.fadd(builder.load(plain[i]), value), plain[i])
                builder.store(call_ir(builder, "fmuladd", value, weight, builder.load(weighted[i])), weighted[i])
        return _total(builder, plain + weighted)

    return Vector(n)(lanes, types.intp, types.intp), code


@kernel
def _run_multiply_add(lanes: Any, count: int) -> Any:
    return lane(_multiply_add(lanes, count), 0)


@kernel
def _run_update(lanes: Any, data: Array, vectors: int, repeats: int) -> Any:
    total = np.float32(0)
    for _ in range(repeats):
        total += lane(_update(lanes, address_of(data), vectors), 0)
    return total


def multiply_add_rate(lanes: int = 16, *, seconds: float = 0.05) -> float:
    """Measure fused multiply-adds on registers, 1e9 per second, on the calling thread.

    Parameters
    ----------
    lanes : int, optional
        Width of a vector: 4, 8 or 16.
    seconds : float, optional
        About how long to measure.

    Returns
    -------
    float
        GFMA/s (a fused multiply-add of one float32 counts once).
    """
    count = 10_000
    _run_multiply_add(LANES[lanes], count)
    while True:
        start = time.perf_counter()
        _run_multiply_add(LANES[lanes], count)
        taken = time.perf_counter() - start
        if taken > seconds:
            return count * _CHAINS * lanes / taken / 1e9
        count = int(count * min(100.0, max(2.0, 1.2 * seconds / max(taken, 1e-9))))


def update_rate(nbytes: int, lanes: int = 16, *, seconds: float = 0.05) -> float:
    """Measure load, addition and fused multiply-add per value, over and over the same data, on the calling thread.

    Parameters
    ----------
    nbytes : int
        Size of the data: below the size of a cache, the rate is that of the cache.
    lanes : int, optional
        Width of a vector: 4, 8 or 16.
    seconds : float, optional
        About how long to measure.

    Returns
    -------
    float
        1e9 values per second.
    """
    vectors = max(_UNROLLED, nbytes // (4 * lanes) // _UNROLLED * _UNROLLED)
    memory = np.ones(vectors * lanes + 16, np.float32)
    data = memory[-memory.ctypes.data % 64 // 4 :]
    repeats = 1
    _run_update(LANES[lanes], data, vectors, repeats)
    while True:
        start = time.perf_counter()
        _run_update(LANES[lanes], data, vectors, repeats)
        taken = time.perf_counter() - start
        if taken > seconds:
            return repeats * vectors * lanes / taken / 1e9
        repeats = int(repeats * min(100.0, max(2.0, 1.2 * seconds / max(taken, 1e-9))))
