"""Frames and messages: how a message is cut into frames, and what is checked before any memory is taken.

A message is a header frame, and for `Item` and `Preview` a frame of raw pixels after it (C order, little-endian); a
`Preview` may have one more frame, of line integrals. A header is ``b"SRW"``, one byte of protocol version, then a
msgpack map. Decoders raise `RemoteProtocolError` and nothing else, whatever they are fed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.wire.messages import (
    PROTOCOL_VERSION,
    DownMessage,
    Hello,
    Item,
    OpenRun,
    Preview,
    PreviewDownMessage,
    PreviewHello,
    PreviewUpMessage,
    PreviewWelcome,
    UpMessage,
    Welcome,
)
from bluesky_streamrecon.wire.operator_messages import Answer, Picture

__all__ = [
    "MAXIMUM_HEADER_BYTES",
    "MAXIMUM_PIXEL_BYTES",
    "PREAMBLE",
    "Buffer",
    "UnknownVersionError",
    "decode_down",
    "decode_preview_down",
    "decode_preview_up",
    "decode_up",
    "encode",
]

Buffer = bytes | bytearray | memoryview
Pixels = NDArray[np.generic]
M = TypeVar("M")

MAGIC: Final = b"SRW"
PREAMBLE: Final = MAGIC + bytes([PROTOCOL_VERSION])
MAXIMUM_HEADER_BYTES: Final = 2**18
"""Longest header frame, preamble included."""
MAXIMUM_PREVIEW_HEADER_BYTES: Final = 2**20
MAXIMUM_PIXEL_BYTES: Final = 2**30
"""Largest pixel frame."""

_encoder = msgspec.msgpack.Encoder()
_up = msgspec.msgpack.Decoder(UpMessage)
_down = msgspec.msgpack.Decoder(DownMessage)
_preview_up = msgspec.msgpack.Decoder(PreviewUpMessage)
_preview_down = msgspec.msgpack.Decoder(PreviewDownMessage)


class UnknownVersionError(RemoteProtocolError):
    """The other side speaks another version of the protocol; the text names both."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"protocol version: got {version}, expected {PROTOCOL_VERSION}; install the same "
            "bluesky_streamrecon on both sides"
        )
        self.version = version


def encode(message: msgspec.Struct) -> bytes:
    """Make the header frame of a message.

    Raises
    ------
    LocalProtocolError
        If it is longer than any decoder would take.
    """
    header = PREAMBLE + _encoder.encode(message)
    limit = MAXIMUM_PREVIEW_HEADER_BYTES if isinstance(message, Preview) else MAXIMUM_HEADER_BYTES
    if len(header) > limit:
        raise LocalProtocolError(f"{type(message).__name__}: header has {len(header)} bytes, expected at most {limit}")
    return header


def decode_up(frames: Sequence[Buffer]) -> UpMessage:
    """Read what a rank or the controller sends to the beamline.

    Raises
    ------
    RemoteProtocolError
        If it is not one frame with a valid message; `UnknownVersionError` if only the version differs.
    """
    message: UpMessage = _decode(frames, _up, 1)
    if isinstance(message, Hello):
        _check_version(message.version)
        if message.rank >= message.size:
            raise RemoteProtocolError(f"hello: got rank {message.rank} of {message.size}, expected less than the size")
    elif isinstance(message, Picture):
        _check_picture(message)
    return message


def decode_down(frames: Sequence[Buffer]) -> tuple[DownMessage, Pixels | None]:
    """Read what the beamline sends; an `Item` comes with its pixels, shape (rows, columns), not copied.

    Raises
    ------
    RemoteProtocolError
        If frames, header, or the size of the pixels are not what they must be.
    """
    message: DownMessage = _decode(frames, _down, 2)
    if isinstance(message, Item):
        first, stop = message.rows
        if stop - first != message.shape[0]:
            raise RemoteProtocolError(
                f"item {message.seq} of run {message.run_uid[:8]}: got shape {message.shape} for rows {message.rows}"
            )
        _check_angle(message.angle, f"item {message.seq}")
        return message, _pixels(frames, np.dtype(message.dtype), message.shape, f"item {message.seq}")
    _no_pixels(frames, message)
    if isinstance(message, Welcome):
        _check_version(message.version)
    elif isinstance(message, OpenRun):
        _check_open(message)
    elif isinstance(message, Answer) and message.picture is not None:
        _check_picture(message.picture)
    return message, None


