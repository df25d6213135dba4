"""The image of all rows of a block on the GPU, (groups, N, N, 4): four slices side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.cuda.layout import SLICES, GpuLayout, group_count
from bluesky_streamrecon.recon.cuda.slices import fill_slices, put_slice, take_slices
from bluesky_streamrecon.recon.cuda.streams import (
    Event,
    Launcher,
    Recorder,
    Stream,
    device_zeros,
    download,
    pinned,
    upload,
)
from bluesky_streamrecon.recon.slab import Slab
from bluesky_streamrecon.recon.store import SlabRows

__all__ = ["CudaSlab"]

_MOST_READ = 16

_take, _put, _fill = Launcher(take_slices, 256), Launcher(put_slice, 256), Launcher(fill_slices, 128)


class _Read:
    """Slices on their way to the host: what was taken of the image, and pinned memory that it is copied to.

    Parameters
    ----------
    most, area : int
        Slices, and pixels of each.
    stream : Stream
        Of the copies, beside that of the passes.
    """

    _numbers = count()

    def __init__(self, most: int, area: int, stream: Stream) -> None:
        self.number = next(self._numbers)
        self.most = most
        self.rows = device_zeros(most, np.int32)
        self.taken = device_zeros(most * area)
        self._stream = stream
        self._rows = np.zeros(0, np.int32)
        self._staged = pinned((most * area,))
        self._known, self._copied = Event(), Event()
        self._pending: list[NDArray[np.float32]] = []

    def wanted(self, rows: Sequence[int], stream: Stream) -> None:
        """Bring the numbers of the slices to the GPU, unless they are there."""
        if self._rows.tolist() != list(rows):
            self._rows = np.asarray(rows, np.int32)  # kept: the copy may be made later
            upload(self.rows, 0, self._rows, stream)

    def begin(self, stream: Stream, shape: tuple[int, ...]) -> Callable[[], NDArray[np.float32]]:
        """Copy what `stream` takes, when it is there; return how to wait for it."""
        found = np.empty(shape, np.float32)
        self._pending = [found]
        self._stream.wait_for(self._known.record(stream))
        download(self.taken, 0, self._staged[: found.size], self._stream)
        self._copied.record(self._stream)

        def result() -> NDArray[np.float32]:
            if self._pending and self._pending[0] is found:
                self.collect()
            return found

        return result

    def collect(self) -> None:
        """Wait for what was begun, and free the memory for the next."""
        if self._pending:
            found = self._pending.pop()
            self._copied.synchronize()
            found.reshape(-1)[...] = self._staged[: found.size]


class CudaSlab(Slab):
    """Images on the GPU.

    Parameters
    ----------
    rows : SlabRows
        All rows of the block.
    layout : GpuLayout
        Geometry.
    stream : Stream
        That updates run on.
    coupled : bool
        Keep a second image: penalised updates read one and write the other.

    Attributes
    ----------
    image, other : device array of float32
        The image, and room for the next one.
    turn : int
        Which of the two is the image.
    above, below : device array of float32, shape (N N,)
        Slices of neighbouring blocks, where these exist.
    """

    def __init__(self, rows: SlabRows, layout: GpuLayout, stream: Stream, *, coupled: bool) -> None:
        self.rows = rows
        self.groups = group_count(rows.count)
        self.turn = 0
        self._layout = layout
        self._stream = stream
        self._area = layout.geometry.size**2
        pixels = self.groups * self._area * SLICES
        self.image = device_zeros(pixels)
        self.other = device_zeros(pixels if coupled else SLICES)
        self.above, self.below = (device_zeros(self._area if coupled else SLICES) for _ in range(2))
        self.chords = device_zeros(len(layout.chords), np.int32)
        upload(self.chords, 0, layout.chords, stream)
        self._values = device_zeros(SLICES * self.groups)
        self._slice = device_zeros(self._area)
        self._staged = pinned((self._area,))
        self._lent: NDArray[np.float32] | None = None
        self._read_stream = Stream()
        self._reads = deque(_Read(1, self._area, self._read_stream) for _ in range(2))
        self._recorder = Recorder(stream)

    def exchange(self) -> None:
        """Make what was written to `other` the image."""
        self.image, self.other = self.other, self.image
        self.turn = 1 - self.turn

    def read(self, row: int) -> NDArray[np.float32]:
        """Return a copy of the image of a row, (N, N)."""
        return self.begin_read((row,))()[0]  # type: ignore[no-any-return]

    def begin_read(self, rows: Sequence[int]) -> Callable[[], NDArray[np.float32]]:
        """Ask for a copy of some slices as they are when all passes so far are done; see `Slab.begin_read`."""
        self.take_back()
        return super().begin_read(rows) if len(rows) > _MOST_READ else self._begin_read(rows)

    def _begin_read(self, rows: Sequence[int]) -> Callable[[], NDArray[np.float32]]:
        read = self._reads.popleft()
        read.collect()
        if read.most < len(rows):
            read = _Read(len(rows), self._area, self._read_stream)
        self._reads.append(read)
        read.wanted(rows, self._stream)

        def launch() -> None:
            grid = (-(-self._area // 256), len(rows))
            _take(grid, self._stream, self.image, read.rows, self._area, read.taken)

        self._recorder.run((self.turn, read.number, len(rows)), launch)
        return read.begin(self._stream, (len(rows), *self._layout.mask.shape))

    def write(self, row: int, image: NDArray[np.float32]) -> None:
        """Replace the image of a row; outside the mask it becomes zero."""
        self.take_back()
        self._put(row, np.where(self._layout.mask, image, np.float32(0)))

    def _put(self, row: int, image: NDArray[np.float32]) -> None:
        self._stream.synchronize()
        self._staged[...] = image.ravel()
        upload(self._slice, 0, self._staged, self._stream)
        _put((-(-self._area // 256),), self._stream, self.image, row, self._area, self._slice)

    def fill(self, values: NDArray[np.float32]) -> None:
        """Make every row uniform, with one of `values`, 1/pixel; outside the mask it becomes zero."""
        self._lent = None
        size = self._layout.geometry.size
        padded = np.zeros(SLICES * self.groups, np.float32)
        padded[: len(values)] = values
        upload(self._values, 0, padded, self._stream)
        grid = (-(-size // 128), size, SLICES * self.groups)
        _fill(grid, self._stream, self.image, size, self.chords, self._values)
        self._stream.synchronize()

    def edges(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return copies of the first and the last slice, (N, N)."""
        first, last = self.begin_read((0, self.rows.count - 1))()
        return first, last

    def set_neighbours(self, neighbours: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
        """Bring the slices of neighbouring blocks to `above` and `below`."""
        for target, source in zip((self.above, self.below), neighbours, strict=True):
            self._stream.synchronize()
            self._staged[...] = source.ravel()
            upload(target, 0, self._staged, self._stream)
        self._stream.synchronize()

    def lend(self) -> NDArray[np.float32]:
        """Return a copy in the host's memory, (N, N, count), that may be changed until `take_back`."""
        if self._lent is None:
            self._lent = np.empty((*self._layout.mask.shape, self.rows.count), np.float32)
            self.changed()
        return self._lent

    def to_gpu(self) -> None:
        """Bring the copy that is lent to the GPU; it stays lent."""
        if self._lent is not None:
            for row in range(self.rows.count):
                self._put(row, self._lent[:, :, row])

    def changed(self) -> None:
        """Note that the GPU has changed the image: what is lent is brought up to date."""
        if self._lent is not None:
            for row in range(self.rows.count):
                self._lent[:, :, row] = self._begin_read((row,))()[0]

    def take_back(self) -> None:
        """Bring the copy that is lent to the GPU; it is not valid any more."""
        if self._lent is not None:
            self.to_gpu()
            self._lent = None
