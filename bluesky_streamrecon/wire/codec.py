"""Frames and messages: how a message is cut into frames, and what is checked before any memory is taken.

A message is a header frame, and for `Item` and `Preview` a frame of raw pixels after it (C order, little-endian); a
`Preview` may have one more frame, of line integrals. A header is ``b"SRW"``, one byte of protocol version, then a
msgpack map. Decoders raise `RemoteProtocolError` and nothing else, whatever they are fed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from bluesky_streamrecon.cuts import MOST_CUT_PIXELS
from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.wire.fields import ArrayFrame, Checked, Pixels
from bluesky_streamrecon.wire.messages import PROTOCOL_VERSION, Cuts, Message
from bluesky_streamrecon.wire.run_messages import Preview

__all__ = [
    "MAXIMUM_CUTS_BYTES",
    "MAXIMUM_HEADER_BYTES",
    "MAXIMUM_PIXEL_BYTES",
    "PREAMBLE",
    "Buffer",
    "UnknownVersionError",
    "check_sendable",
    "decode",
    "encode",
]

Buffer = bytes | bytearray | memoryview
MOST_FRAMES: Final = 3

MAGIC: Final = b"SRW"
PREAMBLE: Final = MAGIC + bytes([PROTOCOL_VERSION])
MAXIMUM_HEADER_BYTES: Final = 2**18
"""Longest header frame, preamble included."""
MAXIMUM_PREVIEW_HEADER_BYTES: Final = 2**20
MAXIMUM_CUTS_BYTES: Final = 4 * MOST_CUT_PIXELS + 2**12
"""Longest message of those that go to an operator and come from one, the pixels of `Cuts` included."""
MAXIMUM_PIXEL_BYTES: Final = 2**30
"""Largest pixel frame."""

_LONGEST: Final = {Preview: MAXIMUM_PREVIEW_HEADER_BYTES, Cuts: MAXIMUM_CUTS_BYTES}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


class UnknownVersionError(RemoteProtocolError):
    """The other side speaks another version of the protocol; the text names both."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"protocol version: got {version}, expected {PROTOCOL_VERSION}; install the same "
            "bluesky_streamrecon on both sides"
        )
        self.version = version


def encode(message: msgspec.Struct) -> list[Buffer]:
    """Return the frames of a message: its header, and what arrays it has (not copied where they are contiguous).

    Raises
    ------
    LocalProtocolError
        If an array is not as the message says, or the header is longer than any decoder would take.
    """
    arrays: list[Pixels] = []
    if isinstance(message, Checked) and message.arrays:
        for name, dtype, shape in message.arrays:
            array = getattr(message, name)
            if array is None:
                continue
            if (array.dtype, array.shape) != (np.dtype(dtype), shape):
                got = f"{array.dtype.str} {array.shape}"
                raise LocalProtocolError(f"{name} of {message.where}: got {got}, expected {dtype} {shape}")
            arrays.append(array)
        message = msgspec.structs.replace(message, **{name: None for name, *_ in message.arrays})
    header = PREAMBLE + _encoder.encode(message)
    limit = _LONGEST.get(type(message), MAXIMUM_HEADER_BYTES)
    if len(header) > limit:
        raise LocalProtocolError(f"{type(message).__name__}: header has {len(header)} bytes, expected at most {limit}")
    return [header, *(np.ascontiguousarray(array).view(np.uint8).data for array in arrays)]


def decode(frames: Sequence[Buffer]) -> Message:
    """Read a message; its arrays are read-only views of what came, not copies.

    Raises
    ------
    RemoteProtocolError
        If frames, header, or the size of the arrays are not what they must be; `UnknownVersionError` if only the
        version differs.
    """
    message = _decode_header(frames)
    where = type(message).__name__
    arrays: tuple[ArrayFrame, ...] = ()
    if isinstance(message, Checked):
        where, arrays = message.where, message.arrays
        try:
            message.check()
        except ValueError as error:
            raise RemoteProtocolError(f"{where}: {error}") from None
    if len(frames) != 1 + len(arrays):
        raise RemoteProtocolError(f"{where}: got {len(frames)} frames, expected {1 + len(arrays)}")
    found = {
        name: _array(frame, np.dtype(dtype), shape, f"{name} of {where}")
        for frame, (name, dtype, shape) in zip(frames[1:], arrays, strict=True)
    }
    return msgspec.structs.replace(message, **found) if found else message


def check_sendable(message: Checked) -> None:
    """Raise `LocalProtocolError` for a message that no other end would take; msgspec checks on decoding only."""
    try:
        decode(encode(message))
    except (RemoteProtocolError, TypeError, OverflowError) as error:
        raise LocalProtocolError(f"{message.where}: can not be sent: {error}") from error


def _decode_header(frames: Sequence[Buffer]) -> Message:
    if not 1 <= len(frames) <= MOST_FRAMES:
        raise RemoteProtocolError(f"message: got {len(frames)} frames, expected 1 to {MOST_FRAMES}")
    header = memoryview(frames[0])
    if header.nbytes > MAXIMUM_CUTS_BYTES:
        raise RemoteProtocolError(f"header: got {header.nbytes} bytes, expected at most {MAXIMUM_CUTS_BYTES}")
    if header.nbytes < len(PREAMBLE) or bytes(header[: len(MAGIC)]) != MAGIC:
        raise RemoteProtocolError(
            f"header: got {bytes(header[:4])!r}, expected {PREAMBLE!r}; is this a streamrecon peer?"
        )
    if header[len(MAGIC)] != PROTOCOL_VERSION:
        raise UnknownVersionError(header[len(MAGIC)])
    try:
        message: Message = _decoder.decode(header[len(PREAMBLE) :])
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(f"header of {header.nbytes} bytes: {error}") from None
    return message


def _array(frame: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Pixels:
    payload = memoryview(frame)
    expected = math.prod(shape) * dtype.itemsize
    if payload.nbytes != expected or expected > MAXIMUM_PIXEL_BYTES:
        raise RemoteProtocolError(
            f"{where}: got {payload.nbytes} bytes, expected {expected} for {shape} of {dtype.str} and at most "
            f"{MAXIMUM_PIXEL_BYTES}; was the detector ROI changed after the run was opened?"
        )
    array = np.frombuffer(payload, dtype=dtype).reshape(shape)
    array.flags.writeable = False
    return array
