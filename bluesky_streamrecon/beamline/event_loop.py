"""Calls from other threads into an event loop, such as the RunEngine's. Times are seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_in_loop"]

T = TypeVar("T")


def call_in_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], T], timeout: float) -> T:
    """Call this in a loop, from whatever thread, and return what it returns; at once if the loop does not run.

    Raises
    ------
    TimeoutError
        If the loop does not get to it within `timeout`; it is not called then.
    Exception
        What it raises.
    """
    try:
        here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if here is loop or not loop.is_running():
        return work()

    async def run() -> T:
        return work()

    future = asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise
