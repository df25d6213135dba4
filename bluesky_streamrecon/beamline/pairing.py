"""The numbers that belong to a frame: its angle and what the beam's monitor has read, from events and files.

Nothing here opens a file: numbers in files are read with their frames, when the wire needs these. Angles leave here in
radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from bluesky_streamrecon.beamline.documents import StreamLayout
from bluesky_streamrecon.beamline.frames import FileFrame, FlownFrame, FrameFile
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.wire.run import Angle, Reading
from bluesky_streamrecon.wire.store import Source

__all__ = ["with_numbers"]


def with_numbers(
    layout: StreamLayout, numbers: Mapping[str, Any], source: Source, unitless: list[float]
) -> tuple[Source, Angle, Reading]:
    """Return a frame with its angle and the monitor's reading; what is in files is known once the frame was read.

    A frame whose reading can not be used is one that can not be read.

    Parameters
    ----------
    layout : StreamLayout
        Of its stream.
    numbers : mapping
        By data key: the number, or its file and its place there.
    source : ndarray or FrameSource
        The frame.
    unitless : list of float
        Takes angles from a file that has no units, radians.

    Raises
    ------
    DataError
        If an angle in an event is not a finite number.
    """
    angle: Angle = 0.0
    monitor: Reading = 1.0
    if layout.in_files and isinstance(source, FileFrame):
        flown = source = FlownFrame(
            source,
            angle=partial(_read_angle, layout, unitless, *numbers[str(layout.angle_key)])
            if layout.angle_key in layout.in_files
            else None,
            monitor=partial(_read_monitor, layout, *numbers[str(layout.monitor_key)])
            if layout.monitor_key in layout.in_files
            else None,
        )
        angle, monitor = flown.angle, flown.monitor
    if layout.angle_key in layout.in_events:
        angle = layout.in_radians(numbers[str(layout.angle_key)])
    if layout.monitor_key in layout.in_events:
        reading = partial(layout.reading, numbers[str(layout.monitor_key)])
        try:
            monitor = reading()
        except DataError:
            source = FlownFrame(source, monitor=reading)
    return source, angle, monitor


def _read_angle(layout: StreamLayout, unitless: list[float], file: FrameFile, index: int) -> float:
    angle = layout.in_radians(file.read(index, index + 1))
    if not layout.angle_has_units:
        unitless.append(angle)
    return angle


def _read_monitor(layout: StreamLayout, file: FrameFile, index: int) -> float:
    return layout.reading(file.read(index, index + 1).item())
