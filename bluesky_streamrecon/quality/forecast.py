"""Forecasts of the rest of a scan from its line integrals, every few per cent of it, beside the judging of images.

A forecast takes longer than judging an image. It is made in a thread of its own, so that scores are not held up, and
holds the number of projections that it was made from.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bluesky_streamrecon.allocator import trim_heap
from bluesky_streamrecon.errors import StreamReconError
from bluesky_streamrecon.quality.checks import RankReports, inspect_scan
from bluesky_streamrecon.quality.data_checks import FEWEST, structured_rows
from bluesky_streamrecon.quality.gain import Gain, predict_gain
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.metrics import TrialMetric, measured
from bluesky_streamrecon.quality.sharp_views import find_sharp_views
from bluesky_streamrecon.quality.trials import Reconstructor, TrialReconstruction
from bluesky_streamrecon.selection import Region
from bluesky_streamrecon.wire import Check

__all__ = ["Forecast", "Forecaster", "fewest_views", "why_none"]

logger = logging.getLogger(__name__)

MOST_UNEVEN = 1.21
"""Mean squared gap over squared mean gap, from which on views are too crowded for a prediction."""

FARTHEST = 7.0
"""Widest arc between neighbouring views, pixels at the image's edge, with which the gain is predicted where edges run
in few directions: there may be others between views that are farther apart."""

FORECAST_NICE = 10
"""Of the thread that makes forecasts."""

LEAST_SHARE = 0.2
LEAST_VIEWS = 24


@dataclass(frozen=True, slots=True)
class Forecast:
    """Results from the first projections of a scan.

    Parameters
    ----------
    projections : int
        How many.
    fault : str or None
        Why they are not a scan of one still sample; there are no other results then.
    gain : Gain or None
        What the rest of the scan would add.
    why_not : str
        Why there is no gain, although it was wanted and there were projections enough.
    metrics : mapping of str to float or None
        Metrics that are measured on line integrals.
    failed : tuple of str
        Why some of these could not be measured.
    checks : tuple of Check
        Of the data.
    """

    projections: int
    fault: str | None = None
    gain: Gain | None = None
    why_not: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    def gain_of(self, planned: int) -> Gain | None:
        """Return what was predicted for a scan of so many projections; None where it was for a shorter one."""
        return self.gain if self.gain is not None and self.gain.planned >= planned else None


def fewest_views(planned: int, asked: int | None) -> int:
    """Return the projections below which nothing is predicted: those asked for, or 24 and a fifth of the plan."""
    return max(asked, FEWEST) if asked is not None else max(LEAST_VIEWS, math.ceil(LEAST_SHARE * planned))


class Forecaster:
    """Makes the forecasts of one run, one at a time: at once, or in a thread while its caller goes on.

    Parameters
    ----------
    reconstructor : Reconstructor or None
        The recipe; None: data are only checked.
    gain : bool
        Whether the remaining gain is wanted.
    metrics : sequence of TrialMetric
        Metrics that are wanted.
    fewest : int
        Projections below which data are only checked; may be set anew.
    region : Region, optional
        Part of the images that is looked at, as for `TrialReconstruction`; may be set anew.
    background : bool, optional
        Make each forecast in a thread. After the first one, which usually only checks data, the thread compiles what
        the next ones need.
    """

    def __init__(
        self,
        reconstructor: Reconstructor | None,
        *,
        gain: bool,
        metrics: Sequence[TrialMetric] = (),
        fewest: int,
        region: Region | None = None,
        background: bool = False,
    ) -> None:
        self._reconstructor = reconstructor
        self._gain = gain
        self._metrics = tuple(metrics)
        self.fewest = fewest
        self.region = region
        self._background = background
        self._warm = False
        self._before: TrialReconstruction | None = None
        self._thread: threading.Thread | None = None
        self._made: queue.SimpleQueue[Forecast] = queue.SimpleQueue()

    @property
    def busy(self) -> bool:
        """Whether a forecast is being made."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, lines: ScanLines, ranks: RankReports) -> None:
        """Make a forecast from these projections, or begin to; only while not `busy`."""
        if self._background:
            # A daemon: a process that ends does not wait for a compiler.
            self._thread = threading.Thread(target=self._work, args=(lines, ranks), name="forecast", daemon=True)
            self._thread.start()
        else:
            self._made.put(self._forecast(lines, ranks))

    def take(self) -> list[Forecast]:
        """Return the forecasts that were finished since the last call."""
        return [self._made.get() for _ in range(self._made.qsize())]

    def _work(self, lines: ScanLines, ranks: RankReports) -> None:
        _lower_priority()
        self._made.put(self._forecast(lines, ranks))
        trim_heap()  # a forecast takes many times what is kept
        if self._reconstructor is not None and not self._warm:
            self._warm = True
            self._reconstructor.warm_up()

    def _forecast(self, lines: ScanLines, ranks: RankReports) -> Forecast:
        """Make a forecast; an error becomes the reason why there is none, and ends neither scan nor controller."""
        try:
            fault, checks = inspect_scan(lines, ranks)
            made = Forecast(lines.projections, fault) if fault is not None else self._look(lines)
            return replace(made, checks=checks)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            logger.exception("the forecast from %d projections failed", lines.projections)
            return Forecast(lines.projections, why_not=f"the prediction failed: {type(error).__name__}: {error}")

    def _look(self, lines: ScanLines) -> Forecast:
        if not (self._gain or self._metrics):
            return Forecast(lines.projections)
        if self._reconstructor is None:
            return Forecast(lines.projections, why_not="this controller has nothing to reconstruct with")
        if lines.projections < self.fewest:
            return Forecast(lines.projections)
        study = TrialReconstruction(lines, structured_rows(lines), self._reconstructor, self._before, self.region)
        gain, why_not = _predicted(study) if self._gain else (None, "")
        found = [measured(metric.name, partial(metric.measure, study)) for metric in self._metrics]
        self._before = study if self._metrics else None
        return Forecast(
            lines.projections,
            gain=gain,
            why_not=why_not,
            metrics={name: value for values, _ in found for name, value in values.items()},
            failed=tuple(why for _, why in found if why),
        )


