"""The numbers that belong to a frame: its angle and what the beam's monitor has read, from events and files.

Nothing here opens a file: numbers in files are read with their frames, when the wire needs these. Angles leave here in
radians.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from bluesky_streamrecon.beamline.documents import StreamLayout
from bluesky_streamrecon.beamline.frames import EventFrame, FrameFile
from bluesky_streamrecon.beamline.serving.frames import Source
from bluesky_streamrecon.beamline.serving.run import LateNumber
from bluesky_streamrecon.errors import DataError

__all__ = ["with_numbers"]


def with_numbers(
    layout: StreamLayout, parts: Mapping[str, Any], dtype: str, where: str, note: Callable[[float], None]
) -> tuple[Source, LateNumber, LateNumber]:
    """Return a frame with its angle and the monitor's reading; what is in files is known once the frame was read.

    Parameters
    ----------
    layout : StreamLayout
        Of its stream.
    parts : mapping
        By data key: the frame or number as the event has it, or its file and its place there.
    dtype : str
        Pixel type of the run.
    where : str
        Stream and data key, for errors.
    note : callable
        Called with the angle, radians, once it is known; for one in a file, in the thread that reads it.

    Raises
    ------
    DataError
        If an angle in an event is not a finite number.
    """
    pixels, shape = parts[layout.image_key], layout.reduction.shape
    angle: LateNumber = 0.0
    monitor: LateNumber = 1.0
    if layout.angle_key is not None:
        part = parts[layout.angle_key]
        if layout.angle_key in layout.in_files:
            angle = partial(_read_angle, layout, note, *part)
        else:
            note(angle := layout.in_radians(part))
    if layout.monitor_key is not None:
        part = parts[layout.monitor_key]
        if layout.monitor_key in layout.in_files:
            monitor = partial(_read_monitor, layout, *part)
        else:
            try:
                monitor = layout.reading(part)
            except DataError:  # such a frame is one that can not be read
                monitor = partial(layout.reading, part)
    as_it_is = isinstance(pixels, np.ndarray) and pixels.dtype.str == dtype
    if as_it_is and pixels.shape == (*(1,) * (pixels.ndim - 2), *shape) and not callable(monitor):
        return pixels.reshape(shape), angle, monitor
    frame = EventFrame(pixels, layout.reduction, dtype, where, angle=angle, monitor=monitor)
    return frame, frame.angle if callable(angle) else angle, frame.monitor if callable(monitor) else monitor


def _read_angle(layout: StreamLayout, note: Callable[[float], None], file: FrameFile, index: int) -> float:
    angle = layout.in_radians(file.read(index, index + 1))
    note(angle)
    return angle


def _read_monitor(layout: StreamLayout, file: FrameFile, index: int) -> float:
    return layout.reading(file.read(index, index + 1).item())
