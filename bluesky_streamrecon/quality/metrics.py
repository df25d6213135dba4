"""Metrics of the images of a run, and the history of preview slices that they are measured on.

A metric is a number per image, computed from this image and earlier ones of the same run. It is None as long as there
is nothing to compare with; where the images show nothing that could be measured, it raises `DataError`.
"""

from __future__ import annotations

import bisect
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError, StreamReconError
from bluesky_streamrecon.quality.msssim import deepest_pyramid, ms_ssim, smallest_side
from bluesky_streamrecon.quality.trials import TrialReconstruction
from bluesky_streamrecon.registry import Registry, made
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = [
    "ImageHistory",
    "Metric",
    "MetricFactory",
    "MsSsimMetric",
    "PreviewImage",
    "TrialMetric",
    "comparison_distance",
    "make_metric",
    "measured",
    "metrics",
    "nothing_to_see",
]

logger = logging.getLogger(__name__)

WITHOUT_WINDOW = 24
"""Projections between compared images of a run that has neither `compare_to` nor a window."""


@dataclass(frozen=True, slots=True, eq=False)
class PreviewImage:
    """The preview slices of one image.

    Parameters
    ----------
    image_number : int
        1, 2, 3, ...; numbers are left out where the job took several steps at once.
    projections : int
        How many projections went into the image.
    rows : tuple of int
        Detector rows of the slices.
    stack : ndarray of float32, shape (len(rows), N, N)
        Attenuation per pixel.
    """

    image_number: int
    projections: int
    rows: tuple[int, ...]
    stack: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ImageHistory:
    """Images of one run, in ascending order of image number and of projections. Methods return a new history."""

    images: tuple[PreviewImage, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def newest(self) -> PreviewImage:
        """The image that is judged."""
        if not self.images:
            raise DataError("image history: got no image yet, expected at least one")
        return self.images[-1]

    def made_of(self, projections: int) -> PreviewImage | None:
        """Return the newest image made of at most so many projections, or None."""
        found = bisect.bisect_right(self.images, projections, key=lambda image: image.projections)
        return self.images[found - 1] if found else None

    def upto(self, image_number: int) -> ImageHistory:
        """Return the history without all images after this one."""
        return ImageHistory(tuple(image for image in self.images if image.image_number <= image_number))

    def appended(self, image: PreviewImage) -> ImageHistory:
        """Return the history with one more image.

        Raises
        ------
        DataError
            If the image is not newer than the newest, or its slices are not those of the run.
        """
        if self.images:
            last = self.images[-1]
            if image.image_number <= last.image_number or image.projections < last.projections:
                raise DataError(
                    f"image {image.image_number} of {image.projections} projections follows image {last.image_number} "
                    f"of {last.projections}; expected both numbers to grow"
                )
            if image.stack.shape != last.stack.shape or image.rows != last.rows:
                raise DataError(
                    f"image {image.image_number}: got rows {image.rows} as {image.stack.shape}, expected "
                    f"{last.rows} as {last.stack.shape} like image {last.image_number} of the same run"
                )
        return ImageHistory((*self.images, image))

    def part(self, of_each: tuple[slice, slice]) -> ImageHistory:
        """Return a part of each image."""
        return ImageHistory(tuple(replace(image, stack=image.stack[:, *of_each]) for image in self.images))

    def read_only(self) -> ImageHistory:
        """Return the same images as read-only views, since later images are compared with them."""
        return ImageHistory(tuple(replace(image, stack=_read_only(image.stack)) for image in self.images))

    def trimmed(self, oldest: int, *, most: int, keep: int = 2) -> ImageHistory:
        """Return the history without what is no longer needed.

        Parameters
        ----------
        oldest : int
            Images of fewer projections are no longer needed, except the newest of them.
        most : int
            Images to hold at most; where that is less, they are thinned out evenly, the `keep` newest excepted.
        keep : int, optional
            See `most`.
        """
        first = max(bisect.bisect_right(self.images, oldest, key=lambda image: image.projections) - 1, 0)
        images = list(self.images[first:])
        while len(images) > max(most, keep + 1):
            inner = range(1, len(images) - keep)
            if not inner:
                break
            least = min(inner, key=lambda i: images[i + 1].projections - images[i - 1].projections)
            del images[least]
        return ImageHistory(tuple(images))


@runtime_checkable
class Metric(Protocol):
    """A number per image."""

    @property
    def name(self) -> str:
        """Name under which its values are stored, and by which policies ask for it."""

    @property
    def reach(self) -> int:
        """How many projections back it needs images."""

    def __call__(self, history: ImageHistory) -> float | None:
        """Measure the newest image of the history; None: not yet.

        Raises
        ------
        DataError
            If the images show nothing that could be measured (the message says why); the scan goes on.
        """


@runtime_checkable
class TrialMetric(Protocol):
    """A number that is measured now and then on reconstructions from all line integrals so far."""

    @property
    def name(self) -> str:
        """Name under which its values are stored, and by which policies ask for it."""

    def measure(self, study: TrialReconstruction) -> float | Mapping[str, float] | None:
        """Measure a number, or a few named ones; None: not yet."""


MetricFactory = Callable[[SteeringSettings, int], Metric | TrialMetric]
"""Makes a metric for one run, from its settings and the distance k (projections) of compared images."""

_HERE = "bluesky_streamrecon.quality.trial_metrics"

metrics: Registry[MetricFactory] = Registry(
    "metric",
    "bluesky_streamrecon.metrics",
    {
        "ms-ssim": f"{__name__}:ms_ssim_metric",
        "held-out-residual": f"{_HERE}:HeldOutResidual",
        "half-set-frc": f"{_HERE}:HalfSetResolution",
        "measurement": "bluesky_streamrecon.quality.measurements:HalvedMeasurement",
    },
)


def make_metric(name: str, settings: SteeringSettings, compare_to: int) -> Metric | TrialMetric:
    """Make the metric of this name for one run; `compare_to` is the distance k of compared images, projections.

    Raises
    ------
    ConfigError
        If there is no metric of this name (the message lists those there are), it can not be made, or what is made is
        no metric or calls itself otherwise.
    """

    def make() -> Metric | TrialMetric:
        metric: Any = metrics.get(name)(settings, compare_to)
        if not (isinstance(metric, TrialMetric) or (isinstance(metric, Metric) and callable(metric))):
            raise ConfigError(
                f"metric {name!r}: its factory returned {metric!r}, expected an object with a name, and either a reach "
                "and a call with the images' history, or measure(study)"
            )
        if metric.name != name:
            raise ConfigError(
                f"metric {name!r}: calls itself {metric.name!r}, expected the name that it is registered as"
            )
        reach: object = 0 if isinstance(metric, TrialMetric) else metric.reach
        if not isinstance(reach, Real) or not 0 <= float(reach) < math.inf:
            raise ConfigError(f"metric {name!r}: got reach {reach!r}, expected a number of projections, 0 or more")
        return metric

    return made("metric", name, make)


def measured(name: str, measure: Callable[[], object]) -> tuple[dict[str, float | None], str]:
    """Measure, and check that the result is a finite number, a few named ones, or None as long as there is none.

    Nothing is raised: an error of whatever kind in a metric must end neither the scan nor the controller.

    Parameters
    ----------
    name : str
        Of the metric.
    measure : callable
        Calls it.

    Returns
    -------
    values : dict of str to float or None
        By the metric's name, followed by a hyphen and the number's own name where it has one. None, too, where it could
        not be measured.
    problem : str
        Why it could not; empty if it could.
    """
    none: dict[str, float | None] = {name: None}
    try:
        found = measure()
    except StreamReconError as error:
        return none, str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        logger.exception("metric %r failed", name)
        return none, f"metric {name!r} failed: {type(error).__name__}: {error}"
    if found is None:
        return none, ""
    values: dict[str, float | None] = {}
    for own, value in found.items() if isinstance(found, Mapping) else (("", found),):
        if not isinstance(value, Real) or not math.isfinite(value):
            expected = "a finite number, or None as long as there is none"
            return none, f"metric {name!r} returned {found!r:.100}, expected {expected}"
        values[f"{name}-{own}" if own else name] = float(value)
    return values, ""


def comparison_distance(recon: ReconSettings, steering: SteeringSettings) -> int:
    """Return k, how many projections lie between compared images: as asked for, or else the window.

    A run that keeps all projections has no window; there it is 24, or one step if that is more.
    """
    if steering.compare_to is not None:
        return steering.compare_to
    return recon.window if recon.window is not None else max(WITHOUT_WINDOW, recon.step)


@dataclass(frozen=True, slots=True)
class MsSsimMetric:
    """MS-SSIM of the newest image and the newest one that had at least `compare_to` projections fewer.

    It is the mean over slices that show anything: a slice that is one constant in both images, as one above the
    sample, would only raise the score. Images smaller than 176 pixels are compared with a
    pyramid of fewer levels.

    Parameters
    ----------
    compare_to : int
        Distance k of compared images, projections.
    scales : int
        How fine the comparison is, 1 to 5, see `ms_ssim`.
    """

    compare_to: int
    scales: int = 5
    name: ClassVar[str] = "ms-ssim"

    @property
    def reach(self) -> int:
        """As far back as it compares."""
        return self.compare_to

    def __call__(self, history: ImageHistory) -> float | None:
        """Compare; None before there is an image so much older.

        Raises
        ------
        DataError
            If no slice shows anything, no pixel has changed, the image is too small, or values are not finite.
        """
        image = history.newest
        older = history.made_of(image.projections - self.compare_to)
        if older is None:
            return None
        levels = deepest_pyramid(image.stack.shape)
        if not levels:
            raise DataError(
                f"image {image.image_number}: got {image.stack.shape[1]} x {image.stack.shape[2]} pixels, expected at "
                f"least {smallest_side(1)} x {smallest_side(1)} for MS-SSIM"
            )
        shown = [row for row in range(len(image.rows)) if not (_flat(image.stack[row]) and _flat(older.stack[row]))]
        if not shown:
            raise DataError(
                f"images {older.image_number} and {image.image_number} are empty (each slice is one constant); "
                "is the beam on, and is the sample in the preview rows?"
            )
        if _same(image.stack, older.stack):
            raise DataError(
                f"image {image.image_number} is bit for bit image {older.image_number}: "
                f"{image.projections - older.projections} projections changed nothing; is the beam on?"
            )
        # All rows are nearly always shown; they need no copy then.
        new, old = (im.stack if len(shown) == len(im.rows) else im.stack[shown] for im in (image, older))
        return ms_ssim(new, old, scales=min(self.scales, levels), levels=levels)


def _flat(piece: NDArray[np.float32]) -> bool:
    some = piece[len(piece) // 2]  # usually enough
    return bool(some.min() == some.max() and piece.min() == piece.max())


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    middle = one.shape[1] // 2
    return np.array_equal(one[:, middle], other[:, middle]) and np.array_equal(one, other)


def _read_only(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    view = stack.view()
    view.setflags(write=False)
    return view


def ms_ssim_metric(settings: SteeringSettings, compare_to: int) -> MsSsimMetric:
    """Make the metric ``"ms-ssim"``."""
    return MsSsimMetric(compare_to, settings.scales)


def nothing_to_see(image: PreviewImage) -> str:
    """Return why there is nothing to measure on an image; empty if there is."""
    flat = []
    for row, piece in zip(image.rows, image.stack, strict=True):
        low, high = float(piece.min()), float(piece.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int(piece.size - np.isfinite(piece).sum())
            return f"detector row {row} of image {image.image_number} has {bad} values that are not finite"
        flat.append(low == high)
    if all(flat):
        return (
            f"image {image.image_number} is empty (each slice is one constant); is the beam on, and is the sample "
            "in the preview rows?"
        )
    return ""
