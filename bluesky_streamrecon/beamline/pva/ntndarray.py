"""What an NTNDArray holds: pixels, whatever their type and codec, its number, its time and its attributes.

Nothing here knows a connection: a value is anything that has the fields of ``epics:nt/NTNDArray:1.0``. Times are
seconds since the epoch (UTC).
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.hdf5.frame_writer import write_chunk

__all__ = ["CODECS", "Image", "read_image"]

TYPES: Final = {1: "i1", 2: "<i2", 3: "<i4", 4: "<i8", 5: "u1", 6: "<u2", 7: "<u4", 8: "<u8", 9: "<f4", 10: "<f8"}
"""pvData's numbers of scalar types, as areaDetector puts them into ``codec.parameters``."""

CODECS: Final = ("blosc", "lz4", "bslz4", "jpeg")
"""What areaDetector's codec plugin compresses with."""

MONO: Final = 0  # ColorMode


@dataclass(frozen=True, slots=True)
class Image:
    """One image as it came.

    Parameters
    ----------
    number : int
        ``uniqueId``, or the attribute that counts in its place.
    time : float
        ``dataTimeStamp``: when it was taken, by the clock of its IOC.
    pixels : ndarray, shape (rows, columns)
        Not compressed, little-endian; not to be written to.
    attributes : dict
        Those that were asked for and are numbers; NaN: not in this image.
    """

    number: int
    time: float
    pixels: NDArray[Any]
    attributes: dict[str, float] = field(default_factory=dict)


def read_image(value: Any, attributes: tuple[str, ...] = (), number_from: str | None = None) -> Image:
    """Return what an NTNDArray holds.

    Parameters
    ----------
    value : Value
        Not unwrapped.
    attributes : tuple of str, optional
        Names of attributes that are wanted.
    number_from : str, optional
        Name of the attribute that numbers images, in place of ``uniqueId``.

    Raises
    ------
    DataError
        If it has no image, one in colour, or one that can not be decompressed.
    ConfigError
        If what decompresses it is not installed.
    """
    known = {each.name: each.value for each in value.attribute}
    number = int(value.uniqueId)
    where = f"image {number}"
    sizes = [int(each.size) for each in value.dimension][::-1]
    shape = [size for size in sizes if size != 1] if len(sizes) > 2 else sizes
    if value.value is None or not sizes or 0 in sizes:
        raise DataError(f"{where}: it has no pixels; was an image taken since the IOC was started?")
    if len(shape) != 2 or int(known.get("ColorMode") or MONO) != MONO:
        raise DataError(
            f"{where}: got {tuple(sizes)} pixels in ColorMode {known.get('ColorMode', MONO)}, expected rows and "
            "columns of intensities; set the detector to Mono"
        )
    if number_from is not None:
        if number_from not in known:
            raise DataError(f"{where}: no attribute {number_from!r} to number it by, among {sorted(known)}")
        number = int(known[number_from])
    pixels = _pixels(value, tuple(shape), where)
    stamp = value.dataTimeStamp
    return Image(
        number,
        stamp.secondsPastEpoch + stamp.nanoseconds * 1e-9,
        pixels,
        {name: _number(known.get(name)) for name in attributes},
    )


def _pixels(value: Any, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    codec = value.codec.name
    data = np.asarray(value.value)
    if codec:
        given = value.codec.parameters
        kind = "u1" if codec == "jpeg" else TYPES.get(int(getattr(given, "value", given) or 0))
        if codec not in CODECS or kind is None:
            raise DataError(f"{where}: got codec {codec!r} of type {given!r}, expected {', '.join(CODECS)}")
        dtype = np.dtype(kind)
        # What is sent may be longer than what was compressed.
        packed = data.view(np.uint8)[: int(value.compressedSize) or None]
        try:
            data = _decompressed(codec, packed, dtype, math.prod(shape))
        except (DataError, ConfigError):
            raise
        except Exception as error:
            raise DataError(f"{where}: {packed.size} bytes of {codec} can not be decompressed: {error}") from error
    if data.size != math.prod(shape):
        raise DataError(f"{where}: got {data.size} pixels, expected {math.prod(shape)} for {shape}")
    return data.astype(data.dtype.newbyteorder("<"), copy=False).reshape(shape)


def _decompressed(codec: str, packed: NDArray[np.uint8], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if codec == "bslz4":
        return _unshuffled(packed, dtype, count)
    try:
        import imagecodecs
    except ModuleNotFoundError as error:
        raise ConfigError(f"codec {codec}: {error}; pip install 'bluesky-streamrecon[pva]'") from error
    if codec == "jpeg":
        return np.asarray(imagecodecs.jpeg_decode(packed.tobytes())).reshape(-1)
    if codec == "lz4":
        return np.frombuffer(imagecodecs.lz4_decode(packed.tobytes(), out=count * dtype.itemsize), dtype)
    return np.frombuffer(imagecodecs.blosc_decode(packed.tobytes()), dtype)


def _unshuffled(packed: NDArray[np.uint8], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Decompress Bitshuffle with LZ4 by HDF5's filter, which wants the sizes before the blocks."""
    import h5py
    import hdf5plugin

    with h5py.File(io.BytesIO(), "w") as file:
        filters = hdf5plugin.Bitshuffle(cname="lz4")
        data = file.create_dataset("x", (count,), dtype, chunks=(count,), **filters)
        write_chunk(data, (0,), struct.pack(">QI", count * dtype.itemsize, 0) + packed.tobytes())
        return np.asarray(data[:])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
