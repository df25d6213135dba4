"""Trial reconstructions, beside the streaming one, from which the remaining gain of a scan is predicted.

They are made from all projections so far, as a finished scan would be reconstructed: from all of them, from every
other direction by angle (two half-sets), and from all with their noise added once more. Line integrals are unitless,
angles radians, lengths detector pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.geometry import image_size
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.msssim import WEIGHTS, deepest_pyramid, ms_ssim_terms
from bluesky_streamrecon.selection import Region

__all__ = [
    "Reconstructor",
    "TrialReconstruction",
    "disc",
    "display_range",
    "in_view",
    "region_slices",
    "similarity",
    "similarity_to_finished",
    "view_width",
]

UNBINNED = 512
"""Widest detector, columns, that is studied pixel by pixel; above it two pixels are taken together."""

NOISE_OF_BINNING = 1.2
"""What noise takes from the MS-SSIM of binned images times this is what it takes with the finest level, too."""

LARGEST_EXPONENT = 20.0

CHI_SQUARED_MEDIAN = 0.4549
"""Median of the square of a normal variable of variance 1."""

EDGE = 0.05
"""Of the view's width: as near to its edge, values of a sample that reaches out of it are not relied on."""

Images = NDArray[np.float32]


class Reconstructor(Protocol):
    """Makes images from line integrals, and line integrals from images; the user of this package provides it."""

    def warm_up(self) -> None:
        """Compile what there is to compile."""

    def reconstruct(
        self,
        projections: NDArray[np.float32],
        angles: NDArray[np.float64],
        weights: NDArray[np.float64],
        *,
        axis: float,
        size: int,
    ) -> Images:
        """Reconstruct rows from weighted views.

        Parameters
        ----------
        projections : ndarray of float32, shape (m, rows, C)
            Line integrals.
        angles, weights : ndarray of float64, shape (m,)
            Radians, and how much each view counts, mean 1.
        axis : float
            Detector column of the rotation axis.
        size : int
            Side N of the image.

        Returns
        -------
        ndarray of float32, shape (rows, N, N)
            Attenuation, 1/pixel, never negative.
        """

    def project(self, images: Images, angles: NDArray[np.float64], *, axis: float, columns: int) -> NDArray[np.float32]:
        """Return the line integrals, shape (m, rows, C), of images (rows, N, N)."""


