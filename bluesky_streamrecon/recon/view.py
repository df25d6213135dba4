"""A projection on its way into the image: what preparation makes of a frame, and the axis search and window take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.recon.analysis import Frame
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.recon.steps import Pipeline, halo_rows
from bluesky_streamrecon.recon.tilt import row_shifts
from bluesky_streamrecon.recon.window import Spread
from bluesky_streamrecon.wire import Item, OpenRun

__all__ = ["BEFORE", "View", "number_in", "pixels_of", "prepared_for", "window_of"]

BEFORE = "before"
"""Metadata: projections of the run that were taken before the first that comes; 0 where it is not there."""


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
    saturation = number_in(run.metadata, "saturation")
    preparation = Preparation(stop - first, columns, values=recon.pixel_values, saturation=saturation, own=own)
    shifts = row_shifts(block, run.detector_shape[0], recon.axis_tilt) if recon.axis_tilt else None
    return preparation, Pipeline(recon.preparation, block.rows, columns, beyond=beyond, side=recon.bin, shifts=shifts)


def window_of(run: OpenRun) -> dict[str, Any]:
    """Return the window for `Engine`: as the settings say, and in a time series within the newest half turn."""
    length, policy, newest = run.recon.window, run.recon.window_policy, run.per_volume
    if newest and (length is None or length >= newest):
        return {"window": newest, "window_policy": "newest"}
    if newest and policy == "spread":
        return {"window": length, "window_policy": Spread(kept=newest, newest_kept=True)}
    return {"window": length, "window_policy": policy}


def number_in(metadata: Mapping[str, str], key: str) -> float | None:
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
