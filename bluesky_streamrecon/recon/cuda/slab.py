"""The image of all rows of a block on the GPU, (groups, N, N, 4): four slices side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.recon.cuda.layout import SLICES, GpuLayout, group_count
from bluesky_streamrecon.recon.cuda.slices import fill_slices, put_slice, take_slice
from bluesky_streamrecon.recon.cuda.streams import Launcher, Stream, device_zeros, download, pinned, upload
from bluesky_streamrecon.recon.slab import Slab
from bluesky_streamrecon.recon.store import SlabRows

__all__ = ["CudaSlab"]

_take, _put, _fill = Launcher(take_slice, 256), Launcher(put_slice, 256), Launcher(fill_slices, 128)


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
        count = self.groups * self._area * SLICES
        self.image = device_zeros(count)
        self.other = device_zeros(count if coupled else SLICES)
        self.above, self.below = (device_zeros(self._area if coupled else SLICES) for _ in range(2))
        self.chords = device_zeros(len(layout.chords), np.int32)
        upload(self.chords, 0, layout.chords, stream)
        self._values = device_zeros(SLICES * self.groups)
        self._slice = device_zeros(self._area)
        self._staged = pinned((self._area,))
        self._lent: NDArray[np.float32] | None = None

    def exchange(self) -> None:
        """Make what was written to `other` the image."""
        self.image, self.other = self.other, self.image
        self.turn = 1 - self.turn

    def read(self, row: int) -> NDArray[np.float32]:
        """Return the image of a row, (N, N), valid until the next call."""
        self.take_back()
        self._launch(_take, row)
        download(self._slice, 0, self._staged, self._stream)
        self._stream.synchronize()
        return self._staged.reshape(self._layout.mask.shape)  # type: ignore[no-any-return]

    def write(self, row: int, image: NDArray[np.float32]) -> None:
        """Replace the image of a row; outside the mask it becomes zero."""
        self.take_back()
        self._put(row, np.where(self._layout.mask, image, np.float32(0)))

    def _put(self, row: int, image: NDArray[np.float32]) -> None:
        self._stream.synchronize()
        self._staged[...] = image.ravel()
        upload(self._slice, 0, self._staged, self._stream)
        self._launch(_put, row)

    def _launch(self, launcher: Launcher, row: int) -> None:
        launcher((-(-self._area // 256),), self._stream, self.image, row, self._area, self._slice)

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
        return self.read(0).copy(), self.read(self.rows.count - 1).copy()

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
            self._refresh()
        return self._lent

    def _refresh(self) -> None:
        lent = self._lent
        if lent is None:
            return
        self._lent = None
        for row in range(self.rows.count):
            lent[:, :, row] = self.read(row)
        self._lent = lent

    def to_gpu(self) -> None:
        """Bring the copy that is lent to the GPU; it stays lent."""
        if self._lent is not None:
            for row in range(self.rows.count):
                self._put(row, self._lent[:, :, row])

    def changed(self) -> None:
        """Note that the GPU has changed the image: what is lent is brought up to date."""
        self._refresh()

    def take_back(self) -> None:
        """Bring the copy that is lent to the GPU; it is not valid any more."""
        if self._lent is not None:
            self.to_gpu()
            self._lent = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.image.nbytes + self.other.nbytes)
