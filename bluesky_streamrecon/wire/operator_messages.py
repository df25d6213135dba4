"""Messages between an operator's program and the beamline: how the run is, orders, and cuts to look at.

Times are seconds since the epoch (UTC).
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from bluesky_streamrecon.cuts import MOST_CUT_PIXELS, MOST_CUTS, Cut
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.wire.fields import Checked, Count, Finite, Name, Number, PreviewRows, Shape2, Side, Text, Uid

__all__ = [
    "CHECKS",
    "MOST_EXTRA",
    "MOST_JUDGED",
    "Answer",
    "Ask",
    "Check",
    "Cuts",
    "Judged",
    "Order",
    "OrderAction",
    "RunStatus",
    "ShowCuts",
]

OrderAction = Literal["finish", "hold", "release", "extend", "axis", "region"]

MOST_JUDGED: Final = 256
"""Verdicts in one answer."""
MOST_EXTRA: Final = 100_000
"""Projections that one order can add."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants of a run: who, where, when, and why.

    Parameters
    ----------
    action : {"finish", "hold", "release", "extend", "axis", "region"}
        What is wanted.
    who, place : str
        Who wants it, and from where: ``"prompt"``, ``"command line"``, ``"live view"`` or ``"PV"``.
    time : float
        When it reached the beamline.
    reason : str
        Why.
    count : int
        Projections to be added.
    axis : float or None
        Detector column about which images are to be made anew.
    selection : Selection
        For a region: what is to count from now on.
    projections : int
        How many had been taken then.
    uid : str
        Made once per order: asked twice, it counts once.
    """

    action: OrderAction
    who: Name
    place: Name = "elsewhere"
    time: float = 0.0
    reason: Text = ""
    count: Annotated[int, Meta(ge=0, le=MOST_EXTRA)] = 0
    axis: float | None = None
    selection: Selection = WHOLE_VIEW
    projections: Count = 0
    uid: Annotated[str, Meta(max_length=128)] = ""


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """An operator asks how the run is, or orders something; there is one answer to each.

    Parameters
    ----------
    order : Order or None
        What is ordered; `time` and `projections` are filled in by the beamline. None: nothing.
    run_uid : str or None
        Run that is meant (its beginning is enough); None: the open one.
    after : int
        Without an order: number of the last image whose verdict is known to the operator.
    """

    seq: Count = 0
    order: Order | None = None
    run_uid: Uid | None = None
    after: Count = 0

    @property
    def action(self) -> str:
        """What is asked, in one word."""
        return "status" if self.order is None else self.order.action


CHECKS: Final = ("sample", "centred", "still", "axis", "frames", "beam", "rings", "light")
"""Names of all checks of a scan's data, in the order in which people read them."""


