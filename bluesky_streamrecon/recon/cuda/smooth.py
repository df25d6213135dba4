"""The way back with a penalty: each pixel is pulled towards its ten neighbours as they were before the pass.

Neighbours in other tiles may be changed at any time, so the old image is read and the new one written elsewhere.
Neighbours beyond the image are zero; slices beyond the first and the last are those of the neighbouring blocks of rows,
or the outermost slice itself.
"""

from __future__ import annotations

import math

import numpy as np

from bluesky_streamrecon.recon.cuda.back import TABLE, gathered
from bluesky_streamrecon.recon.cuda.sizes import BACK_BLOCKS, BACK_THREADS, HEIGHT, SMOOTH_BLOCKS, WIDTH
from bluesky_streamrecon.recon.cuda.toolkit import cuda, device, device_with_cuda, kernel, types
from bluesky_streamrecon.recon.cuda.vector import add4, load4, peek, select4, store4

__all__ = ["back_hybrid", "back_quadratic"]

_NEAR = np.float32(1 / (6 + 4 / math.sqrt(2)))
_DIAGONAL = np.float32(1 / (6 + 4 / math.sqrt(2)) / math.sqrt(2))
_ROW_LINES = HEIGHT // (BACK_THREADS // 32)


@device
def _root(penalty, pull, wanted, least):
    """Solve 2 penalty v^2 + (1 - pull) v = wanted for v > 0, by whichever form does not cancel."""
    zero = np.float32(0)
    slope = np.float32(1) - pull
    four = np.float32(4) * penalty
    steep = abs(slope) + np.float32(math.sqrt(slope * slope + (four + four) * wanted))
    above = steep if slope < zero else wanted + wanted
    return max(above / (four if slope < zero else steep), least)


@device
def _quadratic(centre, beside, corners, over, under, spoken, gain, strength, least):
    """Return the new pixel: the pull always grows with the difference."""
    mean = _NEAR * (beside + (over + under)) + _DIAGONAL * corners
    return _root(strength, strength * (centre + mean), centre * (max(spoken, np.float32(0)) * gain), least)


@device
def _pair(centre, first, second, per_edge):
    """Return the sums of g and of g (x + x_j) over two neighbours, with one division for both."""
    a = abs(centre - first) * per_edge + np.float32(1)
    b = abs(centre - second) * per_edge + np.float32(1)
    inverse = np.float32(1) / (a * b)
    return (a + b) * inverse, (b * (centre + first) + a * (centre + second)) * inverse


@device
def _hybrid(
    centre, left, right, up, down, over, under, up_left, down_right, up_right, down_left, spoken, gain, strength,
    per_edge, least,
):  # fmt: skip
    """Return the new pixel: beyond the edge the pull no longer grows."""
    g0, h0 = _pair(centre, left, right, per_edge)
    g1, h1 = _pair(centre, up, down, per_edge)
    g2, h2 = _pair(centre, over, under, per_edge)
    g3, h3 = _pair(centre, up_left, down_right, per_edge)
    g4, h4 = _pair(centre, up_right, down_left, per_edge)
    penalty = strength * (_NEAR * (g0 + g1 + g2) + _DIAGONAL * (g3 + g4))
    pull = strength * (_NEAR * (h0 + h1 + h2) + _DIAGONAL * (h3 + h4))
    return _root(penalty, pull, centre * (max(spoken, np.float32(0)) * gain), least)


@device
def _pixel(image, group, size, x, y):
    """Return pixel (y, x) of four slices; zero outside the image."""
    known = y >= 0 and y < size and x >= 0 and x < size
    at = (group * size + max(0, min(y, size - 1))) * size + max(0, min(x, size - 1))
    return select4(known, load4(image, at * 4))


@device
def _row(image, group, size, x, y):
    """Return pixel (y, x), and the sum of its neighbours left and right; zero outside the image."""
    known = y >= 0 and y < size
    begin = (group * size + max(0, min(y, size - 1))) * size + x
    centre = select4(known, load4(image, begin * 4))
    left = select4(known and x > 0, load4(image, (begin - (1 if x > 0 else 0)) * 4))
    right = select4(known and x < size - 1, load4(image, (begin + (1 if x < size - 1 else 0)) * 4))
    return centre, add4(left, right)


