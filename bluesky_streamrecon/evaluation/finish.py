"""The image finished offline: what a scientist gets from the projections that were taken, whatever the window was.

Expectation maximization over ordered subsets, in which each projection counts with the square root of the angular gap
that it stands for: a scan that ends between two rounds of an interleaved order is otherwise unevenly sharp.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.recon import Engine

__all__ = ["finish", "view_weights"]

UPDATES = 60
SUBSETS = 6
LEAST_VIEWS = 4


def view_weights(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give each projection's weight: the square root of its share of the half turn, with mean 1.

    >>> view_weights(np.radians([0, 90, 45, 135])).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    turned = np.mod(angles, math.pi)
    order = np.argsort(turned, kind="stable")
    gaps = np.diff(np.append(turned[order], turned[order[0]] + math.pi))
    weights = np.empty(len(gaps))
    weights[order] = np.sqrt((gaps + np.roll(gaps, 1)) / 2)
    return np.asarray(weights / weights.mean(), np.float64)


def finish(scan: LineScan, *, updates: int = UPDATES, threads: int = 1) -> NDArray[np.float32]:
    """Reconstruct from all projections of `scan`.

    Parameters
    ----------
    scan : LineScan
        As far as it was taken.
    updates : int, optional
        Updates of the image, at least; each sees one subset of the projections.
    threads : int, optional
        Threads that compute.

    Returns
    -------
    ndarray of float32, shape (rows, C, C)
        Attenuation, 1/pixel.
    """
    count = len(scan)
    if count == 0:
        raise DataError(f"{scan.name}: got no projection to reconstruct from, expected at least one")
    passes = max(1, min(SUBSETS, count // LEAST_VIEWS))
    weights = view_weights(scan.angles)
    by_angle = np.argsort(np.mod(scan.angles, math.pi), kind="stable")
    for first in range(passes):  # mean 1 in each subset, or subsets would disagree about the mass
        weights[by_angle[first::passes]] /= weights[by_angle[first::passes]].mean()
    measured = np.maximum(scan.integrals, 0) * weights[:, None, None].astype(np.float32)
    options = {"subsets": passes}
    with Engine(
        scan.geometry, scan.rows, algorithm="osem", window=None, threads=threads, options=options
    ) as engine:
        for projection, angle in zip(measured, scan.angles, strict=True):
            engine.append(projection, float(angle))
        engine.update(-(-updates // passes))
        return engine.image()
