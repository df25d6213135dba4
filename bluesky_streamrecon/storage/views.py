"""Which projections of a recorded scan belong to the tomogram, and at which angles: the same for every layout of file.

Angles are degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.angle_units import angles_in_degrees
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.hdf5 import ChosenFrames, find_dataset, open_hdf5, read_numbers, usable_frames
from bluesky_streamrecon.storage.scan import Frames, TomoScan

__all__ = ["assembled", "count_returning", "is_there", "read_angles", "usable"]

FULL_RANGE = 0.95 * 180.0
MOST_RETURNING = 8  # projections, in a short scan
SAME = 0.05  # of the scan's step: nearer angles are the same


def is_there(path: Path, name: str) -> bool:
    """Return whether a file has an entry `name`, be it a link that leads nowhere."""
    parent, _, last = name.strip("/").rpartition("/")
    with open_hdf5(path) as file:
        group = file.get(parent) if parent else file
        return isinstance(group, h5py.Group) and last in set(group)


def usable(
    path: Path, name: str, problems: list[str], *, may_be_dark: NDArray[np.bool_] | bool = False
) -> NDArray[np.intp]:
    """Return the frames of a dataset that were written, and note how many at its end were not; errors of the reader."""
    index = usable_frames(path, name, may_be_dark=may_be_dark)
    with open_hdf5(path) as file:
        stored = int(find_dataset(file, name).shape[0])
    if index.size < stored:
        problems.append(
            f"{path}: the last {stored - index.size} of {stored} frames in {name} were never written: left out; was "
            "the scan cut short?"
        )
    return index


def read_angles(
    path: Path, name: str, problems: list[str], angle_units: str | None, used: Callable[[int], NDArray[np.intp]]
) -> NDArray[np.float64]:
    """Return the angles of a scan, NaN where they were never written.

    Parameters
    ----------
    path, name
        File and dataset.
    problems : list of str
        Doubts are appended.
    angle_units : str or None
        In place of those that the file states.
    used : callable
        Given the number of angles, returns which of them are projections'; the units are judged by these.
    """
    with open_hdf5(path) as file:
        values = np.asarray(read_numbers(file, name), np.float64)
        attributes = {key.lower(): value for key, value in find_dataset(file, name).attrs.items()}
    units = attributes.get("units", attributes.get("unit"))
    chosen = used(values.size)
    degrees, doubts = angles_in_degrees(values[chosen], units, f"{path}: {name}", angle_units=angle_units)
    problems.extend(doubts)
    angles: NDArray[np.float64] = np.full(values.size, np.nan)
    angles[chosen] = degrees
    return angles


def assembled(
    path: Path,
    stack: Frames,
    index: NDArray[np.intp],
    angles: NDArray[np.float64],
    flats: Frames,
    darks: Frames,
    problems: list[str],
) -> TomoScan:
    """Return a scan without the projections that were taken while the stage went back.

    Parameters
    ----------
    path : Path
        The file.
    stack : Frames
        All frames that projections are among.
    index : ndarray of int
        Frames that are projections.
    angles : ndarray of float64
        Of these, degrees.
    flats, darks : Frames
        Reference frames.
    problems : list of str
        What was noted so far.

    Raises
    ------
    DataError
        If the scan does not fit together, or its angles are no angles of a scan.
    """
    if index.size > 1 and np.all(angles == angles[0]):
        raise DataError(
            f"{path}: all {index.size} projections are at {angles[0]:g} degrees; were the angles ever written?"
        )
    if back := count_returning(angles):
        where = ", ".join(f"{angle:g}" for angle in angles[-back:])
        problems.append(
            f"{path}: the last {back} of {index.size} projections are at {where} degrees, where the full range had "
            "been seen before: taken while the stage went back, left out"
        )
        index, angles = index[:-back], angles[:-back]
    try:
        return TomoScan(ChosenFrames(stack, index), flats, darks, angles, tuple(problems))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def count_returning(angles: NDArray[np.float64]) -> int:
    """Count the projections at a scan's end that were taken when it was over, while the stage went back.

    They follow a full range in which no angle came twice, are few, and either repeat angles of it, or go back through
    a range that was scanned in one direction, in large steps.

    Examples
    --------
    >>> count_returning(np.array([*range(0, 181, 4), 90.0, 0.0]))
    2
    >>> count_returning(np.array([*range(0, 181, 4), *range(2, 180, 4)], float))
    0
    """
    if angles.size < 4 or not np.all(np.isfinite(angles)):
        return 0
    order = np.argsort(angles, kind="stable")
    gaps = np.diff(angles[order])
    steps = gaps[gaps > 0]
    if not steps.size:
        return 0
    # Of the scan itself: returning projections are few, so they do not change the median.
    step = float(np.median(steps))
    turned = np.flatnonzero(np.sign(np.diff(angles)) == -np.sign(angles[1] - angles[0]))
    backwards = angles.size - int(turned[0]) - 1 if turned.size else 0
    for back in sorted({backwards, angles.size - _first_repeat(angles, SAME * step)}, reverse=True):
        scan, tail = angles[: angles.size - back], angles[angles.size - back :]
        if not 0 < back <= max(MOST_RETURNING, scan.size // 10) or 2 * back > scan.size:
            continue
        if np.ptp(scan) + step < FULL_RANGE:
            continue
        nearest = np.abs(tail[:, None] - scan[None, :]).min(axis=1)
        repeats = bool(np.all(nearest <= SAME * step))
        inside = bool(np.all((tail >= scan.min()) & (tail <= scan.max())))
        strides = np.abs(np.diff(np.concatenate([scan[-1:], tail])))
        goes_back = back == backwards and inside and bool(np.all(strides >= 10 * step))
        if repeats or goes_back:
            return back
    return 0


def _first_repeat(angles: NDArray[np.float64], tolerance: float) -> int:
    """Return the index of the first angle that was there before, or how many angles there are."""
    order = np.argsort(angles, kind="stable")
    near = np.flatnonzero(np.diff(angles[order]) <= tolerance)
    later = np.maximum(order[near], order[near + 1])
    return int(later.min()) if later.size else int(angles.size)
