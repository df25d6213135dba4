"""A sample that is quick to compute: discs whose line integrals are known, and an engine that works on it.

Lengths are detector pixels, angles radians.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import make_order

if TYPE_CHECKING:
    from bluesky_streamrecon.recon import Engine

__all__ = [
    "DARK_COUNT",
    "FLAT_COUNT",
    "counts_of",
    "disc_projections",
    "disc_scan",
    "giga_updates",
    "moving_engine",
    "scan_angles",
]

DARK_COUNT = 100
FLAT_COUNT = 40_000

_DISCS = ((0.0, 0.0, 0.42, 1.0), (0.18, -0.1, 0.12, 0.8), (-0.15, 0.2, 0.07, -0.6))
_THICKEST = 1.5


def scan_angles(num: int) -> NDArray[np.float64]:
    """Return `num` angles of a half turn, optimized interleaved, radians."""
    return np.radians(np.asarray(make_order("optimized-interleaved", num=num).angles, np.float64))


def disc_projections(geometry: TomoGeometry, angles: NDArray[np.float64], rows: int) -> NDArray[np.float32]:
    """Compute line integrals of discs that differ a little from row to row.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector and image.
    angles : ndarray of float64, shape (A,)
        Radians.
    rows : int
        Detector rows.

    Returns
    -------
    ndarray of float32, shape (A, rows, C)
        Line integrals, unitless, at least 0.
    """
    size = geometry.size
    columns = np.arange(geometry.columns)
    total = np.zeros((len(angles), geometry.columns))
    for x, y, radius, density in _DISCS:
        at = (geometry.half + x * size, geometry.half + y * size)
        middle = np.array([geometry.detector_column(*at, angle) for angle in angles])
        inside = (radius * size) ** 2 - (columns - middle[:, None]) ** 2
        total += density * 2 * np.sqrt(np.maximum(inside, 0))
    total *= _THICKEST / total.max()
    rows_scale = 1 - 0.3 * np.arange(rows) / rows
    return (np.maximum(total, 0)[:, None, :] * rows_scale[:, None]).astype(np.float32)


def disc_scan(columns: int, rows: int, num: int) -> LineScan:
    """Return a scan of the sample: `num` projections without noise, optimized interleaved."""
    geometry, angles = TomoGeometry(columns), scan_angles(num)
    return LineScan("discs", angles, disc_projections(geometry, angles, rows), geometry.axis)


def counts_of(projections: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Compute what a detector counts for these line integrals, without noise."""
    return np.asarray(np.rint(DARK_COUNT + (FLAT_COUNT - DARK_COUNT) * np.exp(-projections)), np.uint16)


def giga_updates(algorithm: str, slices: int, window: int, columns: int) -> float:
    """Compute the updates of one pass over the window, in 1e9; filtered back projection has no forward projection.

    An update is one slice's pixel seen by one projection, once forward and once back.

    Examples
    --------
    >>> giga_updates("mlem", 16, 24, 1024)
    0.805306368
    """
    return slices * window * columns**2 * (1 if algorithm == "fbp" else 2) / 1e9


@contextmanager
def moving_engine(
    algorithm: str, *, rows: int, columns: int, window: int, threads: int = 1, backend: str = "cpu"
) -> Iterator[tuple[Engine, Callable[[int], None]]]:
    """Keep a warmed-up engine whose window is full of projections of the sample.

    Parameters
    ----------
    algorithm : str
        Registered name.
    rows, columns, window, threads : int
        What is reconstructed, and on how many threads.
    backend : str, optional
        What computes; the launches of a GPU are recorded.

    Yields
    ------
    Engine
        Its `update` works on the window as it is.
    callable
        Adds so many projections, as a scan would, so that tables are made anew; then updates the image.
    """
    from bluesky_streamrecon.recon import Engine

    geometry, angles = TomoGeometry(columns), scan_angles(max(180, window))
    projections = disc_projections(geometry, angles[:window], rows)
    with Engine(
        geometry, rows, algorithm=algorithm, window=window, planned=len(angles), threads=threads, backend=backend
    ) as engine:

        def append(count: int) -> None:
            for number in range(engine.projections, engine.projections + count):
                engine.append(projections[number % window], float(angles[number % len(angles)]))

        def move(step: int = 1) -> None:
            append(step)
            engine.update()

        append(window)
        engine.update()
        for _ in range(2 * len(angles) if engine.choice.name == "cuda" else 1):  # windows come again after a turn
            move()
        yield engine, move
