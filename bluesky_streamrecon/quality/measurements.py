"""What scientists measure in an image: functions of slices, found by name, and the metric that applies one.

A function is called with the slices of a quick reconstruction, shape (rows, N, N), read-only, zero outside the view, or
a region of them, and the width of their pixels; it returns a number, or a few named ones. If it has an argument
``view``, that is which pixels of a slice are seen. Widths are detector pixels, or micrometres
where the pixel size is known, and attenuation is per the same length. It may take options, with defaults, by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.quality.forecast import why_none
from bluesky_streamrecon.quality.trials import TrialReconstruction, disc
from bluesky_streamrecon.registry import Registry
from bluesky_streamrecon.settings import Option, SteeringSettings

__all__ = [
    "MEASUREMENT",
    "HalvedMeasurement",
    "Measurement",
    "largest_pore",
    "mean_attenuation",
    "measurements",
    "porosity",
]

MEASUREMENT = "measurement"
"""Name of the policy, and of the metric that it needs."""

POLICY_OPTIONS = ("measure", "within", "pixel_size", "resolution", "least_share")
"""Options that are not the function's own."""

RIM = 2
"""Pixels along the rim of a sample that are neither pore nor solid."""

Measurement = Callable[..., float | Mapping[str, float]]
Slices = NDArray[np.float32]
View = NDArray[np.bool_]

measurements: Registry[Measurement] = Registry(
    "measurement",
    "bluesky_streamrecon.measurements",
    {
        "porosity": f"{__name__}:porosity",
        "largest-pore": f"{__name__}:largest_pore",
        "mean-attenuation": f"{__name__}:mean_attenuation",
    },
)


def porosity(slices: Slices, pixel: float, *, threshold: float = 0.0, view: View | None = None) -> float:  # noqa: ARG001 - a share has no length
    """Compute the share of the sample that is darker than a threshold, 0 to 1.

    The sample is what is within the convex hull of what is brighter, in each slice, without two pixels along its rim.

    Parameters
    ----------
    slices, pixel, view : ndarray, float, ndarray
        See above.
    threshold : float, optional
        Attenuation per length; 0 finds it by Otsu's method.
    """
    pores, sample = _pores(slices, threshold, view)
    if not sample.any():
        raise DataError("no sample: what is bright is less than five pixels wide")
    return float(pores.sum() / sample.sum())


def largest_pore(slices: Slices, pixel: float, *, threshold: float = 0.0, view: View | None = None) -> float:
    """Compute the diameter of a disc with the area of the largest connected pore within a slice.

    Parameters
    ----------
    slices, pixel, threshold, view : ndarray, float, float, ndarray
        As for `porosity`.
    """
    from skimage.measure import label

    pores, _ = _pores(slices, threshold, view)
    areas = (np.bincount(label(each, connectivity=1).ravel())[1:].max(initial=0) for each in pores)
    return float(2 * math.sqrt(max(areas) / math.pi) * pixel)


def mean_attenuation(
    slices: Slices,
    pixel: float,
    *,
    x: float = 0.0,
    y: float = 0.0,
    radius: float = math.inf,
    view: View | None = None,
) -> float:
    """Compute the mean attenuation in a disc, by default of all that is in view.

    Parameters
    ----------
    slices, pixel, view : ndarray, float, ndarray
        See above.
    x, y, radius : float, optional
        Where it is: right of the middle of the image or region, above it, and its radius, in the unit of `pixel`.
    """
    down, across = ((np.arange(side) - (side - 1) / 2) * pixel for side in slices.shape[1:])
    seen = disc(slices.shape[1]) if view is None else view
    inside = (np.hypot(across[None, :] - x, -down[:, None] - y) <= radius) & seen
    if not inside.any():
        raise DataError(f"mean-attenuation: got a region at ({x:g}, {y:g}) of radius {radius:g}, expected one in view")
    return float(slices[:, inside].mean())


def _pores(slices: Slices, threshold: float, view: View | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pixels are pores, and which are of the sample."""
    from scipy.ndimage import binary_erosion, median_filter
    from skimage.filters import threshold_otsu
    from skimage.morphology import convex_hull_image

    view = disc(slices.shape[1]) if view is None else view
    level = threshold or float(threshold_otsu(slices[:, view]))
    bright = slices > level
    sure = median_filter(bright, size=(1, 3, 3))  # without single pixels of noise
    if not sure.any():
        raise DataError(f"no sample: no pixels are brighter than {level:.3g}")
    hulls = (convex_hull_image(each, offset_coordinates=False) if each.any() else each for each in sure)
    sample = np.stack([binary_erosion(hull & view, iterations=RIM) for hull in hulls])
    return sample & ~bright, sample


class HalvedMeasurement:
    """A measurement on the images from all views and from both halves of them.

    Values are the measured numbers, and each once more for either half, with ``-half-1`` or ``-half-2`` after its name.

    Parameters
    ----------
    settings : SteeringSettings
        ``options``: ``measure``, the name of the measurement; ``pixel_size``, micrometres; others are for the function.
    compare_to : int
        As for all metrics; not used.
    """

    name: ClassVar[str] = MEASUREMENT

    def __init__(self, settings: SteeringSettings, compare_to: int) -> None:
        del compare_to
        self._measure, self._options = measurement_of(settings.options)
        self._pixel = float(settings.options.get("pixel_size", 1.0))

    def measure(self, study: TrialReconstruction) -> dict[str, float]:
        """Measure; the value of a measurement that returns one number has no name of its own."""
        if why := why_none(study):
            raise DataError(why)
        whole = self._numbers(study, study.full)
        found = dict(whole)
        for place, half in enumerate(study.halves, 1):
            numbers = self._numbers(study, half)
            if numbers.keys() != whole.keys():
                raise DataError(f"got {', '.join(numbers)} of one half, but {', '.join(whole)} of the whole image")
            found |= {f"{name}-half-{place}".removeprefix("-"): value for name, value in numbers.items()}
        return found

    def _numbers(self, study: TrialReconstruction, images: Slices) -> dict[str, float]:
        pixel = self._pixel * study.binning
        slices = np.stack([study.seen(image) for image in images]) / np.float32(pixel)
        slices.setflags(write=False)
        options = dict(self._options)
        if "view" in inspect.signature(self._measure).parameters:
            options["view"] = disc(slices.shape[1]) if study.region is None else np.ones(slices.shape[1:], bool)
        found = self._measure(slices, pixel, **options)
        numbers: dict[str, object] = dict(found) if isinstance(found, Mapping) else {"": found}
        checked: dict[str, float] = {}
        for name, value in numbers.items():
            if not isinstance(value, Real) or not math.isfinite(value):
                raise DataError(f"got {f'{name}=' if name else ''}{value!r:.100}, expected a finite number")
            checked[str(name)] = float(value)
        return checked


def measurement_of(options: Mapping[str, Option]) -> tuple[Measurement, dict[str, Any]]:
    """Return the function that is asked for, and its own options.

    Raises
    ------
    ConfigError
        If there is none of this name, or it does not take these options.
    """
    name = options.get("measure")
    if not isinstance(name, str):
        raise ConfigError(
            f"policy 'measurement': got measure={name!r}, expected what to measure, as in policy_options="
            f"{{'measure': 'porosity', 'within': 0.01}}; there are {', '.join(measurements.names())}"
        )
    function = measurements.get(name)
    own = {key: value for key, value in options.items() if key not in POLICY_OPTIONS}
    try:
        inspect.signature(function).bind(None, 1.0, **own)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"measurement {name!r}: {error}; expected a function of slices and pixel, and as options those that it has"
        ) from error
    return function, own
