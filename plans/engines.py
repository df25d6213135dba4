"""A RunEngine for scans without a prompt, which leaves no thread or event loop behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bluesky import RunEngine

__all__ = ["run_engine"]

END_SECONDS = 20.0


@contextmanager
def run_engine(**settings: Any) -> Iterator[RunEngine]:
    """Return a RunEngine on an event loop of its own, and close the loop in the end.

    Parameters
    ----------
    **settings
        As for `bluesky.RunEngine`; `RE(plan)` returns a result.
    """
    loop = asyncio.new_event_loop()
    engine = RunEngine({}, call_returns_result=True, loop=loop, **settings)
    try:
        yield engine
    finally:
        loop.call_soon_threadsafe(loop.stop)
        engine._th.join(END_SECONDS)  # bluesky has no other way to wait for the thread of its loop
        if not loop.is_running():
            loop.close()
