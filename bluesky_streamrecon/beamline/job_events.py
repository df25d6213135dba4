"""What the job's threads and processes tell, as it reaches the device: a tally of the run, signals, restarts.

All of it happens in the RunEngine's loop; other threads only post to it. Times are seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from bluesky_streamrecon.beamline.job_signals import JobSignals, JobState
from bluesky_streamrecon.beamline.link import JobLink, LinkEvent
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.progress import RunProgress
from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.beamline.steering import Decision
from bluesky_streamrecon.beamline.supervision import Restarted, RestartFailed, Supervision
from bluesky_streamrecon.wire.events import (
    AllRanksReady,
    PeerInfo,
    PeerJoined,
    PeerLost,
    RunFinished,
    StreamFailed,
)
from bluesky_streamrecon.wire.messages import Problem, Score

__all__ = ["JobEvents"]

logger = logging.getLogger(__name__)


class JobEvents(JobSignals):
    """The half of `ReconJob` that listens.

    Parameters
    ----------
    name : str
        Of the device.
    ranks : int
        MPI ranks, to begin with.
    supervision : Supervision
        How often what dies is started again.
    clock : callable
        Monotonic seconds.
    """

    publisher: Publisher

    def __init__(self, name: str, ranks: int, supervision: Supervision, clock: Callable[[], float]) -> None:
        self._supervision = supervision
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: JobLink | None = None
        self._run: RunProgress | None = None
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self._judged = asyncio.Event()
        self._ranks_ready = 0
        self._controller_ready = False
        self._failure: str | None = None
        self._progress_at = 0.0
        self._decisions: deque[Decision] = deque()
        self._lengthens = False
        self._restarting: set[str] = set()
        super().__init__(name, ranks)

    def _post(self, event: LinkEvent, sender: PeerInfo | None = None) -> None:
        """Bring an event from another thread to the loop; when that is gone, nobody is interested."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._handle, event, sender)
            except RuntimeError:
                logger.debug("after the event loop was closed: %s", event)

    def _handle(self, event: LinkEvent, sender: PeerInfo | None = None) -> None:
        match event:
            case ProcessExit():
                self._process_ended(event)
                return
            case Restarted(role):
                logger.info("run %s: %s started again", self._run_uid, role)
                return
            case RestartFailed(exited):
                self._give_up(exited, str(event))
                return
            case AllRanksReady(size):
                self._ranks_ready = size
                self._set_ranks(size)
                self._restarting -= {role for role in self._restarting if role != "controller"}
                if self._run is not None and self._run.exit_status is None and not self._run.lost:
                    self._set_state(JobState.RUNNING)
            case PeerJoined(peer) if peer.role == "controller":
                self._controller_ready = True
                self._restarting.discard("controller")
            case PeerLost(peer, reason):
                self._peer_lost(peer.role, f"{peer.role} {peer.rank} at {peer.host}: {reason}")
            case Problem(where=where, text=text):
                logger.error("run %s: %s reports: %s", event.run_uid, where, text)
                self._set_problem(f"{where}: {text}")
            case StreamFailed(uid, text):
                logger.error("run %s: %s", uid, text)
                self._set_problem(text)
        if self._ranks_ready and self._controller_ready:
            self._ready.set()
        run = self._run
        if run is not None and run.handle(event, self._clock(), sender):
            self._progress_at = self._clock()
            self._show(run, event)

    def _show(self, run: RunProgress, event: LinkEvent) -> None:
        self._show_progress(run)
        match event:
            case Score():
                if event is not run.newest:
                    return
                self._decisions.append(Decision.of(event, time.time()))
                self._judged.set()
                if event.score is not None:
                    self._set_score(event.score)
                if event is run.enough:
                    self._stop_by_quality(run)
            case RunFinished():
                self._set_state(JobState.FINISHED)
                self._over.set()

    def _stop_by_quality(self, run: RunProgress) -> None:
        """End the run, unless a person is against it; that it would have ended is noted once per order."""
        if run.spec.steering.advisory or run.stopping or run.exit_status is not None:
            return
        if run.overrule.against_stop(run.taken["projection"]):
            self._would_stop(run)
            return
        run.stopping = True
        self._set_finalize(True)

    def _would_stop(self, run: RunProgress) -> None:
        enough, orders = run.enough, run.overrule.orders
        if enough is None or run.told_of == orders:
            return
        run.told_of = orders
        why = run.kept_going = run.overrule.against_stop(run.taken["projection"])
        logger.info("run %s: would stop, %s: %s", self._run_uid, why, enough.text)
        self._decisions.append(
            Decision(
                image_number=enough.image_number,
                projections=enough.projections,
                verdict="would stop",
                score=enough.score,
                policy=run.spec.steering.rule,
                text=f"would stop, {why}: {enough.text}",
                time=time.time(),
            )
        )

    def _peer_lost(self, role: str, text: str) -> None:
        if role == "controller":
            self._controller_ready = False
        if self._run is not None and not self._over.is_set():
            logger.warning("run %s: lost %s", self._run.spec.run_uid, text)
            if role == "rank" and not self._restarting - {"controller"}:
                self._set_state(JobState.DISCONNECTED)

    def _process_ended(self, exited: ProcessExit) -> None:
        if not self._ready.is_set():
            self._failure = str(exited)
            self._ready.set()
            return
        run = self._run
        logger.error("run %s: %s", self._run_uid, exited)
        if run is None or self._over.is_set():
            return
        delay = self._supervision.delay(exited)
        if delay is None or self._link is None:
            self._give_up(exited, self._supervision.told(exited))
            return
        self._restarting.add(exited.role)
        self._progress_at = self._clock()
        told = f"{exited.role} {exited.how} {run.reached}, and is started again ({self._supervision.ordinal(exited)})"
        self._tell_problem(f"{told}; log: {exited.log}")
        if exited.role != "controller":
            self._set_state(JobState.RESTARTING)
        self._link.restart(exited, delay)

    def _give_up(self, exited: ProcessExit, told: str) -> None:
        """Go on without a process that has died too often."""
        run = self._run
        self._restarting.discard(exited.role)
        if run is None or self._over.is_set():
            logger.error("run %s: %s", self._run_uid, told)
            return
        if exited.role == "controller":
            self._tell_problem(f"the scan can not end by quality any more: {told}")
            return
        run.lost = True
        self._tell_problem(f"reconstruction job lost {run.reached}, {run.used} of them used: {told}")
        self.publisher.detach("the reconstruction job was lost")
        self._set_state(JobState.LOST)
        self._over.set()

    @property
    def _run_uid(self) -> str:
        return self._run.spec.run_uid if self._run is not None else "(none)"

    def _tell_problem(self, text: str) -> None:
        run = self._run
        logger.error("run %s: %s", self._run_uid, text)
        if run is not None:
            run.problems.append(text)
        self._set_problem(text)
