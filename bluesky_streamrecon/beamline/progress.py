"""How one run is coming along, told by the wire's events: a tally while it goes on, a frozen record when it is over.

No device, socket or clock in here; whoever feeds the tally says what time it is (monotonic seconds).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from bluesky_streamrecon.beamline.overrule import Overrule
from bluesky_streamrecon.beamline.suspender import QualityReached
from bluesky_streamrecon.wire.events import (
    Acked,
    BeamlineEvent,
    PeerInfo,
    RunFinished,
    StreamFailed,
)
from bluesky_streamrecon.wire.messages import ItemKind, OpenRunSpec, Problem, RunDone, Score, Status
from bluesky_streamrecon.wire.operator_messages import Order
from bluesky_streamrecon.wire.run import Ledger

__all__ = ["RunProgress", "RunRecord", "ledger_totals"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What became of one run's reconstruction.

    Parameters
    ----------
    run_uid, recon_uid : str
        Raw run, and the run that the reconstruction is stored as.
    exit_status, reason : str
        As in the stop document, as far as known; the reason tells what ended the run.
    planned, taken, used : int
        Projections planned, published, and used in the last image by every rank.
    score : float or None
        The last one.
    threshold : float
        What it was compared with.
    verdicts : tuple of Score
        Every judgement, in order.
    axis : float or None
        Detector column of the rotation axis that was used.
    image_number : int
        Images made.
    result : str or None
        File with the final image.
    ledger : dict of int to Ledger
        Per rank, what became of the run's items.
    ranks : int
        MPI ranks.
    seconds, seconds_to_first_image : float or None
        From staging the job to the run's end and to its first image.
    problems : tuple of str
        Everything that went wrong, in order.
    lost : bool
        The job was lost in the middle of the run.
    counts : dict of str to int
        Pixels and frames that the job had to correct, summed over ranks.
    spec : OpenRunSpec
        What the job was asked to do.
    orders : tuple of Order
        What people have said, in order.
    update_seconds : float or None
        Median time of an update of the image, of all ranks.
    """

    run_uid: str
    recon_uid: str
    exit_status: str
    reason: str
    planned: int
    taken: int
    used: int
    score: float | None
    threshold: float
    verdicts: tuple[Score, ...]
    axis: float | None
    image_number: int
    result: str | None
    ledger: dict[int, Ledger]
    ranks: int
    seconds: float | None
    seconds_to_first_image: float | None
    problems: tuple[str, ...]
    lost: bool
    counts: dict[str, int]
    spec: OpenRunSpec
    orders: tuple[Order, ...] = ()
    update_seconds: float | None = None

    @property
    def scores(self) -> list[tuple[int, float]]:
        """Projections and score of every image that could be compared."""
        return [(verdict.projections, verdict.score) for verdict in self.verdicts if verdict.score is not None]

    @property
    def balanced(self) -> bool:
        """Every rank's ledger adds up, and the job finished the run."""
        return bool(self.ledger) and all(ledger.balanced for ledger in self.ledger.values())

    def ledger_totals(self) -> dict[str, int | bool]:
        """Sum the ledger over ranks: sent, acknowledged, applied, duplicate, dropped, resent, spilled, balanced."""
        return ledger_totals(self.ledger)


