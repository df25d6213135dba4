"""Images of a scan without a job's processes: live, as a job would make them, and finished offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.evaluation.scans import LineScan, Truth
from bluesky_streamrecon.quality.trials import view_width
from bluesky_streamrecon.recon import Engine
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.settings import ReconSettings

__all__ = ["PAPERS", "finish", "live_updates", "with_best_image"]

PAPERS = ReconSettings(window_policy="newest")
"""The paper's live image: MLEM, l = 24, s = 1, the newest projections."""

BEST_SUBSETS = 6
BEST_PASSES = 50
"""Times that the image which stands for the truth of a measured scan goes over all projections."""


def live_updates(
    scan: LineScan, recon: ReconSettings, *, window: Mapping[str, Any] | None = None, threads: int = 1
) -> Iterator[tuple[int, Engine]]:
    """Yield the engine that a job with these settings, or another window, would have for all rows of `scan`.

    It comes after each update of the image, with the number of projections that it has.
    """
    with Engine(
        scan.geometry,
        scan.rows,
        algorithm=recon.algorithm,
        **{"window": recon.window, "window_policy": recon.window_policy, **(window or {})},
        planned=len(scan),
        threads=recon.threads or threads,
        options=recon.options,
    ) as engine:
        for number, (projection, angle) in enumerate(zip(scan.integrals, scan.angles, strict=True), 1):
            engine.append(projection, float(angle))
            if number % recon.step == 0 or number == len(scan):
                engine.update(recon.iterations)
                yield number, engine


def finish(scan: LineScan, *, threads: int = 1) -> NDArray[np.float32]:
    """Reconstruct from all projections of `scan`, by the recipe that the default policy predicts for.

    Parameters
    ----------
    scan : LineScan
        The projections that were taken.
    threads : int, optional
        That compute.

    Returns
    -------
    ndarray of float32, shape (rows, N, N)
        Attenuation, 1/pixel: what a scientist gets from these projections, whatever the window was.

    Raises
    ------
    DataError
        If there is no projection.
    """
    if not len(scan):
        raise DataError(f"{scan.name}: got no projection to reconstruct from, expected at least one")
    return QuickReconstructor(threads).reconstruct(
        np.maximum(scan.integrals, 0),
        scan.angles,
        scan.over.view_weights(scan.angles),
        axis=scan.axis,
        size=scan.geometry.size,
    )


def with_best_image(scan: LineScan, *, threads: int = 1) -> LineScan:
    """Return a measured scan whose truth is its reconstruction from all projections by many updates.

    It shares the noise of the data, so an image finished from nearly all of them scores a little too well.
    """
    options = {"subsets": BEST_SUBSETS}
    with Engine(
        scan.geometry, scan.rows, algorithm="osem", window=None, planned=len(scan), threads=threads, options=options
    ) as engine:
        for projection, angle in zip(scan.integrals, scan.angles, strict=True):
            engine.append(projection, float(angle))
        engine.update(BEST_PASSES)
        width = view_width(scan.columns, scan.axis, scan.over)
        return replace(scan, truth=Truth.measured(engine.image(), width))
