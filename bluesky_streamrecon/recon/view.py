"""A projection on its way into the image: what preparation makes of a frame, and the axis search and window take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.recon.analysis import Frame
from bluesky_streamrecon.recon.later_references import Changes, take_off
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.recon.steps import Pipeline, halo_rows
from bluesky_streamrecon.recon.tilt import row_shifts, upright
from bluesky_streamrecon.recon.window import Spread
from bluesky_streamrecon.settings import FINAL_NONE
from bluesky_streamrecon.wire import Item, ItemGone, OpenRun

__all__ = ["BEFORE", "View", "ViewMaker", "pixels_of", "prepared_for", "window_of"]

BEFORE = "before"
"""Metadata: projections of the run that were taken before the first that comes; 0 where it is not there."""

MOST_EARLY = 2**30
"""Bytes of projections that are held at most, before any flat has come."""


@dataclass(slots=True)
class View(Frame):
    """A projection that is prepared and not yet in the image.

    Parameters
    ----------
    pixels : ndarray of float32, shape (rows, columns), or None
        Line integrals; None where the projection was lost.
    angle : float
        Radians.
    counts : dict of str to int
        `Tomography.counts` with this projection and without those after it.
    raw : ndarray or None
        The frame as it came, shape (rows, columns), while a viewer wishes to see it.
    """

    pixels: NDArray[np.float32] | None
    angle: float
    counts: dict[str, int]
    raw: NDArray[np.generic] | None = None


def prepared_for(run: OpenRun) -> tuple[Preparation, Pipeline]:
    """Return what makes line integrals of the frames of a run, and the steps after it, for the rows of its block.

    Raises
    ------
    ConfigError, DataError
        If a setting can not work, or the beamline sends other rows than the steps need.
    """
    (first, stop), columns, recon = run.rows, run.detector_shape[1], run.recon
    needed = halo_rows(recon.preparation, recon.bin)
    if run.halo != needed:
        raise ConfigError(
            f"preparation={list(recon.preparation)}: got {run.halo} rows on each side of a rank's own from the "
            f"beamline, expected {needed}; are the same packages installed on the beamline's computer and here?"
        )
    block, beyond = run.block, (run.block.first - first, stop - run.block.stop)
    own = slice(beyond[0], beyond[0] + block.rows)
    saturation = _number_in(run.metadata, "saturation")
    preparation = Preparation(stop - first, columns, values=recon.pixel_values, saturation=saturation, own=own)
    return preparation, Pipeline(recon.preparation, block.rows, columns, beyond=beyond, side=recon.bin)


class ViewMaker:
    """What makes views of the items of a run, for the rows of one rank: flats and darks, steps, and the axis upright.

    Projections that come before any flat are held as they are, up to a limit, until one has come.

    Parameters
    ----------
    run : OpenRun
        Which run.
    frame_of : callable
        Returns the frame of an item as it came, if a viewer wishes to see it.

    Attributes
    ----------
    steps : Pipeline
        After flats, darks and logarithm.
    warnings : list of str
        What people should know, a line each.

    Raises
    ------
    ConfigError, DataError
        See `prepared_for`.
    """

    def __init__(self, run: OpenRun, frame_of: Callable[[Item | ItemGone], NDArray[np.generic] | None]) -> None:
        tilt = run.recon.axis_tilt
        self._run, self._frame_of = run, frame_of
        self._preparation, self.steps = prepared_for(run)
        self._shifts = row_shifts(run.block, run.detector_shape[0], tilt) if tilt else None
        self.warnings: list[str] = self._preparation.warnings
        self._early: list[Item | ItemGone] = []
        self._early_bytes = 0
        self._came = 0  # projections

    def take(self, item: Item | ItemGone) -> list[View]:
        """Return the projections that can be used now; one that was lost keeps its place.

        Raises
        ------
        DataError
            If an item can not be used, or too much came before any flat.
        """
        if item.kind != "projection":
            if isinstance(item, Item):
                place = item.index, self._came
                self._preparation.add_reference(item.kind, pixels_of(item), place, item.monitor)
            return []
        if self._preparation.ready or (isinstance(item, ItemGone) and not self._early):
            return self._released(item)
        if isinstance(item, Item):
            item = msgspec.structs.replace(item, pixels=pixels_of(item).copy())
            self._early_bytes += pixels_of(item).nbytes
        if self._early_bytes > MOST_EARLY:
            raise DataError(
                f"{len(self._early)} projections came before any flat field and take more than "
                f"{MOST_EARLY >> 20} MiB; expected flats before the projections"
            )
        self._early.append(item)
        return []

    def close(self) -> list[View]:
        """Return the projections that were held back; no items follow.

        Raises
        ------
        DataError
            If flats were needed and none came.
        """
        if self._early and not self._preparation.ready:
            raise DataError(
                f"got {len(self._early)} projections and no flat field, expected at least one; were flats taken? "
                "(pixel_values='transmission' says that none are needed)"
            )
        views = self._released()
        self._preparation.conclude(later=self._run.recon.final != FINAL_NONE)
        return views

    def _released(self, *more: Item | ItemGone) -> list[View]:
        early, self._early, self._early_bytes = self._early, [], 0
        return [self._view(item) for item in (*early, *more)]

    def _view(self, item: Item | ItemGone) -> View:
        self._came = item.index
        lines = self._preparation.prepare(pixels_of(item), item.monitor) if isinstance(item, Item) else None
        if lines is not None:
            lines = self._upright(self.steps.first_part(lines, item.angle))
        return View(item.seq, lines, item.angle, {**self.counts}, self._frame_of(item))

    def _upright(self, lines: NDArray[np.float32]) -> NDArray[np.float32]:
        # By as much in every projection, so stripes stay stripes.
        return lines if self._shifts is None else upright(lines, self._shifts)

    @property
    def saturated(self) -> int | None:
        """Values that were saturated so far; None where the detector does not say which value that is."""
        return self._preparation.saturated

    @property
    def counts(self) -> dict[str, int]:
        """Flats, darks and bad pixels, see `Preparation`, and what its steps counted."""
        return {**self._preparation.counts, **self.steps.counts}

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """Return what is known of flats and darks, for `restore`."""
        return self._preparation.arrays()

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], counts: Mapping[str, int], came: int) -> None:
        """Go on with what `arrays` returned, these counts, and so many projections that came."""
        self._preparation.restore(arrays, counts)
        self.steps.restore(counts)
        self._came = came

    @cached_property
    def _changes(self) -> Changes:
        """How light and dark of each pixel have changed, as seen through the steps before the archive.

        It is a weak pattern: that steps see it alone, and not on top of each projection, makes a difference of second
        order.
        """
        before, found = prepared_for(self._run)[1], self._preparation.changes([])

        def as_archived(lines: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._upright(before.first_part(lines, 0.0))

        return Changes(
            [(after, as_archived(each)) for after, each in found.light],
            [(after, -np.expm1(-as_archived(-np.log1p(-each)))) for after, each in found.dark],
        )

    def finished(
        self, projections: NDArray[np.float32], angles: NDArray[np.float64], rows: slice, first: int
    ) -> NDArray[np.float32]:
        """Return archived projections as the finished volume is made from them, once nothing will follow.

        Parameters
        ----------
        projections : ndarray of float32, shape (projections, rows, columns)
            In the order in which they were taken; may be overwritten.
        angles : ndarray of float64, shape (projections,)
            Radians.
        rows : slice
            Which rows of the block they have.
        first : int
            Projections from the first that came to the first of these.
        """
        if self._changes:
            before = int(_number_in(self._run.metadata, BEFORE) or 0)
            take_off(projections, self._changes, rows, before + first)
        return self.steps.second_part_of_all(projections, angles)


def window_of(run: OpenRun) -> dict[str, Any]:
    """Return the window for `Engine`: as the settings say, and in a time series within the newest half turn."""
    length, policy, newest = run.recon.window, run.recon.window_policy, run.per_volume
    if newest and (length is None or length >= newest):
        return {"window": newest, "window_policy": "newest"}
    if newest and policy == "spread":
        return {"window": length, "window_policy": Spread(kept=newest, newest_kept=True)}
    return {"window": length, "window_policy": policy}


def _number_in(metadata: Mapping[str, str], key: str) -> float | None:
    """Return a number of a run's metadata; None if it is not there."""
    text = metadata.get(key)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"got metadata {key}={text!r}, expected a number") from error


def pixels_of(item: Item) -> NDArray[np.generic]:
    """Return an item's pixels.

    Raises
    ------
    DataError
        If it came without.
    """
    if item.pixels is None:
        raise DataError("got no pixels")
    return item.pixels
