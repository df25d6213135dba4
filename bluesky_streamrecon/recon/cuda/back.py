"""The way back: sheared lines (groups, A, 2, J, 4) to image (groups, N, N, 4), and the update there.

A block works on a tile of `WIDTH` x `HEIGHT` pixels of four slices; each thread holds 8 pixels in registers. The pieces
of sheared lines that the tile needs are brought to shared memory, some angles at a time: those that shift columns
first, then, turned through shared memory, those that shift rows.
"""

from __future__ import annotations

import numpy as np

from bluesky_streamrecon.recon.cuda.sizes import BACK_BLOCKS, BACK_THREADS, CHUNK, HEIGHT, REACH, WIDTH
from bluesky_streamrecon.recon.cuda.toolkit import cuda, device, device_with_cuda, kernel, types
from bluesky_streamrecon.recon.cuda.vector import add4, load4, load4_at, peek, prefetch, select4, store4, zero4

__all__ = ["GATHER", "INCREASE", "MULTIPLY", "TABLE", "back_update", "gathered"]

MULTIPLY, INCREASE, GATHER = 0, 1, 2

TABLE = CHUNK * 64
"""Elements of a block's table of offsets."""

_WARPS = BACK_THREADS // 32
_ROW_LINES = HEIGHT // _WARPS
_PITCH = WIDTH + 1
_LANES = 128  # elements of 32 pixels


@device
def _add_rows(window, table, at, base, sums):
    """Add 4 lines of 64 pixels to a thread's 8 sums."""
    o = load4(table, at)
    a, b, c, d = o[0] + base, o[1] + base, o[2] + base, o[3] + base
    return (
        add4(sums[0], load4_at(window, a)),
        add4(sums[1], load4_at(window, a + 512)),
        add4(sums[2], load4_at(window, b)),
        add4(sums[3], load4_at(window, b + 512)),
        add4(sums[4], load4_at(window, c)),
        add4(sums[5], load4_at(window, c + 512)),
        add4(sums[6], load4_at(window, d)),
        add4(sums[7], load4_at(window, d + 512)),
    )


@device
def _add_columns(window, table, at, base, sums):
    """Add 8 lines of 32 pixels to a thread's 8 sums."""
    o = load4(table, at)
    p = load4(table, at + 4)
    return (
        add4(sums[0], load4_at(window, o[0] + base)),
        add4(sums[1], load4_at(window, o[1] + base)),
        add4(sums[2], load4_at(window, o[2] + base)),
        add4(sums[3], load4_at(window, o[3] + base)),
        add4(sums[4], load4_at(window, p[0] + base)),
        add4(sums[5], load4_at(window, p[1] + base)),
        add4(sums[6], load4_at(window, p[2] + base)),
        add4(sums[7], load4_at(window, p[3] + base)),
    )


@device
def _stage(
    window, lines, table, offsets, starts, warp, lane, first, count, line0, position0, group, band, angles, side,
    length, seen,
) -> None:  # fmt: skip
    """Bring the sheared lines of some angles, as far as the tile needs them, and their table; a warp per line."""
    begin = (group * angles + first) * 2 * length
    line = warp
    while line < count * 2:
        a = first + (line >> 1)
        start = peek(starts, a * (side >> 5) + (line0 >> 5))
        wide = start >> 16
        low, high = peek(seen, 2 * a), peek(seen, 2 * a + 1)
        j = (start & 0xFFFF) + position0 + lane
        at = (begin + line * length + j) * 4
        j1, j2 = j + 32, j + 64
        in0 = low <= j and j < high
        in1 = wide > 32 and low <= j1 and j1 < high
        in2 = wide > 64 and low <= j2 and j2 < high
        v0 = select4(in0, load4(lines, at if in0 else 0))
        v1 = select4(in1, load4(lines, at + _LANES if in1 else 0))
        v2 = select4(in2, load4(lines, at + 2 * _LANES if in2 else 0))
        to = (line * REACH + lane) * 4
        store4(window, to, v0)
        store4(window, to + _LANES, v1)
        store4(window, to + 2 * _LANES, v2)
        if line & 1 == 0:
            table[(line >> 1) * band + lane] = peek(offsets, a * side + line0 + lane)
            if band > 32:
                table[(line >> 1) * band + lane + 32] = peek(offsets, a * side + line0 + lane + 32)
        line += _WARPS


