"""How a process logs: one line per event, with the time (UTC) and the run that it is about.

A line is ``2026-03-01T12:00:00.123Z WARNING wire.hub run=9123df61-… rank 1 of 2 (host:77): lost: connection closed``;
what has several lines is put on one. Nothing here knows what is logged.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any, TextIO

__all__ = ["LineFormatter", "RateLimitedWarning", "set_run", "set_up_logging"]

PACKAGE = "bluesky_streamrecon."
_PREFIX = re.compile(r"run (?P<run>[^\s:]+): ")
_run: str | None = None


def set_run(run_uid: str | None) -> None:
    """Set the run that is logged with records that do not name one themselves; None: none."""
    global _run  # noqa: PLW0603 - a process serves one run at a time
    _run = run_uid


class LineFormatter(logging.Formatter):
    r"""One line per record: time, level, where, run, and what.

    Examples
    --------
    >>> record = logging.LogRecord(f"{PACKAGE}wire.hub", logging.INFO, "", 0, "run %s: opened\nhere", ("9123",), None)
    >>> LineFormatter().format(record).partition(" ")[2]
    'INFO wire.hub run=9123 opened | here'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        told = record.getMessage()
        named = _PREFIX.match(told)
        run = _run or "-"
        if named is not None:
            run, told = named["run"].replace("(none)", "-"), told[named.end() :]
        if record.exc_info:
            told = f"{told}\n{self.formatException(record.exc_info)}"
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
        where = record.name.removeprefix(PACKAGE)
        lines = " | ".join(line.strip() for line in told.splitlines() if line.strip())
        return f"{moment} {record.levelname} {where} run={run} {lines}"


def set_up_logging(level: str | int = "WARNING", stream: TextIO | None = None) -> logging.Handler:
    """Log everything of `level` and above by `LineFormatter`, in the place of earlier handlers.

    Parameters
    ----------
    level : str or int, optional
        Of the logging module.
    stream : file, optional
        Standard error by default.

    Returns
    -------
    logging.Handler
        That was set up.
    """
    handler: logging.StreamHandler[Any] = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    return handler


class RateLimitedWarning:
    """Count what should not happen; log the first time and at each power of ten, so that nobody can fill the log.

    Parameters
    ----------
    logger : Logger
        Where it is logged.
    what : str
        What happened, without its reason.
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self.count = 0
        self._log = logger
        self._what = what

    def add(self, why: object) -> None:
        """Count one more; `why` is logged if this one is."""
        self.count += 1
        if str(self.count).strip("0") == "1":
            self._log.warning("%s (%d so far): %s", self._what, self.count, str(why)[:500])
