"""A reconstruction as a file of its own: OME-Zarr 0.5 with a pyramid, TIFF stack or DXfile, with the size of pixels.

Values are attenuation per pixel, as they were computed; axes are rows from the top, then the slice's own two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.storage.details import scan_details
from bluesky_streamrecon.storage.dxfile import copy_frames, written_whole
from bluesky_streamrecon.storage.run_streams import RunStreams
from bluesky_streamrecon.storage.runs import IMAGES, find_raw_run, find_reconstruction, finished_images

__all__ = ["LAYOUTS", "VOLUME_LAYOUTS", "ExportedVolume", "chosen_layout", "export_volume"]

LAYOUTS: dict[str, tuple[str, ...]] = {"nxtomo": (".nxs", ".nx"), "dxchange": (".h5", ".hdf5", ".hdf", ".dx")}
"""Layouts of a whole run, and the suffixes that choose them."""

VOLUME_LAYOUTS: dict[str, tuple[str, ...]] = {
    "ome-zarr": (".zarr",),
    "tiff": (".tif", ".tiff"),
    "dxchange-volume": (),  # the suffixes of HDF5 choose a file of the whole run
}
"""Layouts of a volume alone, and the suffixes that choose them."""

LARGEST_IMAGEJ = 2**32 - 2**25
"""Bytes of pixels from which a TIFF stack is a BigTIFF."""

CHUNK = 64
"""Pixels along each axis of a chunk; the pyramid ends with a level that is one chunk wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedVolume:
    """What was exported.

    Parameters
    ----------
    recon_uid : str
        Of the reconstruction.
    file : str
        That was written; a directory for OME-Zarr.
    layout : str
        One of `VOLUME_LAYOUTS`.
    image : str
        ``"volume"``, finished from all projections, or ``"image"``, the last live one.
    shape : tuple of int
        (rows, N, N).
    pixel_size_um : float or None
        Micrometres.
    levels : int
        Of the pyramid, the full size among them; 1 for TIFF and DXfile.
    """

    recon_uid: str
    file: str
    layout: str
    image: str
    shape: tuple[int, ...]
    pixel_size_um: float | None
    levels: int


def chosen_layout(
    path: Path, layout: str | None = None, among: Mapping[str, tuple[str, ...]] = LAYOUTS | VOLUME_LAYOUTS
) -> str:
    """Return a layout by its name, or by the suffix of a file.

    Raises
    ------
    ConfigError
        If there is no such layout, or the suffix stands for none.
    """
    if layout is not None:
        if layout not in among:
            raise ConfigError(f"layout: got {layout!r}, expected one of {', '.join(among)}")
        return layout
    for name, suffixes in among.items():
        if path.suffix.lower() in suffixes:
            return name
    known = "; ".join(f"{name}: {', '.join(ends)}" for name, ends in among.items() if ends)
    raise ConfigError(f"{path}: got suffix {path.suffix!r}, expected one that names the layout ({known}), or a layout")


def export_volume(
    catalog: Any,
    uid: str,
    path: str | Path,
    *,
    layout: str | None = None,
    pixel_size_um: float | None = None,
    live: bool = False,
    made: tuple[NDArray[np.float32], str] | None = None,
) -> ExportedVolume:
    """Write a reconstruction into a file that viewers of volumes open.

    It is read and written some slices at a time.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    uid : str
        Of the reconstruction or of its raw run, or its first characters.
    path : str or Path
        Must not exist yet; it is complete or absent, never half-written under this name.
    layout : str, optional
        ``"ome-zarr"``, ``"tiff"`` or ``"dxchange-volume"``; by default what the file's suffix says.
    pixel_size_um : float, optional
        Of the detector, micrometres at the sample, in place of what the scan says; the volume's pixels are `bin` times
        as wide. Where nothing says it, the volume's unit is the pixel.
    live : bool, optional
        The last live image, also where there is a finished volume.
    made : (ndarray of float32, str), optional
        A volume to be written in place of those that are stored, and what to call it; `uid` then need not have any.

    Raises
    ------
    ConfigError
        If there is no such layout, or the size is not positive.
    StorageError
        If there is no such reconstruction, the file exists, or can not be written.
    """
    path = Path(path)
    chosen = chosen_layout(path, layout, VOLUME_LAYOUTS)
    if pixel_size_um is not None and not (np.isfinite(pixel_size_um) and pixel_size_um > 0):
        raise ConfigError(f"pixel size: got {pixel_size_um}, expected micrometres above 0")
    if made is None:
        run = RunStreams(find_reconstruction(catalog, uid))
        name, start = IMAGES[0] if live else finished_images(run, uid)[-1], run.metadata["start"]
        volume, raw, recon_uid = run[name][name], start.get("raw_run_uid"), start["uid"]
    else:
        (volume, name), start = made, find_raw_run(catalog, uid).metadata["start"]
        raw, recon_uid = start["uid"], start.get("streamrecon", {}).get("recon_uid", "")
    if pixel_size_um is None and raw is not None and raw in catalog:
        pixel_size_um = scan_details(RunStreams(catalog[raw])).pixel_size_um
    if pixel_size_um is not None:
        pixel_size_um *= start.get("streamrecon", {}).get("recon", {}).get("bin", 1)
    about = {"recon_uid": recon_uid, "raw_run_uid": raw, "image": name, "values": "1/pixel"}
    write = {"ome-zarr": _write_ome_zarr, "tiff": _write_tiff, "dxchange-volume": _write_dxfile}[chosen]
    with written_whole(path) as part:
        levels = write(part, volume, pixel_size_um, path.name.partition(".")[0], about)
    return ExportedVolume(
        recon_uid=recon_uid,
        file=str(path),
        layout=chosen,
        image=name,
        shape=tuple(volume.shape),
        pixel_size_um=pixel_size_um,
        levels=levels,
    )


