"""The runs of a job, one after the other: frames of the open one on their way, what the job reports of it, its record.

`RunState` says what follows from what happens; here it is done. In the RunEngine's loop. Counts are projections, times
seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from bluesky_streamrecon.beamline.attached_job import AttachedJob
from bluesky_streamrecon.beamline.job_signals import JobSignals
from bluesky_streamrecon.beamline.job_state import Change, JobState, next_state
from bluesky_streamrecon.beamline.operator_override import OperatorOverride
from bluesky_streamrecon.beamline.operator_status import judged_after, run_status
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.beamline.run_state import DetachStream, Effect, JobEvent, RunState
from bluesky_streamrecon.beamline.serving.events import AllRanksReady
from bluesky_streamrecon.beamline.serving.frames import QueuedFrame
from bluesky_streamrecon.beamline.steering import Decision
from bluesky_streamrecon.beamline.supervision import RestartFailed, RestartProcess, Supervision
from bluesky_streamrecon.beamline.suspender import QualityReached
from bluesky_streamrecon.beamline.volumes import Volumes
from bluesky_streamrecon.errors import SteeringError
from bluesky_streamrecon.logs import set_run
from bluesky_streamrecon.run_record import Ledger, RunRecord
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.settings import TOMOGRAPHY
from bluesky_streamrecon.wire import messages
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.messages import ChangeRun, OpenRunSpec, Status, VolumeDone
from bluesky_streamrecon.wire.operator_messages import Answer, Ask, Judged, Order, RunStatus

__all__ = ["JobOptions", "JobRuns"]

logger = logging.getLogger(__name__)

NOBODY_SECONDS = 10.0  # how long a finished scan waits for a job that is not linked
FIRST_VERDICT_SECONDS = 60.0  # for a run's first verdict after its last image: kernels may have to be compiled for it
VERDICT_SECONDS = 10.0  # from one verdict to the next, while the last image waits for its own


@dataclass(kw_only=True)
class JobOptions:
    """What may be changed between two runs.

    Parameters
    ----------
    output : Path or None
        Directory where the job writes reconstructions; None: it writes none.
    keep_alive : bool
        Keep the job when the device is unstaged.
    wait_for_job : bool
        Staging waits until every rank and the controller are linked.
    start_timeout, finish_timeout : float
        Longest wait for that, and for the last image without any progress.
    restarts, backoff : int, float
        How often a process that dies is started again in one run, and how long to wait before the first time.
    wait_for_volume : bool
        Unstaging waits until the volume is finished; else the job goes on with it, and ends then if it is not kept.
    """

    output: Path | None = None
    keep_alive: bool = False
    wait_for_job: bool = True
    start_timeout: float = 60.0
    finish_timeout: float = 120.0
    restarts: int = 3
    backoff: float = 1.0
    wait_for_volume: bool = True


class JobRuns:
    """The open run and the record of the last one; the publisher's `Sink`.

    Parameters
    ----------
    signals : JobSignals
        Where everything is shown.
    options : JobOptions
        Shared with the device.
    clock : callable
        Monotonic seconds.

    Attributes
    ----------
    publisher : Publisher
        Document callback whose frames go to the open run.
    last : RunRecord or None
        Record of the last run.
    volumes : Volumes
        Of runs that are over, being finished by the job.
    on_volume : callable
        Called with the record of each of these runs when its volume is there, or will never be.
    lengthens : bool
        The plan of the next run takes more projections than planned when it is asked to.
    problems_before_opening : list of str
        What went wrong with the next run before its stream is open.
    """

    def __init__(self, signals: JobSignals, options: JobOptions, clock: Callable[[], float]) -> None:
        self.publisher = Publisher(self, on_problem=self.report)
        self.last: RunRecord | None = None
        self.open: RunState | None = None
        self.volumes = Volumes()
        self.on_volume: Callable[[RunRecord], object] = lambda _record: None
        self._volume_deaths = Supervision(options.restarts, options.backoff)
        self.job: AttachedJob  # set by the device, whose job reports to `take_event`
        self._signals = signals
        self._options = options
        self._clock = clock
        self._staged_at = 0.0
        self._state = JobState.IDLE  # while no run is open
        self.lengthens = False
        self.problems_before_opening: list[str] = []

    # ----------------------------------------------------------------------------- around the runs

    def change(self, change: Change) -> None:
        """Show the state after a change that happens while no run is open."""
        self._state = next_state(self._state, change)
        self._signals.state.set(self._state.value)

    def staged(self) -> None:
        """Begin anew, with nothing of an earlier run shown."""
        self.open, self.problems_before_opening = None, []
        self._staged_at = self._clock()
        self._signals.problem.set("")
        self._signals.show_run(None)

    # ------------------------------------------------------------------------------- the publisher's sink

    def open_run(self, spec: OpenRunSpec) -> None:
        """Begin a run."""
        endpoint, output = self.job.endpoint, self._options.output
        if output is not None and spec.output is None:
            spec = msgspec.structs.replace(spec, output=str(output.absolute()))
        endpoint.open_run(spec)
        set_run(spec.run_uid)
        problems, self.problems_before_opening = self.problems_before_opening, []
        self.open = RunState(
            spec,
            self._staged_at,
            Supervision(self._options.restarts, self._options.backoff),
            OperatorOverride(
                planned=spec.planned,
                lengthens=self.lengthens,
                columns=spec.detector_shape[1] if spec.recon.analysis == TOMOGRAPHY else 0,
                selection=Selection(spec.steering.region),
            ),
            heard_at=self._clock(),
            problems=problems,
        )
        died, self.job.died = self.job.died, []
        for event in died:
            self.take_event(event)
        self._show(self.open)

    def append(self, frame: QueuedFrame) -> None:
        """Queue a frame."""
        self.job.endpoint.append(frame)
        if self.open is not None and frame.kind == "projection":
            self.open.taken = frame.index
            self._signals.lag.set(self.open.lag)

    def close_run(self, exit_status: str = "success", reason: str = "") -> None:
        """Close the run: no frames follow."""
        run = self.open
        if run is not None and run.exit_status is None:
            run.close(exit_status, reason, self._clock())
            if not run.lost:
                self.job.endpoint.close_run(exit_status, reason)
            self._show(run)

    # ------------------------------------------------------------------------------------- its end

    async def finished(self) -> bool:
        """Wait for the last image, and its verdict, of a run that was closed; return whether they came.

        Gives up when the job is lost, when nothing was heard of it for `finish_timeout`, soon if no rank is there, and
        when the run's record is kept without it.
        """
        run, patience = self.open, self._options.finish_timeout
        if run is None or run.exit_status is None:
            return False

        def limit() -> float:
            link = self.job.link
            hope = run.restarting or (link is not None and (link.linked("rank") > 0 or (link.local and link.usable)))
            return patience if hope else min(NOBODY_SECONDS, patience)

        def judged() -> bool:
            unheard = run.unjudged or run.failed or not self.job.controller_linked
            return unheard or run.judged >= run.image_number or self.open is not run

        if not await self.job.wait(lambda: run.over or self.open is not run, limit, lambda: run.heard_at):
            who = self.job.link.peers_in_words() if self.job.link is not None else "the job has been closed"
            run.given_up = True
            self.report(f"no last image: no message from the job for {limit():g} s; {who}")
        if run.results is None or self.open is not run:
            return False
        if not await self.wait_for_verdicts(run, judged):
            self.report(
                f"no verdict on the last image, number {run.image_number}: none came from the controller within "
                f"{_verdict_seconds(run):g} s, the last was on image {run.judged}; is its computer overloaded?"
            )
        if self.open is run:
            self.publisher.check_angles()
        return True

    async def wait_for_verdicts(self, run: RunState, done: Callable[[], bool]) -> bool:
        """Wait until `done`, as long as the run's images and verdicts go on; return whether it is."""
        return await self.job.wait(done, lambda: _verdict_seconds(run), lambda: (run.used, run.judged))

    async def end(self) -> None:
        """See the open run to its end, if there is one, and keep its record."""
        run = self.open
        if run is None:
            return
        if run.exit_status is None:
            self.publisher.detach("unstaged")
            self.close_run("abort", "the job was unstaged before the run was closed")
        if run.exit_status == "success":
            await self.finished()
        self.keep_record()

    def keep_record(self, exit_status: str | None = None, reason: str | None = None) -> RunRecord | None:
        """End the open run: keep its record as `last`, and return it; None if no run is open.

        Parameters
        ----------
        exit_status, reason : str, optional
            Of the stop document, if they are others than the stream was closed with.
        """
        run = self.open
        if run is None:
            return None
        run.exit_status = run.exit_status if exit_status is None else exit_status
        run.reason = run.reason if reason is None else reason
        self.last = run.record(self.ledger(), self.job.ranks, self._clock())
        if run.results is None and not run.lost and self.job.link is not None:
            self.job.endpoint.abandon_run(f"the scan is over ({run.exit_status}), and its last image is not waited for")
        self.open, self._state = None, run.state
        self._signals.lag.set(0)
        if self.last.finishing and not run.lost and self.job.link is not None:
            self._volume_deaths = Supervision(self._options.restarts, self._options.backoff)
            self._volume_done(self.volumes.add(self.last, self._clock()))
            self._signals.volume.set(self.volumes.text)
        return self.last

    async def volumes_finished(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until the job has finished all volumes; gives up when nothing was heard of it for `finish_timeout`."""
        limit = self._options.finish_timeout

        def over() -> bool:
            return not self.volumes or given_up()

        if not await self.job.wait(over, lambda: limit, lambda: self.volumes.heard_at):
            self.give_up_volumes(f"no message from the job for {limit:g} s")

    def give_up_volumes(self, why: str) -> None:
        """Wait for no volume any more."""
        for record in self.volumes.give_up(why):
            self._volume_done(record)

    def _take_volume(self, event: ProcessExit | RestartFailed | Status | VolumeDone) -> None:
        """Take what the job reports of a run that is over, or of itself while it finishes one."""
        link = self.job.link
        if isinstance(event, ProcessExit) and event.role != "controller" and self.open is None and self.volumes:
            delay = self._volume_deaths.delay(event)
            if delay is None or link is None:
                self.give_up_volumes(self._volume_deaths.describe(event))
            else:
                link.restart(RestartProcess(event, delay))
        elif isinstance(event, RestartFailed) and self.open is None:
            self.give_up_volumes(str(event))
        elif isinstance(event, Status | VolumeDone):
            self._volume_done(self.volumes.take(event, self._clock()))
        self._signals.volume.set(self.volumes.text)

    def _volume_done(self, record: RunRecord | None) -> None:
        if record is None:
            return
        if self.last is not None and self.last.run_uid == record.run_uid:
            self.last = record
        if record.volume is None:
            logger.error("run %s: %s", record.run_uid, record.problems[-1])
            self._signals.problem.set(record.problems[-1])
        else:
            logger.info("the volume %s", self.volumes.text)
        self._signals.volume.set(self.volumes.text)
        self.on_volume(record)

    def amend(self, record: RunRecord, problem: str) -> None:
        """Add a problem to the record of a run that is over."""
        if self.last is not None and self.last.run_uid == record.run_uid:
            self.last = replace(self.last, problems=(*self.last.problems, problem))
        self._signals.problem.set(problem)

    def ledger(self) -> dict[int, Ledger]:
        """Return, per rank, what became of the newest run's items; empty while no job is there."""
        return self.job.endpoint.ledger() if self.job.link is not None else {}

    # ------------------------------------------------------------------------- what happens to the open run

    def take_event(self, event: JobEvent, sender: PeerInfo | None = None) -> None:
        """Take what the job reports."""
        run = self.open
        match event:
            case Status(state=messages.COMPILING, rank=0):
                logger.warning("kernels are compiled, once on this computer: the first image is about a minute later")
            case ProcessExit(role=role):
                logger.error("%s", event)
                if run is None and (role == "controller" or not self.volumes):
                    self.job.died.append(event)  # else it is started again
            case Ask() if self.job.link is not None and sender is not None:
                self.job.endpoint.answer(sender, self.answer(event))
            case AllRanksReady(size):
                self._signals.ranks.set(size)
        if isinstance(event, ProcessExit | RestartFailed | Status | VolumeDone):
            self._take_volume(event)
        if run is not None:
            known = len(run.problems)
            self._do(run.handle(event, sender, self._clock(), time.time()))
            for problem in run.problems[known:]:
                logger.error("run %s: %s", run.spec.run_uid, problem)
                self._signals.problem.set(problem)
            self._show(run)

    # ------------------------------------------------------------------------------------- operators

    def status(self) -> RunStatus:
        """Return how the run is; in the loop, as all of these."""
        shown = self._signals
        return run_status(
            self.open,
            {} if self.open is None else self.ledger(),
            state=shown.state.value,
            problem=shown.problem.value,
            ranks=self.job.ranks,
            last=self.last,
            volume=self.volumes.text,
        )

    def answer(self, ask: Ask) -> Answer:
        """Do what another program asks, and return the answer."""
        judged: tuple[Judged, ...] = ()
        text = ""
        try:
            if ask.order is not None:
                text = self.carry_out(ask.order, ask.run_uid)
            else:
                judged = judged_after(self.open or self.last, ask.run_uid, ask.after)
        except SteeringError as error:
            return Answer(number=ask.seq, ok=False, text=str(error)[:4096], status=self.status())
        return Answer(number=ask.seq, text=text, status=self.status(), judged=judged)

    def carry_out(self, order: Order, run_uid: str | None) -> str:
        """Carry out an order for a run (the open one by default), and return the answer to the operator.

        Raises
        ------
        SteeringError
            If no run is open, or another one, or the order can not be carried out.
        """
        run = self.open
        if run is None:
            raise SteeringError(f"{order.action}: no run is open")
        if run_uid is not None and not run.spec.run_uid.startswith(run_uid):
            raise SteeringError(f"{order.action}: run {run_uid} is meant, but the open one is {run.spec.run_uid}")
        answer, effects = run.order(order, time.time())
        logger.info("run %s: %s by %s: %s", run.spec.run_uid, order.action, order.who, order.reason or answer)
        self._do(effects)
        self._show(run)
        return answer

    def report(self, problem: str) -> None:
        """Note a problem of the open run, or of the next: in the log, the signal ``problem`` and the run's record."""
        run = self.open
        logger.error("run %s: %s", run.spec.run_uid if run is not None else "(none)", problem)
        (self.problems_before_opening if run is None else run.problems).append(problem)
        self._signals.problem.set(problem)

    def quality_reached(self) -> QualityReached:
        """Return the exception that ends the run, with the reason for the stop document."""
        return self.open.quality_reached() if self.open is not None else QualityReached()

    def take_decisions(self) -> list[Decision]:
        """Return what was decided since the last call, for the ``steering`` stream."""
        if self.open is None:
            return []
        decisions, self.open.decisions = self.open.decisions, []
        return decisions

    def more_wanted(self, taken: int) -> bool:
        """Return whether a plan that has taken so many projections should take another.

        Once the answer is no, the run can not be made longer any more.
        """
        return self.open is not None and self.open.more_wanted(taken)

    def note_budget(self, allowed: int, text: str) -> None:
        """Note how many projections the budget of the open run allows, for people and for predictions."""
        if (run := self.open) is not None:
            self._do(run.note_budget(allowed, text, time.time()))

    def no_more(self, why: str) -> None:
        """Note why a plan can not take what was asked for; it ends with what it has."""
        if self.open is not None:
            self.open.override = self.open.override.closed()
        self.report(why)

    def _do(self, effects: list[Effect]) -> None:
        link = self.job.link
        for effect in effects:
            match effect:
                case DetachStream(reason):
                    self.publisher.detach(reason)
                case RestartProcess() if link is not None:
                    link.restart(effect)
                case ChangeRun() if link is not None:
                    link.endpoint.change_run(effect)

    def _show(self, run: RunState) -> None:
        self._signals.state.set(run.state.value)
        self._signals.show_run(run)


def _verdict_seconds(run: RunState) -> float:
    return VERDICT_SECONDS if run.judged else FIRST_VERDICT_SECONDS
