"""Images of one PV, written to a file as they come, each at its place.

One thread receives and writes; when it can not follow, the server drops images, and their numbers tell which.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from bluesky_streamrecon.beamline.pva.ntndarray import Image, read_image
from bluesky_streamrecon.beamline.pva.numbering import Counts, Numbering
from bluesky_streamrecon.errors import ConfigError, DataError, DeviceError, StreamReconError
from bluesky_streamrecon.hdf5.frame_writer import FrameWriter

__all__ = ["NUMBER", "TIME", "Receiver", "first_image"]

logger = logging.getLogger(__name__)

WAITING_BYTES: Final = 2**30
"""Images that may wait for the disk: 5 s of them at 100 a second and 1 Mpixel of 16 bits."""

DRAIN_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.1

NUMBER: Final = "/entry/data/number"
TIME: Final = "/entry/data/time"
APART: Final = "apart"
"""In the name of the file of images without a place."""

_context_lock = threading.Lock()
_context: Any = None


def _client() -> Any:
    """Return the process's client."""
    global _context  # noqa: PLW0603 - p4p searches for PVs once per client
    with _context_lock:
        if _context is None:
            try:
                from p4p.client.thread import Context
            except ModuleNotFoundError as error:
                raise ConfigError(f"PV Access: {error}; pip install 'bluesky-streamrecon[pva]'") from error
            _context = Context("pva", nt=False)
        return _context


def first_image(pv: str, timeout: float, attributes: tuple[str, ...] = (), number_from: str | None = None) -> Image:
    """Return the image that a PV has now, or the first that comes.

    Raises
    ------
    DeviceError
        If it can not be reached.
    DataError
        If it has none, or one that can not be used.
    """
    client = _client()
    try:
        value = client.get(pv, timeout=timeout)
        deadline = time.monotonic() + timeout
        while not value.dimension and time.monotonic() < deadline:
            threading.Event().wait(LOOK_SECONDS)
            value = client.get(pv, timeout=timeout)
    except TimeoutError as error:
        raise DeviceError(
            f"PV {pv}: no answer in {timeout:g} s; is its IOC running, its PVA plugin enabled, and EPICS_PVA_ADDR_LIST "
            "set?"
        ) from error
    try:
        return read_image(value, attributes, number_from)
    except DataError as error:
        raise DataError(f"PV {pv}: {error}") from error


