"""The frame of an event, with the numbers that belong to it: its angle, and what the beam's monitor has read.

What is in files is read when the wire needs the frame, in the wire's threads, the pixels maybe more than once. Angles
leave here in radians.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.documents import StreamLayout
from bluesky_streamrecon.beamline.serving.frames import QueuedFrame
from bluesky_streamrecon.errors import DataError

__all__ = ["EventFrame"]


class EventFrame(QueuedFrame):
    """A frame of a detector; of one in a file only the place is kept in memory.

    One whose angle in a file, or monitor's reading, can not be used is one that can not be read.

    Parameters
    ----------
    index : int
        Its number within its kind.
    layout : StreamLayout
        Of its stream.
    parts : mapping
        By data key: the frame or number as the event has it, or its file and its place there.
    dtype : str
        Pixel type to return.
    where : str
        Stream and data key, for errors.
    angles : mutable mapping of int to float
        Where the angle of a projection is noted by its number, radians, once it is known; for one in a file, in the
        thread that reads it.

    Raises
    ------
    DataError
        If an angle in an event is not a finite number.
    """

    __slots__ = ("_angles", "_dtype", "_image", "_layout", "_numbers", "_where")

    def __init__(
        self,
        index: int,
        layout: StreamLayout,
        parts: Mapping[str, Any],
        dtype: str,
        where: str,
        angles: MutableMapping[int, float],
    ) -> None:
        super().__init__(layout.kind, index, in_file=layout.in_file)
        self._layout, self._dtype, self._where, self._angles = layout, dtype, where, angles
        keys = layout.angle_key, layout.monitor_key
        self._numbers = {key: parts[key] for key in keys if key is not None}  # not taken yet
        if layout.angle_key not in layout.in_files:
            self._take(layout.angle_key)
        image = self._image = parts[layout.image_key]
        shape = layout.reduction.shape
        as_it_is = isinstance(image, np.ndarray) and image.dtype.str == dtype
        if as_it_is and image.shape == (*(1,) * (image.ndim - 2), *shape):
            with contextlib.suppress(DataError):  # such a reading is told when the frame is read
                self._take(layout.monitor_key)
                self.pixels, self._image = image.reshape(shape), None

    def _take(self, key: str | None) -> None:
        """Take angle or reading of the monitor, unless there is none or it was taken before."""
        if key not in self._numbers:
            return
        value = self._numbers[key]
        if key in self._layout.in_files:
            file, index = value
            value = file.read(index, index + 1)
        if key == self._layout.angle_key:
            self._angles[self.index] = self.angle = self._layout.in_radians(value)
        else:
            self.monitor = self._layout.reading(value)
        del self._numbers[key]

    def read(self) -> NDArray[np.generic]:
        """Read what belongs to the frame, and the frame, shape (rows, columns).

        Raises
        ------
        DataError
            If one of them is not there, has another shape than was announced, or values that do not fit the type.
        """
        self._take(self._layout.angle_key)
        self._take(self._layout.monitor_key)
        reduction = self._layout.reduction
        if not self.in_file:
            image, self._image = self._image, None  # the store keeps what it becomes
            return reduction.of_event(np.asarray(image), self._dtype, self._where)
        file, index = self._image
        exposures = reduction.frames.exposures
        first = index * exposures
        pixels = file.read(first, first + exposures)
        return reduction.of_event(pixels, self._dtype, f"{file.where}: frame {first}")
