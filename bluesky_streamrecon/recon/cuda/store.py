"""The window's projections on the GPU: each is one asynchronous copy from pinned memory, on a stream of its own.

A slot that queued passes read is not overwritten before they are done: the stream of copies waits for them, the host
does not. With spare slots (see `Window`) there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.cuda.layout import SLICES, group_count
from bluesky_streamrecon.recon.cuda.streams import (
    Event,
    Progress,
    Stream,
    address_of,
    copy,
    device_zeros,
    download,
    pinned,
    upload,
)
from bluesky_streamrecon.recon.store import SlabRows, Store

__all__ = ["CudaStore"]

_STAGED = 16
_STAGED_BYTES = 256 * 2**20


class CudaStore(Store):
    """Line integrals as they come, (slots, 4 groups, C), rows beyond the last zero.

    Parameters
    ----------
    slabs : sequence of SlabRows
        One, of all rows.
    columns, capacity : int
        Detector columns C, and slots.
    progress : Progress
        Of the passes that read it.

    Attributes
    ----------
    data : device array of float32
        All slots.
    version : int
        How often it was made anew.
    """

    def __init__(self, slabs: Sequence[SlabRows], columns: int, capacity: int, progress: Progress) -> None:
        (self._rows,) = slabs
        self._columns = columns
        self._progress = progress
        self.version = 0
        self._stream = Stream()
        self._size = SLICES * group_count(self._rows.count) * columns
        self.data = device_zeros(capacity * self._size)
        self._address = address_of(self.data)
        self._read_by = np.zeros(capacity, np.int64)
        each = self._rows.count * columns
        self._staged = pinned((max(2, min(_STAGED, _STAGED_BYTES // (4 * each))), each))
        self._copied = [Event() for _ in self._staged]
        self._writes = 0

    def write(self, slot: int, projection: NDArray[np.float32]) -> None:
        """Copy a projection, shape (rows, C), into a slot: asked for when this returns, done in its order."""
        place = self._writes % len(self._staged)
        self._writes += 1
        staged, copied = self._staged[place], self._copied[place]
        copied.synchronize()
        staged.reshape(projection.shape)[...] = projection
        self._progress.hold(self._stream, int(self._read_by[slot]))
        upload(self.data, slot * self._size, staged, self._stream, self._address)
        copied.record(self._stream)

    def hand_over(self, slots: NDArray[np.int64], stream: Stream) -> None:
        """Let the next pass, on `stream`, read some slots: it waits until all that was written is there."""
        self._read_by[slots] = self._progress.asked + 1
        if self._writes:
            stream.wait_for(self._copied[(self._writes - 1) % len(self._staged)])

    def projection(self, slot: int) -> NDArray[np.float32]:
        """Return a copy of the projection in a slot, shape (rows, C)."""
        projection = np.empty((self._rows.count, self._columns), np.float32)
        download(self.data, slot * self._size, projection, self._stream)
        self._stream.synchronize()
        projection[~np.isfinite(projection)] = np.nan
        return projection

    def read(self, slab: int, slots: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ARG002 - there is one
        """Return a copy of what all rows have in some slots, shape (A, C, rows)."""
        found = np.empty((len(slots), self._columns, self._rows.count), np.float32)
        for part, slot in zip(found, slots, strict=True):
            part[...] = self.projection(int(slot)).T
        return found

    def grow(self, more: int) -> None:
        """Add empty slots."""
        before, old = self.data, len(self._read_by)
        self.version += 1
        self._stream.synchronize()
        self.data = device_zeros((old + more) * self._size)
        copy(before, self.data)
        self._address = address_of(self.data)
        self._read_by = np.concatenate((self._read_by, np.zeros(more, np.int64)))
