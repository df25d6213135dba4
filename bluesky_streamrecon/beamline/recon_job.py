"""The reconstruction job as a device: staged, it is there; read, it shows how good the image is; unstaged, it is gone.

The device is signals, `stage` and `unstage`, put together from parts: the job itself (`AttachedJob`), its runs
(`JobRuns`), and orders from the prompt. Times are seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bluesky.protocols import Reading
from ophyd_async.core import AsyncStatus, Device, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.beamline.attached_job import AttachedJob
from bluesky_streamrecon.beamline.job_link import Launcher, OnEvent
from bluesky_streamrecon.beamline.job_runs import JobOptions, JobRuns
from bluesky_streamrecon.beamline.job_signals import JobSignals
from bluesky_streamrecon.beamline.job_state import Change
from bluesky_streamrecon.beamline.launcher import MpiLauncher
from bluesky_streamrecon.beamline.prompt_orders import PromptOrders
from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.beamline.serving.endpoint import BeamlineEndpoint
from bluesky_streamrecon.beamline.steering import Decision, Steering
from bluesky_streamrecon.beamline.supervision import Supervision
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.run_record import RunRecord
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire.operator_messages import Order, RunStatus

if TYPE_CHECKING:
    from bluesky_streamrecon.wire import OperatorEndpoint
    from bluesky_streamrecon.wire.security import ServerSecurity

__all__ = ["ReconJob"]

logger = logging.getLogger(__name__)

DocumentCallback = Callable[[str, dict[str, Any]], object]


class ReconJob(StandardReadable, PromptOrders):
    """A reconstruction job that follows a scan.

    Its signals are ``score`` (NaN: none yet), ``image_number``, ``projections`` (used by every rank), ``lag``
    (published, not used yet), ``state`` (see `JobState`) and ``problem`` (what went wrong, or nothing); they are
    read with each event. ``finalize_requested`` turns true when the plan should end the run. The child device
    ``steering`` reads as the last decision. ``volume`` says how the volume of the last run is. Settings of the run are
    configuration. People may ask and overrule it at any time: `status`, `finish_now`, `hold`, `release`, `extend`,
    `set_axis`, `set_region`. `options` may be changed between two runs.

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
        What the job must name in its hello; made up for each job by default.
    security, insecure : ServerSecurity and bool, optional
        Own secret key and the public keys that are let in; or do without them on other hosts than loopback.
    output : path, optional
        Directory where the job writes the reconstruction; None: it writes none.
    keep_alive : bool, optional
        Keep the job when it is unstaged, so that the next run starts at once; `close` ends it then. By default a local
        job is ended, and one that is started elsewhere keeps its connection.
    wait_for_job : bool, optional
        `stage` waits until every rank and the controller have connected. False is for a job that may come later.
    wait_for_volume : bool, optional
        `unstage` waits until the volume is finished from all projections. If it does not, the job goes on with it, a
        run that begins meanwhile goes first, and a job that is not kept ends when the volume is there.
    start_timeout, finish_timeout : float, optional
        Longest wait for that, and for the last image or the volume without any progress.
    restarts, backoff : int and float, optional
        How often a process that dies is started again in one run, and how long to wait before the first time.
    memory_limit : int, optional
        Bytes of frames held in memory; above it, those of files are read again and others go to a temporary file.
    clock : callable, optional
        Monotonic seconds.

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
        wait_for_volume: bool = True,
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
        Supervision(restarts, backoff)  # refuses what can not work
        self._launcher = launcher if launcher is not None else (MpiLauncher() if local else None)
        self._address, self._job_id, self.security, self._insecure = address, job_id, security, insecure
        self._memory_limit = memory_limit
        self.wanted_ranks = ranks
        """MPI ranks that a local job is started with."""
        self.options = JobOptions(
            output=Path(output) if output is not None else None,
            keep_alive=self._launcher is None if keep_alive is None else keep_alive,
            wait_for_job=wait_for_job,
            start_timeout=start_timeout,
            finish_timeout=finish_timeout,
            restarts=restarts,
            backoff=backoff,
            wait_for_volume=wait_for_volume,
        )
        shown = self._shown = JobSignals(ranks)
        self.runs = JobRuns(shown, self.options, clock)
        self.job = self.runs.job = AttachedJob(
            self._make_endpoint,
            self._launcher,
            self.runs.take_event,
            clock=clock,
            server_key=None if security is None else security.keys.public,
        )
        self.runs.on_volume = self._end_when_finished
        self._staged = False
        self._unstaged = 0  # times
        self._ending: asyncio.Task[None] | None = None
        self._subscribers: dict[int, DocumentCallback] = {}
        self.score, self.lag = shown.score.signal, shown.lag.signal
        self.image_number, self.projections = shown.image_number.signal, shown.projections.signal
        self.state, self.problem = shown.state.signal, shown.problem.signal
        self.volume = shown.volume.signal
        self.add_readables([self.score, self.lag], Format.HINTED_SIGNAL)  # in this order, so that tables have it
        self.add_readables([self.image_number, self.projections, self.state, self.problem], Format.UNCACHED_SIGNAL)
        self.ranks, self.algorithm = shown.ranks.signal, shown.algorithm.signal
        self.window, self.step = shown.window.signal, shown.step.signal
        self.policy, self.threshold = shown.policy.signal, shown.threshold.signal
        self.recon_uid = shown.recon_uid.signal
        settings: list[Device] = [shown.signal for shown in self._shown.settings]
        self.add_readables(settings, Format.CONFIG_SIGNAL)
        self.finalize_requested = shown.finalize_requested.signal
        self.steering = Steering()
        super().__init__(name=name)

    # ------------------------------------------------------------------------------------- the device

    async def read(self) -> dict[str, Reading[Any]]:
        """Return the signals of one moment; without a pause in between, so that no interruption can cut it short."""
        return {shown.signal.name: shown.reading for shown in self._shown.read_with_events}

    @AsyncStatus.wrap
    async def stage(self) -> None:
        """Start or attach the job, and wait until all of its processes have connected.

        Raises
        ------
        ConfigError
            If the directory for reconstructions can not be made.
        JobError
            If the job can not be started, ends, or has not connected in time.
        """
        unstaged = self._unstaged
        self._staged = True
        self.job.enter_loop()
        async with self.job.turn:  # a RunEngine that was halted has not waited until the job was unstaged
            await super().stage()
            await self._attach(lambda: self._unstaged != unstaged)

    async def _attach(self, given_up: Callable[[], bool]) -> None:
        """Start or attach the job, unless that is given up meanwhile."""
        job, options = self.job, self.options
        self.runs.staged()
        self.steering.show(Decision())
        if options.output is not None:
            await asyncio.to_thread(_make_directory, options.output)
        if job.link is not None and job.usable and self.local and job.link.launched_ranks != self.wanted_ranks:
            await self.runs.volumes_finished(given_up)  # a job of another size can not go on with them
            await job.stop()
        elif job.link is not None and not job.usable:
            self.runs.give_up_volumes("the job has ended")
            await job.stop()
        if job.link is None and not given_up():
            self.runs.change(Change.LAUNCHED)
            timeout = options.start_timeout
            try:
                await job.start(self.wanted_ranks, wait=options.wait_for_job, timeout=timeout, given_up=given_up)
            except BaseException:
                self.runs.change(Change.UNSTAGED)
                raise
        self.runs.change(Change.STAGED)

    @AsyncStatus.wrap
    async def unstage(self) -> None:
        """End the stream, wait for the last image if the run is a success, and end the job unless it is to be kept.

        A job that is still finishing a volume ends when it has, unless `wait_for_volume` has us wait for it here.
        """
        self._staged = False
        self._unstaged += 1
        async with self.job.turn:
            try:
                await self.runs.end()
                if self.options.wait_for_volume:
                    await self.runs.volumes_finished(lambda: self._staged)
            finally:
                self.publisher.forget()
                if not self.job.usable or not (self.options.keep_alive or self.runs.volumes):
                    self.runs.give_up_volumes("the job has ended")
                    await self.job.stop()
                self.runs.change(Change.UNSTAGED)
                await super().unstage()

    def close(self) -> None:
        """End the job, from any thread but the RunEngine's; idempotent. The device can be staged again.

        A volume that is being finished is given up.
        """
        self.job.in_loop(lambda: self.runs.give_up_volumes("the job was closed"))
        self.job.close()

    def wait_for_volume(self) -> None:
        """Wait until the job has finished the volumes of all runs that are over; Ctrl-C ends the waiting alone."""
        while self.runs.volumes or not (self._ending is None or self._ending.done()):
            time.sleep(0.1)

    def prepare_run(
        self, recon: ReconSettings, steering: SteeringSettings, recon_uid: str, *, lengthens: bool = False
    ) -> None:
        """Show the settings of the next run as configuration; a local job is started with ``recon.ranks``.

        Parameters
        ----------
        recon, steering : ReconSettings, SteeringSettings
            What it asks for.
        recon_uid : str
            Uid that its reconstruction will have.
        lengthens : bool, optional
            Its plan takes more projections than planned when it is asked to.

        Raises
        ------
        ConfigError
            If the launcher can not start so many ranks.
        """
        if self._launcher is not None:
            self._launcher.check_ranks(recon.ranks)
            self.wanted_ranks = recon.ranks
            self._shown.ranks.set(recon.ranks)
        self.runs.lengthens, self.runs.problems_before_opening = lengthens, []
        self._shown.show_settings(recon, steering, recon_uid)

    @property
    def publisher(self) -> Publisher:
        """Document callback whose frames go to the job."""
        return self.runs.publisher

    @property
    def last_run(self) -> RunRecord | None:
        """Record of the last run."""
        return self.runs.last

    @property
    def address(self) -> str | None:
        """Where a job connects to, with the real port; None before the device is staged."""
        return self.job.link.endpoint.address if self.job.link is not None else None

    @property
    def job_id(self) -> str | None:
        """What a job must name in its hello; None before the device is staged, if it was not given."""
        return self.job.link.endpoint.job_id if self.job.link is not None else self._job_id

    @property
    def local(self) -> bool:
        """The job's processes are started by us."""
        return self._launcher is not None

    def _make_endpoint(self, on_event: OnEvent) -> BeamlineEndpoint:
        return BeamlineEndpoint(
            self._address,
            on_event=on_event,
            security=self.security,
            insecure=self._insecure,
            job_id=self._job_id,
            memory_limit=self._memory_limit,
        )

    # ----------------------------------------------------------------------------- orders from the prompt

    def status(self) -> RunStatus:
        """Return how the run is; its text is for people."""
        return self.job.in_loop(self.runs.status)

    def connect_operator(self) -> OperatorEndpoint:
        """Connect to the job as people's programs do; where it has keys, with its own.

        Raises
        ------
        JobError
            If the job has not been started yet.
        """
        from bluesky_streamrecon.wire import ClientSecurity, OperatorEndpoint

        if self.address is None or self.job_id is None:
            raise JobError("the job has not been started yet")
        keys = None if self.security is None else ClientSecurity(self.security.keys, self.security.keys.public)
        return OperatorEndpoint(self.address, job_id=self.job_id, security=keys)

    def show(self, **options: Any) -> None:
        """Show the run in a figure that is updated in place, at the prompt and in notebooks; see `show_job`."""
        from bluesky_streamrecon.beamline.live_figure import show_job

        show_job(self, **options)

    def _carry_out(self, order: Order, run_uid: str | None) -> str:
        return self.job.in_loop(lambda: self.runs.carry_out(order, run_uid))

    # ----------------------------------------------------------------- the reconstruction's own documents

    def subscribe(self, callback: DocumentCallback) -> int:
        """Call `callback` with the documents of each reconstruction, as of a run of its own; return a token."""
        token = uuid4().int
        self._subscribers[token] = callback
        return token

    def unsubscribe(self, token: int) -> None:
        """Undo `subscribe`; a token that is not known does nothing."""
        self._subscribers.pop(token, None)

    async def publish_reconstruction(
        self, record: RunRecord, compose: Callable[[RunRecord], Iterable[tuple[str, dict[str, Any]]]]
    ) -> bool:
        """Call the subscribers with the documents of a run's reconstruction, in a thread; never raises.

        Parameters
        ----------
        record : RunRecord
            Of the run.
        compose : callable
            Makes the documents.

        Returns
        -------
        bool
            Everything was taken; if not, `problem` says why.
        """
        callbacks = tuple(self._subscribers.values())

        def publish() -> None:
            for name, doc in compose(record):
                for callback in callbacks:
                    callback(name, doc)

        if record.result is None or not callbacks:
            return False
        try:
            await asyncio.to_thread(publish)
        except Exception as error:
            logger.error("run %s: the reconstruction could not be stored", record.run_uid, exc_info=error)
            why = f"{type(error).__name__}: {error}"
            self.runs.amend(record, f"reconstruction {record.recon_uid} was not stored: {why}")
            return False
        return True

    def _end_when_finished(self, _record: RunRecord) -> None:
        """End a job that was left to finish volumes, and has."""
        options = self.options
        if not (self._staged or options.keep_alive or options.wait_for_volume or self.runs.volumes):
            with contextlib.suppress(RuntimeError):  # the RunEngine's loop is gone: it is ended with the interpreter
                self._ending = asyncio.get_running_loop().create_task(self.job.stop())


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"directory for reconstructions {path}: can not be made: {error.strerror or error}; is the disk mounted, "
            "and may you write there?"
        ) from error
