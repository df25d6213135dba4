"""Frames and messages: how a message is cut into frames, and what is checked before any memory is taken.

A message is a header frame, and for `Item` and `Preview` a frame of raw pixels after it (C order, little-endian); a
`Preview` may have one more frame, of line integrals. A header is ``b"SRW"``, one byte of protocol version, then a
msgpack map. Decoders raise `RemoteProtocolError` and nothing else, whatever they are fed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.wire.cuts import MOST_CUT_PIXELS, Cuts, ShowCuts, check_cuts
from bluesky_streamrecon.wire.fields import Pixels
from bluesky_streamrecon.wire.images import Preview
from bluesky_streamrecon.wire.messages import (
    PROTOCOL_VERSION,
    Hello,
    Item,
    Message,
    OpenRun,
)

__all__ = [
    "MAXIMUM_CUTS_BYTES",
    "MAXIMUM_HEADER_BYTES",
    "MAXIMUM_PIXEL_BYTES",
    "PREAMBLE",
    "Buffer",
    "UnknownVersionError",
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
    """Return the frames of a message: its header, and what pixels it has (not copied where they are contiguous).

    Raises
    ------
    LocalProtocolError
        If the header is longer than any decoder would take.
    """
    arrays: list[Pixels] = []
    if isinstance(message, Item | Preview):
        arrays = [part for part in (message.pixels, getattr(message, "lines", None)) if part is not None]
        bare = {"pixels": None} if isinstance(message, Item) else {"pixels": None, "lines": None}
        message = msgspec.structs.replace(message, **bare)
    header = PREAMBLE + _encoder.encode(message)
    limit = _LONGEST.get(type(message), MAXIMUM_HEADER_BYTES)
    if len(header) > limit:
        raise LocalProtocolError(f"{type(message).__name__}: header has {len(header)} bytes, expected at most {limit}")
    return [header, *(np.ascontiguousarray(part).view(np.uint8).data for part in arrays)]


def decode(frames: Sequence[Buffer]) -> Message:
    """Read a message; the pixels of an `Item` or `Preview` are read-only views of what came, not copies.

    Raises
    ------
    RemoteProtocolError
        If frames, header, or the size of the pixels are not what they must be; `UnknownVersionError` if only the
        version differs.
    """
    message = _decode_header(frames)
    if isinstance(message, Item):
        return _item(message, frames)
    if isinstance(message, Preview):
        return _preview(message, frames)
    if len(frames) != 1:
        raise RemoteProtocolError(f"{type(message).__name__}: got {len(frames)} frames, expected 1")
    check = _CHECKS.get(type(message))
    if check is not None:
        check(message)
    return message


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


def _item(message: Item, frames: Sequence[Buffer]) -> Item:
    where = f"item {message.seq} of run {message.run_uid[:8]}"
    first, stop = message.rows
    if stop - first != message.shape[0]:
        raise RemoteProtocolError(f"{where}: got shape {message.shape} for rows {message.rows}")
    pixels = _pixels(frames, np.dtype(message.dtype), message.shape, where)
    return msgspec.structs.replace(message, pixels=pixels)


def _preview(message: Preview, frames: Sequence[Buffer]) -> Preview:
    where = f"preview {message.seq} of rank {message.rank}"
    if not message.rows:
        raise RemoteProtocolError(f"{where}: got no rows, expected at least one")
    pixels = _pixels(frames[:2], np.dtype("<f4"), (len(message.rows), *message.shape), where)
    lines = None
    if message.columns:
        _check_lines(message, where)
        shape = (len(message.angles_used), len(message.rows), message.columns)
        lines = _pixels((frames[0], *frames[2:]), np.dtype("<f4"), shape, f"line integrals of {where}")
    elif len(frames) != 2:
        raise RemoteProtocolError(f"{where}: got {len(frames)} frames, expected 2 where no line integrals come")
    return msgspec.structs.replace(message, pixels=pixels, lines=lines)


def _check_lines(message: Preview, where: str) -> None:
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


def _check_hello(message: Hello) -> None:
    if message.rank >= message.size:
        raise RemoteProtocolError(f"hello: got rank {message.rank} of {message.size}, expected less than the size")


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


_CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    Hello: _check_hello,
    OpenRun: _check_open,
    ShowCuts: check_cuts,
    Cuts: check_cuts,
}
