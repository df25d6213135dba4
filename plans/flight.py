"""How sweeps are flown: the stage turns at even speed, and detectors expose where a trigger unit sees it pass.

While a sweep is flown nothing is rewound: a plan that is paused or suspended in the middle of it goes on where it was,
and what the stage has passed meanwhile is collected then. What ends a sweep early is `QualityReached`, which comes out
where frames are collected. Angles are degrees, times seconds. Nothing here knows what the frames are for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import MsgGenerator, short_uid
from ophyd_async.core import DetectorTrigger, FlyMotorInfo, TriggerInfo

from bluesky_streamrecon.beamline import QualityReached
from bluesky_streamrecon.errors import DataError, MotionError
from bluesky_streamrecon.ordering import AngleOrder, Sweep
from bluesky_streamrecon.plans.motion import move, time_limit, value_of
from bluesky_streamrecon.plans.parts import answer, wait_for_all

__all__ = ["PROGRESS", "Flyers", "Pace", "come_to_rest", "fly_sweeps", "repeated", "set_exposure"]

PROGRESS = "progress"
"""Stream of how far a flight has come; the frames themselves are in ``primary``, which has no events."""

STALL_SECONDS = 10.0  # that a frame may be late
SETTLE_SECONDS = 0.05  # between two looks for the last frame


@dataclass(frozen=True, slots=True)
class Flyers:
    """What takes part in a flight.

    Parameters
    ----------
    stage : device
        Prepared with a `FlyMotorInfo`; can be stopped.
    trigger : device
        Prepared with a `Sweep`: fires at each of its angles; complete when it has, or when it is unstaged.
    encoder : device
        Records an angle per pulse, prepared as a detector.
    detectors : sequence of devices
        Expose at each pulse, prepared with a `TriggerInfo` for external edges. (An encoder may know levels alone.)
    """

    stage: Any
    trigger: Any
    encoder: Any
    detectors: Sequence[Any]

    @property
    def writers(self) -> list[Any]:
        """Those who write something for each pulse."""
        return [*self.detectors, self.encoder]

    @property
    def all(self) -> list[Any]:
        """Everything that is staged."""
        return [*self.writers, self.trigger, self.stage]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it goes.

    Parameters
    ----------
    velocity : float
        Degrees per second.
    exposure : float
        Seconds.
    margin : float
        Even speed before the first and after the last pulse, degrees.
    ramp : float
        From rest to full speed, seconds.
    flush_period : float
        Between two looks at what there is, seconds.
    triggers : sequence of DetectorTrigger
        What makes each writer write at a pulse: its edge, or its length where it knows nothing else.
    """

    velocity: float
    exposure: float
    margin: float
    ramp: float
    flush_period: float
    triggers: Sequence[DetectorTrigger]

    def pulses(self, sweep: Sweep) -> Sweep:
        """Return where exposures begin, so that their middles are at the angles of a sweep."""
        return Sweep(sweep.first - self.velocity * self.exposure / 2, sweep.step, sweep.num)

    def move(self, sweep: Sweep) -> FlyMotorInfo:
        """Return the stage's move for a sweep."""
        pulses = self.pulses(sweep)
        first = pulses.first - self.margin
        last = pulses.last + self.velocity * self.exposure + self.margin
        return FlyMotorInfo(start_position=first, end_position=last, time_for_move=(last - first) / self.velocity)

    def ends(self, sweep: Sweep) -> tuple[float, float]:
        """Return from where to where the stage goes, run-up and run-down included, degrees."""
        move = self.move(sweep)
        return move.ramp_up_start_pos(self.ramp), move.ramp_down_end_pos(self.ramp)

    def patience(self, sweep: Sweep) -> float:
        """Return how long a frame may take to come, seconds."""
        return 2 * self.ramp + (sweep.step + 2 * self.margin) / self.velocity + 2 * self.exposure + STALL_SECONDS

    def seconds(self, sweep: Sweep) -> float:
        """Return how long the stage is under way in a sweep, seconds."""
        return float(self.move(sweep).time_for_move) + self.ramp


