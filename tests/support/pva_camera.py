"""A camera whose images are served over PV Access on loopback, as areaDetector's NDPva serves them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

UNIONS = {
    "i1": "byteValue",
    "i2": "shortValue",
    "i4": "intValue",
    "i8": "longValue",
    "u1": "ubyteValue",
    "u2": "ushortValue",
    "u4": "uintValue",
    "u8": "ulongValue",
    "f4": "floatValue",
    "f8": "doubleValue",
}
NUMBERS = {name: number for number, name in enumerate(UNIONS, 1)}  # as pvData counts types


def compressed(pixels: np.ndarray, codec: str) -> np.ndarray:
    """Return the bytes that areaDetector's codec plugin makes of an image."""
    import io

    import h5py
    import hdf5plugin
    import imagecodecs

    if codec == "bslz4":  # as HDF5's filter does, without the sizes that it puts before the blocks
        with h5py.File(io.BytesIO(), "w") as file:
            data = file.create_dataset(
                "x", (pixels.size,), pixels.dtype, chunks=(pixels.size,), **hdf5plugin.Bitshuffle(cname="lz4")
            )
            data[:] = pixels.reshape(-1)
            return np.frombuffer(data.id.read_direct_chunk((0,))[1][12:], np.uint8)
    if codec == "jpeg":
        return np.frombuffer(imagecodecs.jpeg_encode(pixels, level=95), np.uint8)
    if codec == "lz4":
        return np.frombuffer(imagecodecs.lz4_encode(pixels.tobytes()), np.uint8)
    return np.frombuffer(imagecodecs.blosc_encode(pixels, typesize=pixels.itemsize), np.uint8)


def image(pixels: np.ndarray, number: int, *, codec: str = "", taken: float | None = None, **attributes: Any) -> Any:
    """Return an NTNDArray."""
    from p4p import Value
    from p4p.nt import NTNDArray

    kind = pixels.dtype.str[1:]
    data = compressed(pixels, codec) if codec else pixels.reshape(-1)
    taken = time.time() if taken is None else taken
    stamp = {"secondsPastEpoch": int(taken), "nanoseconds": int(taken % 1 * 1e9)}
    return Value(
        NTNDArray().type,
        {
            "value": (UNIONS["u1" if codec else kind], data),
            "codec": {"name": codec, "parameters": NUMBERS[kind] if codec else None},
            "compressedSize": data.nbytes,
            "uncompressedSize": pixels.nbytes,
            "uniqueId": number,
            "dataTimeStamp": stamp,
            "timeStamp": stamp,
            "dimension": [{"size": size, "fullSize": size, "binning": 1} for size in reversed(pixels.shape)],
            "attribute": [{"name": name, "value": value} for name, value in {"ColorMode": 0, **attributes}.items()],
        },
    )


class PvaCamera:
    """Serves one PV; it can die, and come back."""

    def __init__(self, pv: str) -> None:
        self.pv = pv
        self._server: Any = None
        self._shared: Any = None
        self._dead = threading.Event()

    def start(self, first: Any) -> PvaCamera:
        """Serve, beginning with the image that was taken last."""
        from p4p.server import Server
        from p4p.server.thread import SharedPV

        self._shared = SharedPV(initial=first)
        self._dead.clear()
        conf = {
            "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_SERVER_PORT": "0",
            "EPICS_PVAS_BROADCAST_PORT": os.environ["EPICS_PVA_BROADCAST_PORT"],
            "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        }
        self._server = Server(providers=[{self.pv: self._shared}], conf=conf, useenv=False)
        return self

    @property
    def serves(self) -> bool:
        """It is there."""
        return self._server is not None

    def post(self, *images: Any) -> None:
        """Send images."""
        for each in images:
            self._shared.post(each)

    def play(self, images: Iterable[Any], rate: float) -> None:
        """Send images at so many per second, until it dies; None: nothing is sent in that time."""
        began = time.monotonic()
        for count, each in enumerate(images):
            if self._dead.wait(max(0.0, began + count / rate - time.monotonic())):
                return
            if each is not None:
                self.post(each)

    def die(self) -> None:
        """Go away at once."""
        self._dead.set()
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            self._shared.close()
