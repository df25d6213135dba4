"""Closes what is still open when the main thread ends.

The interpreter joins all threads before it runs ``atexit`` functions, so those come too late for whatever holds a
thread: the process would never end. One daemon thread waits for the main thread instead.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Protocol

__all__ = ["GUARD", "Closable", "close_at_end"]

GUARD = "streamrecon-exit"
"""Name of the thread, which stays until the process ends."""

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """Something with threads; `close` is idempotent and may be called from any thread."""

    def close(self) -> None:
        """End the threads."""


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_lock = threading.Lock()
_guard: threading.Thread | None = None


def close_at_end(thing: Closable) -> None:
    """Call ``thing.close()`` when the main thread ends, unless nobody holds `thing` any more by then."""
    global _guard  # noqa: PLW0603 - one thread watches for all of the process
    with _lock:
        _open.add(thing)
        if _guard is None or not _guard.is_alive():
            _guard = threading.Thread(target=_close_all, name=GUARD, daemon=True)
            _guard.start()


def _close_all() -> None:
    threading.main_thread().join()
    for thing in list(_open):
        try:
            thing.close()
        except Exception:
            logger.exception("%r could not be closed at the end of the program", thing)
