"""What operators may ask and order while a scan runs, from the prompt or from another program; it overrules the policy.

Every order is carried out in the RunEngine's loop, whichever thread or program it comes from, so that one place decides
how a run ends. The loop also turns while the RunEngine is paused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import uuid
from collections.abc import Callable
from typing import Protocol, TypeVar

from bluesky_streamrecon.beamline.attached_job import AttachedJob
from bluesky_streamrecon.beamline.run_record import ledger_totals
from bluesky_streamrecon.beamline.run_state import RunState
from bluesky_streamrecon.errors import SteeringError
from bluesky_streamrecon.job_registration import own_name
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

__all__ = ["OperatorControls", "SteeredRuns", "as_judged"]

T = TypeVar("T")

LOOP_SECONDS = 5.0
PROMPT = "prompt"


class SteeredRuns(Protocol):
    """What operators' orders need of a job's runs; `JobRuns` is one."""

    open: RunState | None
    job: AttachedJob

    @property
    def state(self) -> str:
        """What the signal ``state`` shows."""
        ...

    @property
    def problem(self) -> str:
        """What went wrong last, or nothing."""
        ...

    def ledger(self) -> dict[int, Ledger]:
        """Return, per rank, what became of the run's items."""
        ...

    def carry_out(self, order: Order) -> str:
        """Have the open run carry out an order, and return the answer."""
        ...


class OperatorControls:
    """Status and orders, from any thread.

    Parameters
    ----------
    runs : SteeredRuns
        The open one is meant.
    """

    def __init__(self, runs: SteeredRuns) -> None:
        self._runs = runs

    def status(self) -> RunStatus:
        """Return how the run is."""
        return self._in_loop(self._status)

    def order(
        self,
        action: OrderAction,
        reason: str = "",
        *,
        count: int = 0,
        who: str | None = None,
        run_uid: str | None = None,
    ) -> str:
        """Carry out an order from the prompt, and return the answer; see `ReconJob` for the orders.

        Raises
        ------
        SteeringError
            If no run is open, or another one, or the order can not be carried out.
        """
        given: object = count  # whatever was typed
        if action == "extend" and (type(given) is not int or not 1 <= given <= MOST_EXTRA):
            raise SteeringError(f"extend: got {count!r} projections, expected 1 to {MOST_EXTRA}")
        order = Order(
            action=action,
            who=(own_name() if who is None else who)[:256],
            place=PROMPT,
            reason=str(reason)[:4096],
            count=count,
            uid=uuid.uuid4().hex,
        )
        return self._in_loop(lambda: self._carry_out(order, run_uid))

    def answer(self, ask: Ask) -> Answer:
        """Return the answer to another program; in the RunEngine's loop."""
        judged: tuple[Judged, ...] = ()
        text = ""
        try:
            if ask.order is not None:
                text = self._carry_out(ask.order, ask.run_uid)
            else:
                judged = self._judged_after(ask.run_uid, ask.after)
        except SteeringError as error:
            return Answer(number=ask.seq, ok=False, text=str(error)[:4096], status=self._status())
        return Answer(number=ask.seq, text=text, status=self._status(), judged=judged)

    def _carry_out(self, order: Order, run_uid: str | None) -> str:
        run = self._runs.open
        if run is None:
            raise SteeringError(f"{order.action}: no run is open")
        if run_uid is not None and not run.spec.run_uid.startswith(run_uid):
            raise SteeringError(f"{order.action}: run {run_uid} is meant, but the open one is {run.spec.run_uid}")
        return self._runs.carry_out(order)

    def _status(self) -> RunStatus:
        runs, run = self._runs, self._runs.open
        problem = runs.problem[:4096]
        if run is None:
            return RunStatus(state=runs.state, problem=problem)
        newest, override = run.newest, run.override
        numbers = Judged(image_number=0, projections=0) if newest is None else as_judged(newest)
        ledger = runs.ledger()
        return RunStatus(
            state=runs.state,
            run_uid=run.spec.run_uid,
            taken=run.taken["projection"],
            planned=run.spec.planned,
            added=override.added,
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
            can_extend=override.lengthens and not override.complete,
            held=override.held,
            finish=override.finish,
            least=override.least,
            axis=run.axis,
            ranks=runs.job.linked_ranks,
            ledger=ledger_totals(ledger) if ledger else {},
            problem=("; ".join(dict.fromkeys(run.problems)) or problem)[:4096],
        )

    def _judged_after(self, run_uid: str | None, after: int) -> tuple[Judged, ...]:
        run = self._runs.open
        if run is None:
            return ()
        if run_uid is not None and run_uid != run.spec.run_uid:
            after = 0
        later = [verdict for verdict in run.verdicts if verdict.image_number > after]
        return tuple(as_judged(verdict) for verdict in later[:MOST_JUDGED])

    def _in_loop(self, call: Callable[[], T]) -> T:
        """Have the RunEngine's loop call this, from whatever thread; errors are raised here."""
        loop = self._runs.job.loop
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


def as_judged(score: Score) -> Judged:
    """Return what operators are shown of a verdict."""
    metrics = score.metrics
    at = _finite(metrics.get("predicted-gain-at"))
    return Judged(
        image_number=score.image_number,
        projections=score.projections,
        score=_finite(score.score),
        gain=_finite(metrics.get("predicted-gain")),
        gain_low=_finite(metrics.get("predicted-gain-low")),
        gain_high=_finite(metrics.get("predicted-gain-high")),
        gain_at=None if at is None else int(at),
        verdict=score.verdict,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
