"""What people may ask and order while a scan runs, from the prompt or another program; it overrules the policy.

Every order is carried out in the RunEngine's loop, whichever thread or program it comes from, so that one place decides
how a run ends. The loop also turns while the RunEngine is paused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

import msgspec

from bluesky_streamrecon.beamline.job_events import JobEvents
from bluesky_streamrecon.beamline.link import LinkEvent
from bluesky_streamrecon.beamline.progress import RunProgress, ledger_totals
from bluesky_streamrecon.beamline.steering import OPERATOR, Decision
from bluesky_streamrecon.errors import SteeringError
from bluesky_streamrecon.wire.announcement import own_name
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.messages import Score
from bluesky_streamrecon.wire.operator_messages import (
    MOST_EXTRA,
    MOST_JUDGED,
    Answer,
    Ask,
    Judged,
    Order,
    OrderAction,
    RunStatus,
)
from bluesky_streamrecon.wire.run import Ledger

__all__ = ["JobOrders"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOP_SECONDS = 5.0
PROMPT = "prompt"


class JobOrders(JobEvents):
    """The part of `ReconJob` that people speak to; any thread may call its public methods."""

    def status(self) -> RunStatus:
        """Tell how the run is; prints itself in words."""
        return self._in_loop(self._status)

    def finish_now(self, reason: str, *, who: str | None = None, run_uid: str | None = None) -> str:
        """End the run as a success at the plan's next checkpoint, whatever policy, hold or advisory mode say.

        Parameters
        ----------
        reason : str
            Why, in a few words; stored with the run.
        who : str, optional
            Who says so; user and computer by default.
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
        return self._ordered("finish", who, run_uid, reason=reason)

    def hold(self, reason: str = "", *, who: str | None = None, run_uid: str | None = None) -> str:
        """Let nothing end the run automatically until `release`; parameters as for `finish_now`."""
        return self._ordered("hold", who, run_uid, reason=reason)

    def release(self, reason: str = "", *, who: str | None = None, run_uid: str | None = None) -> str:
        """Undo `hold`: if the image is still good enough by its next verdict, the run ends."""
        return self._ordered("release", who, run_uid, reason=reason)

    def extend(self, n: int, reason: str = "", *, who: str | None = None, run_uid: str | None = None) -> str:
        """Take at least `n` more projections before the run may end automatically.

        Where the plan would be over before, it takes more than planned if it can (`stream_tomo_plan` does).

        Raises
        ------
        SteeringError
            As `finish_now`; or if `n` is not at least 1, or the plan is too short and can not be made longer.
        """
        given: object = n  # whatever was typed at the prompt
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_EXTRA:
            raise SteeringError(f"extend: got {n!r} projections, expected 1 to {MOST_EXTRA}")
        return self._ordered("extend", who, run_uid, reason=reason, count=n)

    # ------------------------------------------------------------------------------- in the RunEngine's loop

    def allow_more(self, lengthens: bool) -> None:
        """Say whether the plan of the next run takes more projections than planned when it is asked to."""
        self._lengthens = lengthens

    def more_wanted(self, taken: int) -> bool:
        """Tell a plan that has taken so many projections whether to take another.

        Once the answer is no, the run can not be made longer any more.
        """
        run = self._run
        if run is None or run.exit_status is not None:
            return False
        if taken < run.overrule.total:
            return True
        run.overrule = run.overrule.closed()
        return False

    def no_more(self, why: str) -> None:
        """Say why a plan can not take what was asked for; it ends with what it has."""
        if self._run is not None:
            self._run.overrule = self._run.overrule.closed()
        self._tell_problem(why)

    def _handle(self, event: LinkEvent, sender: PeerInfo | None = None) -> None:
        if isinstance(event, Ask) and sender is not None:
            self._answer(event, sender)
        else:
            super()._handle(event, sender)

    def _answer(self, ask: Ask, operator: PeerInfo) -> None:
        judged: tuple[Judged, ...] = ()
        try:
            match ask.action:
                case "finish" | "hold" | "release" | "extend":
                    text = self._carry_out(_order(ask.action, ask), ask.run_uid)
                case _:
                    text, judged = "", self._judged_after(ask.run_uid, ask.after)
            answer = Answer(number=ask.seq, text=text, status=self._status(), judged=judged)
        except SteeringError as error:
            answer = Answer(number=ask.seq, ok=False, text=str(error)[:4096], status=self._status())
        if self._link is not None:
            self._link.endpoint.answer(operator, answer)

    def _ordered(
        self, action: OrderAction, who: str | None, run_uid: str | None, *, reason: str = "", count: int = 0
    ) -> str:
        order = Order(
            action=action,
            who=(own_name() if who is None else who)[:256],
            place=PROMPT,
            reason=str(reason)[:4096],
            count=count,
            uid=uuid.uuid4().hex,
        )
        return self._in_loop(lambda: self._carry_out(order, run_uid))

    def _carry_out(self, order: Order, run_uid: str | None) -> str:
        run = self._run
        if run is None:
            raise SteeringError(f"{order.action}: no run is open")
        uid = run.spec.run_uid
        if run_uid is not None and not uid.startswith(run_uid):
            raise SteeringError(f"{order.action}: run {run_uid} is meant, but the open one is {uid}")
        if (run.exit_status is not None or run.ending) and not run.overrule.knows(order):
            told = run.ending or run.reason
            raise SteeringError(f"{order.action}: run {uid} is about to end" + (f": {told}" if told else ""))
        taken = run.taken["projection"]
        order = _stamped(order, taken)
        before = run.overrule
        run.overrule, words = before.given(order, taken=taken)
        if run.overrule is before:
            return words
        if run.overrule.total != before.total and self._link is not None:
            self._link.endpoint.lengthen_run(run.overrule.total)  # what is left to gain is predicted for all of them
        logger.info("run %s: %s by %s (%s): %s", uid, order.action, order.who, order.place, order.reason or words)
        self._decide_by_hand(run, order, words)
        return words

    def _decide_by_hand(self, run: RunProgress, order: Order, words: str) -> None:
        told = order.reason if order.action == "finish" else f"{order.reason}: {words}" if order.reason else words
        self._decisions.append(
            Decision(
                image_number=run.image_number,
                projections=order.projections,
                verdict=order.action,
                score=run.score,
                policy=OPERATOR,
                text=told,
                who=order.who,
                place=order.place,
                time=order.time,
            )
        )
        if order.action == "finish":
            self._set_finalize(True)
        elif run.stopping and run.overrule.against_stop(order.projections):
            run.stopping = False  # it was to end at the next checkpoint
            self._set_finalize(False)
            self._would_stop(run)

    def _status(self) -> RunStatus:
        run = self._run
        state = self._state.value
        if run is None:
            return RunStatus(state=state, problem=self.problem_text[:4096])
        newest, overrule = run.newest, run.overrule
        numbers = Judged(image_number=0, projections=0) if newest is None else _judged(newest)
        ledger = self._link.endpoint.ledger() if self._link is not None else {}
        return RunStatus(
            state=state,
            run_uid=run.spec.run_uid,
            taken=run.taken["projection"],
            planned=run.spec.planned,
            added=overrule.added,
            image_number=run.image_number,
            used=run.used,
            lag=run.lag,
            score=_finite(run.score),
            gain=numbers.gain,
            gain_low=numbers.gain_low,
            gain_high=numbers.gain_high,
            gain_at=numbers.gain_at,
            verdict="" if newest is None else newest.verdict,
            policy=run.spec.steering.rule,
            text="" if newest is None else newest.text,
            advisory=run.spec.steering.advisory,
            can_extend=overrule.lengthens and not overrule.complete,
            held=overrule.held,
            finish=overrule.finish,
            least=overrule.least,
            axis=run.axis,
            ranks=self._ranks_ready,
            ledger=_totals(ledger),
            problem=self.problem_text[:4096],
        )

    def _judged_after(self, run_uid: str | None, after: int) -> tuple[Judged, ...]:
        run = self._run
        if run is None:
            return ()
        if run_uid is not None and run_uid != run.spec.run_uid:
            after = 0
        later = [verdict for verdict in run.verdicts if verdict.image_number > after]
        return tuple(_judged(verdict) for verdict in later[:MOST_JUDGED])

    def _in_loop(self, call: Callable[[], T]) -> T:
        """Have the RunEngine's loop call this, from whatever thread; errors come back."""
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running():
            return call()
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            return call()

        async def run() -> T:
            return call()

        future = asyncio.run_coroutine_threadsafe(run(), loop)
        try:
            return future.result(LOOP_SECONDS)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise SteeringError(f"the RunEngine's loop has not answered for {LOOP_SECONDS:g} s; is it busy?") from None


def _order(action: OrderAction, ask: Ask) -> Order:
    return Order(
        action=action, who=ask.who, place=ask.place or "elsewhere", reason=ask.reason, count=ask.count, uid=ask.uid
    )


def _stamped(order: Order, taken: int) -> Order:
    return msgspec.structs.replace(order, time=time.time(), projections=taken)


def _judged(score: Score) -> Judged:
    metrics = score.metrics
    return Judged(
        image_number=score.image_number,
        projections=score.projections,
        score=_finite(score.score),
        gain=_finite(metrics.get("predicted-gain")),
        gain_low=_finite(metrics.get("predicted-gain-low")),
        gain_high=_finite(metrics.get("predicted-gain-high")),
        verdict=score.verdict,
        gain_at=None if (at := _finite(metrics.get("predicted-gain-at"))) is None else int(at),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _totals(ledger: dict[int, Ledger]) -> dict[str, int | bool]:
    return ledger_totals(ledger) if ledger else {}