class Receiver:
    """Write the images of a PV to a file, until it is closed.

    Parameters
    ----------
    pv : str
        NTNDArray.
    path : Path
        Of the file; images without a place go to one beside it.
    first : Image
        What the PV had before.
    number_from : str or None
        Attribute that numbers images.
    changed : callable
        Called with the counts after each image, by another thread.
    """

    def __init__(
        self, pv: str, path: Path, first: Image, number_from: str | None, changed: Callable[[Counts], object]
    ) -> None:
        from p4p.client.raw import Context

        self.pv, self._path, self._changed = pv, path, changed
        self._shape, self._dtype = first.pixels.shape, first.pixels.dtype
        self._attributes, self._number_from = tuple(first.attributes), number_from
        columns = {NUMBER: np.dtype("<i8"), TIME: np.dtype("<f8")}
        self._columns = columns | {f"/entry/data/{name}": np.dtype("<f8") for name in self._attributes}
        self._file = FrameWriter(path, self._shape, self._dtype, self._columns)
        self._apart: FrameWriter | None = None
        self._numbering = Numbering()
        self._numbering.take(first.number, first.time)
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self.connected = False
        self.arrived = 0  # images of any kind
        depth = int(np.clip(WAITING_BYTES // max(first.pixels.nbytes, 1), 4, 10_000))
        self._woken, self._closing = threading.Event(), threading.Event()
        # Not by p4p's own monitor with threads: it loses what comes before it has returned, and all that follows.
        self._subscription: Any = Context.monitor(_client(), pv, self._woken.set, f"record[queueSize={depth}]")
        self._thread = threading.Thread(target=self._receive, name=f"streamrecon-{pv}", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """What has come so far."""
        with self._lock:
            return self._numbering.counts

    def begin(self) -> None:
        """Take images from now on; see `Numbering.begin`."""
        with self._lock:
            self._numbering.begin()

    def begin_with_any(self, most: int, skip: int) -> None:
        """Take some of those that come; see `Numbering.begin_with_any`."""
        with self._lock:
            self._numbering.begin_with_any(most, skip)

    def end(self) -> None:
        """Take none until `begin`."""
        with self._lock:
            self._numbering.end()

    def give_up(self, places: int) -> int:
        """Count what has not come of so many places as lost, and return how many that are."""
        with self._lock:
            lost = places - self._numbering.counts.places
            if lost > 0:
                self._numbering.leave(places)
                self._file.leave(places)
                self._changed(self._numbering.counts)
        return max(lost, 0)

    def close(self) -> Counts:
        """Receive no more, close the file, and return what came; images that wait are written first."""
        if not self._closing.is_set():
            self._closing.set()
            self._woken.set()
            self._thread.join()
            self._subscription.close()
            for file in (self._file, self._apart):
                if file is not None:
                    file.close()
        return self.counts

    def _receive(self) -> None:
        """Take what comes, and in the end what has come."""
        deadline = math.inf
        while True:
            self._woken.wait()
            self._woken.clear()
            if self._closing.is_set():
                deadline = time.monotonic() + DRAIN_SECONDS
            while (value := self._subscription.pop()) is not None and time.monotonic() < deadline:
                self._event(value)
            if self._closing.is_set():
                if value is not None:
                    logger.error("PV %s: %s could not be written in %g s", self.pv, self._path, DRAIN_SECONDS)
                return

    def _event(self, value: Any) -> None:
        if isinstance(value, Exception):
            if self.connected:
                logger.error(
                    "PV %s: %s after %s; waiting for it to come back", self.pv, str(value) or "lost", self.counts
                )
            self.connected = False
            return
        if not self.connected and self.arrived:
            logger.warning("PV %s: is back", self.pv)
        self.connected = True
        self.arrived += 1
        try:
            image = read_image(value, self._attributes, self._number_from)
            with self._lock:
                self._take(image)
        except StreamReconError as error:
            self._say(type(error).__name__, f"{error}; this image, and others like it, are not used")
        except Exception:
            logger.exception("PV %s: an image could not be written to %s", self.pv, self._path)

    def _take(self, image: Image) -> None:
        if image.pixels.shape != self._shape or image.pixels.dtype != self._dtype:
            raise DataError(
                f"image {image.number}: got {image.pixels.shape} of {image.pixels.dtype}, expected {self._shape} of "
                f"{self._dtype}; was the region of interest, the binning or the data type changed in mid-scan?"
            )
        place = self._numbering.take(image.number, image.time)
        if place == "without place":
            self._say(
                "anew",
                f"its counter was set to {image.number} after {self._numbering.counts}: how many images are missing is "
                "not known, so that those that follow have no angle; they are kept apart",
            )
            if self._apart is None:
                path = self._path.with_name(f"{self._path.stem}-{APART}{self._path.suffix}")
                self._apart = FrameWriter(path, self._shape, self._dtype, self._columns)
            self._write(self._apart, len(self._apart), image)
        if isinstance(place, int):
            try:
                self._write(self._file, place, image)
            except (OSError, RuntimeError) as error:
                self._numbering.forget(place)
                self._say("write", f"image {image.number} can not be written to {self._path}: {error}")
        self._changed(self._numbering.counts)

    def _write(self, file: FrameWriter, place: int, image: Image) -> None:
        numbers: Mapping[str, float] = {f"/entry/data/{name}": value for name, value in image.attributes.items()}
        file.put(place, image.pixels, {NUMBER: image.number, TIME: image.time, **numbers})

    def _say(self, kind: str, text: str) -> None:
        """Log what there is once, however many images are alike."""
        if kind not in self._reported:
            self._reported.add(kind)
            logger.error("PV %s: %s", self.pv, text)
