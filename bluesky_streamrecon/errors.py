"""Every error that this package raises on purpose.

A message says where, what came, what was expected, and what to look at.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DataError",
    "DeviceError",
    "DeviceFailedError",
    "GeometryError",
    "JobError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "SteeringError",
    "StorageError",
    "StreamReconError",
]


class StreamReconError(Exception):
    """Root of all errors raised on purpose by bluesky_streamrecon."""


class ConfigError(StreamReconError, ValueError):
    """A setting or an argument has a value that can not work."""


class GeometryError(StreamReconError, ValueError):
    """Shapes, angles or the rotation axis do not fit together."""


class DataError(StreamReconError, ValueError):
    """Measured data (a file, a frame, a document) is not what it says it is."""


class ProtocolError(StreamReconError):
    """Something that the wire protocol forbids; the subclass says whose fault it is."""


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol forbids."""


class DeviceError(StreamReconError, RuntimeError):
    """There is no GPU that can be used, or it failed."""


class DeviceFailedError(DeviceError):
    """A GPU failed while it was used: whoever computed with it has to begin again."""


class MotionError(StreamReconError, RuntimeError):
    """A device is not where it was sent when it should be."""


class JobError(StreamReconError, RuntimeError):
    """The reconstruction job could not be started, was lost, or failed."""


class SteeringError(StreamReconError, RuntimeError):
    """An order of a person can not be carried out: there is no such run, or the run does not allow it."""


class StorageError(StreamReconError):
    """A run or an image could not be written or read back."""
