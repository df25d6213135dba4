"""Projections that have come before any flat, held as they are until one comes."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.wire import Item, ItemGone

__all__ = ["EarlyItems", "pixels_of"]

LIMIT = 2**30
"""Bytes that are held at most."""


class EarlyItems:
    """Items in order, with copies of their pixels."""

    def __init__(self) -> None:
        self._items: list[Item | ItemGone] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def hold(self, item: Item | ItemGone) -> None:
        """Hold one more.

        Raises
        ------
        DataError
            If they take too much memory.
        """
        if isinstance(item, Item):
            self._bytes += pixels_of(item).nbytes
            if self._bytes > LIMIT:
                raise DataError(
                    f"{len(self)} projections came before any flat field and take more than {LIMIT >> 20} MiB; "
                    "expected flats before the projections"
                )
            item = msgspec.structs.replace(item, pixels=pixels_of(item).copy())
        self._items.append(item)

    def release(self) -> list[Item | ItemGone]:
        """Return all, and hold none any more."""
        items, self._items = self._items, []
        return items


def pixels_of(item: Item) -> NDArray[np.generic]:
    """Return an item's pixels.

    Raises
    ------
    DataError
        If it came without.
    """
    if item.pixels is None:
        raise DataError("got no pixels")
    return item.pixels
