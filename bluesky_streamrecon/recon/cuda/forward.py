"""The way forward: image (groups, N, N, 4) to sheared lines (groups, A, 2, J, 4), even and odd half shifts apart.

A block brings a square tile of four slices and a halo around it to shared memory once. Lanes of a warp are neighbouring
pixels, and the shift is the same for a whole line, so they read 512 consecutive bytes whatever the angle; columns, for
flat angles, are read across the same tile, whose odd pitch avoids bank conflicts.

The *results* are cut into parts: the 32 results that the middle line of a group of lines brings from 32 pixels belong
to those pixels' tile, and the other lines' share is read from the halo. Parts of neighbouring tiles touch and never
overlap. Groups are as long as the slope lets the halo be. Sums over groups meet in global memory by atomic additions,
whose order is not fixed: the last bits of float32 can differ from run to run.
"""

from __future__ import annotations

import numpy as np

from bluesky_streamrecon.recon.cuda.sizes import FORWARD_BLOCKS, FORWARD_CHUNK, FORWARD_THREADS, HALO, SLOT, TILE
from bluesky_streamrecon.recon.cuda.toolkit import cuda, device, kernel, types
from bluesky_streamrecon.recon.cuda.vector import add4, load4, load4_at, peek, reduce4, select4, store4, zero4

__all__ = ["forward"]

