"""The controller's process: receives previews from the ranks, judges them, and sends scores to the beamline.

``session`` decides; here is the loop around it, which keeps images of a run that the beamline has not announced yet,
and ends when the beamline asks for it or is gone. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Literal

from bluesky_streamrecon.allocator import trim_heap
from bluesky_streamrecon.errors import StreamReconError
from bluesky_streamrecon.exit_hooks import when_closed
from bluesky_streamrecon.logs import set_role, set_run
from bluesky_streamrecon.quality.msssim import warm_up
from bluesky_streamrecon.quality.session import LONGEST_TEXT, SteeringSession
from bluesky_streamrecon.quality.trials import Reconstructor
from bluesky_streamrecon.registry import format_error
from bluesky_streamrecon.wire import (
    AbandonRun,
    ChangeRun,
    CloseRun,
    ControllerEvent,
    OpenRun,
    Preview,
    Problem,
    Refused,
    Shutdown,
)

if TYPE_CHECKING:
    from bluesky_streamrecon.wire import ClientSecurity, ControllerEndpoint, Score, ServerSecurity

__all__ = ["Controller", "run_controller"]

logger = logging.getLogger(__name__)

AT_A_TIME = 256
"""Events that are handled before the next image is judged."""

EARLY_PREVIEWS = 64
"""Previews held of a run that the beamline has not announced to us yet."""

PAST_RUNS = 64

TRIM_SECONDS = 5.0
"""From one return of freed memory to the system to the next."""

SWITCH_SECONDS = 5e-4
"""How long Python's threads wait for one another: previews and verdicts pass through several beside a forecast."""


