"""A sample that is quick to compute, and an engine that works on it.

Lengths are detector pixels, angles radians.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import seconds_per_call
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.sim_devices import SheppLogan

if TYPE_CHECKING:
    from bluesky_streamrecon.recon import Engine

__all__ = [
    "DARK_COUNT",
    "FLAT_COUNT",
    "counts_of",
    "moving_engine",
    "random_frames",
    "sample_scan",
    "seconds_per_update",
]

DARK_COUNT = 100
FLAT_COUNT = 40_000
DIFFERENT_FRAMES = 4

TOGETHER = 64
"""Updates of a GPU that are timed together: it may be two behind."""

ROW = 0.3
"""Share of attenuation that the last row lacks."""


def sample_scan(columns: int, rows: int, num: int) -> LineScan:
    """Compute a scan of a Shepp-Logan head that is a little lighter in each row, without noise.

    Parameters
    ----------
    columns, rows : int
        Of the detector; the axis is in its middle.
    num : int
        Projections of a half turn, optimized interleaved.
    """
    axis, angles = (columns - 1) / 2, np.radians(np.asarray(make_order("optimized-interleaved", num=num).angles))
    head = SheppLogan().body(1, 0.42 * columns)
    lines = np.stack([head.projection(angle, columns, axis) for angle in angles.tolist()])
    scale = np.linspace(1, 1 - ROW, rows, endpoint=False, dtype=np.float32)
    return LineScan("head", angles, lines * scale[:, None], axis)


def random_frames(rows: int, columns: int, *, num: int, receivers: int) -> list[NDArray[np.uint16]]:
    """Return a few different frames, of which `num` are sent to processes that share their rows.

    Raises
    ------
    ConfigError
        If a number can not work.
    """
    if min(num, receivers, columns) < 1 or rows < receivers:
        raise ConfigError(
            f"{num} frames of {rows} x {columns}, {receivers} receivers: expected 1 or more of each, and a row for "
            "every receiver"
        )
    random = np.random.default_rng(0)
    return [random.integers(0, 2**16, (rows, columns), np.uint16) for _ in range(DIFFERENT_FRAMES)]


def counts_of(projections: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Compute what a detector counts for these line integrals, without noise."""
    return np.asarray(np.rint(DARK_COUNT + (FLAT_COUNT - DARK_COUNT) * np.exp(-projections)), np.uint16)


@contextmanager
def moving_engine(
    algorithm: str,
    *,
    rows: int,
    columns: int,
    window: int,
    threads: int = 1,
    backend: str = "cpu",
    disc: bool = False,
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
    disc : bool, optional
        Reconstruct the inscribed disc only.

    Yields
    ------
    Engine
        Its `update` works on the window as it is.
    callable
        Adds so many projections, as a scan would, so that tables are made anew; then updates the image.
    """
    from bluesky_streamrecon.recon import Engine

    num = max(180, window)
    angles, lines = (scan := sample_scan(columns, rows, num)).angles.tolist(), scan.integrals[:window]
    with Engine(
        TomoGeometry(columns, disc=disc), rows,
        algorithm=algorithm, window=window, planned=num, threads=threads, backend=backend,
    ) as engine:  # fmt: skip

        def append(count: int) -> None:
            for number in range(engine.projections, engine.projections + count):
                engine.append(lines[number % window], angles[number % num])

        def move(step: int) -> None:
            append(step)
            engine.update()

        append(window)
        engine.update()
        for _ in range(2 * num if engine.choice.name == "cuda" else 1):  # windows come again after a turn
            move(1)
        yield engine, move


def seconds_per_update(engine: Engine, update: Callable[[], object], *, at_least: float) -> float:
    """Return the median time of an `update` of an engine, of calls that take `at_least` seconds in sum."""
    together = TOGETHER if engine.choice.name == "cuda" else 1

    def work() -> None:
        for _ in range(together):
            update()
        engine.finish()

    return seconds_per_call(work, at_least=at_least) / together
