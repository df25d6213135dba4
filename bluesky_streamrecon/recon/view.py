"""A projection on its way into the image: what preparation makes of a frame, and the axis search and window take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.recon.analysis import Frame
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.recon.steps import Pipeline, halo_rows
from bluesky_streamrecon.wire import OpenRun

__all__ = ["View", "prepared_for"]


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
    """

    pixels: NDArray[np.float32] | None
    angle: float
    counts: dict[str, int]


def prepared_for(run: OpenRun) -> tuple[Preparation, Pipeline]:
    """Return what makes line integrals of the frames of a run, and the steps after it, for the rows of its block.

    Raises
    ------
    ConfigError, DataError
        If a setting can not work, or the beamline sends other rows than the steps need.
    """
    (first, stop), columns, recon, needed = run.rows, run.detector_shape[1], run.recon, halo_rows(run.recon.preparation)
    if run.halo != needed:
        raise ConfigError(
            f"preparation={list(recon.preparation)}: got {run.halo} rows on each side of a rank's own from the "
            f"beamline, expected {needed}; are the same packages installed on the beamline's computer and here?"
        )
    block, beyond = run.block, (run.block.first - first, stop - run.block.stop)
    own = slice(beyond[0], beyond[0] + block.rows)
    saturation = _number_in(run.metadata, "saturation")
    preparation = Preparation(stop - first, columns, values=recon.pixel_values, saturation=saturation, own=own)
    return preparation, Pipeline(recon.preparation, block.rows, columns, beyond=beyond)


def _number_in(metadata: Mapping[str, str], key: str) -> float | None:
    """Return a number of a run's metadata; None if it is not there."""
    text = metadata.get(key)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"got metadata {key}={text!r}, expected a number") from error