@device_with_cuda
def gathered(window, table, lines, x0, y0, group, angles, steep, side, length, back_offsets, back_starts, seen):
    """Return a thread's 8 pixels of the back projection: rows y0 + 4 warp .. + 3, at x0 + lane and 32 further."""
    thread = cuda.threadIdx.x
    lane, warp = thread & 31, thread >> 5
    zero = zero4()
    sums = (zero, zero, zero, zero, zero, zero, zero, zero)
    first = steep
    while first < angles:
        count = min(CHUNK, angles - first)
        cuda.syncthreads()
        _stage(
            window, lines, table, back_offsets, back_starts, warp, lane, first, count, x0, y0, group, WIDTH, angles,
            side, length, seen,
        )  # fmt: skip
        cuda.syncthreads()
        base, at = lane * 16, warp * 8
        stop = at + count * WIDTH
        while at < stop:
            sums = _add_columns(window, table, at, base, sums)
            base += 2 * REACH * 16
            at += WIDTH
        first += CHUNK
    if steep < angles:
        # A thread has 8 pixels of a row, one row per lane; it goes on with 4 rows of two pixels each.
        cuda.syncthreads()
        at = (lane * _PITCH + warp * 8) * 4
        store4(window, at, sums[0])
        store4(window, at + 4, sums[1])
        store4(window, at + 8, sums[2])
        store4(window, at + 12, sums[3])
        store4(window, at + 16, sums[4])
        store4(window, at + 20, sums[5])
        store4(window, at + 24, sums[6])
        store4(window, at + 28, sums[7])
        cuda.syncthreads()
        at = (warp * _ROW_LINES * _PITCH + lane) * 4
        sums = (
            load4(window, at),
            load4(window, at + _LANES),
            load4(window, at + 4 * _PITCH),
            load4(window, at + 4 * _PITCH + _LANES),
            load4(window, at + 8 * _PITCH),
            load4(window, at + 8 * _PITCH + _LANES),
            load4(window, at + 12 * _PITCH),
            load4(window, at + 12 * _PITCH + _LANES),
        )
    first = 0
    while first < steep:
        count = min(CHUNK, steep - first)
        cuda.syncthreads()
        _stage(
            window, lines, table, back_offsets, back_starts, warp, lane, first, count, y0, x0, group, HEIGHT, angles,
            side, length, seen,
        )  # fmt: skip
        cuda.syncthreads()
        base, at = lane * 16, warp * _ROW_LINES
        stop = at + count * HEIGHT
        while at < stop:
            sums = _add_rows(window, table, at, base, sums)
            base += 2 * REACH * 16
            at += HEIGHT
        first += CHUNK
    return sums


@device
def _changed(rule, old, value, gain, least):
    """Return the new pixel; what would be NaN is left as it was: pixels whose gain is NaN."""
    new = old * (value * gain) if rule == MULTIPLY else old + value * gain
    return max(new, least) if new == new else old  # noqa: PLR0124 - NaN


@device
def _changed4(rule, old, value, gain, least):
    """Return the new pixel in four slices."""
    return (
        _changed(rule, old[0], value[0], gain, least),
        _changed(rule, old[1], value[1], gain, least),
        _changed(rule, old[2], value[2], gain, least),
        _changed(rule, old[3], value[3], gain, least),
    )


@device
def _finish(rule, image, size, x, y, group, one, two, three, four, gains, factor, least) -> None:
    """Change four pixels, given their back projection: two rows of two. Loads go before stores."""
    in0 = x < size and y < size
    in1 = x + 32 < size and y < size
    in2 = x < size and y + 1 < size
    in3 = x + 32 < size and y + 1 < size
    p0 = y * size + x if in0 else 0
    p1 = y * size + x + 32 if in1 else 0
    p2 = (y + 1) * size + x if in2 else 0
    p3 = (y + 1) * size + x + 32 if in3 else 0
    first = group * size * size
    if rule == GATHER:
        if in0:
            store4(image, (first + p0) * 4, one)
        if in1:
            store4(image, (first + p1) * 4, two)
        if in2:
            store4(image, (first + p2) * 4, three)
        if in3:
            store4(image, (first + p3) * 4, four)
    else:
        g0, g1 = factor * peek(gains, p0), factor * peek(gains, p1)
        g2, g3 = factor * peek(gains, p2), factor * peek(gains, p3)
        old0, old1 = load4(image, (first + p0) * 4), load4(image, (first + p1) * 4)
        old2, old3 = load4(image, (first + p2) * 4), load4(image, (first + p3) * 4)
        if in0:
            store4(image, (first + p0) * 4, _changed4(rule, old0, one, g0, least))
        if in1:
            store4(image, (first + p1) * 4, _changed4(rule, old1, two, g1, least))
        if in2:
            store4(image, (first + p2) * 4, _changed4(rule, old2, three, g2, least))
        if in3:
            store4(image, (first + p3) * 4, _changed4(rule, old3, four, g3, least))


@kernel(BACK_THREADS, BACK_BLOCKS)
def back_update(
    rule: int, lines, first_group: int, size: int, tiles, angles: int, steep: int, side: int, length: int,
    back_offsets, back_starts, seen, gains, factor: float, least: float, image,
) -> None:  # fmt: skip
    """Back-project `lines` and change `image` in place. Grid (tiles, groups); shared memory `BACK_BYTES`.

    Parameters
    ----------
    rule : int
        `MULTIPLY`: max(least, x factor gain gathered); `INCREASE`: max(least, x + factor gain gathered); `GATHER`:
        what was gathered replaces the image, which begins with group `first_group`.
    gains : float32 (N, N)
        Inverse sensitivity; pixels where it is NaN are left.
    """
    window = cuda.shared.array(0, types.float32)
    table = cuda.shared.array(TABLE, types.int32)
    thread = cuda.threadIdx.x
    place = peek(tiles, cuda.blockIdx.x)
    group = np.int64(cuda.blockIdx.y)
    x0 = (place & 0xFFF) * WIDTH
    y0 = ((place >> 12) & 0xFFF) * HEIGHT

    if rule != GATHER:  # the old image is asked for now, and needed at the end
        i = thread
        while i < WIDTH * HEIGHT // 8:
            px, py = x0 + i % (WIDTH // 8) * 8, y0 + i // (WIDTH // 8)
            if px < size and py < size:
                prefetch(image, ((group * size + py) * size + px) * 4)
            i += BACK_THREADS

    sums = gathered(
        window, table, lines, x0, y0, group + first_group, angles, steep, side, length, back_offsets, back_starts, seen
    )
    x, y = x0 + (thread & 31), y0 + (thread >> 5) * _ROW_LINES
    gain, floor = np.float32(factor), np.float32(least)
    _finish(rule, image, size, x, y, group, sums[0], sums[1], sums[2], sums[3], gains, gain, floor)
    _finish(rule, image, size, x, y + 2, group, sums[4], sums[5], sums[6], sums[7], gains, gain, floor)
