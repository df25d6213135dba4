"""The cores that this process may use."""

from __future__ import annotations

import os

__all__ = ["own_cores"]


def own_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    try:
        return set(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return set(range(os.cpu_count() or 1))
