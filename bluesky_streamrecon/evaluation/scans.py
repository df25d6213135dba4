"""Scans to evaluate on, as line integrals with angles, and the truth where it is known. No devices, no processes.

Simulated samples are projected in closed form, so that what a reconstruction is judged against was made by no projector
of ours. A measured scan is prepared as the job prepares it. Lengths are detector pixels, angles radians, noise photons
per pixel of the open beam.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.data_keys import FrameLayout
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.geometry import FULL_TURN, TomoGeometry, image_size
from bluesky_streamrecon.ordering import AngleOrder, places_in_order
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.quality import deepest_pyramid, ms_ssim
from bluesky_streamrecon.quality.trials import disc, display_range, in_view, view_width
from bluesky_streamrecon.reduction import Reduction, binned
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.sim_devices import Sample
from bluesky_streamrecon.storage import TomoScan, read_scan

__all__ = [
    "LineScan",
    "ScanStack",
    "Truth",
    "centred",
    "measured_scan",
    "prepared",
    "simulated_scan",
]

FILL = 0.94
"""Share of the detector's width that a simulated sample fills."""

LEAST_COUNT = 0.5
"""Photons that a pixel which saw none is taken to have seen, before the logarithm."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The image that others are compared with; its range of values is the unit of both measures.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, N, N)
        Attenuation, 1/pixel.
    value_range : float
        Attenuation between its darkest and brightest parts, 1/pixel.
    width : int
        Width of the view, pixels: what is beyond does not count.
    """

    image: NDArray[np.float32]
    value_range: float
    width: int

    @classmethod
    def known(cls, image: NDArray[np.float32], width: int) -> Truth:
        """Return a truth that is a sample's own image, which has no noise."""
        shown = in_view(image, width)
        seen = shown if image.shape[-1] <= width else shown[:, disc(width)]
        return cls(image, float(seen.max() - seen.min()), width)

    @classmethod
    def measured(cls, image: NDArray[np.float32], width: int) -> Truth:
        """Return a truth that is the best image that there is, which has some noise."""
        return cls(image, max(display_range(piece, width) for piece in image), width)

    def similarity(self, image: NDArray[np.float32]) -> float:
        """Compute MS-SSIM, mean over slices; images below 176 pixels have a pyramid of fewer levels."""
        truth = in_view(self.image, self.width)
        levels = deepest_pyramid(truth.shape)
        found = in_view(image, self.width)
        return ms_ssim(found, truth, scales=levels, levels=levels, data_range=self.value_range)

    def rmse(self, image: NDArray[np.float32]) -> float:
        """Compute the root mean square difference, as a fraction of the truth's range."""
        difference = in_view(image, self.width).astype(np.float64) - in_view(self.image, self.width)
        return float(np.sqrt(np.mean(difference**2))) / self.value_range