class Controller:
    """Judge run after run until the beamline asks it to end.

    Parameters
    ----------
    endpoint : ControllerEndpoint
        Closed by the caller.
    link_limit : float, optional
        Seconds without a sign of life from the beamline after which the controller gives up.
    poll : float, optional
        Longest wait for an event, seconds: how soon `stop` is seen.
    memory_limit : int, optional
        Bytes of images held per run.
    reconstructor : Reconstructor, optional
        For predictions from line integrals.
    background : bool, optional
        Make predictions in a thread of their own.
    """

    def __init__(
        self,
        endpoint: ControllerEndpoint,
        *,
        link_limit: float = 60.0,
        poll: float = 0.2,
        memory_limit: int = 2**30,
        reconstructor: Reconstructor | None = None,
        background: bool = False,
    ) -> None:
        self.session: SteeringSession | None = None
        self._endpoint = endpoint
        self._link_limit = link_limit
        self._poll = poll
        self._memory_limit = memory_limit
        self._reconstructor = reconstructor
        self._background = background
        self._early: deque[Preview] = deque(maxlen=EARLY_PREVIEWS)
        self._past: deque[str] = deque(maxlen=PAST_RUNS)

    def run(self, stop: threading.Event) -> int:
        """Work until the beamline asks for the end or is gone, or `stop` is set.

        Returns
        -------
        int
            Exit code of the process: 0 if asked to end, 1 if the beamline refused us or was lost.
        """
        try:
            return self._run(stop)
        finally:
            self._leave()

    def _run(self, stop: threading.Event) -> int:
        trimmed = time.monotonic()
        while not stop.is_set():
            for _ in range(AT_A_TIME):
                event = self._endpoint.next(0.0 if self._busy else self._poll)
                if event is None:
                    break
                code = self.handle(event)
                if code is not None:
                    return code
            self.judge_next()
            if time.monotonic() >= trimmed + TRIM_SECONDS:
                trim_heap()
                trimmed = time.monotonic()
            silent = self._endpoint.unlinked_seconds()
            if silent > self._link_limit:
                logger.error(
                    "nothing heard of the beamline for %.0f s (limit %.0f s): the controller ends; "
                    "is the beamline's process still running?",
                    silent,
                    self._link_limit,
                )
                return 1
        return 0

    def handle(self, event: ControllerEvent) -> int | None:
        """Act on one event; an exit code ends the process."""
        match event:
            case OpenRun() if self._session_of(event.run_uid) is None:
                self._open(event)
            case ChangeRun() if session := self._session_of(event.run_uid):
                session.change(event)
            case Preview():
                self._take(event)
            case CloseRun() if session := self._session_of(event.run_uid):
                session.close()
                self._send(session.last_score())
            case AbandonRun() if self._session_of(event.run_uid):
                self._leave()
            case Shutdown(reason=reason):
                logger.info("the beamline asks the controller to end: %s", reason)
                return 0
            case Refused():
                return 1
        return None

    def judge_next(self) -> None:
        """Judge one image, if one waits, and report it."""
        if self.session is None:
            return
        score = self.session.judge()
        if score is not None and score.verdict == "enough":
            logger.info("run %s: criterion met: %s", score.run_uid, score.text)
        self._send(score)

    def _send(self, score: Score | None) -> None:
        if score is not None:
            self._endpoint.send(score)

    @property
    def _busy(self) -> bool:
        return self.session is not None and self.session.waiting > 0

    def _session_of(self, run_uid: str) -> SteeringSession | None:
        return self.session if self.session is not None and self.session.run.run_uid == run_uid else None

    def _open(self, run: OpenRun) -> None:
        while self._busy:  # what the last run still has to judge
            self.judge_next()
        self._leave()
        self._past.append(run.run_uid)
        set_run(run.run_uid)
        early, self._early = self._early, deque(maxlen=EARLY_PREVIEWS)
        try:
            self.session = SteeringSession(
                run,
                memory_limit=self._memory_limit,
                reconstructor=self._reconstructor,
                background=self._background,
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            why = str(error) if isinstance(error, StreamReconError) else format_error(error)
            self._report("steering", f"run {run.run_uid} will not be judged: {why}", run.run_uid)
            return
        for preview in early:
            self._take(preview)

    def _leave(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = None

    def _take(self, preview: Preview) -> None:
        if session := self._session_of(preview.run_uid):
            try:
                session.accept(preview)
            except StreamReconError as error:
                self._report("previews", str(error), preview.run_uid, fault="remote")
        elif preview.run_uid not in self._past:
            # Ranks may learn of a run before we do.
            self._early.append(preview)

    def _report(self, where: str, text: str, uid: str, fault: Literal["local", "remote"] = "local") -> None:
        logger.error("%s: %s", where, text)
        self._endpoint.send(Problem(fault=fault, where=where, text=text[:LONGEST_TEXT], run_uid=uid))


def run_controller(
    address: str,
    job_id: str,
    *,
    security: ClientSecurity | None = None,
    preview_bind: str = "tcp://127.0.0.1:*",
    preview_security: ServerSecurity | None = None,
    watch_parent: bool = False,
    link_limit: float = 60.0,
    reconstructor: Reconstructor | None = None,
) -> int:
    """Run the controller in this process until the beamline asks it to end.

    Parameters
    ----------
    address : str
        Of the beamline.
    job_id : str
        The beamline's.
    security, preview_bind, preview_security : optional
        As for `ControllerEndpoint`.
    watch_parent : bool, optional
        End when standard input is closed, as it is when the process that started us is gone.
    link_limit : float, optional
        Seconds without a sign of life from the beamline after which the controller gives up.
    reconstructor : Reconstructor, optional
        For predictions from line integrals; without it, policies that need them never end a scan.

    Returns
    -------
    int
        Exit code: 0 if asked to end, 1 if the beamline refused us or was lost, 130 after Ctrl-C.
    """
    from bluesky_streamrecon.wire import ControllerEndpoint

    set_role("controller")
    sys.setswitchinterval(SWITCH_SECONDS)
    stop = threading.Event()
    if watch_parent:
        when_closed(0, partial(_parent_gone, stop))
    # The first score does not wait for the compiler, and the hello does not either.
    warming = threading.Thread(target=_warm_up, name="warm-up-ms-ssim")
    warming.start()
    try:
        endpoint = ControllerEndpoint(
            address,
            job_id=job_id,
            preview_bind=preview_bind,
            security=security,
            preview_security=preview_security,
        )
        try:
            controller = Controller(endpoint, link_limit=link_limit, reconstructor=reconstructor, background=True)
            return controller.run(stop)
        finally:
            endpoint.close()
    except KeyboardInterrupt:
        return 130
    finally:
        warming.join()


def _warm_up() -> None:
    from bluesky_streamrecon.jit import leave_extensions_out

    leave_extensions_out()
    warm_up()


def _parent_gone(stop: threading.Event) -> None:
    logger.info("standard input was closed: the controller ends")
    stop.set()
