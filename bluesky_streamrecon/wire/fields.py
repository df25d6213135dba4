"""Kinds of values that messages are made of, with the limits that msgspec checks on decoding."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from bluesky_streamrecon.cuts import MAXIMUM_SIDE, Side

__all__ = [
    "PIXEL_TYPES",
    "Address",
    "ArrayFrame",
    "Checked",
    "Count",
    "Counts",
    "Finite",
    "ItemKind",
    "Key",
    "Metrics",
    "Name",
    "Number",
    "PixelType",
    "Pixels",
    "PreviewRows",
    "Rank",
    "Row",
    "Shape2",
    "Side",
    "Size",
    "Text",
    "Uid",
]

PIXEL_TYPES = ("|u1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8")
"""NumPy type strings that pixels may have on the wire: little-endian integers and floats."""

MAXIMUM_RANKS = 65_536

Text = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(max_length=256)]
Uid = Annotated[str, Meta(min_length=1, max_length=128)]
Address = Annotated[str, Meta(min_length=1, max_length=256)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Number = Annotated[int, Meta(ge=1, le=2**53)]
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # neither NaN nor infinite
Row = Annotated[int, Meta(ge=0, le=MAXIMUM_SIDE)]
Rank = Annotated[int, Meta(ge=0, lt=MAXIMUM_RANKS)]
Size = Annotated[int, Meta(ge=1, le=MAXIMUM_RANKS)]
Key = Annotated[str, Meta(min_length=40, max_length=40)]  # Z85 text of a CURVE public key
Pixels = np.ndarray[Any, Any]
PixelType = Literal["|u1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8"]
ItemKind = Literal["flat", "dark", "projection"]
Shape2 = tuple[Side, Side]
PreviewRows = Annotated[tuple[Row, ...], Meta(max_length=256)]
Counts = Annotated[dict[Name, Count], Meta(max_length=256)]
Metrics = Annotated[dict[Name, float | None], Meta(max_length=256)]
ArrayFrame = tuple[str, str, tuple[int, ...]]
"""Field, NumPy type string and shape of an array that travels as a frame of its own."""


class Checked(msgspec.Struct, frozen=True):
    """A message whose fields have to fit each other, or that has arrays."""

    @property
    def where(self) -> str:
        """Which message this is, for errors."""
        known = [
            f"{name} {getattr(self, name)}" for name in ("seq", "number", "rank", "run_uid") if hasattr(self, name)
        ]
        return " ".join([str(self.__struct_config__.tag), *known])

    @property
    def arrays(self) -> tuple[ArrayFrame, ...]:
        """What comes after the header, frame by frame."""
        return ()

    def check(self) -> None:
        """Raise ValueError where fields do not fit each other."""
