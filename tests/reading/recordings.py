"""Small scans as files of any layout, with what NumPy makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

LAYOUTS = ("contiguous", "chunked", "tiled", "gzip", "bitshuffle", "zstd", "virtual", "virtual-frames", "external")
TYPES = tuple(f"{order}{kind}" for kind in ("u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8") for order in "<>")
TYPES += ("|u1", "|i1")
UNITS = {"degrees": 1.0, "Deg": 1.0, " Radians ": 180 / np.pi, "mrad": 0.18 / np.pi, "turn": 360.0, "arcmin": 1 / 60}


@dataclass
class Recording:
    """A scan, and where it is kept."""

    path: Path
    projections: np.ndarray
    flats: np.ndarray
    darks: np.ndarray
    degrees: np.ndarray
    data: tuple[str, ...]  # datasets of projections, flats and darks
    keys: np.ndarray | None  # NXtomo: what each frame is

    def integrals(self) -> np.ndarray:
        p, f, d = (np.asarray(stack, np.float64) for stack in (self.projections, self.flats, self.darks))
        dark = d.mean(axis=0) if len(d) else 0.0
        return -np.log((p - dark) / (f.mean(axis=0) - dark))


def counts(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, low: int, high: int) -> np.ndarray:
    """Values that the type holds, and that a narrower one mostly does not."""
    kind = np.dtype(dtype)
    scale = {1: 1, 2: 15 if kind.kind == "f" else 250, 4: 123_457, 8: 10_000_000_019}[kind.itemsize]
    values = rng.integers(low, high, shape) * scale
    return (values + (rng.random(shape) if kind.kind == "f" and kind.itemsize > 2 else 0)).astype(kind)


def put(file: h5py.File, name: str, stack: np.ndarray, layout: str) -> None:
    """Write a stack into a file, and beside it."""
    folder, n = Path(file.filename).parent, len(stack)
    beside = f"{name.replace('/', '-')}"
    if layout == "contiguous" or n == 0:
        file[name] = stack
    elif layout == "chunked":
        file.create_dataset(name, data=stack, chunks=(min(2, n), *stack.shape[1:]))
    elif layout == "tiled":
        file.create_dataset(name, data=stack, chunks=(1, 1, 2), maxshape=(None, *stack.shape[1:]))
    elif layout in ("gzip", "bitshuffle", "zstd"):
        how = {"gzip": {"compression": "gzip", "shuffle": True}, "bitshuffle": hdf5plugin.Bitshuffle(),
               "zstd": hdf5plugin.Zstd()}[layout]  # fmt: skip
        file.create_dataset(name, data=stack, chunks=(1, *stack.shape[1:]), **how)
    elif layout == "external":
        (folder / f"{beside}.raw").write_bytes(stack.tobytes())
        where = [(str(folder / f"{beside}.raw"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset(name, shape=stack.shape, dtype=stack.dtype, external=where)
    else:
        target = h5py.VirtualLayout(stack.shape, stack.dtype)
        if layout == "virtual":
            with h5py.File(folder / f"{beside}.h5", "w") as source:
                source["d"] = stack
            target[:] = h5py.VirtualSource(f"{beside}.h5", "d", stack.shape)
        else:
            for i, frame in enumerate(stack):
                with h5py.File(folder / f"{beside}-{i}.h5", "w") as source:
                    source["d"] = frame
                target[i] = h5py.VirtualSource(f"{beside}-{i}.h5", "d", frame.shape)
        file.create_virtual_dataset(name, target, fillvalue=0)


def record(
    folder: Path,
    *,
    seed: int = 0,
    dtype: str = "<u2",
    flat_dtype: str | None = None,
    layout: str = "chunked",
    nxtomo: bool = False,
    number: tuple[int, int, int] = (6, 2, 1),
    shape: tuple[int, int] = (2, 5),
    units: str | None = "degrees",
) -> Recording:
    """Write a scan over a half turn, in no order."""
    rng = np.random.default_rng(seed)
    n, flats, darks = number
    degrees = rng.permutation(n) * 180.0 / n
    projections = counts(rng, (n, *shape), dtype, 10, 80)
    reference = flat_dtype or dtype
    flat = np.repeat(counts(rng, (1, *shape), reference, 100, 120), flats, axis=0)
    dark = np.repeat(counts(rng, (1, *shape), reference, 1, 5), darks, axis=0)
    if np.dtype(reference) != np.dtype(dtype):  # of one camera, on one scale
        flat, dark = (np.repeat(counts(rng, (1, *shape), dtype, low, high), k, axis=0)
                      for low, high, k in ((100, 120, flats), (1, 5, darks)))  # fmt: skip
        flat, dark = (np.asarray(stack, np.float64).astype(reference) for stack in (flat, dark))
    stored = degrees / UNITS.get(units or "degrees", 1.0)
    path = folder / "scan.h5"
    with h5py.File(path, "w") as file:
        if nxtomo:
            keys = rng.permutation(np.repeat([0, 1, 2], [n, flats, darks]))
            whole = np.zeros((len(keys), *shape), np.result_type(projections, flat, dark))
            whole = whole.astype(whole.dtype.newbyteorder(dtype[0] if dtype[0] in "<>" else "<"))
            angles = np.zeros(len(keys))
            for key, stack in enumerate((projections, flat, dark)):
                whole[keys == key] = stack
            angles[keys == 0] = stored
            file["e/definition"] = "NXtomo"
            put(file, "e/instrument/detector/data", whole, layout)
            file["e/instrument/detector/image_key"] = keys
            file["e/sample/rotation_angle"] = angles
            named = ("e/instrument/detector/data",) * 3
        else:
            keys = None
            named = ("exchange/data", "exchange/data_white", "exchange/data_dark")
            for name, stack in zip(named, (projections, flat, dark), strict=True):
                if len(stack):
                    put(file, name, stack, layout)
            file["exchange/theta"] = stored
        if units:
            file["e/sample/rotation_angle" if nxtomo else "exchange/theta"].attrs["units"] = units
    return Recording(path, projections, flat, dark, degrees, named, keys)
