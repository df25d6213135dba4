"""Forward half of the shear: image to sheared lines.

The image slab is (rows, Q, W): pixel (y, x) is at [P + y, P + x] of it seen as vectors, rows Q vectors apart, zeros
around. Sheared lines are (A, 2, J, W), even and odd ones, coordinate j at [j + origin].

Tiles of 32 x 32 pixels stay in the first- and second-level cache while all angles go by. In each tile, groups of 16
lines are shifted together: a block takes the 8 results that the group's middle line would bring from
8 of the tile's pixels, so the blocks of neighbouring tiles partition the results exactly, and only the first and
the last tile of a line reach beyond.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel
from bluesky_streamrecon.recon.kernels.blocks import BLOCK, forward_add
from bluesky_streamrecon.recon.kernels.simd import address_of, prefetch, store, width, zeros
from bluesky_streamrecon.recon.kernels.tables import Tables

__all__ = ["GROUP", "OVERHANG", "TILE", "shear_forward"]

Array = np.ndarray[Any, Any]

TILE = 32
GROUP = 16
OVERHANG = GROUP // 2 + BLOCK
"""Results beyond the first and last tile: lines of a group are shifted by at most GROUP / 2 against the middle."""


@kernel
def shear_forward(
    lanes: Any,
    image: Array,
    margin: int,
    tile_first: Array,
    tile_stop: Array,
    ranges: Array,
    tables: Tables,
    lines: Array,
) -> None:
    """Overwrite `lines` of some angles by the sheared image.

    Parameters
    ----------
    lanes : Lanes
        Vector width W.
    image : float32 (rows, Q, W)
        Slab.
    margin : int
        P.
    tile_first, tile_stop : int64 (tiles,)
        For each row of tiles, the half-open range of tiles that are not empty.
    ranges : int64 (4,)
        Half-open ranges of steep angles, which shift rows, and of flat ones, which shift columns.
    tables : Tables
        Of the angles.
    lines : float32 (A, 2, J, W)
        Result; what is outside `tables.seen` has no meaning.
    """
    size = width(lanes)
    stride = image.shape[1]
    length = lines.shape[2]
    middle, seen, origin = tables.middle, tables.seen, tables.origin
    count = tables.offsets.shape[1]
    pixels = address_of(image) + (margin * stride + margin) * size
    results = address_of(lines)
    all_offsets = address_of(tables.offsets)
    all_odd = address_of(tables.odd)
    for part in range(2):
        for a in range(ranges[2 * part], ranges[2 * part + 1]):
            for late in range(2):
                line_start = results + (2 * a + late) * length * size
                for place in range(line_start + seen[a, 0] * size, line_start + seen[a, 1] * size, size):
                    store(place, zeros(lanes))
    angles = ranges[1] - ranges[0] + ranges[3] - ranges[2]
    if angles == 0:
        return
    blocks = angles * (TILE // GROUP) * (TILE // BLOCK)
    share = (TILE * TILE * size // 64 + blocks - 1) // blocks
    tile_lines = TILE * size // 64
    tiles = len(tile_first)
    for ty in range(tiles):
        for tx in range(tile_first[ty], tile_stop[ty]):
            if tx + 1 < tile_stop[ty]:
                ahead = pixels + (ty * stride + tx + 1) * TILE * size
            elif ty + 1 < tiles:
                ahead = pixels + ((ty + 1) * stride + tile_first[ty + 1]) * TILE * size
            else:
                ahead = pixels
            fetched = 0
            for part in range(2):
                if part == 0:
                    step, line0, pixel0 = size, ty * TILE, tx * TILE
                    first, last = tx == tile_first[ty], tx == tile_stop[ty] - 1
                else:
                    step, line0, pixel0 = stride * size, tx * TILE, ty * TILE
                    first, last = ty == tile_first[tx], ty == tile_stop[tx] - 1
                begin = -OVERHANG if first else 0
                end = TILE + OVERHANG if last else TILE
                for line in range(line0, line0 + TILE, GROUP):
                    for pixel in range(pixel0 + begin, pixel0 + end, BLOCK):
                        for a in range(ranges[2 * part], ranges[2 * part + 1]):
                            for _ in range(share):
                                prefetch(ahead + (fetched // tile_lines * stride * size + fetched % tile_lines * 64))
                                fetched += 1
                            if fetched >= TILE * tile_lines:
                                fetched = 0
                            at = pixel + middle[a, line // GROUP]
                            if at + origin + BLOCK < seen[a, 0] or at + origin >= seen[a, 1]:
                                continue
                            table = (a * count + line) * 4
                            forward_add(
                                lanes,
                                pixels + at * step,
                                all_offsets + table,
                                all_odd + table,
                                GROUP,
                                step,
                                results + (2 * a * length + at + origin) * size,
                                length * size,
                            )
