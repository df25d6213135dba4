"""NXtomo in and out: the NeXus application definition that DLS, ESRF and others use.

All frames stand in one dataset; ``image_key`` tells projections (0), flats (1), darks (2) and invalid frames (3)
apart, ``rotation_angle`` has an angle for each, in degrees unless its ``units`` say radians.
See https://manual.nexusformat.org/classes/applications/NXtomo.html.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.storage.dxfile import in_degrees, new_hdf5
from bluesky_streamrecon.storage.scan import LazyFrames, TomoScan, find_dataset, open_hdf5

__all__ = ["read_nxtomo", "write_nxtomo"]

PROJECTION, FLAT, DARK = 0, 1, 2


def read_nxtomo(path: str | Path) -> TomoScan:
    """Open an NXtomo file; frames stay in the file until they are sliced.

    Parameters
    ----------
    path : str or Path
        NeXus file; its first entry (or subentry) with the definition NXtomo is taken.

    Returns
    -------
    TomoScan
        Without the frames marked invalid.

    Raises
    ------
    StorageError
        If there is no such file.
    DataError
        If it is not HDF5, has no NXtomo entry, or data, keys and angles do not fit together.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        entry = _entry(file)
        detector = f"{entry}/instrument/detector"
        keys = np.asarray(find_dataset(file, f"{detector}/image_key")[()]).reshape(-1)
        rotation = find_dataset(file, f"{entry}/sample/rotation_angle")
        angles = in_degrees(rotation)
        frames = find_dataset(file, f"{detector}/data").shape[0]
    if not keys.size == angles.size == frames:
        raise DataError(
            f"{path}: {entry} has {frames} frames, {keys.size} image keys and {angles.size} angles, expected as "
            "many of each; was the scan cut short?"
        )
    projections, flats, darks = (
        LazyFrames(path, f"{detector}/data", np.flatnonzero(keys == key)) for key in (PROJECTION, FLAT, DARK)
    )
    try:
        return TomoScan(projections, flats, darks, angles[keys == PROJECTION])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def write_nxtomo(
    path: str | Path,
    scan: TomoScan,
    *,
    title: str = "",
    sample: str = "",
    pixel_size: float | None = None,
    more: Callable[[h5py.File], None] | None = None,
) -> None:
    """Write a scan as an NXtomo file: darks, then flats, then projections, one frame per chunk.

    Parameters
    ----------
    path : str or Path
        Must not exist yet; it is complete or absent, never half-written under this name.
    scan : TomoScan
        What to write.
    title, sample : str, optional
        Of the entry, and the sample's name.
    pixel_size : float, optional
        Side of a detector pixel, metres.
    more : callable, optional
        Writes more into the open file, before it gets its name.

    Raises
    ------
    StorageError
        If the file exists or can not be written.
    """
    kinds = ((DARK, scan.darks), (FLAT, scan.flats), (PROJECTION, scan.projections))
    keys: NDArray[np.int32] = np.concatenate([np.full(len(frames), key, np.int32) for key, frames in kinds])
    angles = np.zeros(keys.size)
    angles[keys == PROJECTION] = scan.angles_deg
    with new_hdf5(Path(path)) as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry", default="data")
        entry["definition"] = "NXtomo"
        entry["title"] = title or "tomography"
        detector = _group(_group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
        shape = (keys.size, *scan.projections.shape[1:])
        data = detector.create_dataset("data", shape=shape, dtype=scan.projections.dtype, chunks=(1, *shape[1:]))
        data.attrs["units"] = "counts"
        position = 0
        for _, frames in kinds:
            for index in range(len(frames)):
                data[position] = frames[index]
                position += 1
        detector["image_key"] = keys
        if pixel_size is not None:
            for name in ("x_pixel_size", "y_pixel_size"):
                detector[name] = pixel_size
                detector[name].attrs["units"] = "m"
        about = _group(entry, "sample", "NXsample")
        about["name"] = sample or "unknown"
        about["rotation_angle"] = angles
        about["rotation_angle"].attrs["units"] = "degree"
        plot = _group(entry, "data", "NXdata", signal="data", axes=["rotation_angle", ".", "."])
        plot["data"] = data
        plot["rotation_angle"] = about["rotation_angle"]
        plot["image_key"] = detector["image_key"]
        if more is not None:
            more(file)


def has_nxtomo(file: h5py.File) -> bool:
    """Tell whether a file has an NXtomo entry."""
    return _find_entry(file) is not None


def _entry(file: h5py.File) -> str:
    """Find the group that is an NXtomo entry."""
    entry = _find_entry(file)
    if entry is None:
        raise DataError(
            f"{file.filename}: no entry with the definition NXtomo; the file has {sorted(file) or 'nothing'}"
        )
    return entry


def _find_entry(file: h5py.File) -> str | None:
    def is_nxtomo(name: str, found: Any) -> str | None:
        if isinstance(found, h5py.Group) and isinstance(found.get("definition"), h5py.Dataset):
            definition = found["definition"][()]
            text = definition.decode() if isinstance(definition, bytes) else str(definition)
            if text == "NXtomo":
                return name
        return None

    entry: str | None = file.visititems(is_nxtomo)
    return entry


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    for key, value in attributes.items():
        group.attrs[key] = value
    return group
