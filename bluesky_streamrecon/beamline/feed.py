"""Who wants the documents of reconstructions: runs of their own, outside the RunEngine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

__all__ = ["DocumentCallback", "Documents", "Feed"]

DocumentCallback = Callable[[str, dict[str, Any]], object]
Documents = Iterable[tuple[str, dict[str, Any]]]


class Feed:
    """Gives documents to its subscribers, one after the other, in the order of their subscription."""

    def __init__(self) -> None:
        self._subscribers: dict[int, DocumentCallback] = {}
        self._tokens = count()

    def __len__(self) -> int:
        return len(self._subscribers)

    def subscribe(self, callback: DocumentCallback) -> int:
        """Add a subscriber; gives a token."""
        token = next(self._tokens)
        self._subscribers[token] = callback
        return token

    def unsubscribe(self, token: int) -> None:
        """Undo `subscribe`; a token that is not known does nothing."""
        self._subscribers.pop(token, None)

    def publish(self, documents: Documents) -> None:
        """Give all documents to all subscribers; the first error ends it."""
        for name, doc in documents:
            for callback in list(self._subscribers.values()):
                callback(name, doc)