def why_none(study: TrialReconstruction, farthest: float = 0.0) -> str:
    """Return why nothing can be predicted from these views; empty if it can.

    Parameters
    ----------
    study : TrialReconstruction
        Of the views.
    farthest : float, optional
        Widest arc between neighbouring views, pixels at the image's edge, with which something can be predicted where
        edges run in few directions; nothing by default.
    """
    lines = study.lines
    if not lines.planned:
        return "the number of planned projections is not known"
    uneven = lines.over.unevenness(study.angles)
    if uneven > MOST_UNEVEN and lines.projections < lines.planned:
        return f"angles so far are too uneven (unevenness {uneven:.2f}, at most {MOST_UNEVEN})"
    sharp = find_sharp_views(study)
    if sharp.few and sharp.widest > farthest:
        apart = (
            f", and neighbouring views are up to {sharp.widest:.1f} pixels apart at the image's edge"
            if farthest
            else ""
        )
        return (
            f"edges run in few directions (the sharpest view has {sharp.sharpest:.1f} times the mean detail{apart}), "
            "so that single views may add much"
        )
    return ""


def _predicted(study: TrialReconstruction) -> tuple[Gain | None, str]:
    """Return the predicted gain, or why there is none."""
    if why := why_none(study, FARTHEST):
        return None, why
    try:
        return predict_gain(study), ""
    except StreamReconError as error:
        return None, str(error)


def _lower_priority() -> None:
    """Let this thread run after everything else on its computer: an update or a verdict can not wait."""
    thread = threading.get_native_id()
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or not allowed
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, thread, FORECAST_NICE)
