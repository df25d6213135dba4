"""Cuts: rectangles and boxes anywhere in a volume, or among the projections that it is made of; and their values.

Places in the volume are (row, y, x) in voxels: detector row, and row and column of its slice; voxel centres are whole
numbers. Places among the projections are (row, angle, column): detector row and column, and radians. In the volume a
point's value is interpolated between the eight voxels around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

__all__ = [
    "MAXIMUM_SIDE",
    "MOST_CUTS",
    "MOST_CUT_PIXELS",
    "Cut",
    "Side",
    "Space",
    "cut_volume",
    "interpolated",
    "points_of",
]

MOST_CUTS: Final = 4
"""Cuts of one wish: a row, two vertical ones, and an oblique one."""
MOST_CUT_PIXELS: Final = 3 * 2**18
"""Pixels of all of them together."""
MAXIMUM_SIDE: Final = 65_536
"""Pixels along the longest side of a cut, an image or a detector."""

Side = Annotated[int, Meta(ge=1, le=MAXIMUM_SIDE)]
Coordinate = Annotated[float, Meta(ge=-1e6, le=1e6)]
Vector = tuple[Coordinate, Coordinate, Coordinate]
Space = Literal["volume", "sinogram", "projection", "raw", "residual"]


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """A rectangle anywhere in the volume, along a row, upright or oblique; or a box of parallel ones.

    It may also lie among the projections. Values there are not interpolated: they are those of the nearest row and
    column, and NaN where nothing was measured.

    Parameters
    ----------
    corner : (float, float, float)
        Where it begins, at the outer corner of its first pixel.
    down, across : (float, float, float)
        Its two edges, from there.
    shape : (int, int)
        Pixels along `down`, and along `across`.
    through : (float, float, float)
        Third edge, of a box.
    layers : int
        Rectangles in a box, in the middle of as many equal parts of `through`.
    space : {"volume", "sinogram", "projection", "raw", "residual"}
        What is cut. ``"sinogram"``: line integrals of all projections so far, of several in one pixel the newest, or
        those of the nearest angle if the cut is of one angle. The others are the newest projection in the image, and
        their angle means nothing: its line integrals, its frame as it came, and its line integrals less those of the
        image before it. The last two are kept only after somebody has wished for them, so a first answer may be NaN.

    Examples
    --------
    Row 5 of slices of 64 x 64 voxels, voxel by voxel:

    >>> cut = Cut(corner=(5, -0.5, -0.5), down=(0, 64, 0), across=(0, 0, 64), shape=(64, 64))
    >>> cut.points()[1, 2].tolist()
    [5.0, 1.0, 2.0]

    The whole of 8 such slices, coarsely:

    >>> edges = {"through": (8, 0, 0), "down": (0, 64, 0), "across": (0, 0, 64)}
    >>> box = Cut(corner=(-0.5, -0.5, -0.5), layers=2, shape=(16, 16), **edges)
    >>> box.points()[:, 0, 0].tolist()
    [[1.5, 1.5, 1.5], [5.5, 1.5, 1.5]]
    """

    corner: Vector
    down: Vector
    across: Vector
    shape: tuple[Side, Side]
    through: Vector = (0, 0, 0)
    layers: Side = 1
    space: Space = "volume"

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of its values: (height, width), or (layers, height, width) of a box."""
        return self.shape if self.layers == 1 else (self.layers, *self.shape)

    @property
    def pixels(self) -> int:
        """Number of its pixels."""
        return math.prod(self.size)

    def points(self) -> NDArray[np.float64]:
        """Return the centres of its pixels, (row, y, x), in the last axis after those of `size`."""
        through, down, across = (
            np.multiply.outer((np.arange(number) + 0.5) / number, np.asarray(edge, np.float64))
            for number, edge in zip((self.layers, *self.shape), (self.through, self.down, self.across), strict=True)
        )
        points = np.asarray(self.corner, np.float64) + through[:, None, None] + down[:, None] + across
        return points.reshape(*self.size, 3)


def cut_volume(
    volume: NDArray[np.float32], cuts: Sequence[Cut], whole: tuple[int, ...] | None = None
) -> list[NDArray[np.float32]]:
    """Return cuts of a volume, each of its `Cut.size`; NaN outside.

    Parameters
    ----------
    volume : ndarray of float32, shape (rows, height, width)
        All of it.
    cuts : sequence of Cut
        Where to cut.
    whole : (int, int, int), optional
        Rows, height and width of the volume that the cuts are of, if this one stands for it with fewer voxels.
    """
    whole = whole or volume.shape
    found = []
    for cut in cuts:
        points, inside = points_of([cut], whole)
        places = (points[inside] + 0.5) * volume.shape / np.array(whole) - 0.5
        values = np.full(cut.pixels, np.nan, np.float32)
        at = np.clip(places, 0, np.array(volume.shape) - 1)
        values[inside] = interpolated(at, len(volume), volume.__getitem__)
        found.append(values.reshape(cut.size))
    return found


def points_of(cuts: Sequence[Cut], volume: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the points of cuts, one cut after the other, moved to voxel centres at the edge, and which are inside."""
    points = np.concatenate([cut.points().reshape(-1, 3) for cut in cuts])
    inside = (points >= -0.5) & (points <= np.array(volume) - 0.5)
    return np.clip(points, 0, np.array(volume) - 1), np.all(inside, axis=1)


def interpolated(
    points: NDArray[np.float64], rows: int, view: Callable[[int], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return what some rows contribute to the values at points, by trilinear interpolation.

    Parameters
    ----------
    points : ndarray of float64, shape (k, 3)
        (row, y, x), rows counted within these, y and x within a slice: 0 to its last row and column.
    rows : int
        Number of rows.
    view : callable
        Returns the slice of a row, shape (height, width).

    Returns
    -------
    ndarray of float32, shape (k,)
        Sum over the rows' voxels of weight and value; zero where all eight are in other rows.
    """
    from scipy.ndimage import map_coordinates  # takes its time, and ranks should not wait for it at their start

    found = np.zeros(len(points), np.float32)
    order = np.argsort(points[:, 0])
    row = points[order, 0]
    for number in range(rows):
        around = slice(*np.searchsorted(row, (number - 1, number + 1)))
        weight = (1 - np.abs(row[around] - number)).astype(np.float32)
        if weight.any():  # of a cut along a row, all that is around the row before it has none
            at = order[around]
            found[at] += weight * map_coordinates(view(number), points[at, 1:].T, order=1, mode="nearest")
    return found
