"""What ends a job from outside: signals, a closed standard input, a beamline that is not heard of any more."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from bluesky_streamrecon.exit_hooks import when_closed

__all__ = ["Interrupted", "ShutdownMonitor"]

log = logging.getLogger(__name__)

_GRACE_SECONDS = 20.0
_ORDERLY_SECONDS = 0.5  # whoever ends a job in an orderly way may close its input right after asking for the end


class Interrupted(BaseException):
    """The job has to end now; not an `Exception`, so nothing that handles failures swallows it.

    Parameters
    ----------
    reason : str
        For the log.
    code : int
        Exit status of the process.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class ShutdownMonitor:
    """Remember that the job should end, and say so when asked.

    Parameters
    ----------
    unlinked_seconds : callable
        For how long the beamline has not been heard of.
    link_limit : float
        Seconds of that after which the job ends.
    """

    def __init__(self, unlinked_seconds: Callable[[], float], link_limit: float) -> None:
        self._unlinked_seconds = unlinked_seconds
        self._link_limit = link_limit
        self._reason: str | None = None
        self._code = 1
        self._ended = threading.Event()

    def end(self, reason: str, code: int) -> None:
        """Ask for the end of the job: the next `check` raises."""
        if self._reason is None:
            self._reason, self._code = reason, code

    def check(self) -> None:
        """Do nothing while all is well.

        Raises
        ------
        Interrupted
            If the job should end.
        """
        silent = self._unlinked_seconds()
        if silent > self._link_limit:
            self.end(f"the beamline has not been heard of for {silent:.0f} s (limit {self._link_limit:.0f} s)", 1)
        if self._reason is not None:
            raise Interrupted(self._reason, self._code)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the job inside this context; only the main thread can do so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal handlers are given
            self.end(f"got {signal.Signals(number).name}", 128 + number)

        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def follow(self, descriptor: int) -> None:
        """End the job when the other end of this file descriptor is closed, as the death of the process there does.

        A process that is still busy some time after that ends the hard way.

        Parameters
        ----------
        descriptor : int
            For instance 0, standard input, which mpiexec passes on to rank 0.
        """

        def input_closed() -> None:
            if self._ended.wait(_ORDERLY_SECONDS):
                return
            self.end("the process that started this job is gone (standard input closed)", 1)
            if not self._ended.wait(_GRACE_SECONDS):
                log.error("still busy %.0f s after the end was asked for; exiting", _GRACE_SECONDS)
                os._exit(1)

        when_closed(descriptor, input_closed)

    def ended(self) -> None:
        """Note that the job is ending, so that nothing more is enforced."""
        self._ended.set()