@dataclass
class RunProgress:
    """Tally of one run.

    Parameters
    ----------
    spec : OpenRunSpec
        As the run was opened.
    staged_at : float
        When the job was staged.
    """

    spec: OpenRunSpec
    staged_at: float
    taken: dict[ItemKind, int] = field(default_factory=lambda: {"flat": 0, "dark": 0, "projection": 0})
    applied: dict[int, int] = field(default_factory=dict)  # projections, by rank
    statuses: dict[int, Status] = field(default_factory=dict)
    verdicts: list[Score] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)  # seconds of each, of any rank
    enough: Score | None = None  # the verdict that it is to be ended for
    results: tuple[RunDone, ...] | None = None
    problems: list[str] = field(default_factory=list)
    first_image_at: float | None = None
    exit_status: str | None = None
    reason: str = ""
    lost: bool = False
    overrule: Overrule = field(default_factory=Overrule)
    stopping: bool = False  # to be ended by quality at the plan's next checkpoint
    ending: str = ""  # why, once the plan has been told
    told_of: tuple[Order, ...] | None = None  # orders against a stop that was noted
    kept_going: str = ""  # what was against it: the hold or the extension, in words
    reporting: dict[str, list[int]] = field(default_factory=dict)  # ranks, by the problem that they report

    def handle(self, event: BeamlineEvent, now: float, sender: PeerInfo | None = None) -> bool:
        """Take an event and who it is from; return whether it was about this run."""
        match event:
            case Acked(run_uid=uid, rank=rank, projections=projections) if uid == self.spec.run_uid:
                self.applied[rank] = projections
            case Status(run_uid=self.spec.run_uid):
                self.statuses[event.rank] = event
                if event.step_seconds > 0:
                    self.updates.append(event.step_seconds)
                if event.image_number and self.first_image_at is None:
                    self.first_image_at = now
            case Score(run_uid=self.spec.run_uid):
                if event.image_number > self.judged:  # a controller that was started again judges some once more
                    self.verdicts.append(event)
                    if event.verdict == "enough" and self.exit_status is None and not self.stopping:
                        self.enough = event
                if self.first_image_at is None:
                    self.first_image_at = now
            case RunFinished(run_uid=uid, results=results) if uid == self.spec.run_uid:
                self.results = results
            case Problem(where=where, text=text):
                if sender is not None and sender.role == "rank":
                    self._note(f"{where}: {text}", sender.rank)
                else:
                    self.problems.append(f"{'controller: ' if sender is not None else ''}{where}: {text}")
            case StreamFailed(run_uid=uid, text=text) if uid == self.spec.run_uid:
                self.problems.append(f"streaming: {text}")
            case _:
                return False
        return True

    def _note(self, text: str, rank: int) -> None:
        """Note a rank's problem; one that others report as well is one problem."""
        ranks = self.reporting.setdefault(text, [])
        said = _of_ranks(ranks, self.spec.recon.ranks, text)
        if rank not in ranks:
            ranks.append(rank)
        now = _of_ranks(ranks, self.spec.recon.ranks, text)
        if said in self.problems:
            self.problems[self.problems.index(said)] = now
        else:
            self.problems.append(now)

    @property
    def reached(self) -> str:
        """How far the scan is, in words."""
        return f"after {self.taken['projection']} of {self.spec.planned} projections"

    @property
    def newest(self) -> Score | None:
        """The last verdict."""
        return self.verdicts[-1] if self.verdicts else None

    @property
    def used(self) -> int:
        """Projections that every rank has applied; 0 before all ranks have said so."""
        if self.results:
            return min(max(self.applied.get(done.rank, 0), self._images(done.rank)[1]) for done in self.results)
        ranks = self.applied.keys() | self.statuses.keys()
        return min((max(self.applied.get(rank, 0), self._images(rank)[1]) for rank in ranks), default=0)

    @property
    def image_number(self) -> int:
        """Images that every rank has made."""
        if self.results:
            return min(done.image_number for done in self.results)
        return min((status.image_number for status in self.statuses.values()), default=0)

    @property
    def lag(self) -> int:
        """Projections that were published and are not applied yet by the slowest rank."""
        return max(0, self.taken["projection"] - self.used)

    @property
    def score(self) -> float | None:
        """The newest score; None before there is anything to compare."""
        return next((verdict.score for verdict in reversed(self.verdicts) if verdict.score is not None), None)

    @property
    def axis(self) -> float | None:
        """Detector column of the rotation axis, as far as it was given or told."""
        found = (done.axis for done in self.results or () if done.axis is not None)
        return next(found, self.spec.recon.axis)

    @property
    def best(self) -> float | None:
        """The highest score."""
        return max((v.score for v in self.verdicts if v.score is not None and math.isfinite(v.score)), default=None)

    @property
    def judged(self) -> int:
        """Number of the last image that was judged."""
        return self.verdicts[-1].image_number if self.verdicts else 0

    def quality_reached(self) -> QualityReached:
        """Make the exception that ends the run, with the reason for the stop document."""
        reached = self._reached()
        self.ending = reached.reason
        return reached

    def _reached(self) -> QualityReached:
        finish, enough = self.overrule.finish, self.enough
        if finish is not None:
            return QualityReached(
                f"operator {finish.who}: {finish.reason}",
                score=self.score,
                projections=self.used,
                planned=self.overrule.total or self.spec.planned,
            )
        if enough is None:
            return QualityReached("quality: the image is good enough")
        why = enough.text.removeprefix("quality: ")
        reason = f"quality: {'stopped ' if why.startswith('at ') else ''}{why}"
        taken = self.taken["projection"]
        if enough.projections and taken > enough.projections:
            reason += f"; {taken} taken"
        return QualityReached(
            reason,
            score=enough.score,
            threshold=enough.threshold,
            projections=enough.projections,
            planned=self.spec.planned,
        )

    def record(self, ledger: dict[int, Ledger], ranks: int, now: float) -> RunRecord:
        """Freeze what is known."""
        results = self.results or ()
        counts: dict[str, int] = {}
        for done in results:
            for name, count in done.counts.items():
                counts[name] = counts.get(name, 0) + count
        first = None if self.first_image_at is None else self.first_image_at - self.staged_at
        return RunRecord(
            run_uid=self.spec.run_uid,
            recon_uid=self.spec.recon_uid,
            exit_status=self.exit_status or "",
            reason=self.reason,
            planned=self.spec.planned,
            taken=self.taken["projection"],
            used=self.used,
            score=self.score,
            threshold=self.spec.steering.least_score,
            verdicts=tuple(self.verdicts),
            axis=next((done.axis for done in results if done.axis is not None), None),
            image_number=self.image_number,
            result=next((done.result for done in results if done.result is not None), None),
            ledger=ledger,
            ranks=len(results) or ranks,
            seconds=now - self.staged_at,
            seconds_to_first_image=first,
            problems=tuple(self.problems),
            lost=self.lost,
            counts=counts,
            spec=self.spec,
            orders=self.overrule.orders,
            update_seconds=statistics.median(self.updates) if self.updates else None,
        )

    def _images(self, rank: int) -> tuple[int, int]:
        status = self.statuses.get(rank)
        return (status.image_number, status.projections) if status is not None else (0, 0)


def _of_ranks(ranks: list[int], size: int, text: str) -> str:
    """Return a problem with the ranks that report it, unless all do."""
    if len(ranks) >= size:
        return text
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, sorted(ranks)))}: {text}"


def ledger_totals(ledger: dict[int, Ledger]) -> dict[str, Any]:
    """Sum a ledger over ranks; `balanced` only if every rank's is, and there are ranks.

    Examples
    --------
    >>> ledger_totals({0: Ledger(items=2, sent=2, acknowledged=2, applied=2)})["balanced"]
    True
    """
    names = ("sent", "acknowledged", "applied", "duplicate", "dropped", "resent", "spilled", "restarts")
    totals: dict[str, Any] = {name: sum(getattr(entry, name) for entry in ledger.values()) for name in names}
    totals["balanced"] = bool(ledger) and all(entry.balanced for entry in ledger.values())
    return totals
