"""One run on its way through the reconstruction job, from the moment it is opened until its record is kept.

Pure: events of the job, orders of operators and frames go in; the run's state, decisions and a few effects, which the
device carries out, come out. No device, thread, socket or clock in here: whoever calls says what time it is. Counts are
projections, times seconds.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from bluesky_streamrecon.beamline.job_state import Change, JobState, next_state
from bluesky_streamrecon.beamline.operator_override import OperatorOverride, checked_selection
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.serving.events import (
    Acked,
    AllRanksReady,
    BeamlineEvent,
    PeerJoined,
    PeerLost,
    RunFinished,
)
from bluesky_streamrecon.beamline.steering import BUDGET, OPERATOR, Decision
from bluesky_streamrecon.beamline.supervision import RestartFailed, RestartProcess, Supervision
from bluesky_streamrecon.beamline.suspender import QualityReached
from bluesky_streamrecon.errors import SteeringError
from bluesky_streamrecon.run_record import Ledger, RunRecord
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.messages import ChangeRun, OpenRunSpec, Problem, RunDone, Score, Status
from bluesky_streamrecon.wire.operator_messages import Order

__all__ = ["DetachStream", "Effect", "JobEvent", "RunState"]

JobEvent = BeamlineEvent | ProcessExit | RestartFailed
"""What a job's threads and processes report."""


@dataclass(frozen=True, slots=True)
class DetachStream:
    """Publish no more frames of the run: nobody takes them."""

    reason: str


Effect = RestartProcess | DetachStream | ChangeRun
"""What is to be done after an event or an order; a `ChangeRun` is to be sent to ranks and controller."""


