"""Frames of the open run, kept so that they can be sent, and sent again, within a bound of memory.

Frames that are in a file are only read when they are needed. Inline frames stay in memory up to a limit and go
to a temporary file above it. Reading and writing happen in a thread of the store's own, so a slow disk holds
nobody up. The temporary file has no name: it is gone when the process is, however that ends.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.wire.messages import ItemKind

__all__ = ["Frame", "FrameStore", "Gone", "QueuedFrame"]

Frame = NDArray[np.generic]

WANTED_KEPT: Final = 4
MOST_CAUSES: Final = 64
END, LOAD, SPILL = range(3)  # what the store's thread has to do; for a load somebody waits


@dataclass(frozen=True, slots=True)
class Gone:
    """The frame can not be had any more, and why."""

    why: str


@dataclass(slots=True)
class QueuedFrame:
    """A flat, dark or projection of the open run, with the numbers that belong to it, and where its pixels are.

    Parameters
    ----------
    kind : {"flat", "dark", "projection"}
        Flats and darks come before the projections that they are for.
    index : int
        1, 2, 3, ... within the kind.
    angle : float
        Radians; 0 for flats and darks.
    pixels : ndarray, shape (rows, columns), or None
        Not to be changed any more; None while they are elsewhere, or are still to be read by a subclass.
    monitor : float
        Positive reading that light is normalised by; 1: no monitor.
    in_file : bool
        `read` may be called again and again, so that the pixels need not be kept in memory or spilled; else once.
    """

    kind: ItemKind
    index: int
    angle: float = 0.0
    pixels: Frame | None = None
    monitor: float = 1.0
    in_file: bool = False

    # What the store knows of it.
    seq: int = field(default=0, init=False)  # in its run
    offset: int | None = field(default=None, init=False)  # in the temporary file
    gone: Gone | None = field(default=None, init=False)
    busy: bool = field(default=False, init=False)  # the store's thread is at it
    wanted: bool = field(default=False, init=False)  # loaded on request, not taken yet

    @property
    def readable(self) -> bool:
        """The pixels can be had again when they are not in memory any more."""
        return self.offset is not None or self.in_file

    def read(self) -> Frame:
        """Return the pixels, once angle and monitor are known; may wait until they are written.

        It is called from one thread at a time, never the RunEngine's.
        """
        raise LookupError("its pixels are neither kept nor to be read again")


class FrameStore:
    """What keeps the pixels of a run's frames, or has them read.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of every frame.
    dtype : dtype
        Of every frame, little-endian.
    limit : int
        Bytes held in memory (what is on its way to a rank comes on top).
    notify : callable
        Called from the store's thread when a frame was loaded, moved or lost.
    name : str
        Of the run, for messages.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        limit: int,
        notify: Callable[[], None],
        name: str = "",
    ) -> None:
        self._shape = shape
        self._dtype = dtype
        self._limit = limit
        self._notify = notify
        self._name = name
        self._bytes = shape[0] * shape[1] * dtype.itemsize
        self._held: OrderedDict[int, QueuedFrame] = OrderedDict()  # by number, in memory, oldest use first
        self._tasks: queue.PriorityQueue[tuple[int, int, QueuedFrame | None]] = queue.PriorityQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._file: IO[bytes] | None = None
        self._failures: list[str] = []
        self._causes: set[str] = set()
        self.spilled = 0
        self._thread = threading.Thread(target=self._work, name=f"streamrecon-frames-{name[:8]}", daemon=True)
        self._thread.start()

    @property
    def memory(self) -> int:
        """Bytes of frames in memory now."""
        return len(self._held) * self._bytes

    def add(self, seq: int, frame: QueuedFrame) -> None:
        """Keep a frame, number `seq` of its run."""
        frame.seq = seq
        with self._lock:
            if self._closed:
                frame.pixels = None
            elif frame.pixels is not None:
                frame.pixels = self._normal(frame.pixels)
                self._held[seq] = frame
                self._shrink()

    def get(self, frame: QueuedFrame) -> Frame | Gone | None:
        """Return its pixels, or None after asking the store's thread for them (`notify` tells when they have come)."""
        with self._lock:
            if self._closed:
                return Gone("the run is over")
            if frame.gone is not None:
                return frame.gone
            pixels = frame.pixels
            if pixels is None:
                self._request(frame)
                return None
            self._held.move_to_end(frame.seq)
            if frame.wanted:
                frame.wanted = False
                self._shrink()
            return pixels

    def prefetch(self, frame: QueuedFrame) -> None:
        """Ask for a frame that will be wanted soon, if there is room for it."""
        with self._lock:
            room = self.memory + (self._tasks.qsize() + 1) * self._bytes <= self._limit
            if room and not self._closed and frame.pixels is None and frame.gone is None:
                self._request(frame)

    def failures(self) -> list[str]:
        """Take what went wrong since the last call; each cause comes once, with the first frame that it was of."""
        with self._lock:
            texts, self._failures = self._failures, []
            return texts

    @property
    def alive(self) -> bool:
        """The store's thread still runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Drop everything and have the thread delete the temporary file and end; does not wait; idempotent."""
        with self._lock:
            self._closed = True
            self._held.clear()
            self._tasks.put((END, 0, None))

    def join(self, timeout: float) -> None:
        """Wait for the thread; one that waits in a `QueuedFrame` for longer is left to end by itself."""
        self._thread.join(timeout)

    # ------------------------------------------------------------------ under the lock

    def _normal(self, frame: Frame) -> Frame:
        return np.ascontiguousarray(frame, dtype=self._dtype)

    def _request(self, frame: QueuedFrame) -> None:
        if not frame.busy:
            frame.busy = frame.wanted = True
            self._tasks.put((LOAD, frame.seq, frame))

    def _shrink(self) -> None:
        """Bring memory under the limit.

        What can be read again goes at once, the oldest of the rest is written first; what somebody waits for goes
        last, and never the newest few of it: they would only be read in circles.
        """
        surplus = -(-(self.memory - self._limit) // self._bytes)
        if surplus <= 0:
            return
        held = self._held.values()
        idle = [frame for frame in held if frame.readable and not frame.wanted]
        wanted = [frame for frame in held if frame.readable and frame.wanted]
        kept = [frame for frame in held if not frame.readable]
        for frame in [*idle, *kept, *wanted[:-WANTED_KEPT]][:surplus]:
            if frame.readable:
                frame.pixels, frame.wanted = None, False
                del self._held[frame.seq]
            elif not frame.busy:
                frame.busy = True
                self._tasks.put((SPILL, frame.seq, frame))

    def _fail(self, frame: QueuedFrame, why: str) -> None:
        frame.pixels, frame.gone = None, Gone(f"frame {frame.seq} of run {self._name[:8]} {why}")
        self._held.pop(frame.seq, None)
        if why not in self._causes and len(self._causes) < MOST_CAUSES:
            self._causes.add(why)
            self._failures.append(frame.gone.why)

    # ------------------------------------------------------------------ the store's thread

    def _work(self) -> None:
        try:
            while True:
                task, seq, frame = self._tasks.get()
                if frame is None:
                    return
                pixels, why = frame.pixels, ""
                try:
                    if task == LOAD:
                        pixels = self._load(frame)
                    elif pixels is not None:
                        frame.offset = self._spill(pixels)
                except Exception as error:  # noqa: BLE001 - whatever a frame raises, the scan must go on
                    why = f"could not be read: {type(error).__name__}: {error}" if task == LOAD else str(error)
                with self._lock:
                    if self._closed:
                        return
                    frame.busy = False
                    if why:
                        self._fail(frame, why)
                    elif task == LOAD:
                        frame.pixels = pixels
                        self._held[seq] = frame
                    self._shrink()
                self._notify()
        finally:
            if self._file is not None:
                self._file.close()

    def _spill(self, frame: Frame) -> int:
        """Write a frame to the temporary file, and return where it is."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="streamrecon-")  # noqa: SIM115
            left, at = frame.reshape(-1).view(np.uint8).data, self.spilled * self._bytes
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
        except OSError as error:
            raise OSError(
                f"could not be written, {self._bytes} bytes, to a temporary file in {tempfile.gettempdir()}: "
                f"{error.strerror or error}; free some space there, or raise memory_limit"
            ) from error
        self.spilled += 1
        return at - self._bytes

    def _load(self, frame: QueuedFrame) -> Frame:
        """Read a frame from the temporary file, or from where it is."""
        if frame.offset is not None and self._file is not None:
            flat = np.empty(self._bytes, dtype=np.uint8)
            got = os.preadv(self._file.fileno(), [flat.data], frame.offset)
            if got != self._bytes:
                raise OSError(f"got {got} bytes of the temporary file, expected {self._bytes}")
            return flat.view(self._dtype).reshape(self._shape)
        pixels = np.asarray(frame.read())
        if pixels.shape != self._shape or pixels.dtype.newbyteorder("=") != self._dtype.newbyteorder("="):
            raise ValueError(
                f"got {pixels.dtype.str} {pixels.shape}, expected {self._dtype.str} {self._shape}; was the detector "
                "ROI changed after the run was opened?"
            )
        return self._normal(pixels)
