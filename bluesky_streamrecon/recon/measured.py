"""The projections of a run as viewers see them: the sinogram so far, and the newest one in three forms.

Angles are radians, lengths detector pixels, line integrals unitless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.cuts import Cut, Space
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.archive import Archive
from bluesky_streamrecon.recon.backends import projector_of
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.recon.view import View, pixels_of
from bluesky_streamrecon.wire import Item, ItemGone, OpenRun

__all__ = ["MeasuredViews"]

KEPT_FRAMES: Final = 256
"""Projections after a wish whose frames are kept, until they are in the image."""
KEPT_IMAGES: Final = 64
"""Images after a wish for the residual for which it is made."""
AT_ONCE: Final = 16
"""Slices that are projected at a time."""


class MeasuredViews:
    """What cuts among the projections are made of, for the rows of one rank.

    Raw frames and the projection of the image cost memory and time, and are there only after somebody has wished for
    them. All ranks have heard of a wish between the same two images, so what they keep is of the same projection.

    Parameters
    ----------
    run : OpenRun
        The run, with the rows of the rank.
    archive : Archive
        With all projections.
    """

    def __init__(self, run: OpenRun, archive: Archive) -> None:
        self._run = run
        self._archive = archive
        self._newest: dict[Space, NDArray[np.generic] | None] = {}
        self._came = 0
        self._frames = 0  # number of the last projection whose frame is kept
        self._images = 0  # images to come that are projected
        self._rows: NDArray[np.intp] = np.zeros(0, np.intp)  # of these rows

    def frame(self, item: Item | ItemGone) -> NDArray[np.generic] | None:
        """Return this rank's rows of the frame of a projection that has just come, if somebody may wish to see it."""
        self._came = item.index
        if isinstance(item, ItemGone) or item.index > self._frames:
            return None
        first = self._run.block.first - self._run.rows[0]
        return pixels_of(item)[first : first + self._run.block.rows]

    def take(self, view: View, lines: NDArray[np.float32], engine: Engine, geometry: TomoGeometry) -> None:
        """Keep the newest projection of the next image, and the residual against the image as it is, if wished for."""
        self._newest = {"raw": view.raw, "projection": lines}
        if self._images <= 0 or not engine.image_number:
            return
        self._images -= 1
        projector = projectors.get(projector_of(self._run.recon.options))(geometry, np.array([view.angle]))
        residual = self._newest["residual"] = np.full(lines.shape, np.nan, np.float32)
        for first in range(0, len(self._rows), AT_ONCE):
            rows = self._rows[first : first + AT_ONCE]
            slices = np.stack([engine.view(int(row)) for row in rows], axis=-1)
            residual[rows] = lines[rows] - projector.forward(slices)[0].T

    def values(
        self, cut: Cut, points: NDArray[np.float64], axis: float, angles: Sequence[float]
    ) -> NDArray[np.float32]:
        """Return the values of a cut at points, see `Analysis.measured`.

        Parameters
        ----------
        cut, points
            Of the cut.
        axis : float
            Detector column of the rotation axis.
        angles : sequence of float
            Those of all projections.
        """
        rows, columns = (points[:, i].astype(np.intp) for i in (0, 2))
        if cut.space == "raw":
            self._frames = self._came + KEPT_FRAMES
        elif cut.space == "residual":
            self._images, self._rows = KEPT_IMAGES, np.unique(rows)
        elif cut.space == "sinogram":
            found, place = np.unique(points[:, 1], return_inverse=True)
            width = max(abs(edge[1]) / number for edge, number in zip((cut.down, cut.across), cut.shape, strict=True))
            over = AngularRange.from_metadata(self._run.metadata).around(axis, self._run.detector_shape[1])
            numbers = _projections_at(over, found, width, np.asarray(angles))[place]
            values = np.full(len(points), np.nan, np.float32)
            taken = np.asarray(angles)[numbers]
            # A view from the other side is the mirror image, about the axis, of the one that is asked for.
            other_side = np.rint((taken - points[:, 1]) / np.pi) % 2 == 1
            columns = np.where(other_side, np.rint(2 * axis - columns).astype(np.intp), columns)
            known = (numbers >= 0) & (columns >= 0) & (columns < self._run.detector_shape[1])
            values[known] = self._archive.values(numbers[known], rows[known], columns[known])
            return values
        pixels = self._newest.get(cut.space)
        return np.full(len(points), np.nan, np.float32) if pixels is None else pixels[rows, columns].astype(np.float32)


def _projections_at(
    over: AngularRange, at: NDArray[np.float64], width: float, angles: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the newest projection within `width` around each angle, or the nearest if that is 0; -1: none."""
    found, folded = np.full(len(at), -1, np.intp), over.folded(angles)
    for i, place in enumerate(over.folded(at)):
        away = np.abs(folded - place)
        if over.whole:
            away = np.minimum(away, over.span - away)
        near = np.flatnonzero(away <= width / 2) if width else np.argsort(away)[:1]
        found[i] = near[-1] if len(near) else -1
    return found
