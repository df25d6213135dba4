"""How a process logs: one line per event, with the time (UTC), the run that it is about, and who logs it.

A line is ``2026-03-01T12:00:00.123Z WARNING beamline.serving.hub run=9123df61-… role=beamline rank 1 of 2 (host:7)``;
what has several lines is put on one. Run and role belong to the context of a thread or task, so nothing that logs has
to pass them on. Nothing here knows what is logged.
"""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from typing import Any, TextIO

__all__ = ["ContextFilter", "LineFormatter", "RateLimitedWarning", "set_role", "set_run", "set_up_logging"]

PACKAGE = "bluesky_streamrecon."
_run: ContextVar[str | None] = ContextVar("run", default=None)
_role: ContextVar[str | None] = ContextVar("role", default=None)


def set_run(run_uid: str | None) -> None:
    """Set the run that is logged with what this thread or task does from now on; None: none."""
    _run.set(run_uid)


def set_role(role: str | None) -> None:
    """Set who is logged with what this thread or task does from now on, such as ``"rank-0"``."""
    _role.set(role)


class ContextFilter(logging.Filter):
    """Gives each record the attributes ``run`` and ``role`` of the context that it is logged in; lets all pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True, after the record was given its run and role."""
        record.run, record.role = _run.get() or "-", _role.get() or "-"
        return True


class LineFormatter(logging.Formatter):
    r"""One line per record: time, level, where, run, role, and what.

    Examples
    --------
    >>> record = logging.LogRecord(f"{PACKAGE}beamline.serving.hub", logging.INFO, "", 0, "opened\nhere", (), None)
    >>> record.run, record.role = "3f2a91", "rank-0"  # as `ContextFilter` does
    >>> LineFormatter().format(record).partition(" ")[2]
    'INFO beamline.serving.hub run=3f2a91 role=rank-0 opened | here'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format one record that has passed a `ContextFilter`."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
        about = f"{record.name.removeprefix(PACKAGE)} run={record.run} role={record.role}"  # type: ignore[attr-defined]
        lines = " | ".join(line.strip() for line in text.splitlines() if line.strip())
        return f"{moment} {record.levelname} {about} {lines}"


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
    handler.addFilter(ContextFilter())
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
