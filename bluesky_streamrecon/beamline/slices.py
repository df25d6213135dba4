"""What viewers wish to see of a run, as cuts: its slices, the whole of it coarsely, and its projections so far.

Lengths are voxels or detector pixels, angles radians.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.cuts import MOST_CUT_PIXELS, MOST_CUTS, Cut, Space
from bluesky_streamrecon.wire import RunStatus

__all__ = ["coarse_volume", "grey_range", "measured", "preview_slices", "slice_of", "spread"]

Volume = tuple[int, int, int]
"""Rows, height and width."""

FINER: Final = 1.01
"""Steps in which voxels are made larger until there are few enough."""
MOST_DIRECTIONS: Final = 360
"""That a sinogram tells apart."""
GREY_PERCENTILES: Final = (0.5, 99.8)
"""Of the values that are black and white: a few hot pixels must not darken the rest."""


def coarse_volume(volume: Volume, most: int = MOST_CUT_PIXELS) -> Cut:
    """Return the whole of a volume as one box of at most `most` voxels.

    Examples
    --------
    >>> coarse_volume((512, 512, 512), 10**6).size
    (100, 100, 100)
    """
    coarser, numbers = 1.0, list(volume)
    while math.prod(numbers) > most:  # a volume of few rows has no fewer
        coarser *= FINER
        numbers = [max(1, int(length / coarser)) for length in volume]
    (layers, height, width), (rows, down, across) = numbers, volume
    return Cut(
        corner=(-0.5, -0.5, -0.5),
        through=(rows, 0, 0),
        down=(0, down, 0),
        across=(0, 0, across),
        layers=layers,
        shape=(height, width),
    )


def slice_of(row: int, volume: Volume, most: int = MOST_CUT_PIXELS) -> Cut:
    """Return the slice of a detector row in at most `most` pixels.

    Examples
    --------
    >>> slice_of(7, (16, 2048, 2048), 10**6).shape
    (1000, 1000)
    """
    _, height, width = volume
    shape = coarse_volume((1, height, width), most).shape
    return Cut(corner=(row, -0.5, -0.5), down=(0, height, 0), across=(0, 0, width), shape=shape)


def preview_slices(status: RunStatus, volume: Volume) -> list[Cut]:
    """Return the slices that the score is taken from, or some of them, spread evenly, where there are too many."""
    rows = [row for row in status.preview_rows if row < volume[0]] or [volume[0] // 2]
    rows = spread(rows, MOST_CUTS)
    return [slice_of(row, volume, MOST_CUT_PIXELS // len(rows)) for row in rows]


def measured(space: Space, status: RunStatus, row: int = 0) -> Cut:
    """Return the sinogram so far of a detector row, or the newest projection.

    A sinogram has a pixel for each direction that is planned; the first is around the beginning of the scan.
    """
    rows, columns = status.detector_shape
    if space != "sinogram":
        shape = coarse_volume((1, rows, columns)).shape
        return Cut(space=space, corner=(-0.5, 0, -0.5), down=(rows, 0, 0), across=(0, 0, columns), shape=shape)
    over = AngularRange(*status.angles)
    planned = round(status.total * over.span / (over.stop - over.start))
    number = min(MOST_DIRECTIONS, planned or MOST_DIRECTIONS)
    shape = (number, min(columns, MOST_CUT_PIXELS // number))
    corner, down = (row, over.start - over.span / number / 2, -0.5), (0, over.span, 0)
    return Cut(space=space, corner=corner, down=down, across=(0, 0, columns), shape=shape)


def spread(rows: list[int], most: int) -> list[int]:
    """Return at most so many of some rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def grey_range(image: NDArray[np.float32]) -> tuple[float, float]:
    """Return the range of a grey scale, without a few extreme pixels and what is not finite."""
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, GREY_PERCENTILES) if finite.size else (0.0, 0.0)
    return float(low), float(high if high > low else low + 1)
