"""How the kernels of this room are compiled: without the GIL, and cached on disk where a disk lets us.

Numba writes each cache file under a name of its own and then renames it, so processes that start together may
compile twice but never read half a file. The cache is kept per CPU model and per change of the source.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

__all__ = ["kernel"]

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and NaN need not be looked after: the public functions refuse NaN before they call a kernel.
FASTMATH = frozenset({"contract", "reassoc", "nsz", "arcp", "nnan", "ninf"})


def kernel(function: Function) -> Function:
    """Compile a function of plain loops when it is first called.

    Where neither the package's folder nor the user's cache folder can be written, it is compiled anew in each
    process (a few seconds) instead of failing.
    """
    options = {"nogil": True, "fastmath": set(FASTMATH)}
    compiled: Function
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError as error:
        logger.warning("no cache for %s (%s); set NUMBA_CACHE_DIR to a writable folder", function.__name__, error)
        compiled = njit(**options)(function)
    return compiled
