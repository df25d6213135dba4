"""Closes what is still open when the main thread ends, and acts when the process that started this one is gone.

The interpreter joins all threads before it runs ``atexit`` functions, so those come too late for whatever holds a
thread: the process would never end. One thread waits for the main thread instead. It is no daemon, which would be cut
short in the middle of closing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["GUARD", "Closable", "close_at_end", "when_closed"]

GUARD = "streamrecon-exit"
"""Name of the thread, which stays until the process ends."""

logger = logging.getLogger(__name__)


class Closable(Protocol):
    """Something with threads; `close` is idempotent and may be called from any thread."""

    def close(self) -> None:
        """End the threads."""


_open: weakref.WeakValueDictionary[int, Closable] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_lock = threading.Lock()
_guard: threading.Thread | None = None


def close_at_end(thing: Closable) -> None:
    """Call ``thing.close()`` when the main thread ends, unless nobody holds `thing` any more by then.

    What was opened last is closed first, as it may need the others for it.
    """
    global _guard  # noqa: PLW0603 - one thread watches for all of the process
    with _lock:
        _open[next(_numbers)] = thing
        if _guard is None or not _guard.is_alive():
            _guard = threading.Thread(target=_close_all, name=GUARD, daemon=False)
            _guard.start()


def _close_all() -> None:
    threading.main_thread().join()
    for thing in reversed(list(_open.values())):
        try:
            thing.close()
        except Exception:
            logger.exception("%r could not be closed at the end of the program", thing)


def when_closed(descriptor: int, call: Callable[[], object]) -> None:
    """Call a function, in a thread, when the other end of a file descriptor is closed, as when the process there ends.

    Parameters
    ----------
    descriptor : int
        For instance 0, standard input, which a process that starts another one keeps open.
    call : callable
        What is to be done then.
    """

    def wait_for_end() -> None:
        # A plain read: the buffered one holds a lock, and to hold it when the interpreter ends is a fatal error.
        with contextlib.suppress(OSError):
            while os.read(descriptor, 4096):
                pass
        call()

    threading.Thread(target=wait_for_end, name="parent-watch", daemon=True).start()
