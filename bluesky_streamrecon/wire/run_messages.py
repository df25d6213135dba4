"""Messages of a run: its opening, its items in their order, its end, and what is shown of its images.

Angles are radians, lengths detector pixels; pixels travel beside a message as a frame of their own.
"""

from __future__ import annotations

from typing import Annotated, Self

import msgspec
import numpy as np
from msgspec import Meta

from bluesky_streamrecon.cuts import MAXIMUM_SIDE
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.projection_sets import ProjectionSet
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire.fields import (
    ArrayFrame,
    Checked,
    Count,
    Finite,
    ItemKind,
    Name,
    Number,
    Pixels,
    PixelType,
    PreviewRows,
    Rank,
    Row,
    Shape2,
    Side,
    Text,
    Uid,
)

__all__ = ["AbandonRun", "ChangeRun", "CloseRun", "Item", "ItemGone", "OpenRun", "OpenRunSpec", "Preview"]


class OpenRunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is; each peer is sent an `OpenRun` with these and its own fields.

    Parameters
    ----------
    run_uid, recon_uid : str
        Raw run, and the run that the reconstruction will be stored as.
    planned : int
        Projections planned; fewer or none may come.
    detector_shape : (int, int)
        Rows and columns of a whole reduced frame.
    dtype : str
        NumPy type string of the pixels, as in the items.
    recon, steering : ReconSettings, SteeringSettings
        What the user asked for.
    preview_rows : tuple of int
        Detector rows that are shown and scored.
    output : str or None
        Directory for the result's file.
    halo : int
        Detector rows on each side of a rank's own that it gets, too, within the detector.
    metadata : dict of str
        Anything else worth keeping with the result.
    """

    run_uid: Uid
    recon_uid: Uid
    planned: Count
    detector_shape: Shape2
    dtype: str
    recon: ReconSettings = ReconSettings()
    steering: SteeringSettings = SteeringSettings()
    preview_rows: PreviewRows = ()
    output: Text | None = None
    halo: Count = 0
    metadata: Annotated[dict[Name, Text], Meta(max_length=256)] = {}

    @property
    def per_volume(self) -> int:
        """Projections of each volume of a time series; 0: the run is none."""
        return self.planned // self.recon.turns if self.recon.turns > 1 else 0

    def newest_volume(self, projections: int) -> range:
        """Return which projections, from 0, the volume is finished from when so many have been taken.

        Of a time series these are the newest half turn that is complete; else all.

        Examples
        --------
        >>> series = OpenRunSpec(
        ...     run_uid="a", recon_uid="b", planned=720, detector_shape=(1, 1), dtype="<u2",
        ...     recon=ReconSettings(turns=4),
        ... )
        >>> series.newest_volume(100), series.newest_volume(400)
        (range(0, 100), range(180, 360))
        """
        complete = projections // self.per_volume if self.per_volume else 0
        return range((complete - 1) * self.per_volume, complete * self.per_volume) if complete else range(projections)


class OpenRun(OpenRunSpec, Checked, frozen=True, kw_only=True, tag="open-run"):
    """A run begins: opens the channel ``"run"`` with the stream `run_uid`.

    Parameters
    ----------
    block : RowBlock
        Rows of this rank, and its place among the ranks that share them; the controller gets all rows.
    redo : int
        A process before this one died when so many projections had been taken: the same images are to be made again, so
        steps are not taken together before these are in the image and it has been caught up.
    """

    dtype: PixelType
    block: RowBlock
    redo: Count = 0

    @property
    def rows(self) -> tuple[int, int]:
        """Detector rows ``[first, stop)`` of this rank's items: its own, and the halo."""
        return self.block.with_halo(self.halo, self.detector_shape[0])

    def check(self) -> None:
        """Raise ValueError if rows are not the detector's, or the place among the ranks is none."""
        block, rows = self.block, self.detector_shape[0]
        if not (0 <= block.first < block.stop <= rows and 0 <= block.member < block.members and block.group >= 0):
            raise ValueError(f"got {block}, expected rows within 0 to {rows} and member < members")
        if any(row >= rows for row in self.preview_rows):
            raise ValueError(f"got preview rows {self.preview_rows}, expected less than {rows}")