@device
def _beyond(image, at, area, pixel, z, last, centre, edges, above, below):
    """Return the neighbours along the axis of four slices from number z on, of which `last` is the block's last.

    Bit 0 of `edges`: slice `above` is known, bit 1: `below`.
    """
    over = peek(image, at - area + 3 if z > 0 else at)
    if z == 0 and edges & 1:
        over = peek(above, pixel)
    after = peek(image, at + area if z + 3 < last else at + 3)
    u0 = centre[1] if z < last else centre[0]
    u1 = centre[2] if z + 1 < last else centre[1]
    u2 = centre[3] if z + 2 < last else centre[2]
    u3 = after
    if z + 3 >= last and edges & 2:
        end = peek(below, pixel)
        u0 = end if z == last else u0
        u1 = end if z + 1 == last else u1
        u2 = end if z + 2 == last else u2
        u3 = end if z + 3 == last else u3
    return over, (u0, u1, u2, u3)


@device_with_cuda
def _kept(window, table, lines, tiles, angles, steep, side, length, back_offsets, back_starts, seen):
    """Return where the block's tile begins, and its group; its back projection is kept in shared memory.

    The code of eight updates would be long, so a loop reads a thread's 8 sums from there.
    """
    place = peek(tiles, cuda.blockIdx.y)
    group = np.int64(cuda.blockIdx.x)
    x0 = (place & 0xFFF) * WIDTH
    y0 = ((place >> 12) & 0xFFF) * HEIGHT
    sums = gathered(window, table, lines, x0, y0, group, angles, steep, side, length, back_offsets, back_starts, seen)
    cuda.syncthreads()
    own = cuda.threadIdx.x * 4
    store4(window, own, sums[0])
    store4(window, own + 4 * BACK_THREADS, sums[1])
    store4(window, own + 8 * BACK_THREADS, sums[2])
    store4(window, own + 12 * BACK_THREADS, sums[3])
    store4(window, own + 16 * BACK_THREADS, sums[4])
    store4(window, own + 20 * BACK_THREADS, sums[5])
    store4(window, own + 24 * BACK_THREADS, sums[6])
    store4(window, own + 28 * BACK_THREADS, sums[7])
    return x0, y0, group


