"""The image finished offline: what a scientist gets from the projections that were taken, whatever the window was."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.quality.coverage import HALF_TURN, AngularRange
from bluesky_streamrecon.recon import Engine
from bluesky_streamrecon.recon.quick import QuickReconstructor

__all__ = ["best_image", "finish"]

BEST_SUBSETS = 6
BEST_PASSES = 50
"""Times that the image which stands for the truth of a measured scan goes over all projections."""


def finish(scan: LineScan, *, threads: int = 1, over: AngularRange = HALF_TURN) -> NDArray[np.float32]:
    """Reconstruct from all projections of `scan`, by the recipe that the default policy predicts for.

    Parameters
    ----------
    scan : LineScan
        As far as it was taken.
    threads : int, optional
        That compute.
    over : AngularRange, optional
        Angles that the whole scan visits.

    Returns
    -------
    ndarray of float32, shape (rows, C, C)
        Attenuation, 1/pixel.

    Raises
    ------
    DataError
        If there is no projection.
    """
    if not len(scan):
        raise DataError(f"{scan.name}: got no projection to reconstruct from, expected at least one")
    measured = np.maximum(scan.integrals, 0)
    return QuickReconstructor(threads).reconstruct(
        measured, scan.angles, over.view_weights(scan.angles), axis=scan.axis
    )


def best_image(scan: LineScan, *, threads: int = 1) -> Truth:
    """Give the reconstruction of a whole measured scan by many updates, in place of the truth.

    It shares the noise of the data, so what is finished from nearly all of them looks a little better than it is.
    """
    options = {"subsets": BEST_SUBSETS}
    with Engine(
        scan.geometry, scan.rows, algorithm="osem", window=None, planned=len(scan), threads=threads, options=options
    ) as engine:
        for projection, angle in zip(scan.integrals, scan.angles, strict=True):
            engine.append(projection, float(angle))
        engine.update(BEST_PASSES)
        return Truth.measured(engine.image())
