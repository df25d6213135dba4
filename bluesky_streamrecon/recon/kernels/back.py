"""Back half of the shear: sheared lines to image, with what becomes of the image in the same pass.

Tiles of 16 columns x 8 rows: steep angles first, along rows, into a small buffer; then flat angles, along columns, on
top of it. The layout of slab and lines is that of `forward`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bluesky_streamrecon.jit import kernel
from bluesky_streamrecon.recon.kernels.blocks import BLOCK, back_set, back_update
from bluesky_streamrecon.recon.kernels.simd import address_of, width
from bluesky_streamrecon.recon.kernels.tables import Tables

__all__ = ["BACK_COLUMNS", "BACK_ROWS", "shear_back"]

Array = np.ndarray[Any, Any]

BACK_COLUMNS = 16
BACK_ROWS = BLOCK
_AHEAD = 2 * BACK_COLUMNS


@kernel
def shear_back(
    lanes: Any,
    rule: Any,
    begin: int,
    end: int,
    tile_first: Array,
    tile_stop: Array,
    tables: Tables,
    lines: Array,
    whole: bool,
    buffer: Array,
    image: Array,
    first: int,
    margin: int,
    gains: Array,
    factor: float,
    least: float,
) -> None:
    """Change image rows `begin` to `end` (multiples of 8) by `rule`, given the back projection of `lines`.

    Parameters
    ----------
    lanes : Lanes
        Vector width W.
    rule : Rule
        What becomes of a pixel.
    begin, end : int
        Rows.
    tile_first, tile_stop : int64 (bands,)
        For each band of 8 rows, the half-open range of tiles of 16 columns that are not empty; others are left.
    tables : Tables
        Of the angles.
    lines : float32 (A, 2, J, W)
        Sheared lines.
    whole : bool
        The back projection is in `buffer`, (L, L, W), already; `lines` are not looked at.
    buffer : float32 (8, 17, W)
        Working memory of this thread; one column more than is used spreads it over the cache's sets.
    image : float32 (rows, Q, W)
        Changed in place.
    first, margin : int
        Row of the image with which `image` begins, after the margin P.
    gains : float32 (L, L)
        Inverse sensitivity, NaN for pixels to leave.
    factor, least : float
        See the rules.
    """
    size = width(lanes)
    angles, steep = tables.back_offsets.shape[1], tables.steep
    source = address_of(lines)
    all_offsets = address_of(tables.back_offsets)
    partial_row = buffer.shape[1] * size
    row = image.shape[1] * size
    pixels = address_of(image) + ((margin - first) * image.shape[1] + margin) * size
    gains_row = gains.shape[1] * 4
    flat = 0 if whole else angles - steep
    for y in range(begin, end, BACK_ROWS):
        for x in range(
            tile_first[y // BACK_ROWS] * BACK_COLUMNS, tile_stop[y // BACK_ROWS] * BACK_COLUMNS, BACK_COLUMNS
        ):
            partial = address_of(buffer) + (y * partial_row + x * size if whole else 0)
            if not whole:
                for i in range(BACK_ROWS):
                    table = (y + i) * angles * 4
                    for part in range(0, BACK_COLUMNS, BLOCK):
                        back_set(
                            lanes,
                            source + (x + part) * size,
                            all_offsets + table,
                            steep,
                            partial + i * partial_row + part * size,
                            pixels + (y + i) * row + (x + part + _AHEAD) * size,
                        )
            for i in range(BACK_COLUMNS):
                table = ((x + i) * angles + steep) * 4
                back_update(
                    lanes,
                    rule,
                    source + y * size,
                    all_offsets + table,
                    flat,
                    partial + i * size,
                    partial_row,
                    pixels + y * row + (x + i) * size,
                    row,
                    address_of(gains) + y * gains_row + (x + i) * 4,
                    gains_row,
                    np.float32(factor),
                    np.float32(least),
                )
