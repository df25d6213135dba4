"""Data Exchange (DXfile) in and out: the HDF5 layout that TomoPy and APS beamlines use.

``exchange/data``, ``data_white`` and ``data_dark`` hold projections, flats and darks; ``exchange/theta`` the angles
in degrees (radians where its ``units`` attribute says so). See De Carlo et al., J. Synchrotron Rad. 21, 2014,
doi:10.1107/S160057751401604X.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.storage.scan import Frames, LazyFrames, TomoScan, empty_frames, find_dataset, open_hdf5

__all__ = ["read_dxfile", "write_dxfile"]


def read_dxfile(path: str | Path) -> TomoScan:
    """Open a DXfile; frames stay in the file until they are sliced.

    Parameters
    ----------
    path : str or Path
        File in the Data Exchange layout.

    Returns
    -------
    TomoScan
        Flats or darks that the file lacks are stacks of no frames.

    Raises
    ------
    StorageError
        If there is no such file.
    DataError
        If it is not HDF5, lacks projections or angles, or they do not fit together.
    """
    path = Path(path)
    projections = LazyFrames(path, "exchange/data")
    with open_hdf5(path) as file:
        angles = in_degrees(find_dataset(file, "exchange/theta"))
        present = {name for name in ("data_white", "data_dark") if f"exchange/{name}" in file}
    flats, darks = (
        LazyFrames(path, f"exchange/{name}") if name in present else empty_frames(projections)
        for name in ("data_white", "data_dark")
    )
    try:
        return TomoScan(projections, flats, darks, angles)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def write_dxfile(
    path: str | Path,
    scan: TomoScan,
    *,
    title: str = "",
    sample: str = "",
    more: Callable[[h5py.File], None] | None = None,
) -> None:
    """Write a scan as a DXfile, one frame per chunk.

    Parameters
    ----------
    path : str or Path
        Must not exist yet; it is complete or absent, never half-written under this name.
    scan : TomoScan
        What to write.
    title, sample : str, optional
        For ``exchange/title`` and ``measurement/sample/name``.
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
        group["title"] = title or "tomography"
        file.create_group("measurement/sample")["name"] = sample
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


class new_hdf5:  # noqa: N801 (reads as a function)
    """Write an HDF5 file beside its final name, and rename it when it is whole."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise StorageError(f"{path}: exists already; it is not overwritten")
        self._path = path
        self._part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> h5py.File:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._part, "w")
        except OSError as error:
            raise StorageError(f"{self._path}: can not be written ({error})") from error
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if kind is None:
            self._part.rename(self._path)
            return
        self._part.unlink()
        if isinstance(error, OSError):
            raise StorageError(f"{self._path}: can not be written ({error})") from error


def copy_frames(group: h5py.Group, name: str, frames: Frames) -> h5py.Dataset:
    """Copy a stack into a new dataset a frame at a time, so that it never has to fit into memory."""
    shape = tuple(frames.shape)
    dataset = group.create_dataset(name, shape=shape, dtype=frames.dtype, chunks=(1, *shape[1:]) if shape[0] else None)
    for index in range(shape[0]):
        dataset[index] = frames[index]
    return dataset


def in_degrees(dataset: h5py.Dataset) -> NDArray[np.float64]:
    """Read angles as degrees, whichever of degrees and radians the file has."""
    angles = np.asarray(dataset[()], dtype=np.float64).reshape(-1)
    units = dataset.attrs.get("units", "degrees")
    if isinstance(units, np.ndarray):
        units = units.reshape(-1)[0]
    text = units.decode() if isinstance(units, bytes) else str(units)
    return np.rad2deg(angles) if text.lower().startswith("rad") else angles
