"""What a scan may use: time until a deadline, and exposure of the sample; and how many projections that allows.

A budget ends a run as a success, whatever the policy, people who hold the run or `advisory` say: neither a beam that
is gone nor a dose can be had back. It needs no job: the plan itself counts. Times are seconds, deadlines since the
epoch.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from statistics import median
from typing import Any

import msgspec
from bluesky.utils import MsgGenerator

from bluesky_streamrecon.deadlines import seconds_of
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import Sweep
from bluesky_streamrecon.plans.motion import value_of
from bluesky_streamrecon.plans.parts import answer
from bluesky_streamrecon.settings import CHANGE, SteeringSettings

__all__ = ["Budget", "exposure_of", "find_budget", "with_deadline"]

RECENT = 5
"""Steps of the plan from which the duration of the next one is known."""

PACED = 5
"""Projections from which on the pace is that of the scan."""

CHANGED = 0.05
"""Change of the projections that the budget allows, as a share of these and of the plan, that is reported."""

wall_clock = time.time


def with_deadline(steering: SteeringSettings) -> SteeringSettings:
    """Return settings whose `until` is a date and time with its offset, which is what it is for everybody who reads it.

    Raises
    ------
    ConfigError
        If that is in the past.
    """
    if steering.until is None:
        return steering
    when = datetime.fromtimestamp(seconds_of(steering.until, wall_clock())).astimezone()
    return msgspec.structs.replace(steering, until=when.isoformat(timespec="seconds"))


def exposure_of(camera: Any, unanswered: float | None = None) -> MsgGenerator[float | None]:
    """Plan stub: return the exposure time of a detector for one event, seconds; None: it does not say.

    Where the plan is only looked at that is `unanswered`.
    """

    async def ask() -> float | None:
        for path in (("exposure_time",), ("driver", "acquire_time"), ("cam", "acquire_time")):
            owner = camera
            for name in path[:-1]:
                owner = getattr(owner, name, None)
            if (seconds := await value_of(getattr(owner, path[-1], None))) is not None:
                exposures = await value_of(getattr(owner, "num_images", None)) if path[0] == "cam" else 1
                return seconds * max(exposures or 1, 1)
        return None

    exposure: float | None = yield from answer(ask, unanswered=unanswered)
    return exposure


def find_budget(
    camera: Any,
    steering: SteeringSettings,
    planned: int,
    *,
    exposure: float | None = None,
    seconds: float | None = None,
    before: int = 0,
    after: int = 0,
) -> MsgGenerator[Budget]:
    """Plan stub: return the budget of a scan, which may be without limits.

    Parameters
    ----------
    camera : device
        Whose exposure time counts.
    steering : SteeringSettings
        See `with_deadline`.
    planned : int
        Projections planned; 0: not known.
    exposure : float, optional
        Of a projection; what the camera says by default.
    seconds : float, optional
        That the projections take in all, where the plan knows it.
    before, after : int, optional
        Flats and darks before and after the projections.

    Raises
    ------
    ConfigError
        If it allows fewer projections than anything can be known from, or `dose` is given and no exposure time known.
    """
    if steering.until is None and steering.dose is None:
        return Budget(planned)
    if exposure is None:
        exposure = yield from exposure_of(camera, unanswered=math.nan)
    if exposure is not None and math.isnan(exposure):  # the plan is only looked at
        return Budget(planned)
    most = math.inf
    if steering.dose is not None:
        if not exposure:
            raise ConfigError(
                f"dose: {camera if isinstance(camera, str) else getattr(camera, 'name', 'the detector')} has no "
                "exposure_time, driver.acquire_time or cam.acquire_time above 0; expected a detector that says how "
                "long it exposes, or num= in place of dose="
            )
        most = math.floor(steering.dose / exposure * (1 + 1e-9))
    budget = Budget(
        planned,
        until=None if steering.until is None else seconds_of(steering.until, wall_clock()),
        dose=steering.dose,
        most=most,
        exposure=exposure or 0.0,
        pace=seconds / planned if seconds and planned else 0.0,
        before=before,
        after=after,
    )
    budget.check(steering, wall_clock())
    return budget


@dataclass(eq=False)
class Budget:
    """How many projections time and dose allow, and when they are used up.

    Parameters
    ----------
    planned : int
        Projections planned; 0: not known.
    until : float or None
        Deadline.
    dose : float or None
        Seconds of exposure; `most` projections.
    most : float
        Projections that the dose allows.
    exposure : float
        Of a projection; 0: not known.
    pace : float
        From one projection to the next, as the plan expects it; 0: not known.
    before, after : int
        Flats and darks before and after the projections; those after are expected to take as long as those before.

    Examples
    --------
    >>> budget = Budget(180, until=1000.0, exposure=0.5, pace=2.0)
    >>> budget.allowed(taken=0, now=800.0)
    100
    """

    planned: int
    _: KW_ONLY
    until: float | None = None
    dose: float | None = None
    most: float = math.inf
    exposure: float = 0.0
    pace: float = 0.0
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        self._expected = self.pace
        self.begin(self.planned)

    def begin(self, planned: int) -> None:
        """Begin with a run of so many projections."""
        self.planned, self.pace = planned, self._expected
        self._opened: float | None = None
        self._reserved = 0.0  # for what comes after the projections
        self._first: tuple[int, float] | None = None
        self._last: tuple[str, float] | None = None
        self._steps: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._reported: int | None = None

    @property
    def limited(self) -> bool:
        """There is a limit of time or dose."""
        return self.until is not None or self.dose is not None

    @property
    def words(self) -> str:
        """The limits, as people know them: ``"until 18:30"``, ``"dose of 90 s"``."""
        parts = []
        if self.until is not None:
            when = datetime.fromtimestamp(self.until)
            parts.append(f"until {when:%H:%M}" if abs(self.until - wall_clock()) < 43200 else f"until {when:%F %H:%M}")
        if self.dose is not None:
            parts.append(f"dose of {self.dose:g} s")
        return ", ".join(parts)

    def allowed(self, taken: int, now: float) -> int | None:
        """Return how many projections there will be when it is used up, at the pace so far; None: that is not known.

        Before the pace is known these are at most so many, from the exposures alone.
        """
        allowed = self.most
        pace = self.pace or self.exposure
        if self.until is not None and pace:
            allowed = min(allowed, taken + max(self.until - self._reserved - now, 0) // pace)
        return None if math.isinf(allowed) else int(allowed)

    def check(self, steering: SteeringSettings, now: float) -> None:
        """Refuse a budget for fewer projections than are needed for a prediction, or than were asked for at least."""
        from bluesky_streamrecon.quality.forecast import fewest_views  # which takes long to import

        predicted = 0 if CHANGE in steering.rule else self.planned
        allowed, least = self.allowed(0, now), fewest_views(predicted, steering.minimum_projections)
        if allowed is not None and allowed < (min(least, self.planned) if self.planned else least):
            raise ConfigError(
                f"{self.words}: allows {allowed} projections{self._each()}, expected at least {least} (as many as the "
                "policy needs, or minimum_projections); a shorter exposure, or a plan of fewer angles, fits into less"
            )

    def describe(self, taken: int, now: float, total: int) -> str:
        """Return how many projections will be possible, in words."""
        allowed = self.allowed(taken, now)
        known, enough = bool(self.pace) or self.until is None, bool(total) and (allowed or 0) >= total
        if allowed is None or (enough and not known):
            return f"{self.words}: how many projections that allows is known after the first {PACED}"
        if enough:
            return f"{self.words}: enough for all {total} projections{self._each()}"
        about = "" if self.until is None else "about " if known else "at most "
        return f"{self.words}: {about}{allowed}{f' of {total}' if total else ''} projections{self._each()}"

    def _each(self) -> str:
        parts = [f"{self.exposure:.3g} s of exposure each"] if self.exposure else []
        if self.until is not None and self.pace:
            parts.append(f"one every {self.pace:.3g} s")
        return f" ({', '.join(parts)})" if parts else ""

    def cut(self, sweeps: Iterable[Sweep]) -> Iterator[Sweep]:
        """Yield sweeps as far as the dose allows; the last one may be shorter."""
        left = self.most
        for sweep in sweeps:
            if left < 1:
                return
            yield sweep if len(sweep) <= left else Sweep(sweep.first, sweep.step, int(left))
            left -= len(sweep)

    def note(self, place: str, taken: int, now: float) -> None:
        """Take note that the plan is at a checkpoint, or where it collects, after so many projections."""
        if self._opened is None:
            self._opened = now
        if taken and self._first is None:
            self._first = (taken, now)
            each = (now - self._opened) / self.before if self.before else self.pace or self.exposure
            self._reserved = self.after * each
        if taken and self._last is not None:
            self._steps[self._last[0]].append(now - self._last[1])
        self._last = (place, now)
        if self._first is not None and taken >= self._first[0] + PACED:
            self.pace = (now - self._first[1]) / (taken - self._first[0])

    def news(self, taken: int, now: float, total: int) -> int | None:
        """Return how many projections it allows, if that is known by now and is not what was returned before."""
        paced = self.until is None or (self._first is not None and taken >= self._first[0] + PACED)
        allowed = self.allowed(taken, now) if self.limited and paced else None
        allowed = min(allowed, total) if allowed is not None and total else allowed
        before = self._reported
        if allowed is None or (before is not None and abs(allowed - before) <= CHANGED * max(allowed, total)):
            return None
        self._reported = allowed
        return allowed

    def used_up(self, place: str, taken: int, now: float, total: int) -> str:
        """Return why the run is to be ended here, before the next step; empty if it is not."""
        ended = f"ended after {taken}{f' of {total}' if total else ''} projections"
        if total and taken >= total:
            return ""
        if taken >= self.most:
            return f"dose of {self.dose:g} s: {ended} of {self.exposure:.3g} s each"
        if self.until is not None:
            steps = self._steps[place]
            step = median(steps) if steps else self.exposure
            if now + step + self._reserved > self.until:
                return f"until {datetime.fromtimestamp(self.until):%H:%M}: {ended}"
        return ""
