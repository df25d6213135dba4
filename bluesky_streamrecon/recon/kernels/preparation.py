"""From counts to line integrals, where every pixel measured something: a row at a time, while it is in the cache.

A transmission is 2^e m, with m from sqrt(1/2) to sqrt(2), and log m = 2 atanh(s) with s = (m - 1) / (m + 1), of which
the first five terms are exact to 1e-9. The result is within one unit in the last place of the float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel, loops

__all__ = ["correct", "minus_log"]

Array = np.ndarray[Any, Any]

_BITS = np.int32(23)
_ROOT = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))
_HIGH = np.float32(0.693359375)  # log 2 in two parts, the first short: times an exponent it is exact
_LOW = np.float32(math.log(2) - 0.693359375)
_C3, _C5, _C7, _C9 = (np.float32(2 / power) for power in (3, 5, 7, 9))
_ONE = np.float32(1)
_INFINITY = np.int32(np.float32(np.inf).view(np.int32))


@kernel
def minus_log(values: Array, least: np.float32) -> None:
    """Replace transmissions, (rows, columns), float32 and finite, by -log(max(value, least)); `least` is above 0."""
    rows, columns = values.shape
    # Each loop reads and writes different arrays, or the compiler does not make vectors of it.
    clipped, split = np.empty(columns, np.float32), np.empty(columns, np.int32)
    bits, mantissas = clipped.view(np.int32), split.view(np.float32)
    exponents = np.empty(columns, np.float32)
    for row in range(rows):
        line = values[row]
        for x in range(columns):
            clipped[x] = max(line[x], least)
        for x in range(columns):
            exponent = np.int32(bits[x] - _ROOT) >> _BITS
            exponents[x] = np.float32(exponent)
            split[x] = np.int32(bits[x] - np.int32(exponent << _BITS))
        for x in range(columns):
            above = mantissas[x] - _ONE
            s = above / (mantissas[x] + _ONE)
            square = s * s
            terms = ((_C9 * square + _C7) * square + _C5) * square + _C3
            log_mantissa = above - s * (above - square * terms)
            line[x] = -(exponents[x] * _HIGH + (log_mantissa + exponents[x] * _LOW))


@loops
def _total(line: Array) -> np.float32:
    total: Any = np.float32(0)
    for x in range(len(line)):
        total += line[x]
    return total  # type: ignore[no-any-return]


@kernel
def correct(values: Array, dark: Array, scale: Array, dead: Array, light: Array) -> int:
    """Turn counts, (rows, columns), float32, into transmissions, in place, 1 where `dead`.

    The sum of each row goes into `light`, (rows,); it means nothing where there is a NaN. Returned is how many
    transmissions are not positive, or not finite.
    """
    rows, columns = values.shape
    bad = 0
    for row in range(rows):
        line, below, by, out = values[row], dark[row], scale[row], dead[row]
        for x in range(columns):
            share = (line[x] - below[x]) * by[x]
            line[x] = _ONE if out[x] else share
        # As integers, positive numbers lie between zero and infinity, and nothing else does.
        bits = line.view(np.int32)
        found: Any = np.int32(0)
        for x in range(columns):
            found += np.int32(bits[x] <= 0) | np.int32(bits[x] >= _INFINITY)
        bad += found
        light[row] = _total(line)
    return bad
