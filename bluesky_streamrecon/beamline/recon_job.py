"""The reconstruction job as a device: staged, it is there; read, it tells how good the image is; unstaged, it is gone.

All state changes in the RunEngine's loop; the wire's threads only post to it. Counts are projections, times seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray
from ophyd_async.core import AsyncStatus

from bluesky_streamrecon.beamline.feed import DocumentCallback, Documents, Feed
from bluesky_streamrecon.beamline.job_orders import JobOrders
from bluesky_streamrecon.beamline.job_signals import JobState
from bluesky_streamrecon.beamline.launcher import MpiLauncher
from bluesky_streamrecon.beamline.link import JobLink, Launcher, Listener
from bluesky_streamrecon.beamline.overrule import Overrule
from bluesky_streamrecon.beamline.progress import RunProgress, RunRecord
from bluesky_streamrecon.beamline.publisher import Frame, Publisher
from bluesky_streamrecon.beamline.steering import Decision
from bluesky_streamrecon.beamline.supervision import Supervision
from bluesky_streamrecon.beamline.suspender import QualityReached
from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.wire.announcement import announce, withdraw
from bluesky_streamrecon.wire.messages import ItemKind, OpenRunSpec
from bluesky_streamrecon.wire.run import Ledger

if TYPE_CHECKING:
    from bluesky_streamrecon.wire.beamline_endpoint import BeamlineEndpoint
    from bluesky_streamrecon.wire.security import ServerSecurity

__all__ = ["JobState", "ReconJob"]

logger = logging.getLogger(__name__)

NOBODY_SECONDS = 10.0  # how long a finished scan waits for a job that is not linked
VERDICT_SECONDS = 3.0  # how long the last image's verdict may come after the last image


class ReconJob(JobOrders):
    """A reconstruction job that follows a scan.

    Its signals are ``score`` (NaN: none yet), ``image_number``, ``projections`` (used by every rank), ``lag``
    (published, not used yet), ``state`` (see `JobState`) and ``problem`` (what went wrong, or nothing); they are
    read with each event. ``finalize_requested`` turns true when the image is good enough. The child device
    ``steering`` reads as the last decision. Settings of the run are configuration. People may ask and overrule it at
    any time: `status`, `finish_now`, `hold`, `release`, `extend`.

    Parameters
    ----------
    name : str, optional
        Of the device.
    ranks : int, optional
        MPI ranks of a local job; a job that is started elsewhere has as many as it says.
    local, launcher : bool and Launcher, optional
        Start the job on this computer, by an `MpiLauncher` if there is no other; else somebody else starts it, with our
        `address` and `job_id`.
    address : str, optional
        Where the job connects to; any other host than loopback needs `security`.
    job_id : str, optional
        What the job must say; made up for each job by default.
    security, insecure : ServerSecurity and bool, optional
        Own secret key and the public keys that are let in; or do without them on other hosts than loopback.
    output : path, optional
        Directory where the job writes the reconstruction; None: it writes none.
    keep_alive : bool, optional
        Keep the job when it is unstaged, so that the next run starts at once; `close` ends it then. By default a local
        job is ended, and one that is started elsewhere keeps its connection.
    wait_for_job : bool, optional
        `stage` waits until every rank and the controller has connected. False is for a job that may come later.
    start_timeout, finish_timeout : float, optional
        Longest wait for that, and for the last image without any progress.
    memory_limit : int, optional
        Bytes of frames held in memory; above it, those of files are read again and others go to a temporary file.

    Raises
    ------
    ConfigError
        If a number can not work.
    """

    def __init__(
        self,
        name: str = "recon_job",
        *,
        ranks: int = 2,
        local: bool = True,
        launcher: Launcher | None = None,
        address: str = "tcp://127.0.0.1:*",
        job_id: str | None = None,
        security: ServerSecurity | None = None,
        insecure: bool = False,
        output: str | Path | None = None,
        keep_alive: bool | None = None,
        wait_for_job: bool = True,
        start_timeout: float = 60.0,
        finish_timeout: float = 120.0,
        restarts: int = 3,
        backoff: float = 1.0,
        memory_limit: int = 2**30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ranks < 1 or min(start_timeout, finish_timeout) <= 0:
            numbers = f"ranks={ranks}, start_timeout={start_timeout} and finish_timeout={finish_timeout}"
            raise ConfigError(f"reconstruction job: got {numbers}, expected positive ones")
        super().__init__(name, ranks, Supervision(restarts, backoff), clock)
        self._launcher = launcher if launcher is not None else (MpiLauncher() if local else None)
        self._address, self._job_id, self._security, self._insecure = address, job_id, security, insecure
        self._memory_limit = memory_limit
        self.keep_alive = self._launcher is None if keep_alive is None else keep_alive
        self.wait_for_job = wait_for_job
        self.start_timeout = start_timeout
        self.finish_timeout = finish_timeout
        self.output = Path(output) if output is not None else None
        self._wanted_ranks = ranks
        self._last_link: JobLink | None = None
        self._staged_at = 0.0
        self._feed = Feed()
        self._link_ranks = 0
        self._announced: Path | None = None
        self.publisher = Publisher(self, on_problem=self._tell_problem, on_open=self._opened)
        self.last_run: RunRecord | None = None

    # ------------------------------------------------------------------------------------- the device

    @AsyncStatus.wrap
    async def stage(self) -> None:
        """Start or attach the job, and wait until all of its processes have connected.

        Raises
        ------
        JobError
            If the job can not be started, ends, or has not connected in time.
        """
        await super().stage()
        self._loop = asyncio.get_running_loop()
        self._staged_at = self._clock()
        self._reset()
        link = self._link
        if link is not None and (not link.usable or (link.local and self._link_ranks != self._wanted_ranks)):
            await self._stop()
        if self._link is None:
            await self._start()
        self._set_state(JobState.READY)

    @AsyncStatus.wrap
    async def unstage(self) -> None:
        """End the stream, wait for the last image if the run is a success, and end the job unless it is to be kept."""
        try:
            await self.end_run()
        finally:
            if not self.keep_alive or self._link is None or not self._link.usable:
                await self._stop()
            self._set_state(JobState.IDLE)
            await super().unstage()

    def close(self) -> None:
        """End the job, from any thread but the RunEngine's; idempotent. The device can be staged again."""
        link, self._link = self._link or self._last_link, None
        self._withdraw()
        if link is not None:
            link.close()  # waits for the one who is closing it already

    # ---------------------------------------------------------------------------------------- the run

    def prepare_run(self, recon: ReconSettings, steering: SteeringSettings, recon_uid: str) -> None:
        """Show the settings of the next run as configuration; a local job is started with ``recon.ranks``.

        Raises
        ------
        ConfigError
            If the launcher can not start so many ranks.
        """
        if self._launcher is not None:
            self._launcher.check_ranks(recon.ranks)
        if recon.ranks != self._wanted_ranks and self._launcher is not None:
            self._wanted_ranks = recon.ranks
            self._set_ranks(recon.ranks)
        self._show_settings(recon, steering, recon_uid)

    def open_run(self, spec: OpenRunSpec) -> None:
        """Begin a run (the publisher calls this)."""
        endpoint = self._endpoint()
        if self.output is not None and spec.output is None:
            self.output.mkdir(parents=True, exist_ok=True)
            spec = msgspec.structs.replace(spec, output=str(self.output.resolve()))
        endpoint.open_run(spec)
        overrule = Overrule(planned=spec.planned, lengthens=self._lengthens)
        self._run = RunProgress(spec, self._staged_at, overrule=overrule)

    def append(self, kind: ItemKind, index: int, angle: float, source: NDArray[np.generic] | Frame) -> int:
        """Queue a frame (the publisher calls this)."""
        number = self._endpoint().append(kind, index, angle, source)
        if self._run is not None:
            self._run.taken[kind] = index
            self._set_lag(self._run.lag)
        return number

    def close_run(self, exit_status: str = "success", reason: str = "") -> None:
        """Tell the job that no frames follow (the publisher calls this)."""
        run = self._run
        if run is None or run.exit_status is not None:
            return
        run.exit_status, run.reason = exit_status, reason
        self._progress_at = self._clock()
        if not run.lost:
            self._endpoint().close_run(exit_status, reason)
            self._set_state(JobState.FINISHING)

    async def finished(self) -> bool:
        """Wait for the last image and its verdict of a run that was closed; tell whether they came.

        Gives up when the job is lost, when nothing was heard of it for `finish_timeout`, and soon if no rank is there.
        """
        run = self._run
        if run is None or run.exit_status is None:
            return False
        while not self._over.is_set():
            link = self._link
            hope = link is not None and (link.ranks_linked() > 0 or (link.local and link.usable))
            hope = hope or bool(self._restarting)
            limit = self.finish_timeout if hope else min(NOBODY_SECONDS, self.finish_timeout)
            left = self._progress_at + limit - self._clock()
            if left <= 0:
                who = link.who_is_there(None) if link is not None else "the job has been closed"
                self._tell_problem(f"no last image: no message from the job for {limit:g} s; {who}")
                self._over.set()
            await _wait(self._over, min(left, 1.0))
        if run.results is None:
            return False
        until = self._clock() + VERDICT_SECONDS
        while self._controller_ready and run.judged < run.image_number and self._clock() < until:
            self._judged.clear()
            await _wait(self._judged, until - self._clock())
        return True

    async def end_run(self) -> None:
        """See the open run to its end, if there is one, and keep its record as `last_run`."""
        run = self._run
        if run is None:
            return
        if run.exit_status is None:
            self.publisher.detach("unstaged")
            self.close_run("abort", "the job was unstaged before the run was closed")
        if run.exit_status == "success":
            await self.finished()
        self.keep_record()
        if run.results is None and not run.lost and self._link is not None:
            self._link.endpoint.abandon_run("nobody waits for it any more")
        self._run = None
        self._set_lag(0)

    def keep_record(self, exit_status: str | None = None, reason: str | None = None) -> RunRecord | None:
        """Freeze what is known of the run as `last_run` and give it; the stop document's words may be told."""
        run = self._run
        if run is not None:
            if exit_status is not None:
                run.exit_status = exit_status
            if reason is not None:
                run.reason = reason
            self.last_run = run.record(self.ledger(), self._ranks_ready, self._clock())
        return self.last_run

    @property
    def progress(self) -> RunProgress | None:
        """Tally of the open run."""
        return self._run

    def ledger(self) -> dict[int, Ledger]:
        """Per rank, what became of the newest run's items; empty while no job is there."""
        return self._link.endpoint.ledger() if self._link is not None else {}

    @property
    def address(self) -> str | None:
        """Where a job connects to, with the real port; None before the device is staged."""
        return self._link.endpoint.address if self._link is not None else None

    @property
    def job_id(self) -> str | None:
        """What a job must say; None before the device is staged, if it was not given."""
        return self._link.endpoint.job_id if self._link is not None else self._job_id

    @property
    def local(self) -> bool:
        """The job's processes are started by us."""
        return self._launcher is not None

    @property
    def wanted_ranks(self) -> int:
        """MPI ranks that a local job is started with."""
        return self._wanted_ranks

    def quality_reached(self) -> QualityReached:
        """Make the exception that ends the run, with the reason for the stop document."""
        return self._run.quality_reached() if self._run is not None else QualityReached()

    def take_decisions(self) -> list[Decision]:
        """Give what was decided since the last call, for the ``steering`` stream."""
        decisions = list(self._decisions)
        self._decisions.clear()
        return decisions

    # ----------------------------------------------------------------- the reconstruction's own documents

    def subscribe(self, callback: DocumentCallback) -> int:
        """Have `callback` given the documents of each reconstruction, as of a run of its own; gives a token."""
        return self._feed.subscribe(callback)

    def unsubscribe(self, token: int) -> None:
        """Undo `subscribe`."""
        self._feed.unsubscribe(token)

    async def publish_reconstruction(self, compose: Callable[[RunRecord], Documents]) -> bool:
        """Give the documents of the last run's reconstruction to the subscribers, in a thread; never raises.

        Parameters
        ----------
        compose : callable
            Makes the documents.

        Returns
        -------
        bool
            Everything was taken; if not, `problem` says why.
        """
        record = self.last_run
        if record is None or record.result is None or not self._feed:
            return False
        try:
            await asyncio.to_thread(lambda: self._feed.publish(compose(record)))
        except Exception as error:
            logger.error("run %s: the reconstruction could not be stored", record.run_uid, exc_info=error)
            self._tell_problem(f"reconstruction {record.recon_uid} was not stored: {type(error).__name__}: {error}")
            return False
        return True

    # --------------------------------------------------------------------------------------- the insides

    def _make_endpoint(self, on_event: Listener) -> BeamlineEndpoint:
        from bluesky_streamrecon.wire.beamline_endpoint import BeamlineEndpoint

        return BeamlineEndpoint(
            self._address,
            on_event=on_event,
            security=self._security,
            insecure=self._insecure,
            job_id=self._job_id,
            memory_limit=self._memory_limit,
        )

    def _endpoint(self) -> BeamlineEndpoint:
        if self._link is None:
            raise JobError(
                f"{self.name}: not staged, so there is no job to send to; stage it, or use streaming_wrapper"
            )
        return self._link.endpoint

    async def _start(self) -> None:
        self._set_state(JobState.STARTING)
        self._ready = asyncio.Event()
        self._ranks_ready, self._controller_ready, self._failure = 0, False, None
        try:
            link = await asyncio.to_thread(JobLink, self._make_endpoint, self._launcher, self._post)
            self._link = self._last_link = link
            self._announce(link)
            self._link_ranks = self._wanted_ranks
            await asyncio.to_thread(link.launch, self._wanted_ranks)
            if not self.wait_for_job:
                self._ready.set()
            else:
                await _wait(self._ready, self.start_timeout)
                if not self._ready.is_set():
                    who = link.who_is_there(self._wanted_ranks if link.local else None)
                    told = f"not all of its processes have connected after {self.start_timeout:g} s"
                    raise JobError(f"reconstruction job: {told}: {who}")
            if self._failure is not None:
                raise JobError(f"reconstruction job: {self._failure}")
        except BaseException:
            await self._stop()
            self._set_state(JobState.IDLE)
            raise

    async def _stop(self) -> None:
        link, self._link = self._link, None
        self._withdraw()
        if link is not None:
            await asyncio.to_thread(link.close)

    def _announce(self, link: JobLink) -> None:
        """Let programs of this user on this computer find the job."""
        server = None if self._security is None else self._security.keys.public
        self._announced = announce(link.endpoint.address, link.endpoint.job_id, server)

    def _withdraw(self) -> None:
        announced, self._announced = self._announced, None
        withdraw(announced)

    def _reset(self) -> None:
        self._run = None
        self._supervision.reset()
        self._over.clear()
        self._decisions.clear()
        self._clear_signals()

    def _opened(self, _: OpenRunSpec) -> None:
        run = self._run
        self._reset()
        self._run = run
        self._set_state(JobState.RUNNING)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not longer."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
