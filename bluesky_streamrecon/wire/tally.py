"""Counting what should not happen, without letting whoever causes it fill the log."""

from __future__ import annotations

import logging

__all__ = ["Tally"]


class Tally:
    """Count, and log the first time and at each power of ten."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self.count = 0
        self._log = logger
        self._what = what

    def add(self, why: object) -> None:
        """Count one more; `why` is told if this one is logged."""
        self.count += 1
        if str(self.count).strip("0") == "1":
            self._log.warning("%s (%d so far): %s", self._what, self.count, str(why)[:500])