class Check(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One check of a scan's data, for people.

    Parameters
    ----------
    name : str
        What is checked; one of `CHECKS`.
    state : {"ok", "look", "wrong", "open"}
        ``"look"``: a person should; ``"open"``: it was not made.
    number : str
        What was measured, short.
    text : str
        What it means, what is wrong, or why it was not made.
    """

    name: Name
    state: Literal["ok", "look", "wrong", "open"]
    number: Name = ""
    text: Text = ""


Checks = Annotated[tuple[Check, ...], Meta(max_length=16)]


class Judged(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One image's verdict in numbers: score, and the predicted gain with its band (None: not known).

    `gain_at` projections is what the prediction was made from; it may be older than the image. `value` is what a policy
    has measured in the image, and `value_low` and `value_high` how it will come out in the end. All are of `selection`.
    """

    image_number: Count
    projections: Count
    score: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    verdict: Name = "continue"
    gain_at: Count | None = None
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    selection: Selection = WHOLE_VIEW


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is; prints itself in words.

    Parameters
    ----------
    state : str
        Of the reconstruction job.
    run_uid : str or None
        Open run; None: there is none.
    taken, planned, added : int
        Projections streamed to the job, planned when the run began, and added since by people.
    image_number, used, lag : int
        Images made, projections in them, and projections not in them yet.
    score : float or None
        The newest.
    gain, gain_low, gain_high : float or None
        Predicted gain in MS-SSIM of all projections that were left when it was predicted, and its band.
    gain_at : int or None
        Projections that it was predicted from.
    verdict, policy, text : str
        The newest verdict, who gave it, and its words.
    tolerance : float or None
        Predicted gain below which the image is good enough, where the policy predicts.
    stop_at : int or None
        Projections at which the policy's criterion is predicted to be met, or all; None: not predicted.
    measured : str
        What is measured in the image, where the policy does: its name.
    checks : tuple of Check
        The newest of the data.
    about : dict of str
        What the run's metadata say of it: sample, scan, plan and person.
    started : float
        When it began; 0: not known.
    advisory : bool
        No automatic stop.
    finalize : bool
        The plan is asked to end the run.
    can_extend : bool
        The plan can be made longer.
    held, finish : Order or None
        Who holds the run, and who has asked to end it.
    least : int
        No automatic stop before so many projections.
    allowed : int or None
        Projections that the budget allows; None: there is none, or that is not known yet.
    selection : Selection
        What score and predictions count in.
    selected_by : Order or None
        Who has set it; None: nobody since the run began.
    axis : float or None
        Detector column of the rotation axis.
    pixel_size : float or None
        Side of a voxel, micrometres, where the run says what that of a pixel is.
    detector_shape : (int, int)
        Rows and columns of a projection.
    preview_rows : tuple of int
        Detector rows that the score was taken from when the run began.
    angles : (float, float, float)
        Start, stop and turn of the `AngularRange` that the scan is going to visit, radians.
    ranks : int
        MPI ranks.
    ledger : dict
        Summed over ranks.
    problem : str
        What went wrong last.
    last_run, ended : str or None, str
        The run before, where none is open, and how it ended: exit status and reason.
    volume : str
        How the volume of that run is, in words.
    result : str
        File with the images of that run; empty: none yet.
    """

    state: Name = "idle"
    run_uid: Uid | None = None
    taken: Count = 0
    planned: Count = 0
    added: Count = 0
    image_number: Count = 0
    used: Count = 0
    lag: Count = 0
    score: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    gain_at: Count | None = None
    verdict: Name = ""
    policy: Name = ""
    text: Text = ""
    tolerance: float | None = None
    stop_at: Count | None = None
    measured: Name = ""
    checks: Checks = ()
    about: Annotated[dict[Name, Text], Meta(max_length=16)] = {}
    started: float = 0.0
    advisory: bool = False
    finalize: bool = False
    can_extend: bool = False
    held: Order | None = None
    finish: Order | None = None
    least: Count = 0
    allowed: Count | None = None
    selection: Selection = WHOLE_VIEW
    selected_by: Order | None = None
    axis: float | None = None
    pixel_size: float | None = None
    detector_shape: Shape2 = (1, 1)
    preview_rows: PreviewRows = ()
    angles: tuple[Finite, Finite, Finite] = (0.0, math.pi, math.pi)
    ranks: Count = 0
    ledger: Annotated[dict[Name, int | bool], Meta(max_length=32)] = {}
    problem: Text = ""
    last_run: Uid | None = None
    ended: Text = ""
    volume: Text = ""
    result: Text = ""

    @property
    def total(self) -> int:
        """Projections planned and added."""
        return self.planned + self.added

    @property
    def last(self) -> int:
        """Projection after which it ends at the latest: the last of the plan, or of its budget; 0: not known."""
        return self.total if self.allowed is None else min(self.allowed, self.total or self.allowed)

    @property
    def hold_text(self) -> str:
        """Who holds the run, since when and why; nothing if nobody does."""
        if self.held is None:
            return ""
        return _by_whom(self.held)

    @property
    def selection_text(self) -> str:
        """What counts, and who has said so, when and why."""
        return str(self.selection) + ("" if self.selected_by is None else f", {_by_whom(self.selected_by)}")

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Return what there is to show, as pairs of a heading and words."""
        if self.run_uid is None:
            shown = [("run", "none is open"), ("job", self.state)]
            if self.last_run is not None:
                shown.insert(1, ("last run", f"{self.last_run[:8]}, {self.ended}"))
            if self.volume:
                shown.append(("volume", self.volume))
            return tuple(shown + [("problem", self.problem)] * bool(self.problem))
        of = f" of {self.planned}" if self.planned else ""
        more = f" and {self.added} added" if self.added else ""
        shown = [
            ("run", self.run_uid),
            ("projections", f"{self.taken}{of}{more} streamed"),
            ("image", f"{self.image_number}, from {self.used} projections; lag {self.lag}"),
            ("score", "none yet" if self.score is None else f"{self.score:.4f}"),
            ("verdict", (self.text or "none yet") + (" (advisory: no automatic stop)" if self.advisory else "")),
            ("held", self.hold_text or "no"),
        ]
        if self.least > self.taken:
            shown.append(("extended", f"no automatic stop before {self.least} projections"))
        if self.finish is not None:
            shown.append(("finishing", f"asked for by {self.finish.who}: {self.finish.reason}"))
        if self.selection != WHOLE_VIEW or self.selected_by is not None:
            shown.append(("counts", self.selection_text))
        if self.axis is not None:
            shown.append(("axis", f"detector column {self.axis:.2f}"))
        parts = f"{self.ranks} part{'s' * (self.ranks != 1)}"
        shown.append(("job", f"{self.state}, in {parts} (MPI ranks)"))
        # It adds up once nothing is on its way any more, so that is shown of a finished run only.
        counts = {"sent": "sent", "used": "applied", "lost": "dropped"}
        counted = ", ".join(f"{word} {self.ledger[name]}" for word, name in counts.items() if name in self.ledger)
        shown.append(
            ("frames", f"{counted} (flats, darks and projections, each in {parts})" if counted else "none yet")
        )
        shown += [("check", f"{each.name}: {each.text}") for each in self.checks if each.state in ("look", "wrong")]
        if self.problem:
            shown.append(("problem", self.problem))
        return tuple(shown)

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12} {words}" for name, words in self.lines())


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """To an operator: what became of what was asked.

    Parameters
    ----------
    number : int
        `Ask.seq` of the question.
    ok : bool
        It could be done; if not, `text` says why.
    text : str
        In words.
    status : RunStatus or None
        How the run is now.
    judged : tuple of Judged
        To ``"status"``: verdicts of images after the one that was named, oldest first.
    """

    seq: Count = 0
    number: Number
    ok: bool = True
    text: Text = ""
    status: RunStatus | None = None
    judged: Annotated[tuple[Judged, ...], Meta(max_length=MOST_JUDGED)] = ()


