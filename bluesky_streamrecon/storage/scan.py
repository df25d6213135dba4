"""A tomographic scan as it was measured: raw frames and angles, in memory or still in their file.

Angles are degrees; frames are detector counts, (frames, rows, columns). Nothing is corrected here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.hdf5 import ChosenFrames

__all__ = ["Frames", "TomoScan", "empty_frames"]


class Frames(Protocol):
    """A stack of frames that can be sliced: an ndarray, or one that is still in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, rows, columns)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class TomoScan:
    """Projections with their angles, flats and darks.

    Parameters
    ----------
    projections : Frames
        Shape (A, rows, columns), detector counts.
    flats, darks : Frames
        Shape (F, rows, columns) and (D, rows, columns); F and D may be 0.
    angles_deg : ndarray of float64, shape (A,)
        Degrees, in the order of the projections, whatever that is.
    problems : tuple of str, optional
        What is doubtful about the data, and what was left out of them, a sentence each.
    monitor, flat_monitor : ndarray of float64, shape (A,) and (F,), optional
        What a monitor of the beam has read with each projection and each flat; both or none.
    saturation : float, optional
        Counts from which the detector's pixels are saturated, where its configuration says so.
    numbers : ndarray of int, shape (A,), optional
        Which projection of its run each is, from 0; None: all are there, in order.

    Raises
    ------
    DataError
        If shapes do not fit together or an angle is not finite.
    """

    projections: Frames
    flats: Frames
    darks: Frames
    angles_deg: NDArray[np.float64]
    problems: tuple[str, ...] = ()
    monitor: NDArray[np.float64] | None = None
    flat_monitor: NDArray[np.float64] | None = None
    saturation: float | None = None
    numbers: NDArray[np.intp] | None = None

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angles in radians, as reconstruction takes them, shape (A,)."""
        return np.deg2rad(self.angles_deg)

    @property
    def places(self) -> dict[int, int]:
        """Where each projection of the run is, by its number; one that was left out is not there."""
        numbers = range(len(self.projections)) if self.numbers is None else self.numbers.tolist()
        return {number: place for place, number in enumerate(numbers)}

    def part(self, first: int, stop: int) -> TomoScan:
        """Return the scan with the projections ``[first, stop)`` of its run alone, which stay where they are."""
        places = self.places
        return self.in_order([places[number] for number in range(first, stop) if number in places])

    def in_order(self, chosen: Sequence[int]) -> TomoScan:
        """Return the scan with these projections, in this order; frames stay where they are."""
        places = np.asarray(chosen, np.intp)
        readings = None if self.monitor is None else self.monitor[places]
        numbers = None if self.numbers is None else self.numbers[places]
        frames = ChosenFrames(self.projections, places)
        angles = self.angles_deg[places]
        return replace(self, projections=frames, angles_deg=angles, monitor=readings, numbers=numbers)

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in ("projections", "flats", "darks")}
        if any(len(shape) != 3 for shape in shapes.values()) or len({shape[1:] for shape in shapes.values()}) != 1:
            raise DataError(f"scan: got {shapes}, expected (frames, rows, columns) with the same rows and columns")
        if self.angles_deg.shape != (len(self.projections),):
            raise DataError(
                f"scan: got {self.angles_deg.shape} angles for {len(self.projections)} projections, expected one each"
            )
        if self.monitor is not None and self.flat_monitor is not None:
            readings = len(self.monitor), len(self.flat_monitor)
            if readings != (len(self.projections), len(self.flats)):
                raise DataError(
                    f"scan: got {readings} readings of the monitor for {len(self.projections)} projections and "
                    f"{len(self.flats)} flats, expected one each"
                )
        if not np.all(np.isfinite(self.angles_deg)):
            bad = int(np.flatnonzero(~np.isfinite(self.angles_deg))[0])
            raise DataError(f"scan: the angle of projection {bad} is {self.angles_deg[bad]}, expected finite degrees")


def empty_frames(like: Frames) -> NDArray[Any]:
    """Return a stack of no frames, of the same rows, columns and type."""
    return np.empty((0, *like.shape[1:]), dtype=like.dtype)
