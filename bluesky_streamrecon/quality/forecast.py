"""What a scan's line integrals say about the rest of it, now and then, beside the judging of images.

A forecast takes longer than judging an image. It is made in a thread of its own, so that scores are not held up, and
names the projections that it was made from.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bluesky_streamrecon.allocator import trim_heap
from bluesky_streamrecon.errors import StreamReconError
from bluesky_streamrecon.quality.data_checks import FEWEST, find_fault, structured_rows
from bluesky_streamrecon.quality.gain import Gain, predict_gain
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.metrics import TrialMetric, number_of
from bluesky_streamrecon.quality.trials import Reconstructor, TrialReconstruction

__all__ = ["Background", "Forecast", "Forecaster", "Inline", "fewest_views"]

logger = logging.getLogger(__name__)

MOST_UNEVEN = 1.21
"""Mean squared gap over squared mean gap, from which on views are too crowded for a prediction."""

FORECAST_NICE = 10
"""How much a forecast gives way to everything else on its computer."""

LEAST_SHARE = 0.2
LEAST_VIEWS = 24


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was found out from the first so many projections.

    Parameters
    ----------
    projections : int
        How many.
    fault : str or None
        Why they are not a scan of one still sample; nothing else is found out then.
    gain : Gain or None
        What the rest of the scan would add.
    why_not : str
        Why there is no gain, where it was wanted and there were projections enough.
    metrics : mapping of str to float or None
        Metrics that are measured on line integrals.
    failed : tuple of str
        Of which of these went wrong, and why.
    """

    projections: int
    fault: str | None = None
    gain: Gain | None = None
    why_not: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    failed: tuple[str, ...] = ()

    def gain_of(self, planned: int) -> Gain | None:
        """Return what was predicted for a scan of so many projections; None where it was for a shorter one."""
        return self.gain if self.gain is not None and self.gain.planned >= planned else None


def fewest_views(planned: int, asked: int | None) -> int:
    """Return the projections below which nothing is predicted: those asked for, or 24 and a fifth of the plan."""
    return max(asked, FEWEST) if asked is not None else max(LEAST_VIEWS, math.ceil(LEAST_SHARE * planned))


class Forecaster:
    """Makes one forecast after the other of one run.

    Parameters
    ----------
    reconstructor : Reconstructor or None
        The recipe; None: only faults are looked for.
    gain : bool
        Whether the remaining gain is wanted.
    metrics : sequence of TrialMetric
        Metrics that are wanted.
    fewest : int
        Projections below which only faults are looked for; may be set anew.
    """

    def __init__(
        self, reconstructor: Reconstructor | None, *, gain: bool, metrics: Sequence[TrialMetric] = (), fewest: int
    ) -> None:
        self._reconstructor = reconstructor
        self._gain = gain
        self._metrics = tuple(metrics)
        self.fewest = fewest
        self._before: TrialReconstruction | None = None

    def __call__(self, lines: ScanLines) -> Forecast:
        """Make the forecast from these projections."""
        fault = find_fault(lines)
        if fault is not None:
            return Forecast(lines.projections, fault=fault)
        if not (self._gain or self._metrics):
            return Forecast(lines.projections)
        if self._reconstructor is None:
            return Forecast(lines.projections, why_not="this controller has nothing to reconstruct with")
        if lines.projections < self.fewest:
            return Forecast(lines.projections)
        study = TrialReconstruction(lines, structured_rows(lines), self._reconstructor, self._before)
        gain, why_not = self._predicted(study) if self._gain else (None, "")
        metrics: dict[str, float | None] = {}
        failed = []
        for metric in self._metrics:
            metrics[metric.name], why = _measured(metric, study)
            failed += [why] if why else []
        self._before = study if self._metrics else None
        return Forecast(lines.projections, gain=gain, why_not=why_not, metrics=metrics, failed=tuple(failed))

    def _predicted(self, study: TrialReconstruction) -> tuple[Gain | None, str]:
        lines = study.lines
        if not lines.planned:
            return None, "the number of planned projections is not known"
        uneven = lines.over.unevenness(study.angles)
        if uneven > MOST_UNEVEN and lines.projections < lines.planned:
            return None, f"angles so far are too uneven (unevenness {uneven:.2f}, at most {MOST_UNEVEN})"
        try:
            return predict_gain(study), ""
        except StreamReconError as error:
            return None, str(error)


