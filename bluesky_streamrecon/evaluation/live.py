"""The live reconstruction without processes: what the job's engine makes of a scan, image after image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import ReconSettings
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.recon import Engine
from bluesky_streamrecon.recon.window import Spread

__all__ = ["live_engine", "live_images"]


def live_engine(scan: LineScan, recon: ReconSettings, *, spread: Spread | None = None, threads: int = 1) -> Engine:
    """Give the engine that a job with these settings would have for all rows of `scan`; or one with another window."""
    return Engine(
        scan.geometry,
        scan.rows,
        algorithm=recon.algorithm,
        window=recon.window,
        window_policy=recon.window_policy if spread is None else spread,
        planned=len(scan),
        threads=recon.threads or threads,
        options=recon.options,
    )


def live_images(
    scan: LineScan, recon: ReconSettings, *, spread: Spread | None = None, threads: int = 1
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Give each image, shape (rows, C, C), 1/pixel, with the number of projections that it was made from."""
    with live_engine(scan, recon, spread=spread, threads=threads) as engine:
        for number, (projection, angle) in enumerate(zip(scan.integrals, scan.angles, strict=True), 1):
            engine.append(projection, float(angle))
            if number % recon.step == 0 or number == len(scan):
                engine.update(recon.iterations)
                yield number, engine.image()
