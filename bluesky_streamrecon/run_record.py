"""What is kept of one run's reconstruction when the run is over. Counts are projections, times seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.wire.messages import OpenRunSpec, RunDone, Score
from bluesky_streamrecon.wire.operator_messages import Check, Order

__all__ = ["Ledger", "RunRecord", "how_it_ended", "ledger_totals", "newest_checks"]


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the items of one run for one rank; stored with the run.

    Parameters
    ----------
    items : int
        Flats, darks and projections appended to the run.
    sent : int
        Of these, sent at least once.
    acknowledged : int
        Received by the rank's present process.
    applied : int
        In the rank's image (or flat and dark), as the rank says.
    duplicate : int
        Arrived again, and were dropped by the rank as they should be.
    dropped : int
        Could not be sent, because their frame was gone; `why` tells the first reason.
    resent : int
        Sent once more after a broken link or a restart.
    spilled : int
        Held in the temporary file at some time (of the run, not of this rank alone).
    restarts, reconnects : int
        Times that the rank came back as a new process, and as the same one.
    done : bool
        The rank has reported the run as done.
    """

    items: int = 0
    sent: int = 0
    acknowledged: int = 0
    applied: int = 0
    duplicate: int = 0
    dropped: int = 0
    resent: int = 0
    spilled: int = 0
    restarts: int = 0
    reconnects: int = 0
    done: bool = False
    why: str = ""

    @property
    def balanced(self) -> bool:
        """Every item was sent, acknowledged and applied, and none dropped."""
        return self.dropped == 0 and self.items == self.sent == self.acknowledged == self.applied

    def explain(self) -> str:
        """Return in a few words whether the ledger adds up, and where it does not."""
        counts = f"{self.items} items, {self.sent} sent, {self.acknowledged} acknowledged, {self.applied} applied"
        if self.balanced:
            return f"balanced: {counts}"
        return f"not balanced: {counts}, {self.dropped} dropped" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What became of one run's reconstruction.

    Parameters
    ----------
    spec : OpenRunSpec
        What the job was asked to do.
    exit_status, reason : str
        As in the stop document, or empty if it was not reached; the reason says what ended the run.
    taken, used : int
        Projections published, and used in the last image by every rank.
    score : float or None
        The last one.
    verdicts : tuple of Score
        Every verdict of the controller, in order.
    image_number : int
        Images made.
    results : tuple of RunDone
        What each rank has reported at the end; none if the job did not finish the run.
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
    orders : tuple of Order
        What operators have ordered.
    update_seconds : float or None
        Median time of an update of the image, over all ranks.
    volume : str or None
        File with the finished volume, beside the last live image; None: not yet, or there is none.
    similarity : float or None
        MS-SSIM of the last live image and the finished volume, mean over the preview rows.
    """

    spec: OpenRunSpec
    exit_status: str
    reason: str
    taken: int
    used: int
    score: float | None
    verdicts: tuple[Score, ...]
    image_number: int
    results: tuple[RunDone, ...]
    ledger: dict[int, Ledger]
    ranks: int
    seconds: float | None
    seconds_to_first_image: float | None
    problems: tuple[str, ...]
    lost: bool
    orders: tuple[Order, ...] = ()
    update_seconds: float | None = None
    volume: str | None = None
    similarity: float | None = None

    @property
    def run_uid(self) -> str:
        """Uid of the raw run."""
        return self.spec.run_uid

    @property
    def recon_uid(self) -> str:
        """Uid of the run that the reconstruction is stored as."""
        return self.spec.recon_uid

    @property
    def planned(self) -> int:
        """Projections planned."""
        return self.spec.planned

    @property
    def threshold(self) -> float:
        """What scores were compared with."""
        return self.spec.steering.least_score

    @property
    def axis(self) -> float | None:
        """Detector column of the rotation axis that was used."""
        return next((done.axis for done in self.results if done.axis is not None), None)

    @property
    def selected_by(self) -> Order | None:
        """Who has set what counted in the end; None: nobody since the run began."""
        return next((order for order in reversed(self.orders) if order.action == "region"), None)

    @property
    def selection(self) -> Selection:
        """What counted in the end."""
        return Selection(self.spec.steering.region) if self.selected_by is None else self.selected_by.selection

    @property
    def result(self) -> str | None:
        """File with the final image."""
        return next((done.result for done in self.results if done.result is not None), None)

    @property
    def finishing(self) -> bool:
        """The job goes on to finish the volume."""
        return any(done.finishing for done in self.results)

    @property
    def counts(self) -> dict[str, int]:
        """Pixels and frames that the job had to correct, summed over ranks."""
        total: Counter[str] = Counter()
        for done in self.results:
            total.update(done.counts)
        return dict(total)

    @property
    def scores(self) -> list[tuple[int, float]]:
        """Projections and score of every image that could be compared."""
        return [(verdict.projections, verdict.score) for verdict in self.verdicts if verdict.score is not None]

    @property
    def balanced(self) -> bool:
        """Every rank's ledger adds up, and the job finished the run."""
        return bool(self.ledger) and all(ledger.balanced for ledger in self.ledger.values())

    def ledger_totals(self) -> dict[str, int | bool]:
        """Return the ledger summed over ranks, by name of the count, and whether it is balanced."""
        return ledger_totals(self.ledger)


def newest_checks(verdicts: Sequence[Score]) -> tuple[Check, ...]:
    """Return the newest checks of the data that came with verdicts."""
    return next((verdict.checks for verdict in reversed(verdicts) if verdict.checks), ())


def ledger_totals(ledger: dict[int, Ledger]) -> dict[str, Any]:
    """Return a ledger summed over ranks; it is balanced if every rank's is, and there are ranks.

    Examples
    --------
    >>> ledger_totals({0: Ledger(items=2, sent=2, acknowledged=2, applied=2)})["balanced"]
    True
    """
    names = ("sent", "acknowledged", "applied", "duplicate", "dropped", "resent", "spilled", "restarts")
    totals: dict[str, Any] = {name: sum(getattr(entry, name) for entry in ledger.values()) for name in names}
    totals["balanced"] = bool(ledger) and all(entry.balanced for entry in ledger.values())
    return totals


def how_it_ended(exit_status: str | None, reason: str | None) -> str:
    """Return in words how a run has ended, as its stop document says; plans that come to their end give no reason."""
    if not exit_status:
        return "not ended"
    return f"{exit_status}: {reason or ('the plan came to its end' if exit_status == 'success' else 'no reason given')}"
