"""Where the rotation axis meets the detector, found from projections in any order.

A projection turned by 180 degrees is its own mirror image about the axis, so views taken over [0, 180) stand for
the whole circle once the axis is known. Of an object that fits into the detector's width, a low spatial frequency
changes with the angle only slowly: at frequency w (radians per pixel) the angular harmonics above w times the
object's radius vanish. Views that are mirrored about a wrong axis break this. We count, at the lowest
frequencies, what no permitted harmonic explains, and take the axis for which that is least. Nothing is assumed about
the order or spacing of the angles, no pair at 180 degrees is needed, and about 16 views spread over the half turn
suffice. Where the sample reaches out of view (its shadow varies at the ends of the detector), the harmonics do not
vanish, and the axis may be pixels away from where it seems to be, however little noise there is. There `opposite` views
say where the axis is: many of them, as in a full turn; or in a half turn the two at its ends, if the `double_wedge` of
the sinogram agrees with them. Where a second method can tell, what it finds is kept beside the first one's.

What a rank contributes is a sum over rows of a few numbers per frequency, so ranks agree by adding them up, and the
result does not depend on how many ranks there are. Angles are radians, lengths detector pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bluesky_streamrecon.coverage import largest_gap
from bluesky_streamrecon.errors import DataError, GeometryError
from bluesky_streamrecon.recon.axis_estimate import AGREE, EDGES, HARMONICS, OPPOSITE, WEDGE, AxisEstimate
from bluesky_streamrecon.recon.double_wedge import even_views, locate_by_wedge, wedge_evidence
from bluesky_streamrecon.recon.field_of_view import ENDS, ends_of, reaching_out
from bluesky_streamrecon.recon.opposite import LEAST_PAIRS, locate_by_opposite, opposite_evidence, opposite_pairs

__all__ = [
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
_MOVES, _TURNS = 2.5, math.radians(1.05)
"""A pair by which an axis is certain: the sample turns so little between them that what is seen at the detector's edge
moves by so many pixels, or by such an angle."""
_EDGE = 4  # columns between two values whose difference is an edge

AddUp = Callable[[NDArray[np.float64]], object]
"""Adds evidence up over all ranks, in place; they call it alike."""


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
    upper : int, optional
        Of the rows, those that are in the upper half of the detector; they come first.

    Notes
    -----
    Kept per projection: itself, not copied, and 32 complex numbers per row.
    """

    def __init__(self, rows: int, columns: int, upper: int = 0) -> None:
        if columns < 8:
            raise GeometryError(f"rotation axis: got {columns} detector columns, expected at least 8; give the axis")
        self._shape = (rows, columns)
        self._upper = upper
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

    def locate(self, add_up: AddUp = lambda _: None) -> AxisEstimate:
        """Find the axis from all views so far, where the sample reaches out of view in opposite ones.

        Parameters
        ----------
        add_up : callable, optional
            Adds evidence up over all ranks, in place; they call it alike.
        """
        evidence = self.evidence()
        add_up(evidence)
        gap = largest_gap(self._angles) or 0.0
        estimate = replace(locate_axis(evidence, self._shape[1], self.projections), gap=gap)
        wedge = self.by_wedge(add_up)
        other = None if wedge is None else (WEDGE, wedge)
        if not estimate.sides:
            return replace(estimate, other=other)
        pairs = opposite_pairs(self._angles)
        found = self._by_opposite(pairs, add_up)
        if found is None:
            if wedge is None:
                return estimate
            return replace(estimate, axis=wedge, method=WEDGE, other=(HARMONICS, estimate.axis))
        many = len(pairs) >= LEAST_PAIRS
        if many:  # the wedge of a half turn is misled where most of the sample is out of view, as in half acquisition
            edges = self._by_opposite(pairs, add_up, edges=True)
            other = None if edges is None else (EDGES, edges[0])
        agree = wedge is not None and abs(wedge - found[0]) <= AGREE
        sees_enough = many or (agree and self._turned_between(pairs[0]) <= max(2 * _MOVES / self._shape[1], _TURNS))
        return AxisEstimate(*found, self.projections, estimate.sides, OPPOSITE, sees_enough, other)

    def _turned_between(self, pair: tuple[int, int]) -> float:
        """Return the angle by which a pair of views is not opposite, radians."""
        one, other = (self._angles[place] for place in pair)
        return abs((one - other) % (2 * math.pi) - math.pi)

    def of_halves(self, add_up: AddUp = lambda _: None) -> tuple[AxisEstimate, AxisEstimate]:
        """Find the axis from the rows in the upper and in the lower half of the detector, each by itself."""
        pairs = opposite_pairs(self._angles)
        estimates = []
        for rows in (slice(0, self._upper), slice(self._upper, None)):
            evidence = self.evidence(rows)
            add_up(evidence)
            estimate = locate_axis(evidence, self._shape[1], self.projections)
            if estimate.sides and len(pairs) >= LEAST_PAIRS:
                found = self._by_opposite(pairs, add_up, rows=rows)
                if found is not None:
                    estimate = AxisEstimate(*found, self.projections, estimate.sides, OPPOSITE, sees_enough=True)
            estimates.append(estimate)
        return estimates[0], estimates[1]

    def by_wedge(self, add_up: AddUp = lambda _: None) -> float | None:
        """Return the axis by the double wedge of the sinogram; None where that does not tell."""
        chosen = even_views(self._angles)
        if not chosen.size:
            return None
        views = [self._views[place] for place in chosen]
        evidence = wedge_evidence(views, np.asarray(self._angles)[chosen], *self._shape)
        add_up(evidence)
        return locate_by_wedge(evidence, self._shape[1])

    def _by_opposite(
        self, pairs: list[tuple[int, int]], add_up: AddUp, *, edges: bool = False, rows: slice = slice(None)
    ) -> tuple[float, float, float] | None:
        """Return axis, uncertainty and separation by opposite views, or by differences along the detector in them."""
        if not pairs:
            return None
        count, columns = len(range(self._shape[0])[rows]), self._shape[1]
        used, shorter = {place for pair in pairs for place in pair}, _EDGE if edges else 0
        views: list[NDArray[np.float32] | None] = [None] * self.projections
        for place in used:
            if (view := self._views[place]) is not None:
                lines = view[rows]
                views[place] = lines[:, _EDGE:] - lines[:, :-_EDGE] if edges else lines
        columns -= shorter
        evidence = opposite_evidence(views, pairs, count, columns)
        if edges:
            evidence[0] *= -1  # a mirrored view's differences have the other sign
        add_up(evidence)
        found = locate_by_opposite(evidence, columns)
        return None if found is None else (found[0] + shorter / 2, *found[1:])

    def evidence(self, rows: slice = slice(None)) -> NDArray[np.float64]:
        """Return what may be added up over ranks and handed to `locate_axis`.

        Parameters
        ----------
        rows : slice, optional
            Of the rows, those that count.

        Returns
        -------
        ndarray of float64, shape (5, 32)
            Per frequency: the part of the misfit that is the same for every axis, the part that turns with the axis
            (real, imaginary), and the number of independent values that the misfit is a sum over. The last row begins
            with what is seen at the ends of the detector.
        """
        found = np.zeros((5, FREQUENCIES))
        found[4] = self._ends
        if not self._angles or not range(self._shape[0])[rows]:
            return found
        angles = np.asarray(self._angles)
        spectra = np.stack(self._spectra)[:, rows]
        # Rows may have missed some views; those that have the same ones are taken together.
        seen = np.isfinite(spectra[:, :, 0].real)
        for pattern in np.unique(seen, axis=1).T:
            alike = (seen == pattern[:, None]).all(axis=0)
            found[:4] += _misfit(spectra[pattern][:, alike], angles[pattern], self._omega, self._shape[1] / 2)
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
    sides = reaching_out(ends)
    used = freedom > 0
    middle = (columns - 1) / 2
    if not used.any() or not constant.any():
        return AxisEstimate(middle, math.inf, 0.0, projections, sides)
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
    return AxisEstimate(round(axis, 3), uncertainty, separation, projections, sides)


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
