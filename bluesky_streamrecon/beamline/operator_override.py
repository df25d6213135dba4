"""What operators have ordered for a run, as a value: who holds it, who ends it, how many projections were added.

Pure: an order goes in, the next value and a text come out. Counts are projections, times seconds (UTC).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bluesky_streamrecon.errors import ConfigError, SteeringError
from bluesky_streamrecon.geometry import widest_image
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection, check_region
from bluesky_streamrecon.settings import TOMOGRAPHY
from bluesky_streamrecon.wire.messages import OpenRunSpec, Score
from bluesky_streamrecon.wire.operator_messages import MOST_EXTRA, Order

__all__ = ["OperatorOverride", "checked_selection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOverride:
    """The operators' side of a run's steering.

    Parameters
    ----------
    planned : int
        Projections that the plan was made for; 0: not known.
    lengthens : bool
        The plan takes more projections than planned when it is asked to.
    columns : int
        Of the detector, where images are about a rotation axis; 0: there is none.
    axis : float or None
        Rotation axis that an operator has set, detector column.
    selection : Selection
        What counts.
    held, finish, selected_by : Order or None
        Who holds the run, who has asked to end it, and who has set what counts.
    added : int
        Projections added to the plan.
    least : int
        No automatic stop before so many.
    allowed : int or None
        Projections that the run's budget allows, where it has one.
    complete : bool
        The plan has taken its last projection.
    orders : tuple of Order
        All that had an effect, in order.

    Examples
    --------
    >>> run = OperatorOverride(planned=180)
    >>> held, words = run.after(Order(action="hold", who="anna"), taken=40)
    >>> held.against_stop(taken=60)
    'held by anna'
    """

    planned: int = 0
    lengthens: bool = False
    columns: int = 0
    axis: float | None = None
    selection: Selection = WHOLE_VIEW
    held: Order | None = None
    finish: Order | None = None
    selected_by: Order | None = None
    added: int = 0
    least: int = 0
    allowed: int | None = None
    complete: bool = False
    orders: tuple[Order, ...] = ()

    @property
    def total(self) -> int:
        """Projections planned and added."""
        return self.planned + self.added

    def against_stop(self, taken: int) -> str:
        """Return why the run must not be ended automatically after `taken` projections; empty if it may."""
        if self.held is not None:
            return f"held by {self.held.who}"
        if taken < self.least:
            return f"{self.least - taken} more projections are to be taken first"
        return ""

    def after(self, order: Order, *, taken: int) -> tuple[OperatorOverride, str]:
        """Return the value after an order.

        Parameters
        ----------
        order : Order
            Asked twice, it counts once.
        taken : int
            Projections taken so far.

        Returns
        -------
        OperatorOverride, str
            The next value (this one, if nothing has changed), and the answer to the operator.

        Raises
        ------
        SteeringError
            If the order can not be carried out.
        """
        if self.knows(order):
            return self, "done already"
        if not order.who.strip():
            raise SteeringError(f"{order.action}: got no name of the one who asks, expected one")
        if self.finish is not None and order.action != "finish":
            raise SteeringError(f"{order.action}: {self.finish.who} has asked to end the run: {self.finish.reason}")
        following, words = getattr(self, f"_{order.action}")(order, taken)
        if following is not self:
            following = replace(following, orders=(*self.orders, order))
        return following, words

    def knows(self, order: Order) -> bool:
        """Return whether this very order was carried out before."""
        return bool(order.uid) and any(old.uid == order.uid for old in self.orders)

    def closed(self) -> OperatorOverride:
        """Return the orders of a run that takes no more projections, so that it can not be extended any more."""
        return replace(self, complete=True)

    def _finish(self, order: Order, taken: int) -> tuple[OperatorOverride, str]:  # noqa: ARG002 - as the others
        if not order.reason.strip():
            raise SteeringError("finish: got no reason, expected a few words: they are stored with the run")
        if self.finish is not None:
            return self, f"{self.finish.who} has asked for that already: {self.finish.reason}"
        return replace(self, finish=order), "the run ends as a success at the plan's next checkpoint"

    def _hold(self, order: Order, taken: int) -> tuple[OperatorOverride, str]:  # noqa: ARG002
        if self.held is not None:
            return self, f"held by {self.held.who} already"
        return replace(self, held=order), "held: no automatic stop until release"

    def _release(self, order: Order, taken: int) -> tuple[OperatorOverride, str]:  # noqa: ARG002
        if self.held is None:
            return self, "the run is not held"
        return replace(self, held=None), f"released (it was held by {self.held.who})"

    def _axis(self, order: Order, taken: int) -> tuple[OperatorOverride, str]:  # noqa: ARG002
        if not self.columns:
            raise SteeringError("axis: what this run is analysed by has no rotation axis; expected tomography")
        axis = math.nan if order.axis is None else order.axis
        if not -self.columns <= axis <= 2 * self.columns:
            raise SteeringError(
                f"axis: got detector column {order.axis}, expected one within a detector's width of the {self.columns} "
                "columns; is it in millimetres, or for the full, uncropped detector?"
            )
        if axis == self.axis:
            return self, f"images are made about detector column {axis:g} already"
        return replace(self, axis=axis), f"images are made anew about detector column {axis:g}, and scores begin anew"

    def _region(self, order: Order, taken: int) -> tuple[OperatorOverride, str]:  # noqa: ARG002
        if order.selection == self.selection:
            return self, f"judged by {order.selection} already"
        words = f"judged by {order.selection} from now on, and scores begin anew"
        return replace(self, selection=order.selection, selected_by=order), words

    def _extend(self, order: Order, taken: int) -> tuple[OperatorOverride, str]:
        if not 1 <= order.count <= MOST_EXTRA:
            raise SteeringError(f"extend: got {order.count} projections, expected 1 to {MOST_EXTRA}")
        least = taken + order.count
        missing = max(0, least - self.total) if self.planned else 0
        if missing and self.complete:
            raise SteeringError(f"extend: all {self.total} projections are taken, and the run is about to end")
        if missing and not self.lengthens:
            raise SteeringError(
                f"extend: got {order.count} after {taken} projections, but this plan takes {self.total} and can not be "
                f"made longer ({self.total - taken} are left); hold keeps it from being ended before that"
            )
        words = f"no automatic stop before {least} projections"
        if missing:
            words += f"; {missing} added to the {self.total} of the plan, at angles between the planned ones"
        if self.allowed is not None and least > self.allowed:
            words += f"; the budget ends the run after about {self.allowed} all the same"
        return replace(self, least=max(self.least, least), added=self.added + missing), words


def checked_selection(selection: Selection, spec: OpenRunSpec, newest: Score | None, unjudged: str) -> Selection:
    """Return what is to count of a run: rows once each in their order, or none where they are those of the beginning.

    Parameters
    ----------
    selection : Selection
        As a person has given it.
    spec : OpenRunSpec
        Of the run.
    newest : Score or None
        Its last verdict, which says how large the slices are.
    unjudged : str
        Why the run is not judged; empty if it is.

    Raises
    ------
    SteeringError
        If the region is too small, or not within the slices, rows are not the detector's, or nothing is judged.
    """
    if unjudged:
        raise SteeringError(f"region: this run is not judged, so none can count: {unjudged}")
    side = 0 if newest is None else newest.size
    if not side and spec.recon.analysis == TOMOGRAPHY:
        side = spec.recon.size or widest_image(spec.detector_shape[1])
    if selection.region is not None:
        try:
            check_region(selection.region, side)
        except ConfigError as error:
            raise SteeringError(str(error)) from None
    rows = tuple(sorted(set(selection.rows)))
    if beyond := [row for row in rows if not 0 <= row < spec.detector_shape[0]]:
        raise SteeringError(f"rows: got {beyond[0]}, expected 0 to {spec.detector_shape[0] - 1}, rows of the detector")
    return Selection(selection.region, () if rows == tuple(sorted(set(spec.preview_rows))) else rows)