@dataclass(frozen=True, slots=True, eq=False)
class LineScan:
    """A scan, in the order in which it was taken.

    Parameters
    ----------
    name : str
        Of the sample.
    angles : ndarray of float64, shape (n,)
        Radians.
    integrals : ndarray of float32, shape (n, rows, C)
        Line integrals, unitless; noise may make them negative.
    axis : float
        Detector column of the rotation axis.
    truth : Truth, optional
        Of the sample.
    noise : float, optional
        Photons per pixel; None: none, or as measured.
    seed : int, optional
        Of sample and noise; None: as measured.
    doubt : str
        Why the axis may be wrong; empty if there is no reason.
    problems : tuple of str
        Problems that preparation and axis finder report, a line each; the doubt among them.
    size : int
        Side of the image, pixels; 0: C.
    span : (float, float)
        Angles that the scan is going to visit, degrees.
    disc : bool
        Live images show only the disc that every projection sees.
    """

    name: str
    angles: NDArray[np.float64]
    integrals: NDArray[np.float32]
    axis: float
    truth: Truth | None = None
    noise: float | None = None
    seed: int | None = None
    doubt: str = ""
    problems: tuple[str, ...] = ()
    size: int = 0
    span: tuple[float, float] = (0.0, 180.0)
    disc: bool = True

    def __len__(self) -> int:
        return len(self.angles)

    @property
    def rows(self) -> int:
        """Detector rows."""
        return int(self.integrals.shape[1])

    @property
    def columns(self) -> int:
        """Detector columns."""
        return int(self.integrals.shape[2])

    @property
    def known(self) -> Truth:
        """The truth, of a scan that has one."""
        assert self.truth is not None  # noqa: S101 - simulated scans have one, others are given one
        return self.truth

    @property
    def over(self) -> AngularRange:
        """Angles that the scan is going to visit, as they count for its axis."""
        return AngularRange(*np.radians(self.span).tolist()).around(self.axis, self.columns)

    @property
    def geometry(self) -> TomoGeometry:
        """Detector, axis and image."""
        return TomoGeometry(self.columns, self.axis, self.size, self.disc)

    def compare(self, projections: int, image: NDArray[np.float32]) -> dict[str, Any]:
        """Return how like the truth an image from so many projections is, as a row of a study."""
        truth = self.known
        return {
            "sample": self.name,
            "noise": self.noise,
            "projections": projections,
            "ms_ssim": truth.similarity(image),
            "rmse": truth.rmse(image),
        }

    def first(self, count: int) -> LineScan:
        """Return the scan as it was after `count` projections."""
        return replace(self, angles=self.angles[:count], integrals=self.integrals[:count])

    def in_order(self, order: Iterable[int]) -> LineScan:
        """Return the same projections, taken in another order."""
        chosen = np.fromiter(order, np.intp)
        return replace(self, angles=self.angles[chosen], integrals=self.integrals[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class ScanStack:
    """Scans that were taken alike, and all of them as the rows of one, which is reconstructed much faster."""

    scans: tuple[LineScan, ...]
    whole: LineScan

    @classmethod
    def of(cls, scans: Sequence[LineScan]) -> ScanStack:
        """Stack scans of the same angles, width and axis."""
        together = np.concatenate([scan.integrals for scan in scans], axis=1)
        return cls(tuple(scans), replace(scans[0], integrals=together, truth=None))

    def compare(self, projections: int, image: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Return a row for each scan, from an image of all rows; see `LineScan.compare`."""
        return [scan.compare(projections, part) for scan, part in zip(self.scans, self.parts(image), strict=True)]

    def parts(self, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the rows of each scan, of an image of all rows."""
        rows = np.cumsum([0] + [scan.rows for scan in self.scans]).tolist()
        return [image[first:stop] for first, stop in pairwise(rows)]


@lru_cache(maxsize=8)
def _clean(
    sample: Hashable, rows: int, radius: float, size: int, columns: int, axis: float, order: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return line integrals without noise, and the image; cases of several photons share them."""
    body = cast("Sample", sample).body(rows, radius)
    lines = np.stack([body.projection(angle, columns, axis) for angle in np.radians(order).tolist()])
    return lines, body.image(size)


def simulated_scan(
    name: str,
    sample: Sample,
    *,
    columns: int,
    order: AngleOrder,
    counts: float | None = 1e4,
    seed: int = 0,
    rows: int = 1,
    fill: float = FILL,
    axis: float | None = None,
    rings: float = 0.0,
    zingers: float = 0.0,
    fringes: float = 0.0,
    preparation: Sequence[str | Mapping[str, Any]] = (),
) -> LineScan:
    """Compute the scan of a sample.

    Parameters
    ----------
    name : str
        Name of the scan.
    sample : Sample
        The sample.
    columns : int
        Detector columns C.
    order : AngleOrder
        Degrees.
    counts : float or None, optional
        Photons per pixel in the open beam; None: no noise.
    seed : int, optional
        Of the noise.
    rows : int, optional
        Detector rows.
    fill : float, optional
        Width of the sample over that of the view; above 1 the scan is an interior one, and its image has a margin.
    axis : float, optional
        Detector column of the rotation axis; near an edge, in a scan over 360 degrees, it is half acquisition. The
        middle by default.
    rings : float, optional
        Relative spread of the pixels' gains that flats do not show.
    zingers : float, optional
        Share of pixels that are three times too bright, in single frames.
    fringes : float, optional
        Phase contrast: distance times delta over mu, squared pixels, see the step `paganin`.
    preparation : sequence of str or mapping, optional
        As in the settings.
    """
    axis = (columns - 1) / 2 if axis is None else axis
    span = (order.start, order.stop)
    over = AngularRange(*np.radians(span).tolist()).around(axis, columns)
    width = view_width(columns, axis, over)
    full_turn = over.turn > np.pi
    size = image_size(columns, axis, full_turn=full_turn, edges=2 if fill > 1 else int(full_turn))
    clean, truth = _clean(cast("Hashable", sample), rows, fill * width / 2, size, columns, axis, tuple(order.angles))
    integrals = clean
    if counts is not None:
        random = np.random.default_rng(seed)
        light = np.exp(-clean.astype(np.float64))
        if fringes:
            beside = np.pad(light, ((0, 0), (0, 0), (1, 1)), mode="edge")
            light = light - fringes * np.diff(beside, 2, axis=2)
        gains = np.maximum(1 + rings * random.standard_normal((rows, columns)), 0) if rings else 1.0
        photons = random.poisson(counts * gains * np.maximum(light, 0)).astype(np.float64)
        if zingers:
            photons[random.random(photons.shape) < zingers] += 2 * counts
        integrals = -np.log(np.maximum(photons, LEAST_COUNT) / counts).astype(np.float32)
    angles = np.radians(np.asarray(order.angles, np.float64))
    if preparation:
        from bluesky_streamrecon.recon.steps import Pipeline

        steps = Pipeline(preparation, rows, columns)
        views = zip(integrals, angles.tolist(), strict=True)
        integrals = np.stack([steps.second_part(steps.first_part(view.copy(), angle), angle) for view, angle in views])
    lines = integrals.astype(np.float32, copy=False)
    known = Truth.known(truth, width)
    return LineScan(name, angles, lines, axis, known, noise=counts, seed=seed, size=size, span=span)


def measured_scan(path: Path, *, order: str = "optimized-interleaved") -> LineScan:
    """Read a recorded scan, prepare it, and put it into the order in which it might have been taken.

    The detector is cropped so that the axis is in its middle.

    Raises
    ------
    StorageError, DataError
        If the file can not be used.
    """
    scan = prepared(read_scan(path).frames, Path(path).stem)
    return centred(scan.in_order(places_in_order(order, scan.angles)))


def prepared(
    raw: TomoScan, name: str, recon: ReconSettings | None = None, rows: Sequence[int] | None = None
) -> LineScan:
    """Make line integrals of a scan's frames as a job does, and find the axis unless the settings have it.

    Parameters
    ----------
    raw : TomoScan
        Frames.
    name : str
        What messages call it.
    recon : ReconSettings, optional
        How frames are reduced and prepared.
    rows : sequence of int, optional
        Rows of the reduced frames, each prepared with those around it that the steps look at; all by default.

    Raises
    ------
    DataError
        If there are no flats, or no light at all, or no readings of the monitor.
    ConfigError
        If the settings do not go with the frames.
    """
    from bluesky_streamrecon.recon.axis import find_axis
    from bluesky_streamrecon.recon.field_of_view import field_of_view, reaches_out
    from bluesky_streamrecon.recon.preparation import Preparation
    from bluesky_streamrecon.recon.steps import Pipeline, halo_rows
    from bluesky_streamrecon.recon.tilt import row_shifts

    recon = recon or ReconSettings()
    reduction = Reduction.wanted(FrameLayout(1, *raw.projections.shape[1:]), recon)
    height, columns = reduction.shape
    halo = halo_rows(recon.preparation, recon.bin)
    windows, steps = [], []
    blocks = [range(height)] if rows is None else [range(row, row + 1) for row in rows]
    for own in blocks:
        first, stop = window = max(own.start - halo, 0), min(own.stop + halo, height)
        windows.append(window)
        beyond = own.start - first, stop - own.stop
        block, tilt = RowBlock(own.start, own.stop, 0, 0, 1), recon.axis_tilt
        shifts = row_shifts(block, height, tilt) if tilt else None
        steps.append(Pipeline(recon.preparation, len(own), columns, beyond=beyond, side=recon.bin, shifts=shifts))
    *edges, together = np.cumsum([stop - first for first, stop in windows]).tolist()
    darks, flats, projections = (
        np.concatenate([binned(np.asarray(each[:, reduction.rows_of(*window)]), recon.bin) for window in windows], 1)
        for each in (raw.darks, raw.flats, raw.projections)
    )
    counts = Preparation(together, columns, values=recon.pixel_values, saturation=raw.saturation, name=name)
    for frame in darks:
        counts.add_reference("dark", frame)
    readings, with_flats = np.ones(len(projections)), np.ones(len(flats))
    if recon.monitor is not None:
        if raw.monitor is None or raw.flat_monitor is None:
            raise DataError(
                f"{name}: got no readings of the monitor {recon.monitor!r}, expected one per projection and flat"
            )
        readings, with_flats = (np.where(each > 0, each, np.nan) for each in (raw.monitor, raw.flat_monitor))
    for frame, reading in zip(flats, with_flats.tolist(), strict=True):
        if np.isfinite(reading):
            counts.add_reference("flat", frame, monitor=reading)
    if not counts.ready:
        raise DataError(f"{name}: got no flat field, expected at least one; line integrals can not be made")
    integrals = []
    for frame, angle, reading in zip(projections, raw.angles.tolist(), readings.tolist(), strict=True):
        parts: list[Any] = [None] * len(steps)
        if np.isfinite(reading):
            parts = np.split(counts.prepare(frame, reading), edges)
            parts = [each.first_part(part, angle) for each, part in zip(steps, parts, strict=True)]
        lines = [each.second_part(part, angle) for each, part in zip(steps, parts, strict=True)]
        integrals.append(np.concatenate(lines))
    counts.conclude()
    problems = counts.warnings
    full_turn = float(np.ptp(raw.angles_deg)) * (1 + 1 / max(len(raw.angles_deg) - 1, 1)) >= FULL_TURN
    lines_of_all = np.stack(integrals)
    sides = reaches_out(lines_of_all)
    axis, doubt = recon.axis, ""
    if axis is None:
        found = find_axis(lines_of_all, raw.angles)
        axis, doubt = found.axis, found.doubt
        problems += [text for text in (doubt, found.disagreement) if text]
    geometry = TomoGeometry(columns, axis, image_size(columns, axis, full_turn=full_turn, edges=len(sides)))
    problems += filter(None, [field_of_view(geometry, sides, full_turn=full_turn)])
    return LineScan(name, raw.angles, lines_of_all, axis, doubt=doubt, problems=tuple(problems), size=geometry.size)


def centred(scan: LineScan) -> LineScan:
    """Crop the detector so that the axis is in its middle, to within half a pixel.

    A detector that would no longer see all of the sample is left as it is.
    """
    from bluesky_streamrecon.recon.field_of_view import reaches_out

    columns = scan.integrals.shape[2]
    half = min(scan.axis, columns - 1 - scan.axis)
    first = max(0, round(scan.axis - half))
    width = min(columns - first, 2 * int(half) + 2)
    cropped = np.ascontiguousarray(scan.integrals[:, :, first : first + width])
    if width < columns and reaches_out(cropped):
        return scan
    return replace(scan, integrals=cropped, axis=scan.axis - first, size=0)
