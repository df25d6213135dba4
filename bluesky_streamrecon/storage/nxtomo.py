"""NXtomo in and out: the NeXus application definition that DLS, ESRF and others use.

All frames stand in one dataset; ``image_key`` is 0 for projections, 1 for flats, 2 for darks and 3 for invalid
frames, ``image_key_control`` those taken for alignment (-1), and ``rotation_angle`` has an angle for each, in the units
that its attribute ``units`` states, degrees where it has none.
See https://manual.nexusformat.org/classes/applications/NXtomo.html.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.hdf5 import HDF5_ERRORS, ChosenFrames, LazyFrames, find_dataset, open_hdf5, read_numbers
from bluesky_streamrecon.pixels import common_dtype
from bluesky_streamrecon.storage.details import UNKNOWN, ScanDetails, iso
from bluesky_streamrecon.storage.dxfile import new_hdf5, write_frames
from bluesky_streamrecon.storage.scan import TomoScan
from bluesky_streamrecon.storage.views import assembled, read_angles, usable

__all__ = ["read_nxtomo", "write_nxtomo"]

PROJECTION, FLAT, DARK, INVALID, ALIGNMENT = 0, 1, 2, 3, -1
NOTHING = -99  # for keys that were never written
DEEPEST = 8  # groups in groups, through links


def read_nxtomo(path: str | Path, *, angle_units: str | None = None) -> TomoScan:
    """Open an NXtomo file; frames stay in the file until they are sliced.

    Parameters
    ----------
    path : str or Path
        NeXus file; its first entry (or subentry) with the definition NXtomo is taken, through any links.
    angle_units : str, optional
        Units of the angles, in place of those that the file states; see `bluesky_streamrecon.angle_units.UNITS`.

    Returns
    -------
    TomoScan
        Without frames marked invalid or taken for alignment, frames at the end that were never written, and
        projections that were taken while the stage went back; its ``problems`` count them.

    Raises
    ------
    StorageError
        If there is no such file.
    DataError
        If it is not HDF5, has no NXtomo entry, data, keys and angles do not fit together, or their data are not all
        there.
    """
    path, problems = Path(path), list[str]()
    with open_hdf5(path) as file:
        parts = find_nxtomo(file)
        stored = int(find_dataset(file, parts.data).shape[0]) if find_dataset(file, parts.data).shape else 0
    if len(parts.others):
        problems.append(f"{path}: {parts.entry} is read; there are other NXtomo entries: {', '.join(parts.others)}")
    keys = _keys(path, parts)
    angles = read_angles(
        path, parts.angles, problems, angle_units, lambda count: np.flatnonzero(keys == PROJECTION)[:count]
    )
    if keys.size != angles.size or stored > keys.size:
        raise DataError(
            f"{path}: {parts.entry} has {stored} frames, {keys.size} image keys and {angles.size} angles, expected as "
            "many of each; which belongs to which can not be known"
        )
    index = usable(path, parts.data, problems, may_be_dark=keys[:stored] != PROJECTION)
    if stored < keys.size:
        problems.append(
            f"{path}: {parts.data} has {stored} frames of the {keys.size} that were planned; was the scan cut short?"
        )
    keys = keys[: index.size]
    for key, what in ((INVALID, "marked invalid"), (ALIGNMENT, "taken for alignment (image_key_control -1)")):
        if number := np.count_nonzero(keys == key):
            problems.append(f"{path}: {number} of {keys.size} frames are {what}: left out")
    frames = LazyFrames(path, parts.data)
    flats, darks = (ChosenFrames(frames, np.flatnonzero(keys == key)) for key in (FLAT, DARK))
    chosen = np.flatnonzero(keys == PROJECTION)
    return assembled(path, frames, chosen, angles[chosen], flats, darks, problems)


def _keys(path: Path, parts: NXTomoParts) -> NDArray[np.intp]:
    """Return what each frame is: image_key, and ALIGNMENT where image_key_control says so."""
    with open_hdf5(path) as file:
        found = [
            read_numbers(file, name, missing=NOTHING).astype(np.int64)
            for name in (parts.key, parts.control)
            if name is not None
        ]
    keys = found[0].copy()
    for more in found[1:]:
        if more.size != keys.size:
            raise DataError(f"{path}: got {keys.size} values of image_key and {more.size} of image_key_control")
        differ = (np.abs(more) != keys) & ~((more == ALIGNMENT) & (keys == PROJECTION))
        if differ.any():
            at = int(np.flatnonzero(differ)[0])
            raise DataError(
                f"{path}: image_key of frame {at} is {keys[at]}, but image_key_control is {more[at]}; expected both to "
                "say the same"
            )
        keys[more == ALIGNMENT] = ALIGNMENT
    unknown = ~np.isin(keys, (PROJECTION, FLAT, DARK, INVALID, ALIGNMENT))
    if unknown.any():
        at = int(np.flatnonzero(unknown)[0])
        got = "was never written" if keys[at] == NOTHING else f"is {keys[at]}"
        raise DataError(
            f"{path}: image_key of frame {at} {got}, expected 0 (projection), 1 (flat), 2 (dark), 3 (invalid) or -1 "
            "(alignment)"
        )
    return keys


def write_nxtomo(
    path: str | Path,
    scan: TomoScan,
    *,
    details: ScanDetails = UNKNOWN,
    more: Callable[[h5py.File], None] | None = None,
) -> None:
    """Write a scan as an NXtomo file: darks, then flats, then projections, one frame per chunk; see `write_dxfile`."""
    kinds = ((DARK, scan.darks), (FLAT, scan.flats), (PROJECTION, scan.projections))
    keys: NDArray[np.int32] = np.concatenate([np.full(len(frames), key, np.int32) for key, frames in kinds])
    angles = np.zeros(keys.size)
    angles[keys == PROJECTION] = scan.angles_deg
    with new_hdf5(Path(path)) as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry", default="data")
        entry["definition"] = "NXtomo"
        entry["title"] = details.title or "tomography"
        detector = _group(_group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
        shape = (keys.size, *scan.projections.shape[1:])
        dtype = common_dtype(*(frames.dtype for _, frames in kinds if len(frames)))
        data = detector.create_dataset("data", shape=shape, dtype=dtype, chunks=(1, *shape[1:]))
        data.attrs["units"] = "counts"
        position = 0
        for _, frames in kinds:
            write_frames(data, position, frames, "the scan")
            position += len(frames)
        detector["image_key"] = keys
        about = _group(entry, "sample", "NXsample")
        about["name"] = details.sample or "unknown"
        about["rotation_angle"] = angles
        about["rotation_angle"].attrs["units"] = "degree"
        _write_details(entry, details, scan.projections.shape[2])
        if scan.monitor is not None and scan.flat_monitor is not None:
            control = _group(entry, "control", "NXmonitor")
            control["data"] = np.concatenate([np.zeros(len(scan.darks)), scan.flat_monitor, scan.monitor])
        plot = _group(entry, "data", "NXdata", signal="data", axes=["rotation_angle", ".", "."])
        plot["data"] = data
        plot["rotation_angle"] = about["rotation_angle"]
        plot["image_key"] = detector["image_key"]
        if more is not None:
            more(file)


def _write_details(entry: h5py.Group, details: ScanDetails, columns: int) -> None:
    """Write what is known to where NXtomo has it; the axis is counted from the middle of the detector."""
    detector = entry["instrument/detector"]

    def put(group: h5py.Group, name: str, value: float | None, units: str) -> None:
        if value is not None:
            group[name] = value
            group[name].attrs["units"] = units

    for name in ("x_pixel_size", "y_pixel_size"):
        put(detector, name, details.pixel_size_um and details.pixel_size_um * 1e-6, "m")
    put(detector, "distance", details.distance_mm and details.distance_mm * 1e-3, "m")
    put(detector, "count_time", details.exposure_s, "s")
    middle = (columns - 1) / 2
    put(detector, "x_rotation_axis_pixel_position", None if details.axis is None else details.axis - middle, "pixel")
    if details.energy_kev is not None:
        put(_group(entry["instrument"], "beam", "NXbeam"), "incident_energy", details.energy_kev, "keV")
    for name, seconds in (("start_time", details.started), ("end_time", details.ended)):
        if seconds is not None:
            entry[name] = iso(seconds)


def has_nxtomo(file: h5py.File) -> bool:
    """Return whether a file has an NXtomo entry, through any links."""
    return bool(_entries(file)[0])


@dataclass(frozen=True, slots=True)
class NXTomoParts:
    """Where an NXtomo entry keeps its data: paths in the file.

    Parameters
    ----------
    entry, data, key, angles : str
        The entry; frames, image keys and angles.
    control : str or None
        ``image_key_control``, where there is one.
    others : tuple of str
        Further NXtomo entries of the file.
    """

    entry: str
    data: str
    key: str
    control: str | None
    angles: str
    others: tuple[str, ...]


def find_nxtomo(file: h5py.File) -> NXTomoParts:
    """Find the first NXtomo entry of a file, and its detector and sample by their names or their NX_class.

    Raises
    ------
    DataError
        If there is none; with the links that lead nowhere.
    """
    entries, broken = _entries(file)
    if not entries:
        links = f"; these links lead nowhere: {', '.join(broken)}" if broken else ""
        raise DataError(
            f"{file.filename}: no entry with the definition NXtomo; the file has {sorted(file) or 'nothing'}{links}"
        )
    entry = entries[0]
    instrument = _child(file, entry, "instrument", "NXinstrument")
    detector = _child(file, instrument, "detector", "NXdetector")
    sample = _child(file, entry, "sample", "NXsample")
    has = {name for name in ("image_key", "image_key_control") if name in set(_group_at(file, detector))}
    return NXTomoParts(
        entry=entry,
        data=f"{detector}/data",
        key=f"{detector}/image_key" if has != {"image_key_control"} else f"{detector}/image_key_control",
        control=f"{detector}/image_key_control" if len(has) == 2 else None,
        angles=f"{sample}/rotation_angle",
        others=tuple(entries[1:]),
    )


def _entries(file: h5py.File) -> tuple[list[str], list[str]]:
    """Return the paths of all groups with the definition NXtomo, and the links that lead nowhere."""
    entries: list[str] = []
    broken: list[str] = []
    seen: set[tuple[int, object]] = set()

    def walk(group: h5py.Group, path: str) -> None:
        about = h5py.h5o.get_info(group.id)
        if (about.fileno, about.addr) in seen or path.count("/") > DEEPEST:
            return
        seen.add((about.fileno, about.addr))
        if _text(group, "definition") == "NXtomo":
            entries.append(path.lstrip("/"))
            return
        for name in group:
            link = group.get(name, getlink=True)
            try:
                below = group.get(name)
            except HDF5_ERRORS:
                below = None
            if isinstance(below, h5py.Group):
                walk(below, f"{path}/{name}")
            elif below is None:
                where = f" in the file {link.filename}" if isinstance(link, h5py.ExternalLink) else ""
                broken.append(f"{path}/{name} to {getattr(link, 'path', '?')}{where}")

    walk(file, "")
    return entries, broken


def _text(group: h5py.Group, name: str) -> str:
    """Return the text of a dataset, or of an attribute, of a group; empty where there is none."""
    try:
        found = group.get(name)
        value = found[()] if isinstance(found, h5py.Dataset) else group.attrs.get(name, "")
    except HDF5_ERRORS:
        return ""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()


def _child(file: h5py.File, parent: str, name: str, nx_class: str) -> str:
    """Return the path of a group by its usual name, else of the first of its class."""
    group = _group_at(file, parent)
    if name not in set(group):
        for other in group:
            try:
                below = group.get(other)
            except HDF5_ERRORS:
                continue
            if isinstance(below, h5py.Group) and _text(below, "NX_class") == nx_class:
                return f"{parent}/{other}"
    return f"{parent}/{name}"


def _group_at(file: h5py.File, path: str) -> h5py.Group | dict[str, object]:
    try:
        found = file.get(path) if path else file
    except HDF5_ERRORS:
        return {}
    return found if isinstance(found, h5py.Group) else {}


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    for key, value in attributes.items():
        group.attrs[key] = value
    return group