@dataclass
class RunState:
    """All that is known of one run, and what follows from it.

    Parameters
    ----------
    spec : OpenRunSpec
        As the run was opened.
    staged_at : float
        When the job was staged, monotonic.
    supervision : Supervision
        How often processes that die are started again; counts for this run alone.
    override : OperatorOverride
        Orders of operators.
    """

    spec: OpenRunSpec
    staged_at: float
    supervision: Supervision
    override: OperatorOverride
    state: JobState = JobState.RUNNING
    taken: int = 0
    applied: dict[int, int] = field(default_factory=dict)  # projections, by rank
    statuses: dict[int, Status] = field(default_factory=dict)
    verdicts: list[Score] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)  # not yet in the stream of steering
    update_seconds: list[float] = field(default_factory=list)  # of each update, of any rank
    results: tuple[RunDone, ...] | None = None
    problems: list[str] = field(default_factory=list)
    reported_by: dict[str, list[int]] = field(default_factory=dict)  # ranks, by the problem that they report
    exit_status: str | None = None  # None: frames still come
    reason: str = ""
    first_image_at: float | None = None
    heard_at: float = 0.0  # when the job last got on with this run
    unjudged: bool = False  # the controller has reported that it can not judge this run, or is gone for good
    given_up: bool = False  # nobody waits for the last image any more
    stopping: bool = False  # to be ended by quality at the plan's next checkpoint
    enough: Score | None = None  # the verdict that it is ended for
    ending: str = ""  # why it is ended, once the plan knows
    kept_going: str = ""  # what was against a stop: the hold or the extension, in words
    _noted_for: tuple[Order, ...] | None = None  # orders for which a stop that did not happen was noted
    _restarting: set[str] = field(default_factory=set)  # roles

    # ---------------------------------------------------------------------------------------- events

    def handle(self, event: JobEvent, sender: PeerInfo | None, now: float, wall: float) -> list[Effect]:
        """Take in an event.

        Parameters
        ----------
        event : JobEvent
            Those of other runs change nothing.
        sender : PeerInfo or None
            The peer that it is from.
        now : float
            Monotonic time.
        wall : float
            Seconds since the epoch (UTC), for decisions.

        Returns
        -------
        list of Effect
            What is to be done about it.
        """
        if getattr(event, "run_uid", None) not in (None, self.spec.run_uid):
            return []
        if isinstance(event, ProcessExit | Acked | Status | Score):
            self.heard_at = now
        match event:
            case ProcessExit():
                return self._process_ended(event)
            case RestartFailed(exited):
                return self._give_up(exited, str(event))
            case AllRanksReady():
                self._restarting &= {"controller"}
                self._change(Change.RANKS_JOINED)
                if self.exit_status is not None:
                    self._change(Change.RUN_CLOSED)
            case PeerJoined(peer) if peer.role == "controller":
                self._restarting.discard("controller")
            case PeerLost(peer) if peer.role == "rank":
                self._change(Change.RANK_LOST)
            case Problem():
                text = f"{event.where}: {event.text}"
                if sender is not None and sender.role == "rank":
                    self._note_problem(text, sender.rank)
                else:
                    self.problems.append(text if sender is None else f"{sender.role}: {text}")
                    self.unjudged |= sender is not None and event.where == "steering"
            case Acked(rank=rank, projections=projections):
                self.applied[rank] = projections
            case Status():
                self._take_status(event, now)
            case Score():
                self._take_score(event, now, wall)
            case RunFinished(results=results):
                self.results = results
                self._change(Change.RUN_DONE)
        return []

    def close(self, exit_status: str, reason: str, now: float) -> None:
        """Note that no frames follow."""
        self.exit_status, self.reason, self.heard_at = exit_status, reason, now
        self._change(Change.RUN_CLOSED)

    def _change(self, change: Change) -> None:
        self.state = next_state(self.state, change)

    def _note_problem(self, text: str, rank: int) -> None:
        """Note a rank's problem; one that other ranks report as well is one problem."""
        ranks = self.reported_by.setdefault(text, [])
        before = self._of_ranks(ranks, text)
        if rank not in ranks:
            ranks.append(rank)
        if before in self.problems:
            self.problems[self.problems.index(before)] = self._of_ranks(ranks, text)
        else:
            self.problems.append(self._of_ranks(ranks, text))

    def _of_ranks(self, ranks: list[int], text: str) -> str:
        if len(ranks) >= self.spec.recon.ranks:
            return text
        return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, sorted(ranks)))}: {text}"

    def _take_status(self, status: Status, now: float) -> None:
        self.statuses[status.rank] = status
        if status.step_seconds > 0:
            self.update_seconds.append(status.step_seconds)
        if status.image_number:
            self.first_image_at = self.first_image_at or now

    def _take_score(self, score: Score, now: float, wall: float) -> None:
        newest = self.newest
        if newest is not None and score.image_number <= newest.image_number:
            # From a controller that was started again and judges some images once more, unless all data were checked
            # again after the last frame.
            changed = score.verdict == "invalid" != newest.verdict
            if score.image_number < newest.image_number or not changed:
                return
        self.verdicts.append(score)
        self.decisions.append(Decision.of(score, wall))
        self.first_image_at = self.first_image_at or now
        outdated = self.override.axis is not None and score.axis != self.override.axis
        outdated |= score.selection != self.override.selection
        if score.verdict == "enough" and self.exit_status is None and not self.stopping and not outdated:
            self.enough = score
            self._stop_by_quality(wall)

    # -------------------------------------------------------------------------------- the stopping rule

    def _stop_by_quality(self, wall: float) -> None:
        """End the run, unless an operator is against it; a stop that does not happen is noted once per order."""
        if self.spec.steering.advisory:
            return
        if self.override.against_stop(self.taken):
            self._note_no_stop(wall)
        else:
            self.stopping = True

    def _note_no_stop(self, wall: float) -> None:
        enough, orders = self.enough, self.override.orders
        if enough is None or self._noted_for == orders:
            return
        self._noted_for = orders
        why = self.kept_going = self.override.against_stop(self.taken)
        self.decisions.append(
            replace(
                Decision.of(enough, wall), verdict="would stop", metrics={}, text=f"would stop, {why}: {enough.text}"
            )
        )

    @property
    def finalize_requested(self) -> bool:
        """The plan should end the run at its next checkpoint."""
        return self.stopping or self.override.finish is not None

    def quality_reached(self) -> QualityReached:
        """Return the exception that ends the run, with the reason for the stop document."""
        finish, enough, taken = self.override.finish, self.enough, self.taken
        if finish is not None:
            self.ending = f"operator {finish.who}: {finish.reason}"
        elif enough is None:
            self.ending = "quality: the image is good enough"
        else:
            why = enough.text.removeprefix("quality: ")
            self.ending = f"quality: {'stopped ' if why.startswith('at ') else ''}{why}"
            if taken > enough.projections > 0:
                self.ending += f"; {taken} taken"
        return QualityReached(self.ending)

    # -------------------------------------------------------------------------------- orders of operators

    def order(self, order: Order, wall: float) -> tuple[str, list[Effect]]:
        """Carry out an order.

        Parameters
        ----------
        order : Order
            What is asked for; asked twice, it counts once.
        wall : float
            Seconds since the epoch (UTC).

        Returns
        -------
        str, list of Effect
            The answer to the operator, and what is to be done.

        Raises
        ------
        SteeringError
            If it can not be carried out.
        """
        if (self.exit_status is not None or self.ending) and not self.override.knows(order):
            why = self.ending or self.reason
            raise SteeringError(
                f"{order.action}: run {self.spec.run_uid} is about to end" + (f": {why}" if why else "")
            )
        taken, before = self.taken, self.override
        order = msgspec.structs.replace(order, time=wall, projections=taken)
        if order.action == "region":
            why = "; ".join(self.problems) if self.unjudged else ""
            wanted = checked_selection(order.selection, self.spec, self.newest, why)
            order = msgspec.structs.replace(order, selection=wanted)
        self.override, answer = before.after(order, taken=taken)
        if self.override is before:
            return answer, []
        text = order.reason if order.action == "finish" else f"{order.reason}: {answer}" if order.reason else answer
        self._note(text, wall, verdict=order.action, policy=OPERATOR, who=order.who, place=order.place)
        if self.override.axis != before.axis and self.override.axis is not None:
            self.stopping, self.enough = False, None  # what was judged so far is about another axis
            return answer, [ChangeRun(run_uid=self.spec.run_uid, axis=self.override.axis)]
        if self.override.selection != before.selection:
            self.stopping, self.enough = False, None  # ... of other rows, or another part of the slices
            return answer, [ChangeRun(run_uid=self.spec.run_uid, selection=self.override.selection)]
        if self.stopping and self.override.against_stop(taken):
            self.stopping = False  # it was to end at the next checkpoint
            self._note_no_stop(wall)
        if self.override.total == before.total:
            return answer, []
        return answer, [ChangeRun(run_uid=self.spec.run_uid, planned=self.override.total)]

    def note_budget(self, allowed: int, text: str, wall: float) -> list[Effect]:
        """Note how many projections the plan's budget allows; returns what is to be done."""
        self.override = replace(self.override, allowed=allowed)
        self._note(text, wall, policy=BUDGET)
        return [ChangeRun(run_uid=self.spec.run_uid, allowed=allowed)]

    def _note(self, text: str, wall: float, **what: Any) -> None:
        """Add a decision that is no verdict."""
        self.decisions.append(
            Decision(
                image_number=self.image_number,
                projections=self.taken,
                score=self.score,
                text=text,
                time=wall,
                **what,
            )
        )

    def more_wanted(self, taken: int) -> bool:
        """Return whether a plan that has taken so many projections takes another; after a no, it stays a no."""
        if self.exit_status is not None:
            return False
        if taken < self.override.total:
            return True
        self.override = self.override.closed()
        return False

    # ------------------------------------------------------------------------------- processes that die

    def _process_ended(self, exited: ProcessExit) -> list[Effect]:
        if self.over:
            return []
        delay = self.supervision.delay(exited)
        if delay is None:
            return self._give_up(exited, self.supervision.describe(exited))
        self._restarting.add(exited.role)
        again = self.supervision.ordinal(exited)
        self.problems.append(
            f"{exited.role} {exited.how} {self.reached}, and is started again ({again}); log: {exited.log}"
        )
        if exited.role != "controller":
            self._change(Change.PROCESS_DIED)
        return [RestartProcess(exited, delay)]

    def _give_up(self, exited: ProcessExit, why: str) -> list[Effect]:
        """Go on without a process that has died too often."""
        self._restarting.discard(exited.role)
        if self.over:
            return []
        if exited.role == "controller":
            self.problems.append(f"the scan can not end by quality any more: {why}")
            self.unjudged = True
            return []
        self.problems.append(f"reconstruction job lost {self.reached}, {self.used} of them used: {why}")
        self._change(Change.JOB_LOST)
        return [DetachStream("the reconstruction job was lost")]

    @property
    def restarting(self) -> bool:
        """A process that died is being started again."""
        return bool(self._restarting)

    # ------------------------------------------------------------------------------------ what is known

    @property
    def lost(self) -> bool:
        """The job was lost in the middle of the run."""
        return self.state is JobState.LOST

    @property
    def over(self) -> bool:
        """Nothing more will come of this run."""
        return self.results is not None or self.lost or self.given_up

    @property
    def planned(self) -> int:
        """Projections planned."""
        return self.spec.planned

    @property
    def reached(self) -> str:
        """How far the scan is, in words."""
        return f"after {self.taken} of {self.spec.planned} projections"

    @property
    def newest(self) -> Score | None:
        """The last verdict."""
        return self.verdicts[-1] if self.verdicts else None

    @property
    def judged(self) -> int:
        """Number of the last image that was judged."""
        return self.verdicts[-1].image_number if self.verdicts else 0

    @property
    def used(self) -> int:
        """Projections that every rank has applied; 0 before all ranks have reported."""
        reported = {rank: status.projections for rank, status in self.statuses.items()}
        ranks = {done.rank for done in self.results} if self.results else self.applied.keys() | reported.keys()
        return min((max(self.applied.get(rank, 0), reported.get(rank, 0)) for rank in ranks), default=0)

    @property
    def failed(self) -> bool:
        """Whether a rank has given the run up, so that its last image may not have been sent to be judged."""
        return any(status.state == "failed" for status in self.statuses.values())

    @property
    def image_number(self) -> int:
        """Images that every rank has made."""
        done = [done.image_number for done in self.results or ()]
        return min(done or [status.image_number for status in self.statuses.values()], default=0)

    @property
    def lag(self) -> int:
        """Projections that were published and are not applied yet by the slowest rank."""
        return max(0, self.taken - self.used)

    @property
    def score(self) -> float | None:
        """The newest score; None before there is anything to compare."""
        return next((verdict.score for verdict in reversed(self.verdicts) if verdict.score is not None), None)

    @property
    def best(self) -> float | None:
        """The highest score."""
        return max((v.score for v in self.verdicts if v.score is not None and math.isfinite(v.score)), default=None)

    @property
    def axis(self) -> float | None:
        """Detector column of the rotation axis, if it was given or has been reported."""
        found = [done.axis for done in self.results or ()] + [self.override.axis]
        found += [verdict.axis for verdict in reversed(self.verdicts)]
        return next((axis for axis in found if axis is not None), self.spec.recon.axis)

    def record(self, ledger: dict[int, Ledger], ranks: int, now: float) -> RunRecord:
        """Return what is kept of the run; `ranks` counts where no results have come."""
        return RunRecord(
            spec=self.spec,
            exit_status=self.exit_status or "",
            reason=self.reason,
            taken=self.taken,
            used=self.used,
            score=self.score,
            verdicts=tuple(self.verdicts),
            image_number=self.image_number,
            results=self.results or (),
            ledger=ledger,
            ranks=len(self.results or ()) or ranks,
            seconds=now - self.staged_at,
            seconds_to_first_image=None if self.first_image_at is None else self.first_image_at - self.staged_at,
            problems=tuple(self.problems),
            lost=self.lost,
            orders=self.override.orders,
            update_seconds=statistics.median(self.update_seconds) if self.update_seconds else None,
        )