def decode_preview_up(
    frames: Sequence[Buffer],
) -> tuple[PreviewUpMessage, NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Read what a rank sends to the controller; a `Preview` comes with its pixels and line integrals, not copied.

    Raises
    ------
    RemoteProtocolError
        As `decode_down`.
    """
    message: PreviewUpMessage = _decode(frames, _preview_up, 3, MAXIMUM_PREVIEW_HEADER_BYTES)
    if isinstance(message, Preview):
        shape = (len(message.rows), message.size, message.size)
        if not message.rows:
            raise RemoteProtocolError(f"preview {message.seq}: got no rows, expected at least one")
        where = f"preview {message.seq} of rank {message.rank}"
        pixels = _pixels(frames[:2], np.dtype("<f4"), shape, where)
        lines = None
        if message.columns:
            _check_lines(message, where)
            shape = (len(message.angles_used), len(message.rows), message.columns)
            lines = _pixels((frames[0], *frames[2:]), np.dtype("<f4"), shape, f"line integrals of {where}")
        elif len(frames) != 2:
            raise RemoteProtocolError(f"{where}: got {len(frames)} frames, expected 2 where no line integrals come")
        return message, pixels, lines  # type: ignore[return-value]
    _no_pixels(frames, message)
    if isinstance(message, PreviewHello):
        _check_version(message.version)
    return message, None, None


def decode_preview_down(frames: Sequence[Buffer]) -> PreviewDownMessage:
    """Read what the controller answers to a rank.

    Raises
    ------
    RemoteProtocolError
        If it is not one frame with a valid message.
    """
    message: PreviewDownMessage = _decode(frames, _preview_down, 1)
    if isinstance(message, PreviewWelcome):
        _check_version(message.version)
    return message


def _decode(
    frames: Sequence[Buffer], decoder: msgspec.msgpack.Decoder[Any], most: int, limit: int = MAXIMUM_HEADER_BYTES
) -> Any:
    if not 1 <= len(frames) <= most:
        raise RemoteProtocolError(f"message: got {len(frames)} frames, expected {'1' if most == 1 else f'1 to {most}'}")
    header = memoryview(frames[0])
    if header.nbytes > limit:
        raise RemoteProtocolError(f"header: got {header.nbytes} bytes, expected at most {limit}")
    if header.nbytes < len(PREAMBLE) or bytes(header[: len(MAGIC)]) != MAGIC:
        raise RemoteProtocolError(
            f"header: got {bytes(header[:4])!r}, expected {PREAMBLE!r}; is this a streamrecon peer?"
        )
    _check_version(header[len(MAGIC)])
    try:
        return decoder.decode(header[len(PREAMBLE) :])
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(f"header of {header.nbytes} bytes: {error}") from None


def _check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise UnknownVersionError(version)


def _check_angle(angle: float, where: str) -> None:
    if not math.isfinite(angle):
        raise RemoteProtocolError(f"{where}: got angle {angle}, expected finite radians")


def _check_lines(message: Preview, where: str) -> None:
    for angle in message.angles_used:
        _check_angle(angle, where)
    if message.axis is not None and not math.isfinite(message.axis):
        raise RemoteProtocolError(f"{where}: got axis {message.axis}, expected a finite detector column")
    views, counts = len(message.angles_used), message.lines_counts
    if counts and len(counts) != views:
        raise RemoteProtocolError(f"{where}: got {len(counts)} counts of {views} views, expected none or one for each")
    last = message.lines_first + (sum(counts) if counts else views)
    if last > message.projections:
        raise RemoteProtocolError(
            f"{where}: got line integrals of projections {message.lines_first + 1} to {last}, expected none after "
            f"{message.projections}"
        )


def _check_open(message: OpenRun) -> None:
    block, rows = message.block, message.detector_shape[0]
    if not (0 <= block.first < block.stop <= rows and 0 <= block.member < block.members and block.group >= 0):
        raise RemoteProtocolError(
            f"run {message.run_uid[:8]}: got {block}, expected rows within 0 to {rows} and member < members"
        )
    if any(row >= rows for row in message.preview_rows):
        raise RemoteProtocolError(
            f"run {message.run_uid[:8]}: got preview rows {message.preview_rows}, expected less than {rows}"
        )


def _check_picture(picture: Picture) -> None:
    where = f"picture of image {picture.image_number}"
    if len(picture.pixels) != len(picture.rows) * picture.size**2:
        raise RemoteProtocolError(
            f"{where}: got {len(picture.pixels)} bytes, expected {len(picture.rows)} slices of side {picture.size}"
        )
    if not (math.isfinite(picture.low) and math.isfinite(picture.high) and picture.low <= picture.high):
        raise RemoteProtocolError(f"{where}: got the range {picture.low} to {picture.high}, expected finite numbers")


def _no_pixels(frames: Sequence[Buffer], message: object) -> None:
    if len(frames) != 1:
        raise RemoteProtocolError(f"{type(message).__name__}: got {len(frames)} frames, expected 1")


def _pixels(frames: Sequence[Buffer], dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Pixels:
    if len(frames) != 2:
        raise RemoteProtocolError(f"{where}: got no pixels, expected a frame of {dtype.str} {shape}")
    payload = memoryview(frames[1])
    expected = math.prod(shape) * dtype.itemsize
    if payload.nbytes != expected or expected > MAXIMUM_PIXEL_BYTES:
        raise RemoteProtocolError(
            f"{where}: got {payload.nbytes} bytes, expected {expected} for {shape} of {dtype.str} and at most "
            f"{MAXIMUM_PIXEL_BYTES}; was the detector ROI changed after the run was opened?"
        )
    pixels = np.frombuffer(payload, dtype=dtype).reshape(shape)
    pixels.flags.writeable = False
    return pixels