def fly_sweeps(sweeps: Iterable[Sweep], flyers: Flyers, pace: Pace) -> MsgGenerator[int]:
    """Fly sweeps one after the other, in an open run, and give how many frames were taken.

    Parameters
    ----------
    sweeps : iterable of Sweep
        Asked for the next one when one is over.
    flyers : Flyers
        Staged.
    pace : Pace
        How fast.

    Raises
    ------
    QualityReached
        If the run is to end; exposures that were begun by then are in it.
    DataError
        If a detector has missed a pulse, so that the angle of no frame is known any more; or no frame comes.
    """
    taken = 0
    for number, sweep in enumerate(sweeps, 1):
        one = _Flight(f"sweep {number} ({sweep.first:g} to {sweep.last:g} degrees)", flyers, pace, sweep, taken)
        yield from bps.checkpoint()
        yield from bpp.rewindable_wrapper(one.whole(first=number == 1), False)
        taken += len(sweep)
    yield from bps.checkpoint()
    return taken


def repeated(order: AngleOrder, turns: int) -> tuple[AngleOrder, tuple[Sweep, ...]]:
    """Return all angles of a time series, and its sweeps: one that goes on, or the order's own again and again.

    Of one sweep that covers half turns to the full, the next one follows without a gap, so the stage goes on turning.

    Raises
    ------
    ConfigError
        If sweeps at equal steps can not visit these angles.

    Examples
    --------
    >>> from bluesky_streamrecon.ordering import fixed, interlaced
    >>> repeated(fixed(3), 2)[1]
    (Sweep(first=0.0, step=60.0, num=6),)
    >>> len(repeated(interlaced(8, 4), 2)[1])
    8
    """
    sweeps, span = order.sweeps(), order.stop - order.start
    if turns == 1:
        return order, sweeps
    if (
        len(sweeps) > 1
        or not math.isclose(sweeps[0].step * len(order), span)
        or not math.isclose(span % 180, 0, abs_tol=1e-9)
    ):
        return order.again(turns), sweeps * turns
    goes_on = Sweep(sweeps[0].first, sweeps[0].step, len(order) * turns)
    return AngleOrder(order.name, tuple(goes_on), order.start, order.stop), (goes_on,)


def set_exposure(detectors: Sequence[Any], seconds: float) -> MsgGenerator[None]:
    """Plan stub: set the exposure time of detectors now, where they have one and it is another.

    Preparing a flight sets it as well, but by then flats and darks have been taken, which are to be exposed as long.
    """
    for detector in detectors:
        driver = getattr(detector, "driver", None)
        for signal in (getattr(detector, "exposure_time", None), getattr(driver, "acquire_time", None)):
            if hasattr(signal, "set"):
                if (yield from answer(partial(value_of, signal), unanswered=seconds)) != seconds:
                    yield from move(signal, seconds)
                break


def come_to_rest(flyers: Flyers) -> MsgGenerator[None]:
    """Fire no more, and stop the stage."""
    yield from bps.unstage(flyers.trigger, group=short_uid("stop"), wait=True)
    yield from bps.stop(flyers.stage)


