"""Data Exchange (DXfile) in and out: the HDF5 layout that TomoPy and APS beamlines use.

``exchange/data``, ``data_white`` and ``data_dark`` hold projections, flats and darks; ``exchange/theta`` the angles
in the units that its attribute ``units`` states, degrees where it has none. See De Carlo et al.,
J. Synchrotron Rad. 21, 2014, doi:10.1107/S160057751401604X.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.hdf5 import ChosenFrames, LazyFrames, find_dataset, open_hdf5
from bluesky_streamrecon.pixels import exactly, plain_dtype
from bluesky_streamrecon.storage.details import UNKNOWN, ScanDetails, iso
from bluesky_streamrecon.storage.scan import Frames, TomoScan, empty_frames
from bluesky_streamrecon.storage.views import assembled, is_there, read_angles, usable

__all__ = ["read_dxfile", "write_dxfile"]

GROUP = "exchange"
BYTES_AT_ONCE = 1 << 26


def read_dxfile(path: str | Path, *, angle_units: str | None = None) -> TomoScan:
    """Open a DXfile; frames stay in the file until they are sliced.

    Parameters
    ----------
    path : str or Path
        File in the Data Exchange layout.
    angle_units : str, optional
        Units of the angles, in place of those that the file states; see `bluesky_streamrecon.angle_units.UNITS`.

    Returns
    -------
    TomoScan
        Flats or darks that the file lacks are stacks of no frames. Frames at the end that were never written, and
        projections that were taken while the stage went back, are left out; its ``problems`` say so.

    Raises
    ------
    StorageError
        If there is no such file.
    DataError
        If it is not HDF5, lacks projections or angles, they do not fit together, or their data are not all there.
    """
    path, problems = Path(path), list[str]()
    index = usable(path, f"{GROUP}/data", problems)
    with open_hdf5(path) as file:
        stored = int(find_dataset(file, f"{GROUP}/data").shape[0])
    angles = read_angles(path, f"{GROUP}/theta", problems, angle_units, lambda count: index[index < count])
    if angles.size != stored:
        raise DataError(
            f"{path}: got {angles.size} angles in {GROUP}/theta for {stored} projections in {GROUP}/data, expected one "
            "each; which angle belongs to which can not be known"
        )
    projections = LazyFrames(path, f"{GROUP}/data")
    flats, darks = (
        ChosenFrames(LazyFrames(path, name), usable(path, name, problems, may_be_dark=may_be_dark))
        if is_there(path, name)
        else empty_frames(projections)
        for name, may_be_dark in ((f"{GROUP}/data_white", False), (f"{GROUP}/data_dark", True))
    )
    return assembled(path, projections, index, angles[index], flats, darks, problems)


def write_dxfile(
    path: str | Path,
    scan: TomoScan,
    *,
    details: ScanDetails = UNKNOWN,
    more: Callable[[h5py.File], None] | None = None,
) -> None:
    """Write a scan as a DXfile, one frame per chunk.

    Parameters
    ----------
    path : str or Path
        Must not exist yet; it is complete or absent, never half-written under this name.
    scan : TomoScan
        What to write.
    details : ScanDetails, optional
        How it was taken.
    more : callable, optional
        Writes more into the open file, before it gets its name.

    Raises
    ------
    StorageError
        If the file exists or can not be written.
    """
    with new_hdf5(Path(path)) as file:
        file["implements"] = "exchange:measurement"
        group = file.create_group("exchange")
        group["title"] = details.title or "tomography"
        _write_details(file, details)
        for name, frames, axes in (
            ("data", scan.projections, "theta:y:x"),
            ("data_white", scan.flats, "theta_white:y:x"),
            ("data_dark", scan.darks, "theta_dark:y:x"),
        ):
            dataset = copy_frames(group, name, frames)
            dataset.attrs["units"] = "counts"
            dataset.attrs["axes"] = axes
        theta = group.create_dataset("theta", data=scan.angles_deg)
        theta.attrs["units"] = "degrees"
        if more is not None:
            more(file)


def _write_details(file: h5py.File, details: ScanDetails) -> None:
    """Write what is known to where the Data Exchange reference (De Carlo et al. 2014) has it."""
    file["measurement/sample/name"] = details.sample
    times = ("start", details.started), ("end", details.ended)
    for name, value, units in (
        ("measurement/instrument/detector/actual_pixel_size_x", details.pixel_size_um, "um"),
        ("measurement/instrument/detector/actual_pixel_size_y", details.pixel_size_um, "um"),
        ("measurement/instrument/detector/exposure_time", details.exposure_s, "s"),
        ("measurement/instrument/monochromator/energy", details.energy_kev, "keV"),
        ("measurement/instrument/setup/sample_detector_distance", details.distance_mm, "mm"),
        ("process/rotation_axis", details.axis, "pixel"),
        *((f"process/acquisition/{name}_date", seconds and iso(seconds), "") for name, seconds in times),
    ):
        if value is not None:
            file[name] = value
            if units:
                file[name].attrs["units"] = units


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside a new file's, to write at, which gets the file's name when it is whole.

    Raises
    ------
    StorageError
        If the file exists or can not be written.
    """
    if path.exists():
        raise StorageError(f"{path}: exists already; it is not overwritten")
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.rename(path)
    except OSError as error:
        raise StorageError(f"{path}: can not be written ({error})") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a new HDF5 file to be written; see `written_whole`."""
    with written_whole(path) as part, h5py.File(part, "w") as file:
        yield file


def copy_frames(group: h5py.Group, name: str, frames: Frames) -> h5py.Dataset:
    """Copy a stack into a new dataset some frames at a time, so that it never has to fit into memory."""
    shape, dtype = tuple(frames.shape), plain_dtype(frames.dtype)
    dataset = group.create_dataset(name, shape=shape, dtype=dtype, chunks=(1, *shape[1:]) if shape[0] else None)
    write_frames(dataset, 0, frames, name)
    return dataset


def write_frames(dataset: h5py.Dataset, first: int, frames: Frames, name: str) -> None:
    """Write a stack into a dataset from frame `first`, each value as it is.

    Raises
    ------
    DataError
        If a value does not fit the dataset's type.
    StorageError
        If the frames do not fit onto the disk: HDF5 crashes at the end of a program that has filled one.
    """
    needed, there = dataset.dtype.itemsize * math.prod(frames.shape), Path(dataset.file.filename).parent
    if needed > (free := shutil.disk_usage(there).free):
        raise StorageError(
            f"frames of {name}: {needed / 1e6:.1f} MB, and the disk of {there} has {free / 1e6:.1f} MB left"
        )
    at_once = max(1, BYTES_AT_ONCE // max(1, dataset.dtype.itemsize * math.prod(dataset.shape[1:])))
    for begin in range(0, frames.shape[0], at_once):
        part = np.asarray(frames[begin : begin + at_once])
        dataset[first + begin : first + begin + len(part)] = exactly(part, dataset.dtype, f"frames of {name}")
