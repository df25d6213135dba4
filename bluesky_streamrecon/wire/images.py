"""The message with slices for the controller, and line integrals of their rows. Angles are radians, lengths pixels."""

from __future__ import annotations

from typing import Annotated, Self

import msgspec
import numpy as np
from msgspec import Meta

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

__all__ = ["Preview"]


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
    disagreement : str
        What another method finds for the axis, where that is elsewhere; images are judged all the same.
    saturated : int or None
        Saturated values of this rank's rows so far; None: not known.
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
    disagreement: Text = ""
    saturated: Count | None = None
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