@dataclass
class _Flight:
    """One sweep."""

    name: str
    flyers: Flyers
    pace: Pace
    sweep: Sweep
    before: int  # frames

    def __post_init__(self) -> None:
        self._turning: Sequence[Any] | None = None  # statuses
        self._seen = self.before
        self._seen_at = time.monotonic()

    def whole(self, *, first: bool) -> MsgGenerator[None]:
        """Fly it to its end, or until it is cut short."""
        yield from self._prepare()
        if first:
            yield from bps.declare_stream(*self.flyers.writers, name="primary", collect=True)
        try:
            yield from self._fly()
        except QualityReached:
            yield from self._cut_short()
            raise

    def _prepare(self) -> MsgGenerator[None]:
        """Arm the detectors, and bring the stage to its run-up."""
        wanted: list[tuple[Any, Any]] = []
        for writer, trigger in zip(self.flyers.writers, self.pace.triggers, strict=True):
            info = TriggerInfo(
                trigger=trigger,
                livetime=self.pace.exposure,
                number_of_events=len(self.sweep),
                exposure_timeout=2 * self.pace.patience(self.sweep),  # ours is to come first, with more to tell
            )
            wanted.append((writer, info))
        wanted += [(self.flyers.trigger, self.pace.pulses(self.sweep)), (self.flyers.stage, self.pace.move(self.sweep))]
        statuses, group = [], short_uid("prepare")
        for device, value in wanted:
            status = yield from bps.prepare(device, value, group=group)
            statuses.append(status)
        start, _ = self.pace.ends(self.sweep)
        seconds, how = yield from answer(partial(time_limit, self.flyers.stage, start), unanswered=(None, ""))
        yield from self._all_of(statuses, seconds, f"{self.flyers.stage.name} at its run-up, {start:g} degrees{how}")

    def _all_of(self, statuses: Sequence[Any], seconds: float | None, what: str) -> MsgGenerator[None]:
        """Wait until all statuses are done, at most for a time."""
        if not (yield from wait_for_all(statuses, math.inf if seconds is None else seconds)):
            raise MotionError(f"{self.name}: not ready after {seconds:.0f} s: {what}; do the devices' IOCs answer?")

    def _fly(self) -> MsgGenerator[None]:
        """Turn once, and collect what comes."""
        flyers = self.flyers
        patience = self.pace.patience(self.sweep)
        armed = yield from bps.kickoff_all(*flyers.writers, flyers.trigger, wait=False)
        yield from self._all_of(armed, patience, "detectors, encoder and trigger armed")
        turning = yield from bps.kickoff_all(flyers.stage, wait=False)
        yield from self._all_of(turning, patience, f"{flyers.stage.name} turning")
        self._turning = yield from bps.complete_all(flyers.trigger, flyers.stage, wait=False)
        self._seen_at = time.monotonic()
        yield from self._collect_until(self._turning)
        # Only now: who is never given its last frame is never complete, and a flight may be cut short.
        written = yield from bps.complete_all(*flyers.writers, wait=False)
        yield from self._collect_until(written)
        yield from self._check(self.before + len(self.sweep))

    def _cut_short(self) -> MsgGenerator[None]:
        """Fire no more, come to rest, and collect every frame that was begun."""
        if self._turning is None:
            return
        yield from come_to_rest(self.flyers)
        yield from wait_for_all(self._turning, self.pace.patience(self.sweep))
        yield from bps.sleep(self.pace.exposure)
        deadline = time.monotonic() + STALL_SECONDS
        while len(set((yield from self._counts()))) > 1 and time.monotonic() < deadline:
            yield from bps.sleep(SETTLE_SECONDS)
        yield from self._collect()
        yield from self._check(None)

    def _collect_until(self, statuses: Sequence[Any]) -> MsgGenerator[None]:
        over = False
        while not over:
            late = time.monotonic() - self._seen_at
            if late > self.pace.patience(self.sweep):
                counts = yield from self._counts()
                raise DataError(
                    f"{self.name}: no frame for {late:.0f} s, after {self._in_words(counts)} of "
                    f"{self.before + len(self.sweep)}; does {self.flyers.stage.name} turn, and do the pulses of "
                    f"{self.flyers.trigger.name} reach the detectors?"
                )
            # What was written by then is collected below.
            over = yield from wait_for_all(statuses, self.pace.flush_period)
            yield from self._collect()

    def _collect(self) -> MsgGenerator[None]:
        yield from bps.collect(*self.flyers.writers, name="primary", return_payload=False)
        counts = yield from self._counts()
        if min(counts) > self._seen:
            self._seen, self._seen_at = min(counts), time.monotonic()
            yield from bps.create(PROGRESS)
            yield from bps.read(self.flyers.stage)
            yield from bps.save()

    def _counts(self) -> MsgGenerator[list[int]]:
        """Return how many frames each writer has written since it was staged."""

        async def counts() -> list[int]:
            return [await writer.get_index() for writer in self.flyers.writers]

        planned = [self.before + len(self.sweep)] * len(self.flyers.writers)
        return list((yield from answer(counts, unanswered=planned)))

    def _check(self, expected: int | None) -> MsgGenerator[None]:
        counts = yield from self._counts()
        fired = counts[-1] if expected is None else expected  # the encoder's
        late = [getattr(writer, "numbers_frames", False) and expected is None for writer in self.flyers.writers]
        if any(count > fired or (count < fired and not may) for count, may in zip(counts, late, strict=True)):
            wanted = "the same number of each" if expected is None else f"{expected} of each"
            raise DataError(
                f"{self.name}: got {self._in_words(counts)}, expected {wanted}: a pulse was missed, so no angle is "
                "known any more; are exposure and dead time together shorter than from pulse to pulse?"
            )

    def _in_words(self, counts: Sequence[int]) -> str:
        return ", ".join(f"{n} of {w.name}" for n, w in zip(counts, self.flyers.writers, strict=True))
