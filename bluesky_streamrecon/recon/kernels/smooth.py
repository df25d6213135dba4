"""Penalised update: each pixel is pulled towards its ten neighbours as they were before the pass.

Rows are updated in place. The row above has been changed by then and the row being changed loses its left
neighbours, so both are kept as they were in two row buffers, used in turn. The slices above and below are
neighbouring lanes; the outermost lanes take theirs from the edges of the neighbouring slabs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bluesky_streamrecon.jit import helper, kernel
from bluesky_streamrecon.recon.kernels.back import BACK_ROWS, shear_back
from bluesky_streamrecon.recon.kernels.simd import (
    absolute,
    address_of,
    broadcast,
    fma,
    lane,
    load,
    maximum,
    select_negative,
    shift_down,
    shift_up,
    sqrt,
    store,
    width,
    zeros,
)
from bluesky_streamrecon.recon.kernels.tables import Tables

__all__ = ["copy_row", "shear_back_smooth"]

Array = np.ndarray[Any, Any]

_NEAR = np.float32(1 / (6 + 4 / math.sqrt(2)))
_DIAGONAL = np.float32(1 / (6 + 4 / math.sqrt(2)) / math.sqrt(2))


@kernel
def copy_row(lanes: Any, image: Array, margin: int, row: int, target: Array) -> None:
    """Copy an image row with one pixel of margin at each end to target (N + 2, W)."""
    size = width(lanes)
    source = address_of(image) + ((margin + row) * image.shape[1] + margin - 1) * size
    place = address_of(target)
    for at in range(0, len(target) * size, size):
        store(place + at, load(lanes, source + at))


@helper
def _two(lanes: Any, centre: Any, first: Any, second: Any, per_edge: Any) -> tuple[Any, Any]:
    """Return sum of g and of g (x + x_j) over two neighbours, with one division for both."""
    one = broadcast(lanes, np.float32(1))
    a = fma(absolute(centre - first), per_edge, one)
    b = fma(absolute(centre - second), per_edge, one)
    inverse = one / (a * b)
    return (a + b) * inverse, (b * (centre + first) + a * (centre + second)) * inverse


@helper
def _root(lanes: Any, penalty: Any, pull: Any, wanted: Any, least: Any) -> Any:
    """Solve 2 penalty v^2 + (1 - pull) v = wanted for v > 0, by whichever form does not cancel."""
    slope = broadcast(lanes, np.float32(1)) - pull
    four = penalty * broadcast(lanes, np.float32(4))
    steep = absolute(slope) + sqrt(fma(slope, slope, (four + four) * wanted))
    above = select_negative(slope, steep, wanted + wanted)
    return maximum(above / select_negative(slope, four, steep), least)


@kernel
def shear_back_smooth(
    lanes: Any,
    gather: Any,
    begin: int,
    end: int,
    tile_first: Array,
    tile_stop: Array,
    tables: Tables,
    lines: Array,
    whole: bool,
    gathered: Array,
    buffer: Array,
    image: Array,
    margin: int,
    chords: Array,
    gains: Array,
    scale: Array,
    hybrid: bool,
    sharpness: Array,
    least: float,
    above: Array,
    below: Array,
    new_first: Array,
    new_last: Array,
    last: int,
    kept: Array,
    bottom: Array,
) -> None:
    """Update image rows `begin` to `end`, given the back projection of the ratios in `lines`.

    Parameters
    ----------
    lanes, begin, end, tile_first, tile_stop, tables, lines, buffer
        As for `shear_back`.
    gather : Rule
        `GATHER`.
    whole : bool
        The back projection is in `gathered`, (L, L, W), already.
    gathered : float32 (8, L, W)
        Working memory of this thread.
    image : float32 (rows, Q, W)
        Slab, changed in place.
    margin : int
        P.
    chords : int64 (N, 2)
        Half-open range of pixels of each row that are reconstructed.
    gains : float32 (L, L)
        Inverse sensitivity; pixels with NaN are left.
    scale : float32 (W,)
        Strength over the slices' typical attenuation.
    hybrid : bool
        Whether the pull stops growing with the difference.
    sharpness : float32 (W,)
        1 over (edge times typical), for the hybrid penalty.
    least : float
        Smallest result, 1/pixel.
    above, below : float32 (N, N)
        Slices next to the slab, before the pass.
    new_first, new_last : float32 (N, N)
        Outermost slices after the pass, written.
    last : int
        Lane of the last slice.
    kept : float32 (2, N + 2, W)
        Old rows, row y at [y % 2]; row `begin` - 1 has to be there.
    bottom : float32 (N + 2, W)
        Old row after this thread's last one.
    """
    size = width(lanes)
    row = image.shape[1] * size
    pixels = address_of(image) + (margin * image.shape[1] + margin) * size
    line = kept.shape[1] * size
    strength = load(lanes, address_of(scale))
    floor = broadcast(lanes, np.float32(least))
    near = broadcast(lanes, _NEAR)
    diagonal = broadcast(lanes, _DIAGONAL)
    per_edge = load(lanes, address_of(sharpness))
    stop = min(end, len(chords))
    for y in range(begin, stop):
        if not whole and y % BACK_ROWS == 0:
            shear_back(
                lanes,
                gather,
                y,
                y + BACK_ROWS,
                tile_first,
                tile_stop,
                tables,
                lines,
                False,
                buffer,
                gathered,
                y,
                0,
                gains,
                0.0,
                0.0,
            )
        spoken_row = address_of(gathered) + (y if whole else y % BACK_ROWS) * gathered.shape[1] * size
        before = address_of(kept) + (y - 1) % 2 * line + size
        here = address_of(kept) + y % 2 * line + size
        copy_row(lanes, image, margin, y, kept[y % 2])
        after = pixels + (y + 1) * row if y + 1 < stop else address_of(bottom) + size
        for x in range(chords[y, 0], chords[y, 1]):
            at = x * size
            centre = load(lanes, here + at)
            new = centre
            gain = gains[y, x]
            if gain > 0:
                left = load(lanes, here + at - size)
                right = load(lanes, here + at + size)
                up = load(lanes, before + at)
                down = load(lanes, after + at)
                up_left = load(lanes, before + at - size)
                up_right = load(lanes, before + at + size)
                down_left = load(lanes, after + at - size)
                down_right = load(lanes, after + at + size)
                over = shift_up(centre, above[y, x])
                under = shift_down(centre, below[y, x], last)
                if not hybrid:
                    corners = (up_left + up_right) + (down_left + down_right)
                    mean = fma(near, (left + right) + (up + down) + (over + under), diagonal * corners)
                    penalty = strength
                    pull = strength * (centre + mean)
                else:
                    g0, h0 = _two(lanes, centre, left, right, per_edge)
                    g1, h1 = _two(lanes, centre, up, down, per_edge)
                    g2, h2 = _two(lanes, centre, over, under, per_edge)
                    g3, h3 = _two(lanes, centre, up_left, down_right, per_edge)
                    g4, h4 = _two(lanes, centre, up_right, down_left, per_edge)
                    penalty = strength * fma(near, g0 + g1 + g2, diagonal * (g3 + g4))
                    pull = strength * fma(near, h0 + h1 + h2, diagonal * (h3 + h4))
                spoken = load(lanes, spoken_row + at)
                wanted = centre * (maximum(spoken, zeros(lanes)) * broadcast(lanes, gain))
                new = _root(lanes, penalty, pull, wanted, floor)
                store(pixels + y * row + at, new)
            new_first[y, x] = lane(new, 0)
            new_last[y, x] = lane(new, last)
