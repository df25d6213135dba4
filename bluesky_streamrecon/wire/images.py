"""Messages with images: slices for the controller, with line integrals of their rows, and pictures for people.

Pictures are 8-bit and small, so they travel inside the header. Angles are radians, lengths detector pixels.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bluesky_streamrecon.projection_sets import ProjectionSet
from bluesky_streamrecon.wire.fields import (
    MAXIMUM_SIDE,
    Count,
    Finite,
    Number,
    Pixels,
    PreviewRows,
    Rank,
    Side,
    Text,
    Uid,
)

__all__ = [
    "LARGEST_PICTURE_SIDE",
    "MOST_PICTURE_BYTES",
    "MOST_SINOGRAM_BYTES",
    "Picture",
    "Preview",
    "ShowMe",
    "Sinogram",
]

LARGEST_PICTURE_SIDE: Final = 1024
MOST_PICTURE_BYTES: Final = 3 * LARGEST_PICTURE_SIDE**2
"""Three slices of the largest side, or more smaller ones."""
MOST_SINOGRAM_BYTES: Final = 2**20
MOST_DIRECTIONS: Final = 360
"""That a picture tells apart."""


class Preview(msgspec.Struct, frozen=True, kw_only=True, tag="preview"):
    """Some slices of one image.

    Parameters
    ----------
    run_uid, seq, rank : str, int, int
        Which preview of which rank.
    image_number, projections : int
        Which image, and how many projections went into it.
    final : bool
        It is the run's last image.
    rows, shape : tuple of int, (int, int)
        Detector rows of the slices, and the height and width of each; for tomography both are the image's side.
    angles_used : tuple of float
        Radians, in order of arrival; of the views whose line integrals come along.
    columns : int
        0, or the columns of `lines`: the line integrals of these rows that no preview before this one
        brought, shape ``(len(angles_used), len(rows), columns)``. What is NaN was not measured.
    lines_first, lines_counts : int, tuple of int
        Projections before the first of them, and how many each is the mean of (long scans); empty: one each.
    axis : float or None
        Detector column of the rotation axis.
    doubt : str
        Why no image of this run is to be trusted, and the scan not to be ended for one; empty: no reason.
    pixels : ndarray of float32, shape (len(rows), height, width)
        The slices; they travel as a frame of their own.
    lines : ndarray of float32 or None
        The line integrals, if any.
    """

    run_uid: Uid
    seq: Count = 0
    rank: Rank
    image_number: Count
    projections: Count
    final: bool = False
    rows: PreviewRows
    shape: tuple[Side, Side]
    angles_used: Annotated[tuple[Finite, ...], Meta(max_length=100_000)] = ()
    columns: Annotated[int, Meta(ge=0, le=MAXIMUM_SIDE)] = 0
    lines_first: Count = 0
    lines_counts: Annotated[tuple[Number, ...], Meta(max_length=100_000)] = ()
    axis: Finite | None = None
    doubt: Text = ""
    pixels: Pixels | None = None
    lines: Pixels | None = None

    @property
    def views(self) -> ProjectionSet | None:
        """Line integrals with their angles and counts, if any came along."""
        if self.lines is None:
            return None
        counts = self.lines_counts or (1,) * len(self.angles_used)
        return ProjectionSet(self.lines, np.array(self.angles_used), np.array(counts, np.int64))

    def with_views(self, views: ProjectionSet | None, first: int | None = None) -> Self:
        """Return this preview with these line integrals, the newest of its projections, or those after `first`."""
        if views is None:
            return self
        return msgspec.structs.replace(
            self,
            angles_used=tuple(views.angles.tolist()),
            columns=views.values.shape[2],
            lines_first=self.projections - int(views.counts.sum()) if first is None else first,
            lines_counts=() if views.single else tuple(views.counts.tolist()),
            lines=views.values,
        )


class Sinogram(msgspec.Struct, frozen=True, kw_only=True):
    """The projections so far, of a picture's rows, for people to see: where they are, and 8 bits of them, made small.

    Parameters
    ----------
    start, span : float
        Range of angles, radians; it is cut into as many directions as `counts` has, and the first is around `start`.
    turn : float
        Angle after which a view shows the same again, radians.
    newest : float
        Angle of the newest projection, radians.
    counts : bytes
        Projections in each direction, 255 at most.
    columns : int
        Detector columns that are shown, evenly spread.
    low, high : float
        Line integrals that are shown as 1 and as 255; 0 is where there is none.
    pixels : bytes
        ``rows * len(counts) * columns``, C order; of several projections in one direction the newest.
    """

    start: Finite
    span: Finite
    turn: Finite
    newest: Finite
    counts: Annotated[bytes, Meta(min_length=1, max_length=MOST_DIRECTIONS)]
    columns: Side
    low: Finite
    high: Finite
    pixels: Annotated[bytes, Meta(max_length=MOST_SINOGRAM_BYTES)]


class Picture(msgspec.Struct, frozen=True, kw_only=True, tag="picture"):
    """Some slices of one image for people to see: 8 bits, made small.

    Parameters
    ----------
    run_uid, image_number, projections
        Which image of which run, and how many projections went into it.
    rows, size : tuple of int, int
        Detector rows of the slices, and their side.
    full_size : int
        Side before they were made small.
    low, high : float
        Attenuation, 1/pixel, that is shown as 0 and as 255.
    pixels : bytes
        ``len(rows) * size * size``, C order.
    axis : float or None
        Detector column of the rotation axis.
    made : float
        When the image was complete.
    sinogram : Sinogram or None
        Of the same rows, where there are line integrals.
    """

    run_uid: Uid
    image_number: Count
    projections: Count
    rows: PreviewRows
    size: Annotated[int, Meta(ge=1, le=LARGEST_PICTURE_SIDE)]
    full_size: Annotated[int, Meta(ge=1, le=65_536)]
    low: Finite
    high: Finite
    pixels: Annotated[bytes, Meta(max_length=MOST_PICTURE_BYTES)]
    axis: Finite | None = None
    made: float = 0.0
    sinogram: Sinogram | None = None

    def values(self) -> NDArray[np.float32]:
        """Return the slices, 1/pixel in 256 steps, shape (slices, size, size)."""
        pixels = np.frombuffer(self.pixels, np.uint8).reshape(len(self.rows), self.size, self.size)
        return np.linspace(self.low, self.high, 256, dtype=np.float32)[pixels]


class ShowMe(msgspec.Struct, frozen=True, kw_only=True, tag="show-me"):
    """Somebody watches: one picture of an image other than this one may be sent, when there is one.

    An operator sends it to the beamline, and that one to the controller. The picture may be lost.
    """

    run_uid: Uid | None = None
    image_number: Count = 0
