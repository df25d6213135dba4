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
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.wire.messages import ItemKind

__all__ = ["Frame", "FrameStore", "Gone", "QueuedFrame"]

Frame = NDArray[np.generic]

WANTED_KEPT: Final = 4
MOST_CAUSES: Final = 64
END, LOAD, SPILL = range(3)  # what the store's thread has to do; for a load somebody waits


@dataclass(slots=True)
class QueuedFrame:
    """A flat, dark or projection of the open run, with the numbers that belong to it.

    Parameters
    ----------
    kind : {"flat", "dark", "projection"}
        Flats and darks come before the projections that they are for.
    index : int
        1, 2, 3, ... within the kind.
    angle : float
        Radians; 0 for flats and darks.
    pixels : ndarray, shape (rows, columns), or None
        Not to be changed any more, and gone from here when the store has them. None: a subclass reads them.
    monitor : float
        Positive reading that light is normalised by; 1: no monitor.
    in_file : bool
        `read` may be called again and again, so that the pixels need not be kept in memory or spilled.
    """

    kind: ItemKind
    index: int
    angle: float = 0.0
    pixels: Frame | None = None
    monitor: float = 1.0
    in_file: bool = False

    def read(self) -> Frame:
        """Return the pixels, once angle and monitor are known; may wait until they are written.

        It is called from one thread at a time, never the RunEngine's.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Gone:
    """The frame can not be had any more, and why."""

    why: str


@dataclass(slots=True)
class _Slot:
    source: QueuedFrame | None
    frame: Frame | None = None
    offset: int | None = None  # in the temporary file
    gone: Gone | None = None
    busy: bool = False  # the store's thread is at it
    wanted: bool = False  # loaded on request, not taken yet

    @property
    def readable(self) -> bool:
        return self.offset is not None or (self.source is not None and self.source.in_file)


class FrameStore:
    """Frames by sequence number.

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
        self._slots: dict[int, _Slot] = {}
        self._held: OrderedDict[int, None] = OrderedDict()  # numbers with a frame in memory, oldest use first
        self._tasks: queue.PriorityQueue[tuple[int, int]] = queue.PriorityQueue()
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

    def add(self, seq: int, queued: QueuedFrame) -> None:
        """Keep the pixels of a frame, or what reads them."""
        pixels, queued.pixels = queued.pixels, None
        with self._lock:
            if self._closed:
                return
            if pixels is not None:
                self._slots[seq] = _Slot(None, frame=self._normal(pixels))
                self._held[seq] = None
                self._shrink()
            else:
                self._slots[seq] = _Slot(queued)

    def get(self, seq: int) -> Frame | Gone | None:
        """Return a frame, or None after asking the store's thread for it (`notify` tells when it has come)."""
        with self._lock:
            slot = self._slots.get(seq)
            if slot is None or slot.gone is not None:
                return Gone("the run is over") if slot is None else slot.gone
            frame = slot.frame
            if frame is None:
                self._request(seq, slot)
                return None
            self._held.move_to_end(seq)
            if slot.wanted:
                slot.wanted = False
                self._shrink()
            return frame

    def prefetch(self, seq: int) -> None:
        """Ask for a frame that will be wanted soon, if there is room for it."""
        with self._lock:
            slot = self._slots.get(seq)
            room = self.memory + (self._tasks.qsize() + 1) * self._bytes <= self._limit
            if room and slot is not None and slot.frame is None and slot.gone is None:
                self._request(seq, slot)

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
            self._slots.clear()
            self._held.clear()
            self._tasks.put((END, 0))

    def join(self, timeout: float) -> None:
        """Wait for the thread; one that waits in a `QueuedFrame` for longer is left to end by itself."""
        self._thread.join(timeout)

    # ------------------------------------------------------------------ under the lock

    def _normal(self, frame: Frame) -> Frame:
        return np.ascontiguousarray(frame, dtype=self._dtype)

    def _request(self, seq: int, slot: _Slot) -> None:
        if not slot.busy:
            slot.busy = slot.wanted = True
            self._tasks.put((LOAD, seq))

    def _shrink(self) -> None:
        """Bring memory under the limit.

        What can be read again goes at once, the oldest of the rest is written first; what somebody waits for goes
        last, and never the newest few of it: they would only be read in circles.
        """
        surplus = -(-(self.memory - self._limit) // self._bytes)
        if surplus <= 0:
            return
        readable = [seq for seq in self._held if self._slots[seq].readable]
        idle = [seq for seq in readable if not self._slots[seq].wanted]
        wanted = [seq for seq in readable if self._slots[seq].wanted]
        kept = [seq for seq in self._held if not self._slots[seq].readable]
        for seq in [*idle, *kept, *wanted[:-WANTED_KEPT]][:surplus]:
            slot = self._slots[seq]
            if slot.readable:
                slot.frame, slot.wanted = None, False
                del self._held[seq]
            elif not slot.busy:
                slot.busy = True
                self._tasks.put((SPILL, seq))

    def _fail(self, seq: int, slot: _Slot, why: str) -> None:
        slot.frame, slot.gone = None, Gone(f"frame {seq} of run {self._name[:8]} {why}")
        self._held.pop(seq, None)
        if why not in self._causes and len(self._causes) < MOST_CAUSES:
            self._causes.add(why)
            self._failures.append(slot.gone.why)

    # ------------------------------------------------------------------ the store's thread

    def _work(self) -> None:
        try:
            while True:
                task, seq = self._tasks.get()
                with self._lock:
                    if self._closed:
                        return
                    slot = self._slots[seq]
                frame, why = slot.frame, ""
                try:
                    if task == LOAD:
                        frame = self._load(slot.offset, slot.source)
                    elif frame is not None:
                        slot.offset = self._spill(frame)
                except Exception as error:  # noqa: BLE001 - whatever a source raises, the scan must go on
                    why = f"could not be read: {type(error).__name__}: {error}" if task == LOAD else str(error)
                with self._lock:
                    if seq not in self._slots:
                        continue  # stopped meanwhile
                    slot.busy = False
                    if why:
                        self._fail(seq, slot, why)
                    elif task == LOAD:
                        if slot.source is not None and not slot.source.in_file:
                            slot.source = None  # it holds the pixels as they came; from now on the frame is kept
                        slot.frame = frame
                        self._held[seq] = None
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

    def _load(self, offset: int | None, source: QueuedFrame | None) -> Frame:
        """Read a frame from the temporary file or its source."""
        if offset is not None and self._file is not None:
            flat = np.empty(self._bytes, dtype=np.uint8)
            got = os.preadv(self._file.fileno(), [flat.data], offset)
            if got != self._bytes:
                raise OSError(f"got {got} bytes of the temporary file, expected {self._bytes}")
            return flat.view(self._dtype).reshape(self._shape)
        if source is None:
            raise LookupError("it is neither kept nor to be read again")
        frame = np.asarray(source.read())
        if frame.shape != self._shape or frame.dtype.newbyteorder("=") != self._dtype.newbyteorder("="):
            raise ValueError(
                f"got {frame.dtype.str} {frame.shape}, expected {self._dtype.str} {self._shape}; was the detector ROI "
                "changed after the run was opened?"
            )
        return self._normal(frame)