class TrialReconstruction:
    """Reconstructions from the first m projections of a scan; each is made when it is first used.

    Parameters
    ----------
    lines : ScanLines
        The projections; those that were not measured are left out.
    rows : sequence of int
        Rows to study, counted within the preview rows.
    reconstructor : Reconstructor
        The recipe.
    before : TrialReconstruction, optional
        An earlier trial of the same scan and rows.
    region : Region, optional
        Part of the images that is looked at, pixels of the image of the run.

    Raises
    ------
    DataError
        If the region is outside the image.
    """

    def __init__(
        self,
        lines: ScanLines,
        rows: Sequence[int],
        reconstructor: Reconstructor,
        before: TrialReconstruction | None = None,
        region: Region | None = None,
    ) -> None:
        kept = np.isfinite(lines.values).all(axis=(1, 2))
        self.lines = lines
        self.rows = tuple(rows)
        self.columns = lines.values.shape[2]
        self.binning = 2 if self.columns > UNBINNED else 1
        self.axis = (lines.axis - (self.binning - 1) / 2) / self.binning
        self.size = max(lines.size, self.columns) // self.binning
        self.width = view_width(self.columns, lines.axis, lines.over) // self.binning
        self.region = None if region is None else self._placed(region)
        self.projections = self._prepared(lines.values[kept])
        self.angles = lines.angles[kept]
        self._all = np.arange(len(self.angles))
        self._reconstructor = reconstructor
        self._earlier = None
        if before is not None and before._shown == self._shown:
            self._earlier = (before.lines.projections, before.full)

    @property
    def _shown(self) -> tuple[object, ...]:
        """What the images are of: another trial of the same can be compared with them."""
        return tuple(self.lines.rows[row] for row in self.rows), self.axis, self.size

    def _placed(self, region: Region) -> tuple[slice, slice]:
        """Return where a region of the run's image is in these, which show all that the detector sees."""
        side = self.lines.size or self.columns
        region_slices(region, side)
        left, top, right, bottom = region
        if self.lines.mirrored:
            top, bottom = side - bottom, side - top
        most = self.size * self.binning
        beyond = (max(side, self.columns) - side) // 2
        left, top, right, bottom = (min(edge + beyond, most) for edge in (left, top, right, bottom))
        return region_slices((left, top, right, bottom), most, self.binning)

    def _prepared(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows that are studied, with pixels taken together where there are many."""
        values = values[:, list(self.rows)]
        if self.binning == 2:
            even = self.columns // 2 * 2
            values = (values[:, :, 0:even:2] + values[:, :, 1:even:2]) / np.float32(2)
        return np.asarray(np.maximum(values, 0))

    def _made_of(self, views: NDArray[np.intp], projections: NDArray[np.float32]) -> Images:
        angles = self.angles[views]
        weights = self.lines.over.view_weights(angles)
        images = self._reconstructor.reconstruct(projections[views], angles, weights, axis=self.axis, size=self.size)
        images.setflags(write=False)  # a metric that writes into them would change what others find
        return images

    def seen(self, image: Images) -> Images:
        """Return the part of an image (N, N) that counts: the region, or what is seen from all sides."""
        return in_view(image, self.width) if self.region is None else image[self.region]

    def contrast(self, row: int) -> float:
        """Return the range of values of the image from all views that counts as full contrast."""
        image = self.full[row]
        return display_range(image, self.width) if self.region is None else display_range(image[self.region])

    @cached_property
    def half_sets(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Views of every other direction by angle, and views of those between: each an evenly coarser scan."""
        places = self.lines.over.directions(self.angles).of_view
        by_angle = np.argsort(places, kind="stable")
        odd = places[by_angle] % 2 == 1
        return by_angle[~odd], by_angle[odd]

    @cached_property
    def full(self) -> Images:
        """Images from all views, shape (rows, N, N)."""
        return self._made_of(self._all, self.projections)

    @cached_property
    def halves(self) -> tuple[Images, Images]:
        """Images from each of the half-sets."""
        even, odd = self.half_sets
        return self._made_of(even, self.projections), self._made_of(odd, self.projections)

    @cached_property
    def detail(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Detail of each view, the mean squared difference of neighbouring columns, and how much of it is noise."""
        lines = self.projections.astype(np.float64)
        noise = np.median(np.diff(lines, 2, axis=2) ** 2, axis=2) / (3 * CHI_SQUARED_MEDIAN)
        return np.mean(np.diff(lines, axis=2) ** 2, axis=(1, 2)), noise.mean(axis=1)

    @cached_property
    def model(self) -> NDArray[np.float32]:
        """Line integrals of `full`, shape (m, rows, C)."""
        return self._projected(self.full, self.angles)

    def _projected(self, images: Images, angles: NDArray[np.float64]) -> NDArray[np.float32]:
        columns = self.projections.shape[2]
        return self._reconstructor.project(images, angles, axis=self.axis, columns=columns)

    @cached_property
    def noisier(self) -> Images:
        """Images from all views with noise added once more, as much as is in them already."""
        # The same data give the same verdict: the seed is the number of projections.
        rng = np.random.default_rng(self.lines.projections)
        deviation = np.empty_like(self.projections)
        for row in range(len(self.rows)):
            model = self.model[:, row]
            level = noise_level(self.projections[:, row], model)
            deviation[:, row] = np.sqrt(level * np.exp(np.minimum(model, LARGEST_EXPONENT)))
        noise = rng.standard_normal(self.projections.shape, dtype=np.float32)
        return self._made_of(self._all, np.maximum(self.projections + deviation * noise, 0))

    def held_out(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return projections since the earlier trial, and the same computed from its images; None without one.

        Of a long scan these are some of them.
        """
        if self._earlier is None:
            return None
        count, images = self._earlier
        lines = self.lines.one_by_one
        new = np.asarray(np.isfinite(lines.values).all(axis=(1, 2)))
        new[: count if lines.numbers is None else np.searchsorted(lines.numbers, count, "right")] = False
        if not new.any():
            return None
        angles = lines.angles[new]
        return self._prepared(lines.values[new]), self._projected(images, angles)


def region_slices(region: Region, size: int, binning: int = 1) -> tuple[slice, slice]:
    """Return the part of an image that is a region.

    Raises
    ------
    DataError
        If it is outside an image of this side.

    Examples
    --------
    >>> region_slices((10, 0, 60, 50), 64, 2)
    (slice(0, 25, None), slice(5, 30, None))
    """
    left, top, right, bottom = region
    if max(right, bottom) > size:
        raise DataError(f"region: got {region}, which is outside the image of {size} x {size} pixels")
    return slice(top // binning, bottom // binning), slice(left // binning, right // binning)


def noise_level(projections: NDArray[np.float32], model: NDArray[np.float32]) -> float:
    """Estimate a in variance = a exp(p) of line integrals (m, C), from what differs between neighbouring columns.

    Of two estimates the smaller one counts: from the data, where structure may pass for noise, and from what the
    model leaves. Only columns in the shadow of the sample count.
    """
    levels = []
    for rest, mean in ((projections - model, model), (projections, projections)):
        smooth = (mean[:, :-2] + mean[:, 1:-1] + mean[:, 2:]) / 3
        inside = smooth > 0.15 * np.percentile(smooth, 99.5)
        second = rest[:, :-2] - 2 * rest[:, 1:-1] + rest[:, 2:]
        if inside.any():
            scaled = second[inside] ** 2 / (6 * np.exp(np.minimum(smooth[inside], LARGEST_EXPONENT)))
            levels.append(float(np.median(scaled)) / CHI_SQUARED_MEDIAN)
    return min(levels, default=0.0)


def view_width(columns: int, axis: float, over: AngularRange) -> int:
    """Return how many pixels of an image's width a scan over these angles sees."""
    return image_size(columns, axis, full_turn=over.turn > math.pi)


def in_view(images: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return the middle of images (..., N, N), the disc of this width; 0 around it. Others are left as they are."""
    margin = (images.shape[-1] - width) // 2
    if margin <= 0:
        return images
    return np.where(disc(width), images[..., margin : margin + width, margin : margin + width], np.float32(0))


def disc(width: int, inset: float = 0.0) -> NDArray[np.bool_]:
    """Return which pixels of a square are in the disc of its width, smaller by `inset` pixels all around."""
    place = np.arange(width) - (width - 1) / 2
    return np.asarray(np.hypot(place[:, None], place[None, :]) <= width / 2 - inset)


def display_range(image: NDArray[np.float32], width: int = 0) -> float:
    """Return the range of an image (N, N) that counts as full contrast: largest minus smallest value of its 5-medians.

    Medians along columns, then rows, leave out single noisy pixels. Of an image that is wider than the view, only what
    is within this width counts, for there may be no air in it.
    """
    smooth = _medians_of_five(_medians_of_five(image).T).T
    margin = (len(image) - width) // 2 if width else 0
    if margin > 0:
        smooth = smooth[margin : margin + width, margin : margin + width][disc(width, EDGE * width)]
    return float(smooth.max() - smooth.min())


def _medians_of_five(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median of each pixel and the two on either side in its column, mirrored at the ends.

    SciPy's filter takes twice as long, and is slow to import where a rank or controller needs nothing else of it.
    """
    padded = np.pad(image, ((2, 2), (0, 0)), mode="symmetric")
    a, b, c, d, e = (padded[k : k + len(image)] for k in range(5))
    # The median of five is that of the fifth and the middle two of four.
    low = np.maximum(np.minimum(a, b), np.minimum(c, d))
    high = np.minimum(np.maximum(a, b), np.maximum(c, d))
    return np.maximum(np.minimum(e, low), np.minimum(np.maximum(e, low), high))


def similarity_to_finished(live: NDArray[np.float32], finished: NDArray[np.float32]) -> float:
    """Return the MS-SSIM of a live image and a finished one, shape (N, N), whose range of values counts."""
    shown = display_range(finished)
    return similarity(live, finished, shown) if shown > 0 else 1.0


def similarity(a: NDArray[np.float32], b: NDArray[np.float32], data_range: float, *, binned: bool = False) -> float:
    """Compare two images (N, N) by MS-SSIM with a given range.

    Binned images are compared by what they share with the full ones: all levels but the finest, with the same weights.
    """
    levels = deepest_pyramid(a.shape, 4 if binned else 5)
    terms = ms_ssim_terms(a, b, scales=levels, levels=levels, data_range=data_range)
    if not binned or levels < 4:
        return float(terms.values[0])
    factors = np.maximum([*terms.contrast_structure[0, :-1], terms.coarsest[0]], 0.0)
    return float(np.prod(factors ** np.asarray(WEIGHTS[1:])))