def _measured(metric: TrialMetric, study: TrialReconstruction) -> tuple[float | None, str]:
    """Measure; an error in one metric is reported, and harms neither the others nor the prediction."""
    try:
        return number_of(metric.name, metric.measure(study)), ""
    except StreamReconError as error:
        logger.warning("metric %r: %s", metric.name, error)
        return None, str(error)
    except Exception as error:
        logger.exception("metric %r failed on %d projections", metric.name, study.lines.projections)
        return None, f"metric {metric.name!r} failed: {type(error).__name__}: {error}"


def _safely(forecaster: Callable[[ScanLines], Forecast], lines: ScanLines) -> Forecast:
    """Make a forecast; an error becomes the reason why there is none, and stops no scan."""
    try:
        return forecaster(lines)
    except Exception as error:
        logger.exception("the forecast from %d projections failed", lines.projections)
        return Forecast(lines.projections, why_not=f"the prediction failed: {type(error).__name__}: {error}")


def _give_way() -> None:
    """Lower this thread's priority below everything else: a forecast can wait, an update or a verdict can not."""
    thread = threading.get_native_id()
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or not allowed
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, thread, FORECAST_NICE)


class Inline:
    """Makes each forecast while its caller waits, as for a stored run."""

    busy = False

    def __init__(self, forecaster: Callable[[ScanLines], Forecast]) -> None:
        self._forecaster = forecaster
        self._done: list[Forecast] = []

    def submit(self, lines: ScanLines) -> None:
        """Make a forecast from these projections."""
        self._done.append(_safely(self._forecaster, lines))

    def take(self) -> list[Forecast]:
        """Return the forecasts that were finished since the last call."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Nothing is left running."""


class Background:
    """Makes forecasts in a thread of its own, one at a time; the thread begins with the first.

    Parameters
    ----------
    forecaster : callable
        Makes them.
    begin : callable, optional
        Called in the thread after the first forecast, which usually only looks for faults: compiles what there is to
        compile.
    """

    def __init__(self, forecaster: Callable[[ScanLines], Forecast], begin: Callable[[], None] | None = None) -> None:
        self._forecaster = forecaster
        self._begin = begin
        self._changed = threading.Condition()
        self._given: ScanLines | None = None
        self._busy = False
        self._closed = False
        self._done: list[Forecast] = []
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a forecast is being made."""
        return self._busy

    def submit(self, lines: ScanLines) -> None:
        """Begin a forecast from these projections; only while not `busy`."""
        with self._changed:
            self._given, self._busy = lines, True
            self._changed.notify_all()
        if self._thread is None:
            # A daemon: a process that ends does not wait for a compiler.
            self._thread = threading.Thread(target=self._work, name="forecast", daemon=True)
            self._thread.start()

    def take(self) -> list[Forecast]:
        """Return the forecasts that were finished since the last call."""
        with self._changed:
            done, self._done = self._done, []
            return done

    def close(self) -> None:
        """Make no more forecasts; one that is being made is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being made; tell whether that was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def _work(self) -> None:
        _give_way()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._given is not None)
                lines, self._given = self._given, None
                if self._closed or lines is None:
                    return
            forecast = _safely(self._forecaster, lines)
            lines = None
            trim_heap()  # a forecast takes many times what is kept
            with self._changed:
                self._done.append(forecast)
                self._busy = False
                self._changed.notify_all()
            if self._begin is not None:
                begin, self._begin = self._begin, None
                begin()
