"""Memory that was freed and that the C library keeps: given back where a process now and then needs much more."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["trim_heap"]


def trim_heap() -> None:
    """Return free memory of this process to the operating system; nothing happens without glibc.

    Threads that make large arrays have heaps of their own, and what is freed in the middle of one stays resident.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, or none to ask
        return None