def _write_ome_zarr(part: Path, volume: Any, pixel_um: float | None, name: str, about: Mapping[str, Any]) -> int:
    """Write OME-Zarr 0.5 (https://ngff.openmicroscopy.org/0.5): levels of half the size, each the mean of blocks."""
    import zarr

    group = zarr.open_group(part, mode="w", zarr_format=3)
    level, factors = volume, np.ones(3, dtype=np.int_)  # from its second level on the pyramid is in memory
    sizes: list[NDArray[np.int_]] = []
    low, high = np.inf, -np.inf
    while True:
        shape = tuple(level.shape)
        chunks = tuple(min(CHUNK, length) for length in shape)
        array = group.create_array(
            str(len(sizes)), shape=shape, chunks=chunks, dtype="float32", dimension_names=["z", "y", "x"]
        )
        blocks = np.where(np.asarray(shape) > CHUNK, 2, 1)
        below = np.zeros(tuple(-(-length // block) for length, block in zip(shape, blocks, strict=True)), np.float32)
        for first in range(0, shape[0], CHUNK):
            rows = np.asarray(level[first : first + CHUNK], dtype=np.float32)
            array[first : first + len(rows)] = rows
            low, high = min(low, float(np.nanmin(rows))), max(high, float(np.nanmax(rows)))
            mean = _mean_of_blocks(rows, blocks)
            begin = first // blocks[0]
            below[begin : begin + len(mean)] = mean
        sizes.append(factors.copy())
        if (blocks == 1).all():
            start, end = np.nanpercentile(below, (0.5, 99.5))
            break
        level, factors = below, factors * blocks
    unit = {} if pixel_um is None else {"unit": "micrometer"}
    pixel = 1.0 if pixel_um is None else pixel_um
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "type": "mean",
                "axes": [{"name": axis, "type": "space", **unit} for axis in "zyx"],
                "datasets": [
                    {
                        "path": str(number),
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [float(factor * pixel) for factor in size]},
                            {"type": "translation", "translation": [float((f - 1) / 2 * pixel) for f in size]},
                        ],
                    }
                    for number, size in enumerate(sizes)
                ],
            }
        ],
        "omero": {
            "name": name,
            "channels": [
                {
                    "label": "attenuation",
                    "color": "FFFFFF",
                    "active": True,
                    "window": {"min": low, "max": high, "start": float(start), "end": float(end)},
                }
            ],
        },
    }
    group.attrs["streamrecon"] = dict(about)
    return len(sizes)


def _mean_of_blocks(rows: NDArray[np.float32], blocks: NDArray[np.int_]) -> NDArray[np.float32]:
    """Return means of blocks; those at the end have what is there."""
    for axis, block in enumerate(blocks.tolist()):
        if block > 1:
            starts = np.arange(0, rows.shape[axis], block)
            counts = np.minimum(block, rows.shape[axis] - starts)
            shape = [-1 if other == axis else 1 for other in range(3)]
            rows = np.add.reduceat(rows, starts, axis=axis) / counts.reshape(shape).astype(np.float32)
    return rows


def _write_tiff(part: Path, volume: Any, pixel_um: float | None, name: str, about: Mapping[str, Any]) -> int:
    """Write a page per slice: as ImageJ does, or above 4 GiB, which it can not have, as BigTIFF with OME's metadata."""
    import tifffile

    def slices() -> Iterator[NDArray[np.float32]]:
        for row in range(volume.shape[0]):
            yield np.asarray(volume[row], dtype=np.float32)

    shape = tuple(volume.shape)
    if 4 * math.prod(shape) < LARGEST_IMAGEJ:
        size = {} if pixel_um is None else {"unit": "micron", "spacing": pixel_um}
        form = {"imagej": True, "metadata": {"axes": "ZYX", "Info": f"{name}: {dict(about)}", **size}}
        per_unit, unit = 1.0, "NONE"
    else:
        size = {} if pixel_um is None else {f"PhysicalSize{axis}": pixel_um for axis in "XYZ"}
        units = {} if pixel_um is None else {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
        form = {
            "ome": True,
            "metadata": {"axes": "ZYX", "Name": name, "Description": str(dict(about)), **size, **units},
        }
        per_unit, unit = 1e4, "CENTIMETER"
    tifffile.imwrite(
        part,
        slices(),
        shape=shape,
        dtype=np.float32,
        photometric="minisblack",
        resolution=None if pixel_um is None else (per_unit / pixel_um, per_unit / pixel_um),
        resolutionunit=None if pixel_um is None else unit,
        **form,
    )
    return 1


def _write_dxfile(part: Path, volume: Any, pixel_um: float | None, name: str, about: Mapping[str, Any]) -> int:
    """Write a Data Exchange file whose ``exchange/data`` is the volume, a slice per chunk."""
    import h5py

    with h5py.File(part, "w") as file:
        file["implements"] = "exchange"
        group = file.create_group("exchange")
        group["title"], group["description"] = name, str(dict(about))
        data = copy_frames(group, "data", volume)
        data.attrs["axes"], data.attrs["units"] = "z:y:x", "1/pixel"
        for axis, length in zip("zyx", volume.shape, strict=True):
            group[axis] = np.arange(length) * (pixel_um or 1.0)
            group[axis].attrs["units"] = "pixel" if pixel_um is None else "um"
    return 1