WishedCuts = Annotated[tuple[Cut, ...], Meta(min_length=1, max_length=MOST_CUTS)]


class ShowCuts(Checked, frozen=True, kw_only=True, tag="show-cuts"):
    """Somebody wishes to see these cuts of the newest image, once.

    An operator sends it to the beamline, and that one to all ranks. It may be lost. Of the wishes of one viewer only
    the newest counts.

    Parameters
    ----------
    viewer : str
        Whose wish it is, by any name: one operator may speak for several. The beamline's own wishes have none.
    number : int
        Counts the sender's wishes.
    cuts : tuple of Cut
        At most four, of `MOST_CUT_PIXELS` pixels together.
    """

    viewer: Name = ""
    number: Count
    cuts: WishedCuts

    def check(self) -> None:
        """Raise ValueError for cuts that are too large together."""
        _pixels_of(self.cuts)


class Cuts(Checked, frozen=True, kw_only=True, tag="cuts"):
    """Cuts of one image, as they were wished for.

    Parameters
    ----------
    run_uid, image_number, projections
        Which image of which run, and how many projections went into it.
    viewer, number, cuts
        Those of the wish.
    volume : (int, int, int)
        Rows, height and width of the whole volume.
    made : float
        When the image was there, Unix seconds of rank 0's computer.
    angle : float or None
        Of the newest projection in the image, radians.
    pixels : bytes
        Of one cut after the other, little-endian float32, C order; NaN where a cut is outside.
    """

    run_uid: Uid
    image_number: Count
    projections: Count
    viewer: Name = ""
    number: Count
    cuts: WishedCuts
    volume: tuple[Side, Side, Side]
    made: Finite = 0
    angle: Finite | None = None
    pixels: Annotated[bytes, Meta(max_length=4 * MOST_CUT_PIXELS)]

    def check(self) -> None:
        """Raise ValueError for cuts that are too large together, or have other pixels than they say."""
        expected = 4 * _pixels_of(self.cuts)
        if len(self.pixels) != expected:
            raise ValueError(f"got {len(self.pixels)} bytes, expected {expected} for {expected // 4} pixels")

    def values(self) -> list[NDArray[np.float32]]:
        """Return each cut's pixels, each of its `Cut.size`."""
        ends = np.cumsum([cut.pixels for cut in self.cuts])[:-1]
        parts = np.split(np.frombuffer(self.pixels, "<f4"), ends)
        return [part.reshape(cut.size) for part, cut in zip(parts, self.cuts, strict=True)]


def _pixels_of(cuts: Sequence[Cut]) -> int:
    pixels = sum(cut.pixels for cut in cuts)
    if pixels > MOST_CUT_PIXELS:
        raise ValueError(f"got {pixels} pixels, expected at most {MOST_CUT_PIXELS}")
    return pixels


def _by_whom(order: Order) -> str:
    since = clock.strftime("%H:%M:%S", clock.localtime(order.time))
    return f"by {order.who} since {since}" + (f": {order.reason}" if order.reason else "")
