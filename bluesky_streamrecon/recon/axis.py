"""Where the rotation axis meets the detector, found from projections in any order.

A projection turned by 180 degrees is its own mirror image about the axis, so views taken over [0, 180) stand for
the whole circle once the axis is known. Of an object that fits into the detector's width, a low spatial frequency
changes with the angle only slowly: at frequency w (radians per pixel) the angular harmonics above w times the
object's radius vanish. Views that are mirrored about a wrong axis break this. We count, at the lowest
frequencies, what no permitted harmonic explains, and take the axis for which that is least. Nothing is assumed about
the order or spacing of the angles, no pair at 180 degrees is needed, and about 16 views spread over the half turn
suffice. Where the sample reaches out of view (its shadow varies at the ends of the detector), the harmonics do not
vanish, and the axis may be pixels away from where it seems to be, however little noise there is: no such axis is
certain, unless `opposite` views say where it is.

What a rank contributes is a sum over rows of a few numbers per frequency, so ranks agree by adding them up, and the
result does not depend on how many ranks there are. Angles are radians, lengths detector pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_streamrecon.errors import DataError, GeometryError
from bluesky_streamrecon.recon.field_of_view import ENDS, ends_of, reaching_out
from bluesky_streamrecon.recon.opposite import LEAST_PAIRS, locate_by_opposite, opposite_evidence, opposite_pairs

__all__ = [
    "AxisEstimate",
    "AxisFinder",
    "axis_checkpoint",
    "axis_rows",
    "find_axis",
    "locate_axis",
]

FREQUENCIES = 32
"""Lowest frequencies that are looked at; they carry nearly all that is known about the axis."""

_PADDING = 2
_SPARE_HARMONICS = 3
_MOST_ROWS = 128
_GRID_STEP = 0.05
_RIVAL_DISTANCE = 3.0
_ENOUGH_UNCERTAINTY = 0.25
_ENOUGH_SEPARATION = 10.0


@dataclass(frozen=True, slots=True)
class AxisEstimate:
    """A rotation axis and how much to trust it.

    Parameters
    ----------
    axis : float
        Detector column, sub-pixel.
    uncertainty : float
        Standard error from the noise that the fit leaves, pixels; infinite when nothing could be fitted.
    separation : float
        How much worse the best other axis (more than 3 pixels away) explains the data, in standard deviations of
        the noise that the fit leaves.
    projections : int
        Projections that were used.
    reaches_out : str, optional
        Where the sample reaches out of view, in words; empty where it fits.
    by_opposite : bool, optional
        It was found from opposite views, which need not see all of the sample.
    """

    axis: float
    uncertainty: float
    separation: float
    projections: int
    reaches_out: str = ""
    by_opposite: bool = False

    @property
    def confident(self) -> bool:
        """Whether the axis is known to a quarter of a pixel, nothing else explains the data, and they could tell."""
        sees_all = self.by_opposite or not self.reaches_out
        return sees_all and self.uncertainty <= _ENOUGH_UNCERTAINTY and self.separation >= _ENOUGH_SEPARATION

    @property
    def doubt(self) -> str:
        """Why the axis is not to be trusted, and what to do; empty if it is."""
        if self.confident:
            return ""
        why = f" ({self.reaches_out})" if self.reaches_out else ""
        return f"rotation axis: {self}{why}; give axis= in detector columns"

    def notice(self, columns: int, size: int) -> str:
        """Return what is wrong with an image of `size` pixels although the axis is known; empty if nothing is."""
        if not (self.confident and self.reaches_out):
            return ""
        needed = 2 * math.ceil(max(self.axis, columns - 1 - self.axis)) + 1
        if size >= needed and " and " not in self.reaches_out:
            return ""
        text = f"field of view: {self.reaches_out}; the image ends in it, and its values are not to be relied on"
        return text if size >= needed else f"{text}; size={needed} shows all that is seen"

    def __str__(self) -> str:
        trust = "" if self.confident else ", not certain"
        return f"column {self.axis:.2f} ± {self.uncertainty:.2g} from {self.projections} projections{trust}"


def axis_checkpoint(projections: int, planned: int) -> bool:
    """Return whether the axis is looked for when so many projections have arrived.

    The numbers are fixed, so that the same projections give the same axis whatever the timing.

    Parameters
    ----------
    projections : int
        Projections that have arrived.
    planned : int
        Projections that the scan will take at most.

    Examples
    --------
    >>> [n for n in range(181) if axis_checkpoint(n, 180)]
    [16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 180]
    >>> [n for n in range(20) if axis_checkpoint(n, 20)]
    [10, 16]
    """
    if projections == planned:
        return True
    if planned < 32 and projections == max(8, planned // 2):
        return True
    if projections < 16:
        return False
    stride = 8 if projections <= 64 else 16 * 2 ** max(0, int(math.log2(projections / 128)))
    return projections % stride == 0


def axis_rows(detector_rows: int) -> range:
    """Return the detector rows that are looked at: all, or 128 evenly spread ones of a tall detector.

    Examples
    --------
    >>> axis_rows(4), axis_rows(1000)
    (range(0, 4), range(4, 1000, 8))
    """
    stride = -(-detector_rows // _MOST_ROWS)
    return range(stride // 2, detector_rows, stride)


class AxisFinder:
    """Find the rotation axis from the rows of one rank, or of several together.

    Parameters
    ----------
    rows : int
        Rows of this rank that are looked at, R; may be 0.
    columns : int
        Detector columns C, at least 8.

    Notes
    -----
    Kept per projection: itself, not copied, and 32 complex numbers per row.
    """

    def __init__(self, rows: int, columns: int) -> None:
        if columns < 8:
            raise GeometryError(f"rotation axis: got {columns} detector columns, expected at least 8; give the axis")
        self._shape = (rows, columns)
        self._omega = _frequencies(columns)
        # Differences between neighbours, without the step from the field's edge to nothing: a sample or a background
        # that reaches over the edge then does less harm. Dividing by their response gives the projection's spectrum.
        middle = np.arange(columns - 1) + 0.5
        response = 2j * np.sin(self._omega / 2)
        self._transform = np.exp(-1j * np.outer(middle, self._omega)) / response
        self._angles: list[float] = []
        self._views: list[NDArray[np.float32] | None] = []
        self._spectra: list[NDArray[np.complex128]] = []
        self._ends = np.zeros(FREQUENCIES)  # sums over rows and views, see `ends_of`

    @property
    def projections(self) -> int:
        """Projections added."""
        return len(self._angles)

    def add(self, projection: NDArray[np.float32] | None, angle: float) -> None:
        """Add a view.

        Parameters
        ----------
        projection : ndarray of float32, shape (R, C), or None
            Line integrals of the rows that are looked at; a row with NaN counts as not measured. None: it was lost.
        angle : float
            Radians.
        """
        if projection is not None and projection.shape != self._shape:
            raise GeometryError(
                f"rotation axis: got a projection of shape {projection.shape}, expected {self._shape} (rows, columns)"
            )
        self._angles.append(float(angle))
        self._views.append(projection)
        if projection is None:
            self._spectra.append(np.full((self._shape[0], FREQUENCIES), np.nan, np.complex128))
            return
        differences = np.diff(projection.astype(np.float64), axis=1)
        self._spectra.append(differences @ self._transform.real + 1j * (differences @ self._transform.imag))
        self._ends[:ENDS] += ends_of(projection[np.isfinite(projection).all(axis=1)].astype(np.float64))

    def locate(self, add_up: Callable[[NDArray[np.float64]], object] = lambda _: None) -> AxisEstimate:
        """Find the axis from all views so far, where the sample reaches out of view in opposite ones.

        Parameters
        ----------
        add_up : callable, optional
            Adds evidence up over all ranks, in place; they call it alike.
        """
        rows, columns = self._shape
        evidence = self.evidence()
        add_up(evidence)
        estimate = locate_axis(evidence, columns, self.projections)
        pairs = opposite_pairs(self._angles) if estimate.reaches_out else []
        if len(pairs) < LEAST_PAIRS:
            return estimate
        evidence = opposite_evidence(self._views, pairs, rows, columns)
        add_up(evidence)
        found = locate_by_opposite(evidence, columns)
        if found is None:
            return estimate
        return AxisEstimate(*found, estimate.projections, estimate.reaches_out, by_opposite=True)

    def evidence(self) -> NDArray[np.float64]:
        """Return what may be added up over ranks and handed to `locate_axis`.

        Returns
        -------
        ndarray of float64, shape (5, 32)
            Per frequency: the part of the misfit that is the same for every axis, the part that turns with the axis
            (real, imaginary), and the number of independent values that the misfit is a sum over. The last row begins
            with what is seen at the ends of the detector.
        """
        found = np.zeros((5, FREQUENCIES))
        if not self._angles or not self._shape[0]:
            return found
        found[4] = self._ends
        angles = np.asarray(self._angles)
        spectra = np.stack(self._spectra)
        # Rows may have missed some views; those that have the same ones are taken together.
        seen = np.isfinite(spectra[:, :, 0].real)
        for pattern in np.unique(seen, axis=1).T:
            rows = (seen == pattern[:, None]).all(axis=0)
            found[:4] += _misfit(spectra[pattern][:, rows], angles[pattern], self._omega, self._shape[1] / 2)
        return found


def _misfit(
    spectra: NDArray[np.complex128], angles: NDArray[np.float64], frequencies: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """Return the evidence of rows that have all these views.

    Parameters
    ----------
    spectra : ndarray of complex128, shape (A, R, 32)
        Of each view and row.
    angles : ndarray of float64, shape (A,)
        Radians.
    frequencies : ndarray of float64, shape (32,)
        Radians per pixel.
    radius : float
        Of the object at most, pixels.

    Returns
    -------
    ndarray of float64, shape (4, 32)
    """
    found = np.zeros((4, len(frequencies)))
    views = len(angles)
    for m, omega in enumerate(frequencies):
        reach = math.ceil(omega * radius) + _SPARE_HARMONICS
        if 2 * reach + 1 >= 2 * views - 2:
            break
        # Seen from the opposite side the value is the conjugate one. So about the true axis, of e = exp(i w axis)
        # times the spectrum the real part has even harmonics only, and the imaginary part odd ones.
        even, odd = _harmonics(angles, range(0, reach + 1, 2)), _harmonics(angles, range(1, reach + 1, 2))
        seen = spectra[:, :, m]
        in_even, in_odd = even.T @ seen, odd.T @ seen
        found[0, m] = 2 * np.vdot(seen, seen).real - np.vdot(in_even, in_even).real - np.vdot(in_odd, in_odd).real
        turning = np.conj((in_odd**2).sum() - (in_even**2).sum())
        found[1:3, m] = turning.real, turning.imag
        found[3, m] = (2 * views - 2 * reach - 1) * seen.shape[1]
    return found


def _harmonics(angles: NDArray[np.float64], orders: range) -> NDArray[np.float64]:
    """Return an orthonormal basis of what harmonics of these orders can be at these angles."""
    turns = np.outer(angles, np.asarray(orders, dtype=np.float64))
    basis = np.hstack([np.cos(turns), np.sin(turns[:, 1:] if orders.start == 0 else turns)])
    return np.linalg.qr(basis)[0]


def locate_axis(evidence: NDArray[np.float64], columns: int, projections: int) -> AxisEstimate:
    """Find the axis that explains the evidence of all rows best.

    Parameters
    ----------
    evidence : ndarray of float64, shape (5, 32)
        Sum over rows of what `AxisFinder.evidence` returns.
    columns : int
        Detector columns C.
    projections : int
        Views that it comes from; only reported.

    Returns
    -------
    AxisEstimate
        The middle of the detector with infinite uncertainty when there are too few views.
    """
    constant, real, imaginary, freedom, ends = evidence
    reaches_out = reaching_out(ends)
    used = freedom > 0
    middle = (columns - 1) / 2
    if not used.any() or not constant.any():
        return AxisEstimate(middle, math.inf, 0.0, projections, reaches_out)
    omega = _frequencies(columns)[used]
    turning = (real + 1j * imaginary)[used]
    total = float(constant.sum())

    grid = np.arange(0.0, columns - 1 + _GRID_STEP / 2, _GRID_STEP)
    misfit = total + (turning[:, None] * np.exp(-2j * omega[:, None] * grid)).real.sum(axis=0)
    best = int(misfit.argmin())
    axis = float(grid[best])
    for _ in range(4):
        wave = turning * np.exp(-2j * omega * axis)
        slope = float((2 * omega * wave.imag).sum())
        curvature = float(-(4 * omega**2 * wave.real).sum())
        if curvature <= 0:
            break
        axis = min(max(axis - slope / curvature, grid[best] - _GRID_STEP), grid[best] + _GRID_STEP)
    wave = turning * np.exp(-2j * omega * axis)
    curvature = float(-(4 * omega**2 * wave.real).sum())
    # Rounding leaves a misfit of about 1e-12 of the total even where data are perfect.
    least = max(total + float(wave.real.sum()), 1e-12 * total)
    variance = least / float(freedom.sum())
    uncertainty = math.sqrt(2 * variance / curvature) if curvature > 0 else math.inf

    inner = misfit[1:-1]
    valleys = np.flatnonzero((inner < misfit[:-2]) & (inner <= misfit[2:])) + 1
    rivals = valleys[np.abs(grid[valleys] - axis) > _RIVAL_DISTANCE]
    rival = float(misfit[rivals].min()) if rivals.size else float(misfit.max())
    # A thousandth of a pixel is far below what matters, and hides in which order ranks were added up.
    separation = math.sqrt(max(rival - least, 0.0) / variance)
    return AxisEstimate(round(axis, 3), uncertainty, separation, projections, reaches_out)


def find_axis(projections: ArrayLike, angles: ArrayLike) -> AxisEstimate:
    """Find the rotation axis of a whole set of projections.

    Parameters
    ----------
    projections : array_like, shape (A, rows, C)
        Line integrals, in any order of angles.
    angles : array_like, shape (A,)
        Radians.

    Returns
    -------
    AxisEstimate
        Where the axis is; see `AxisEstimate.confident`.

    Raises
    ------
    DataError
        If the numbers of projections and angles differ.
    GeometryError
        If the detector has fewer than 8 columns.
    """
    stack = np.asarray(projections, dtype=np.float32)
    turns = np.asarray(angles, dtype=np.float64)
    if stack.ndim != 3 or turns.shape != stack.shape[:1]:
        raise DataError(
            f"rotation axis: got projections of shape {stack.shape} and angles of shape {turns.shape}, expected "
            "(A, rows, columns) and (A,)"
        )
    rows = axis_rows(stack.shape[1])
    finder = AxisFinder(len(rows), stack.shape[2])
    for projection, angle in zip(stack[:, rows.start :: rows.step], turns, strict=True):
        finder.add(projection, float(angle))
    return finder.locate()


def _frequencies(columns: int) -> NDArray[np.float64]:
    """Return the frequencies that are looked at, radians per pixel, shape (32,)."""
    lowest = 2 * math.pi / (_PADDING * columns)
    return lowest * np.arange(1, FREQUENCIES + 1, dtype=np.float64)
