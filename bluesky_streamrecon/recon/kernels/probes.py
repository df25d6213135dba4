"""What this core can do: a yardstick that a benchmark runs beside the kernels. Rates are 1e9 per second and thread."""

# ruff: noqa: ARG001  (Numba calls an intrinsic with its arguments' types, and its code with fixed arguments)

from __future__ import annotations

import time
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bluesky_streamrecon.jit import kernel
from bluesky_streamrecon.recon.kernels.simd import LANES, Vector, call_ir, lane, vector_ir

__all__ = ["multiply_add_rate"]

_CHAINS = 16


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


@kernel
def _run_multiply_add(lanes: Any, count: int) -> Any:
    return lane(_multiply_add(lanes, count), 0)


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