@kernel(BACK_THREADS, SMOOTH_BLOCKS)
def back_quadratic(
    lines, size: int, tiles, angles: int, steep: int, side: int, length: int, back_offsets, back_starts, seen, gains,
    least: float, image, last: int, scale, edges: int, above, below, target,
) -> None:  # fmt: skip
    """Back-project `lines`, and write the penalised update of `image` to `target`; the penalty is quadratic.

    Grid (groups, tiles); shared memory `BACK_BYTES`.

    Parameters
    ----------
    last : int
        Number of the last slice.
    scale : float32 (4 groups,)
        Strength over the slices' typical attenuation.
    edges : int
        Bit 0: `above` is the slice before the first, (N, N); bit 1: `below` is that after the last.
    """
    window = cuda.shared.array(0, types.float32)
    table = cuda.shared.array(TABLE, types.int32)
    thread = cuda.threadIdx.x
    x0, y0, group = _kept(window, table, lines, tiles, angles, steep, side, length, back_offsets, back_starts, seen)
    floor = np.float32(least)
    area = np.int64(4) * size * size
    s = load4(scale, group * 4)
    z = group * 4
    y = y0 + (thread >> 5) * _ROW_LINES
    for strip in range(WIDTH // 32):
        x = x0 + (thread & 31) + 32 * strip
        if x < size:
            c0, h0 = _row(image, group, size, x, y - 1)
            c1, h1 = _row(image, group, size, x, y)
            for i in range(_ROW_LINES):
                c2, h2 = _row(image, group, size, x, y + i + 1)
                if y + i < size:
                    pixel = (y + i) * size + x
                    at = group * area + pixel * 4
                    v = load4(window, thread * 4 + 4 * BACK_THREADS * (i * (WIDTH // 32) + strip))
                    gain = peek(gains, pixel)
                    over, under = _beyond(image, at, area, pixel, z, last, c1, edges, above, below)
                    b, d = add4(h1, add4(c0, c2)), add4(h0, h2)
                    if gain > np.float32(0):
                        store4(
                            target,
                            at,
                            (
                                _quadratic(c1[0], b[0], d[0], over, under[0], v[0], gain, s[0], floor),
                                _quadratic(c1[1], b[1], d[1], c1[0], under[1], v[1], gain, s[1], floor),
                                _quadratic(c1[2], b[2], d[2], c1[1], under[2], v[2], gain, s[2], floor),
                                _quadratic(c1[3], b[3], d[3], c1[2], under[3], v[3], gain, s[3], floor),
                            ),
                        )
                    else:
                        store4(target, at, c1)
                c0, h0, c1, h1 = c1, h1, c2, h2


@kernel(BACK_THREADS, BACK_BLOCKS)
def back_hybrid(
    lines, size: int, tiles, angles: int, steep: int, side: int, length: int, back_offsets, back_starts, seen, gains,
    least: float, image, last: int, scale, sharpness, edges: int, above, below, target,
) -> None:  # fmt: skip
    """Do as `back_quadratic`, with a penalty that grows linearly beyond an edge.

    Parameters
    ----------
    sharpness : float32 (4 groups,)
        1 over (edge times typical attenuation).
    """
    window = cuda.shared.array(0, types.float32)
    table = cuda.shared.array(TABLE, types.int32)
    thread = cuda.threadIdx.x
    x0, y0, group = _kept(window, table, lines, tiles, angles, steep, side, length, back_offsets, back_starts, seen)
    floor = np.float32(least)
    area = np.int64(4) * size * size
    s = load4(scale, group * 4)
    e = load4(sharpness, group * 4)
    z = group * 4
    y = y0 + (thread >> 5) * _ROW_LINES
    for item in range(8):
        x = x0 + (thread & 31) + 32 * (item % (WIDTH // 32))
        row = y + item // (WIDTH // 32)
        if x < size and row < size:
            pixel = row * size + x
            at = group * area + pixel * 4
            gain = peek(gains, pixel)
            p = load4(image, at)
            if gain > np.float32(0):
                v = load4(window, thread * 4 + 4 * BACK_THREADS * item)
                over, u = _beyond(image, at, area, pixel, z, last, p, edges, above, below)
                l4, r4 = _pixel(image, group, size, x - 1, row), _pixel(image, group, size, x + 1, row)
                a4, b4 = _pixel(image, group, size, x, row - 1), _pixel(image, group, size, x, row + 1)
                al, ar = _pixel(image, group, size, x - 1, row - 1), _pixel(image, group, size, x + 1, row - 1)
                bl, br = _pixel(image, group, size, x - 1, row + 1), _pixel(image, group, size, x + 1, row + 1)
                store4(
                    target,
                    at,
                    (
                        _hybrid(p[0], l4[0], r4[0], a4[0], b4[0], over, u[0], al[0], br[0], ar[0], bl[0], v[0], gain,
                                s[0], e[0], floor),
                        _hybrid(p[1], l4[1], r4[1], a4[1], b4[1], p[0], u[1], al[1], br[1], ar[1], bl[1], v[1], gain,
                                s[1], e[1], floor),
                        _hybrid(p[2], l4[2], r4[2], a4[2], b4[2], p[1], u[2], al[2], br[2], ar[2], bl[2], v[2], gain,
                                s[2], e[2], floor),
                        _hybrid(p[3], l4[3], r4[3], a4[3], b4[3], p[2], u[3], al[3], br[3], ar[3], bl[3], v[3], gain,
                                s[3], e[3], floor),
                    ),
                )  # fmt: skip
            else:
                store4(target, at, p)
