"""Who takes the documents of reconstructions, a `TiledWriter` for instance."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["DocumentCallback", "Documents", "Subscribers"]

DocumentCallback = Callable[[str, dict[str, Any]], object]
Documents = Iterable[tuple[str, dict[str, Any]]]


class Subscribers:
    """Callbacks for documents."""

    def __init__(self) -> None:
        self._callbacks: dict[int, DocumentCallback] = {}
        self._tokens = itertools.count()

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, callback: DocumentCallback) -> int:
        """Call `callback` from now on; return a token."""
        token = next(self._tokens)
        self._callbacks[token] = callback
        return token

    def remove(self, token: int) -> None:
        """Call one of them no more; a token that is not known does nothing."""
        self._callbacks.pop(token, None)

    async def publish(self, compose: Callable[[], Documents]) -> None:
        """Make the documents and call everyone with them, in a thread; what is raised there is raised here."""
        callbacks = list(self._callbacks.values())

        def publish() -> None:
            for name, doc in compose():
                for callback in callbacks:
                    callback(name, doc)

        await asyncio.to_thread(publish)
