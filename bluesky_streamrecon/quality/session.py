"""Judges the images of one run, without sockets and clocks: previews in, scores out.

Images are judged in the order of their
numbers; where judging is slower than the job, images are left out of judging, but stay available to be compared with.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from functools import partial

import msgspec

from bluesky_streamrecon.coverage import largest_gap
from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.quality.assembly import ImageAssembly
from bluesky_streamrecon.quality.changes import ChangeDetector
from bluesky_streamrecon.quality.checks import RankReports, inspect_scan
from bluesky_streamrecon.quality.data_checks import FEWEST, too_early
from bluesky_streamrecon.quality.forecast import Forecast, Forecaster, fewest_views
from bluesky_streamrecon.quality.lines import LineStore
from bluesky_streamrecon.quality.metrics import (
    ImageHistory,
    Metric,
    MsSsimMetric,
    PreviewImage,
    TrialMetric,
    comparison_distance,
    make_metric,
    measured,
    nothing_to_see,
)
from bluesky_streamrecon.quality.policy import (
    NOT_OF_IMAGES,
    PREDICTED_GAIN,
    Evidence,
    Policy,
    ScoredImage,
    Verdict,
    ask_policy,
    get_policy,
    measured_by,
)
from bluesky_streamrecon.quality.trials import Reconstructor, region_slices
from bluesky_streamrecon.reduction import of_reduced_frames
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.settings import CHANGE, TOMOGRAPHY
from bluesky_streamrecon.wire import ChangeRun, Check, OpenRun, Preview, Score

__all__ = ["SteeringSession"]

logger = logging.getLogger(__name__)

FORECAST_SHARE = 0.05
"""Share of the planned projections between two forecasts; half of it near the stop."""

NEAR = 2.0
"""Upper end of a predicted gain, tolerances, below which a stop is near."""

FORECAST_STEP = 12
"""Projections between two forecasts where the number planned is not known."""

LONGEST_TEXT = 2000
"""Characters; the wire takes no text of more than 4096."""


class SteeringSession:
    """Judge the images of one run.

    Parameters
    ----------
    run : OpenRun
        The run, with its steering settings.
    memory_limit : int, optional
        Bytes of images held to compare with. Above it older ones are thinned out; a comparison then reaches back
        a little further than asked.
    backlog : int, optional
        Images that may wait to be judged. When there are more, all but the newest are left unjudged.
    reconstructor : Reconstructor, optional
        For forecasts from line integrals; without it these are only checked.
    background : bool, optional
        Make forecasts in a thread of their own, so that judging does not wait for them.

    Raises
    ------
    ConfigError
        If there is no policy or metric of the name that is asked for, or no preview rows to judge by.
    """

    def __init__(
        self,
        run: OpenRun,
        *,
        memory_limit: int = 2**30,
        backlog: int = 8,
        reconstructor: Reconstructor | None = None,
        background: bool = False,
    ) -> None:
        if not run.preview_rows:
            raise ConfigError(f"run {run.run_uid}: got no preview rows, expected at least one to judge the image by")
        self.run = run
        self._assembly = ImageAssembly(tuple(dict.fromkeys(run.preview_rows)))
        self._selection = Selection(run.steering.region)
        self._compare_to = comparison_distance(run.recon, run.steering)
        steering = of_reduced_frames(run.steering, run.recon.bin)
        self._policy: Policy = get_policy(steering.rule)(steering)
        # Slices are always compared; images of another analysis need not be such that MS-SSIM can be measured on them.
        always = ("ms-ssim",) if run.recon.analysis == TOMOGRAPHY else ()
        wanted = dict.fromkeys((*always, *self._policy.metrics))
        metrics = [make_metric(name, steering, self._compare_to) for name in wanted if name not in NOT_OF_IMAGES]
        self._wanted = tuple(wanted)
        self._metrics: tuple[Metric, ...] = tuple(m for m in metrics if not isinstance(m, TrialMetric))
        self._forecaster = Forecaster(
            reconstructor,
            gain=PREDICTED_GAIN in wanted,
            metrics=[metric for metric in metrics if isinstance(metric, TrialMetric)],
            fewest=fewest_views(run.planned, run.steering.minimum_projections),
            region=run.steering.region,
            background=background,
        )
        self._forecasts: list[Forecast] = []
        self._lines = LineStore(run)
        self._changes = ChangeDetector(run) if CHANGE in wanted and run.per_volume else None
        self._step = _forecast_step(run.planned)
        self._next_forecast = FEWEST
        self._checked: tuple[int, str | None, tuple[Check, ...]] = (0, None, ())
        self._side = 0  # of the images, pixels
        self._counts_since = 0  # projections from which on the selection counts
        self._ranks = RankReports(math.prod(run.detector_shape))
        self._checks: tuple[Check, ...] = ()  # the newest, until they are reported
        self._axis: float | None = None
        self._axis_since = 0  # number of the first image about this axis
        self._forecast_of: tuple[float | None, Selection] = None, self._selection  # axis and what counted at its begin
        self._lines_failed = False
        self._reach = max((metric.reach for metric in self._metrics), default=self._compare_to)
        self._memory_limit, self._backlog = memory_limit, backlog
        self._history = ImageHistory()
        self._waiting: deque[PreviewImage] = deque()
        self._left_out = 0
        self._scored: list[ScoredImage] = []
        self._newest: Score | None = None
        self._angles: set[float] = set()
        self._met = self._closed = False

    @property
    def waiting(self) -> int:
        """Complete images that are not judged yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Take note that no more projections come: images are still judged, but no more forecasts are begun."""
        self._closed = True

    def change(self, change: ChangeRun) -> None:
        """Take over what people have changed of the run, or its budget has; the axis comes with the images."""
        logger.info("run %s: %s", self.run.run_uid, change)
        if change.planned is not None:
            self._lengthen(change.planned)
        if change.allowed is not None:
            self._lines.allowed = change.allowed
        if change.selection is not None:
            self._judge_by(change.selection)

    def _lengthen(self, planned: int) -> None:
        """Take over a longer plan: predictions for the shorter one are not used any more."""
        self.run = msgspec.structs.replace(self.run, planned=planned)
        self._lines.planned = planned
        self._forecaster.fewest = fewest_views(planned, self.run.steering.minimum_projections)
        self._step = _forecast_step(planned)
        self._next_forecast = FEWEST

    def _judge_by(self, selection: Selection) -> None:
        """Let other rows, or another part of the slices, count: scores and predictions begin anew."""
        self._selection, self._forecaster.region = selection, selection.region
        self._counts_since = max(self._lines.projections, self._newest.projections if self._newest else 0)
        self._begin_anew()
        rows = selection.rows or tuple(dict.fromkeys(self.run.preview_rows))
        if rows != self._lines.rows:
            self._lines.rows, self._assembly = rows, ImageAssembly(rows)
            self._forget_images()
            if self._changes is not None:
                self._changes = ChangeDetector(msgspec.structs.replace(self.run, preview_rows=rows))

    def accept(self, preview: Preview) -> None:
        """Take one rank's slices of one image, and the line integrals that came with them.

        What has come before (as after a restart of a rank) is left aside.

        Raises
        ------
        DataError
            If they do not fit the run, and are left aside, or what other ranks sent of the same image.
        """
        number = preview.image_number
        pixels, shape = preview.pixels, (len(preview.rows), *preview.shape)
        if pixels is None or pixels.shape != shape:
            got = None if pixels is None else pixels.shape
            raise DataError(f"preview of image {number} from rank {preview.rank}: got pixels {got}, expected {shape}")
        if self._ranks.add(preview) and preview.axis != self._axis:
            self._forget_predictions(preview.axis, number)
        self._angles.update(round(angle % math.pi, 9) for angle in preview.angles_used)
        if preview.lines is not None:
            self._take_lines(preview)
        if len(self._history) and number <= self._history.newest.image_number:
            return
        image = self._assembly.add(preview)
        if image is not None:
            self._complete(image)

    def judge(self) -> Score | None:
        """Judge the next image that waits; None if there is none."""
        if len(self._waiting) > self._backlog:
            self._left_out += len(self._waiting) - 1
            self._waiting = deque([self._waiting[-1]])
        self._look_ahead()
        if not self._waiting:
            return None
        image = self._waiting.popleft()
        verdict, values = self._verdict(image)
        self._trim()
        enough = verdict.verdict == "enough"
        counted = "" if verdict.verdict == "invalid" else self._counted()
        reason = (verdict.text[:LONGEST_TEXT] + counted).encode("utf-8", "replace").decode()
        text = f"advisory: {reason}" if enough and self.run.steering.advisory else reason
        if self._left_out:
            text += f" ({self._left_out} images before it were not judged: the controller is behind)"
            self._left_out = 0
        score = self._newest = Score(
            run_uid=self.run.run_uid,
            image_number=image.image_number,
            projections=image.projections,
            score=_finite(verdict.score),
            metrics={name: _finite(value) for name, value in values.items()},
            axis=self._axis if image.image_number >= self._axis_since else None,
            selection=self._selection,
            size=self._side,
            verdict=verdict.verdict,
            policy=self.run.steering.rule,
            text=text,
            checks=self._checks,
        )
        self._checks = ()
        self._met = self._met or enough
        return score

    def _counted(self) -> str:
        """Return what was judged, in words; nothing where that has always been the whole view."""
        selection, since = self._selection, self._counts_since
        whole = selection == WHOLE_VIEW
        if not since:
            return "" if whole else f"; judged by {selection} alone"
        where = f"{selection} {'again' if whole else 'alone'}"
        return f"; judged by {where} since {since} projections: what was predicted before does not count"

    def last_score(self) -> Score | None:
        """Judge the newest image once more after `close`, by all data; None where that changes nothing.

        Otherwise a fault late in a scan, or in one that is over before the first forecast, would not be reported.
        """
        score = self._newest
        if self._waiting or score is None or score.verdict == "invalid" or (fault := self._fault(now=True)) is None:
            return None
        of = f" of {self.run.planned}" if self.run.planned else ""
        text = f"not judged at {score.projections}{of} projections: {fault}"[:LONGEST_TEXT]
        self._newest = msgspec.structs.replace(score, verdict="invalid", text=text, checks=self._checks)
        return self._newest

    def _take_lines(self, preview: Preview) -> None:
        try:
            self._lines.add(preview)
            if self._changes is not None:
                self._changes.add(preview)
        except DataError as error:  # the image can be judged all the same
            if not self._lines_failed:
                logger.error("run %s: %s", self.run.run_uid, error)
            self._lines_failed = True

    def _look_ahead(self) -> None:
        """Begin a forecast if it is time for one, and take those that are done."""
        self._take_forecasts()
        if self._closed or self._forecaster.busy or self._lines.projections < self._next_forecast:
            return
        lines = self._lines.scan()
        if lines is not None:
            self._next_forecast = lines.projections + self._step
            if lines.projections < self._forecaster.fewest:  # the first prediction is made as soon as it can be
                self._next_forecast = min(self._next_forecast, self._forecaster.fewest)
            self._forecast_of = lines.axis, self._selection
            self._forecaster.begin(lines, self._ranks)
            self._take_forecasts()

    def _take_forecasts(self) -> None:
        made = self._forecaster.take()
        self._checks = made[-1].checks if made else self._checks
        self._forecasts += made if self._forecast_of == (self._axis, self._selection) else []
        if any(each.gain is not None and each.gain.upper < NEAR * self.run.steering.tolerance for each in made):
            self._next_forecast = min(self._next_forecast, made[-1].projections + math.ceil(self._step / 2))

    def _forget_predictions(self, axis: float | None, image_number: int) -> None:
        """Begin anew with predictions and checks: those so far were about another rotation axis."""
        if self._axis is not None:
            self._begin_anew()
        if axis is not None:
            self._lines.turn_about(axis)
        self._axis, self._axis_since = axis, image_number

    def _begin_anew(self) -> None:
        """Forget all predictions and checks, and what images before were measured as."""
        self._forecasts, self._scored, self._met = [], [], False
        self._next_forecast, self._checked = FEWEST, (0, None, ())

    @property
    def _region(self) -> tuple[tuple[slice, slice] | None, str]:
        """Part of the images that counts (None: all of it), and why there is no such part."""
        region = self._selection.region
        if region is None or not self._side:
            return None, ""
        try:
            return region_slices(region, self._side), ""
        except DataError as error:
            return None, str(error)

    def _fault(self, *, now: bool) -> str | None:
        """Return why the job reports its images as wrong, or why the data are no scan of one still sample.

        Parameters
        ----------
        now : bool
            Check all data, since the run is about to be ended, as when it is closed; else as the newest forecast.
        """
        fault, checks = self._inspected(now or self._closed)
        doubt = self._ranks.doubt or self._region[1]  # which may come of what these two checks find
        seen = (each.text for each in checks if each.name in ("sample", "frames") and each.state == "wrong")
        return next(seen, doubt) if doubt else fault

    def _inspected(self, now: bool) -> tuple[str | None, tuple[Check, ...]]:
        """Return what is wrong with the data, and their checks: of all by now, or of the newest forecast."""
        if not now:
            newest = self._forecasts[-1] if self._forecasts else Forecast(0)
            return newest.fault, newest.checks
        at, fault, _ = self._checked
        settled = fault is not None or self._met or self._closed or self.run.steering.advisory
        lines = None if at and settled and self._lines.projections < at + self._step else self._lines.scan()
        if lines is not None:
            fault, self._checks = inspect_scan(lines, self._ranks)
            self._checked = lines.projections, fault, self._checks
        return self._checked[1:]

    def _complete(self, image: PreviewImage) -> None:
        if self._side not in (0, image.stack.shape[1]):
            # About another axis the view, and so the image, may have another width: the two can not be compared.
            self._forget_images()
        self._side = image.stack.shape[1]
        self._history = self._history.appended(image)
        self._waiting.append(image)
        self._trim()

    def _forget_images(self) -> None:
        """Forget images that later ones can not be compared with."""
        self._history = ImageHistory()
        self._waiting.clear()

    def _trim(self) -> None:
        oldest = self._waiting[0] if self._waiting else self._history.newest
        self._history = self._history.trimmed(
            oldest.projections - self._reach,
            most=self._memory_limit // max(oldest.stack.nbytes, 1),
            keep=min(len(self._waiting), self._backlog) + 1,
        )

    def _verdict(self, image: PreviewImage) -> tuple[Verdict, dict[str, float | None]]:
        values, problem = self._values(image)
        self._scored.append(ScoredImage(image.image_number, image.projections, values))
        settled = (self.run.recon.window or self._compare_to) + self._compare_to
        evidence = Evidence(
            self._scored,
            self.run.planned,
            self._compare_to,
            largest_gap(self._angles, self._lines.over),
            settled,
            tuple(self._forecasts),
            self._lines.over,
            self.run.recon.turns,
            self._lines.allowed,
        )
        score = values.get("ms-ssim")
        fault = self._fault(now=False) or problem
        verdict = ask_policy(self._policy, evidence) if not fault else None
        values |= {} if verdict is None else verdict.metrics
        if verdict is not None and verdict.verdict == "enough":
            fault = self._fault(now=True) or ""
        if verdict is None or fault:
            return Verdict("invalid", score, f"not judged at {evidence.progress}: {fault}"), values
        if verdict.verdict == "enough":
            lines = self._lines.scan()
            if lines is not None and (early := too_early(lines)) is not None:
                return Verdict("continue", score, f"{verdict.text}; {early}"), values
        failed = self._forecasts[-1].failed if self._forecasts else ()
        return Verdict(verdict.verdict, verdict.score, "; ".join([verdict.text, *failed])), values

    def _values(self, image: PreviewImage) -> tuple[dict[str, float | None], str]:
        """Return all metrics of an image and, if it can not be judged, why; nothing is measured on it then."""
        history, (region, _) = self._history.upto(image.image_number), self._region
        history = history if region is None else history.part(region)
        values: dict[str, float | None] = dict.fromkeys(self._wanted)
        problem = nothing_to_see(history.newest)
        for metric in self._metrics:
            if problem:
                values = dict.fromkeys(values)
                break
            # Ours writes nothing, and NumPy would have to copy read-only images for its kernels.
            seen = history if isinstance(metric, MsSsimMetric) else history.read_only()
            found, problem = measured(metric.name, partial(metric, seen))
            values |= found
        if self._forecasts:
            values |= measured_by(self._forecasts, self.run.planned)
        if self._changes is not None:
            values |= self._changes.metrics()
        return values, problem


def _forecast_step(planned: int) -> int:
    return max(1, math.ceil(FORECAST_SHARE * planned)) if planned else FORECAST_STEP


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