class Item(Checked, frozen=True, kw_only=True, tag="item"):
    """One flat, dark or projection: the rank's rows of it.

    `index` counts 1, 2, 3, ... within the kind. `angle` is radians, 0 for flats and darks. `monitor` is the reading
    that light is normalised by, in any unit; 1 without a monitor. `pixels` is read-only and has the `dtype` and the
    `shape` ``(stop - first, columns)``; it travels as a frame of its own.
    """

    run_uid: Uid
    seq: Number
    kind: ItemKind
    index: Number
    angle: Finite
    monitor: Annotated[float, Meta(gt=0)] = 1.0
    rows: tuple[Row, Row]
    dtype: PixelType
    shape: Shape2
    pixels: Pixels | None = None

    @property
    def arrays(self) -> tuple[ArrayFrame, ...]:
        """The pixels."""
        return (("pixels", self.dtype, self.shape),)

    def check(self) -> None:
        """Raise ValueError if the shape is not that of the rows."""
        if self.rows[1] - self.rows[0] != self.shape[0]:
            raise ValueError(f"got shape {self.shape} for rows {self.rows}")


class ItemGone(msgspec.Struct, frozen=True, kw_only=True, tag="item-gone"):
    """Stands in an item's place when its frame can not be read any more; counted as dropped.

    `angle` is 0 if it was to be read with the frame.
    """

    run_uid: Uid
    seq: Number
    kind: ItemKind
    index: Number
    angle: Finite
    why: Text


class ChangeRun(msgspec.Struct, frozen=True, kw_only=True, tag="change-run"):
    """Something of the run has changed; numbered among the items, so that it has the same place on all ranks.

    Parameters
    ----------
    axis : float or None
        Rotation axis, detector column: all ranks make their images anew about it, once all have heard of it.
    planned : int or None
        Projections that the run is going to take by now; the controller predicts for so many.
    allowed : int or None
        Projections that the run's budget allows; the controller predicts how good the image will be then.
    selection : Selection or None
        What counts from now on: the ranks show these rows, and the controller judges by them; None: as before.
    """

    run_uid: Uid
    seq: Count = 0
    axis: Finite | None = None
    planned: Count | None = None
    allowed: Count | None = None
    selection: Selection | None = None


class CloseRun(msgspec.Struct, frozen=True, kw_only=True, tag="close-run"):
    """No items follow; numbered after the last of them, so it can neither overtake one nor be lost."""

    run_uid: Uid
    seq: Count = 0
    projections: Count
    flats: Count
    darks: Count
    exit_status: Name
    reason: Text = ""


class AbandonRun(msgspec.Struct, frozen=True, kw_only=True, tag="abandon-run"):
    """Forget this run: nobody waits for its result any more."""

    run_uid: Uid
    reason: Text = ""


class Preview(Checked, frozen=True, kw_only=True, tag="preview"):
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
    def arrays(self) -> tuple[ArrayFrame, ...]:
        """The slices, and line integrals if any come along."""
        slices = ("pixels", "<f4", (len(self.rows), *self.shape))
        lines = ("lines", "<f4", (len(self.angles_used), len(self.rows), self.columns))
        return (slices, lines) if self.columns else (slices,)

    def check(self) -> None:
        """Raise ValueError if there is no slice, or line integrals are of more or other projections than there are."""
        if not self.rows:
            raise ValueError("got no rows, expected at least one")
        views, counts = len(self.angles_used), self.lines_counts
        if counts and len(counts) != views:
            raise ValueError(f"got {len(counts)} counts of {views} views, expected none or one for each")
        last = self.lines_first + (sum(counts) if counts else views)
        if self.columns and last > self.projections:
            raise ValueError(
                f"got line integrals of projections {self.lines_first + 1} to {last}, expected none after "
                f"{self.projections}"
            )

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
