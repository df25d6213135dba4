"""What a person can order at the prompt: methods of the job's device, which may be called in any thread.

Counts are projections, lengths pixels.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from bluesky_streamrecon.errors import SteeringError
from bluesky_streamrecon.job_registration import own_name
from bluesky_streamrecon.selection import Region, Selection
from bluesky_streamrecon.wire.operator_messages import MOST_EXTRA, Order, OrderAction

__all__ = ["PromptOrders"]


class PromptOrders(ABC):
    """Orders of a person at the prompt; each answer says what becomes of it."""

    @abstractmethod
    def _carry_out(self, order: Order, run_uid: str | None) -> str:
        """Carry out an order for a run (the open one by default), and return the answer."""

    def finish_now(self, reason: str, *, who: str | None = None, run_uid: str | None = None) -> str:
        """End the run as a success at the plan's next checkpoint, whatever policy, hold or advisory mode say.

        Parameters
        ----------
        reason : str
            Why, in a few words; stored with the run.
        who : str, optional
            Who orders it; user and computer by default.
        run_uid : str, optional
            Which run is meant (its beginning is enough); the open one by default.

        Returns
        -------
        str
            What becomes of it.

        Raises
        ------
        SteeringError
            If no run is open, or another one, or there is no reason.
        """
        return self._order("finish", reason, who, run_uid)

    def hold(self, reason: str = "", *, who: str | None = None, run_uid: str | None = None) -> str:
        """Prevent every automatic end of the run until `release`; parameters as for `finish_now`."""
        return self._order("hold", reason, who, run_uid)

    def release(self, reason: str = "", *, who: str | None = None, run_uid: str | None = None) -> str:
        """Undo `hold`: if the image is still good enough by its next verdict, the run ends."""
        return self._order("release", reason, who, run_uid)

    def extend(self, n: int, reason: str = "", *, who: str | None = None, run_uid: str | None = None) -> str:
        """Take at least `n` more projections before the run may end automatically.

        Where the plan would be over before, it takes more than planned if it can (`stream_tomo_plan` does).

        Raises
        ------
        SteeringError
            As `finish_now`; or if `n` is not at least 1, or the plan is too short and can not be made longer.
        """
        if not (type(n) is int and 1 <= n <= MOST_EXTRA):
            raise SteeringError(f"extend: got {n!r} projections, expected 1 to {MOST_EXTRA}")
        return self._order("extend", reason, who, run_uid, count=n)

    def set_axis(self, column: float, reason: str = "", *, who: str | None = None, run_uid: str | None = None) -> str:
        """Correct the rotation axis of the open run: every rank makes its images anew about this detector column.

        The last image is that of a run that had this axis from the start; scores and predictions begin anew.

        Raises
        ------
        SteeringError
            As `finish_now`; or if `column` is no number on or near the detector, or the run is not of tomography.
        """
        try:
            axis = float("" if isinstance(column, bool) else column)
        except (TypeError, ValueError):
            raise SteeringError(f"axis: got {column!r}, expected a detector column, such as 511.5") from None
        return self._order("axis", reason, who, run_uid, axis=axis)

    def set_region(
        self,
        region: Region | None,
        reason: str = "",
        *,
        rows: Sequence[int] = (),
        who: str | None = None,
        run_uid: str | None = None,
    ) -> str:
        """Let only a part of some slices count from now on, or all again: scores and predictions begin anew.

        Parameters
        ----------
        region : tuple of int or None
            Left, top, right and bottom in pixels of the slice, the last two excluded; None: the whole view.
        reason, who, run_uid
            As for `finish_now`.
        rows : sequence of int, optional
            Detector rows that count; by default the preview rows that the run began with.

        Raises
        ------
        SteeringError
            As `finish_now`; or if the region is too small, not within the slices, or a row is not the detector's, or
            the run is not judged.
        """
        try:
            corners = None if region is None else tuple(map(operator.index, region))
            selected = tuple(map(operator.index, rows))
        except TypeError:
            corners, selected = (), ()
        if corners is not None and len(corners) != 4:
            raise SteeringError(
                f"region: got {region!r}, expected (left, top, right, bottom) in pixels, or None; rows: got {rows!r}, "
                "expected whole numbers"
            )
        return self._order("region", reason, who, run_uid, selection=Selection(corners, selected))

    def _order(self, action: OrderAction, reason: str, who: str | None, run_uid: str | None, **what: Any) -> str:
        order = Order(
            action=action,
            who=(own_name() if who is None else who)[:256],
            place="prompt",
            reason=str(reason)[:4096],
            uid=uuid4().hex,
            **what,
        )
        return self._carry_out(order, run_uid)