_SPAN = TILE + 2 * HALO
_PITCH = _SPAN + 1
_STRIPS = TILE // 32
_SHIFT = _STRIPS - 1  # items are angles times strips, and there are one or two strips
_SPANS = -(-_SPAN // 32)
_WARPS = FORWARD_THREADS // 32
_ENTRY = TILE + 8
_TABLE = _SPAN * _PITCH * 4
_COUNT, _LOW, _HIGH = TILE + 4, TILE + 5, TILE + 6


@device
def _add_lines(pixels, table, entry, base, total):
    """Add the pixels of four lines."""
    o = load4(table, entry)
    one = add4(load4_at(pixels, o[0] + base), load4_at(pixels, o[1] + base))
    two = add4(load4_at(pixels, o[2] + base), load4_at(pixels, o[3] + base))
    return add4(total, add4(one, two))


@kernel(FORWARD_THREADS, FORWARD_BLOCKS)
def forward(
    image, size: int, tiles, angles: int, steep: int, side: int, origin: int, length: int, heights, offsets, evens,
    middles, halves, seen, lines,
) -> None:  # fmt: skip
    """Add the image's projection to `lines`. Grid (tiles, groups of slices); shared memory `FORWARD_BYTES`.

    Tables are those of `tables`; a tile is x | y << 12 | edges << 24, in tiles, where edges tell on which sides (left,
    right, above, below) it has no neighbour.
    """
    pixels = cuda.shared.array(0, types.float32)
    table = cuda.shared.array(0, types.int32)
    thread = cuda.threadIdx.x
    lane, warp = thread & 31, thread >> 5
    place = peek(tiles, cuda.blockIdx.x)
    group = np.int64(cuda.blockIdx.y)
    x0 = (place & 0xFFF) * TILE
    y0 = ((place >> 12) & 0xFFF) * TILE
    edges = place >> 24

    # The tile and its halo, a warp per row; what is outside the image is zero. Loads go before stores.
    x = x0 - HALO + lane
    in0, in1, in2 = x >= 0 and x < size, x + 32 >= 0 and x + 32 < size, x + 64 >= 0 and x + 64 < size
    c0, c1, c2 = max(0, min(x, size - 1)), max(0, min(x + 32, size - 1)), max(0, min(x + 64, size - 1))
    row = warp
    while row < _SPAN:
        y = y0 - HALO + row
        known = y >= 0 and y < size
        begin = (group * size + max(0, min(y, size - 1))) * size
        v0 = load4(image, (begin + c0) * 4)
        v1 = load4(image, (begin + c1) * 4)
        if _SPANS > 2:
            v2 = load4(image, (begin + c2) * 4)
        to = (row * _PITCH + lane) * 4
        store4(pixels, to, select4(known and in0, v0))
        if _SPAN >= 64 or lane < _SPAN - 32:
            store4(pixels, to + 128, select4(known and in1, v1))
        if _SPANS > 2:
            if _SPAN >= 96 or lane < _SPAN - 64:
                store4(pixels, to + 256, select4(known and in2, v2))
        row += _WARPS

    first = 0
    while first < angles:
        some = min(FORWARD_CHUNK, angles - first)
        if first > 0:
            cuda.syncthreads()
        i = warp
        while i < some:
            a = first + i
            line = y0 if a < steep else x0
            to = _TABLE + i * _ENTRY + lane
            table[to] = peek(offsets, a * side + line + lane)
            if TILE == 64:
                table[to + 32] = peek(offsets, a * side + line + lane + 32)
            if lane < TILE // SLOT:
                slot = a * (side // SLOT) + line // SLOT + lane
                table[to + TILE] = peek(evens, slot) | (peek(middles, slot) << 8)
            if lane == 4:
                table[to + TILE] = peek(heights, a)
            if lane == 5 or lane == 6:  # noqa: PLR1714
                table[to + TILE] = peek(seen, 2 * a + lane - 5)
            i += _WARPS
        cuda.syncthreads()

        item = warp
        while item < some * _STRIPS:
            i = item >> _SHIFT
            a = first + i
            along = (item & _SHIFT) * 32 + lane
            rows = a < steep
            base = (along if rows else along * _PITCH) * 16
            position = (x0 if rows else y0) + along
            result = (group * angles + a) * 2 * length
            entry = _TABLE + i * _ENTRY
            fact_at = entry + TILE
            count, low, high = peek(table, entry + _COUNT), peek(table, entry + _LOW), peek(table, entry + _HIGH)
            stop = entry + TILE
            while entry < stop:
                fact = peek(table, fact_at)
                fact_at += count >> 4
                even = fact & 0xFF
                j = position + (fact >> 8)
                group_stop = entry + count
                switch = entry + even - 3
                total = zero4()
                while entry < switch:
                    total = _add_lines(pixels, table, entry, base, total)
                    entry += 4
                early = total
                total = zero4()
                if even & 3:  # the four lines in which even ones end and odd ones begin
                    o = load4(table, entry)
                    v1, v2 = load4_at(pixels, o[1] + base), load4_at(pixels, o[2] + base)
                    early = add4(early, load4_at(pixels, o[0] + base))
                    total = load4_at(pixels, o[3] + base)
                    if even & 2:
                        early = add4(early, v1)
                    else:
                        total = add4(total, v1)
                    if even & 3 == 3:
                        early = add4(early, v2)
                    else:
                        total = add4(total, v2)
                    entry += 4
                while entry < group_stop:
                    total = _add_lines(pixels, table, entry, base, total)
                    entry += 4
                if low <= j and j < high:
                    if even > 0:
                        reduce4(lines, (result + j) * 4, early)
                    if even < count:
                        reduce4(lines, (result + length + j) * 4, total)
            item += _WARPS
        first += FORWARD_CHUNK

    # What lines of a group bring beyond the first or last tile, where no neighbour takes it.
    if edges != 0:
        item = warp
        while item < angles * _STRIPS * 2:
            far = item & 1
            part = (item >> 1) & _SHIFT
            a = item >> _STRIPS
            rows = a < steep
            line = (y0 if rows else x0) + part * 32 + lane
            if ((edges >> (far if rows else 2 + far)) & 1) == 1 and line < size:
                h = peek(halves, a * side + line)
                shift = (h >> 1) + origin
                moved = shift - peek(middles, a * (side >> 4) + (line >> 4))
                across = part * 32 + lane + HALO
                for i in range(HALO):
                    pixel = TILE - 1 - i if far == 1 else i
                    beyond = pixel + moved >= TILE if far == 1 else pixel + moved < 0
                    position = (x0 if rows else y0) + pixel
                    j = position + shift
                    if beyond and position < size and peek(seen, 2 * a) <= j and j < peek(seen, 2 * a + 1):
                        spot = across * _PITCH + pixel + HALO if rows else (pixel + HALO) * _PITCH + across
                        at = ((group * angles + a) * 2 + (h & 1)) * length + j
                        reduce4(lines, at * 4, load4(pixels, spot * 4))
            item += _WARPS
