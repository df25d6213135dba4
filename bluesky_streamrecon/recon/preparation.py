"""From detector counts to line integrals: dark and flat correction, -log, bad pixels. One rank's rows.

Bad values never reach the image: a pixel that measured nothing usable takes the value between its neighbours in the
row, and every such pixel is counted by kind. Counts are detector units, transmissions and line integrals unitless,
angles radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.recon.bridging import Gaps
from bluesky_streamrecon.recon.later_references import LEAST_TRANSMISSION, Changes, Kind, Reference, changes_since
from bluesky_streamrecon.recon.references import average
from bluesky_streamrecon.settings import PixelValues

__all__ = ["Preparation"]

_DEAD_GAIN = 0.02
_DARK_SHARE = 0.9
_MOST = 0.5
_DARK_TRANSMISSION = 1e-3
_LONGEST_GAP = 16

_LATER = "later_"

MANY_SATURATED = 0.01
"""Share of the projections' values that may be saturated without a warning."""


class Preparation:
    """Turn raw rows into line integrals, with the flats and darks of the same rows.

    Parameters
    ----------
    rows, columns : int
        Shape of the rank's part of a frame.
    values : {"counts", "transmission", "line-integrals"}, optional
        What the pixels of the projections stand for.
    saturation : float, optional
        Counts from which a pixel is saturated; by default where the flats' values pile up, and at the largest value of
        an integer dtype.
    name : str, optional
        Where the frames are from, as a file; messages begin with it.
    own : slice, optional
        Rows in which is counted; the others are a neighbour's, which counts there.

    Attributes
    ----------
    counts : dict of str to int
        ``flats``, ``darks``, ``later_flats`` and ``later_darks`` (came after the first projection; see `changes`),
        ``late_flats_darks`` (came so late, and are not used),
        ``dead_pixels`` (pixels without signal in the flat), and over all projections: ``not_finite_values``,
        ``not_positive_values`` (zero or negative after the dark was taken off), ``saturated_values``,
        ``dark_rows`` (rows of a projection without light) and ``dark_projections`` (all rows without light).
    warnings : list of str
        What the user should know, a line each.

    Raises
    ------
    DataError
        If `values` is not known.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        values: str = "counts",
        saturation: float | None = None,
        name: str = "",
        own: slice = slice(None),
    ) -> None:
        where = f"{name}: " if name else ""
        if values not in get_args(PixelValues):
            raise DataError(f"{where}got pixel values {values!r}, expected one of {', '.join(get_args(PixelValues))}")
        self._shape = (rows, columns)
        self._values = values
        self._saturation = saturation
        self._where = where
        self._own = own
        self._references: dict[tuple[Kind, int], Reference] = {}  # once the first are averaged, those after them
        self._monitor = 1.0  # mean reading with the first flats
        self._limits = np.full((rows, 1), np.inf)
        self._saturates: tuple[np.dtype[np.generic], NDArray[np.generic] | None] | None = None
        self._dark = np.zeros((rows, columns), np.float32)
        self._scale = np.ones((rows, columns), np.float32)
        self._set_dead(np.zeros((rows, columns), bool))
        self._frozen = False
        self._prepared = 0
        self.warnings: list[str] = []
        self.counts: dict[str, int] = dict.fromkeys(
            (
                "flats",
                "darks",
                "later_flats",
                "later_darks",
                "late_flats_darks",
                "dead_pixels",
                "not_finite_values",
                "not_positive_values",
                "saturated_values",
                "dark_rows",
                "dark_projections",
            ),
            0,
        )
        self._light = np.zeros(rows, np.float32)
        if values != "line-integrals":
            self._correct, self._minus_log = _loaded_kernels()

    @property
    def ready(self) -> bool:
        """Whether a projection can be prepared: there is a flat, or none is needed."""
        return self._frozen or self._values != "counts" or self._number("flat") > 0

    @property
    def saturated(self) -> int | None:
        """Values that were saturated so far; None where the detector does not say which value that is."""
        known = self._saturates is not None and self._saturates[1] is not None
        return self.counts["saturated_values"] if known else None

    def add_reference(
        self,
        kind: Kind,
        frame: NDArray[np.generic],
        place: tuple[int, int] | None = None,
        monitor: float = 1.0,
    ) -> None:
        """Take a flat or a dark; they are averaged, see `references`, when the first projection is prepared.

        What comes later does not change how projections are prepared, so that all are treated alike. It is kept for
        `changes` if it is known where it belongs.

        Parameters
        ----------
        kind : {"flat", "dark"}
            What it is.
        frame : ndarray, shape (rows, columns)
            As it came from the detector.
        place : (int, int), optional
            Its number among those of its kind, and how many projections came before it.
        monitor : float, optional
            What the beam's monitor has read with a flat; positive, in any unit.
        """
        self._check(frame, kind)
        if self._frozen and (self._values != "counts" or place is None):
            self.counts["late_flats_darks"] += 1
            return
        index, after = place or (self._number(kind) + 1, 0)
        self._references[kind, index] = Reference(kind, index, after, monitor, frame.copy())  # it may come again
        self.counts[f"later_{kind}s" if self._frozen else f"{kind}s"] = self._number(kind)

    def _number(self, kind: Kind) -> int:
        return sum(each == kind for each, _ in self._references)

    def prepare(self, frame: NDArray[np.generic], monitor: float = 1.0) -> NDArray[np.float32]:
        """Return the line integrals of one projection.

        Parameters
        ----------
        frame : ndarray, shape (rows, columns)
            As it came from the detector.
        monitor : float, optional
            What the beam's monitor has read with it; positive, in the unit that it has with flats.

        Returns
        -------
        ndarray of float32, shape (rows, columns)
            Finite, but for rows that got no light: these are NaN throughout, which means not measured. What is done
            to a row depends on that row alone.

        Raises
        ------
        DataError
            If there is no flat although the pixels are counts, or the shape is another.
        """
        self._check(frame, "projection")
        if not self._frozen:
            self._freeze()
        self._prepared += 1
        lines = self._line_integrals(frame)
        if monitor != self._monitor:
            lines += np.float32(math.log(monitor / self._monitor))
        return lines

    def _line_integrals(self, frame: NDArray[np.generic]) -> NDArray[np.float32]:
        values = frame.astype(np.float32, order="C")
        if self._values == "line-integrals":
            bad = ~np.isfinite(values)
            if bad.any():
                unmeasured = np.all(bad, axis=1)
                self.counts["not_finite_values"] += int(np.count_nonzero(bad[self._own]))
                self.counts["dark_projections"] += bool(unmeasured[self._own].all())
                Gaps(bad).bridge(values)
                values[unmeasured] = np.nan
            return values
        limit = self._saturates_at(frame.dtype)
        saturated = None
        if limit is not None and not (frame.max(axis=1, keepdims=True) < limit).all():
            saturated = np.greater_equal(frame, limit) & ~self._dead
        # Counts become transmissions, in place, and each row's are added up.
        unusable = self._correct(values, self._dark, self._scale, self._dead, self._light)
        if not unusable and (saturated is None or not saturated.any()):
            # A dead pixel counts 1 in the row's light.
            unlit = self._light - self._dead_number <= _DARK_TRANSMISSION * (values.shape[1] - self._dead_number)
            if not unlit.any():
                self._minus_log(values, np.float32(LEAST_TRANSMISSION))
                return self._gaps.bridge(values)
        return self._mended(values, (values > 0) & (values < np.inf), saturated)

    def _set_dead(self, dead: NDArray[np.bool_]) -> None:
        """Note which pixels never measure anything, and how they are bridged."""
        self._dead, self._dead_number, self._gaps = dead, np.count_nonzero(dead, axis=1), Gaps(dead)

    def _mended(
        self, values: NDArray[np.float32], usable: NDArray[np.bool_], saturated: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        """Find, count and replace what was not measured, and take the logarithm; `values` are transmissions."""
        live, own = ~self._dead, self._own
        finite = np.isfinite(values)
        dark = finite & live & ~usable
        self.counts["not_finite_values"] += int(np.count_nonzero((~finite & live)[own]))
        bad = ~usable | ~live
        if saturated is not None:
            self.counts["saturated_values"] += int(np.count_nonzero((saturated & live & finite)[own]))
            bad |= saturated

        measured = live & finite
        number = np.count_nonzero(measured, axis=1)
        light = np.where(measured, values, 0).sum(axis=1, dtype=np.float64)
        unlit = (light <= _DARK_TRANSMISSION * number) | (np.count_nonzero(dark, axis=1) >= _DARK_SHARE * number)
        self.counts["dark_rows"] += int(np.count_nonzero((unlit & (number > 0))[own]))
        self.counts["dark_projections"] += bool(unlit[own].all())
        self.counts["not_positive_values"] += int(np.count_nonzero(dark[own][~unlit[own]]))

        values[~usable] = LEAST_TRANSMISSION
        if np.count_nonzero(dark[~unlit]) > _LONGEST_GAP:
            # Wide shadows are real: there nothing comes through. Single pixels are the detector's fault.
            bad &= ~Gaps(dark).longer_than(_LONGEST_GAP)
        self._minus_log(values, np.float32(LEAST_TRANSMISSION))
        Gaps(bad).bridge(values)
        values[unlit] = np.nan
        return values

    def changes(self, warnings: list[str]) -> Changes:
        """Return what has changed since the flats and darks that projections are prepared with; warn of the rest."""
        later = self._references.values() if self._frozen else ()  # or they are the first
        changes = changes_since(self._dark, self._scale, self._monitor, later, self._saturation, warnings)
        for _, each in (*changes.light, *changes.dark):
            self._gaps.bridge(each)
        return changes

    def conclude(self, *, later: bool = False) -> None:
        """Add to `warnings` what is known of the whole run: no projections follow.

        Parameters
        ----------
        later : bool, optional
            Flats and darks that came after the first projection will be used.
        """
        if later:
            self.changes(self.warnings)  # while the run is still reported
        else:
            self.counts["late_flats_darks"] += self.counts["later_flats"] + self.counts["later_darks"]
        late, prepared = self.counts["late_flats_darks"], self._prepared * self._light[self._own].size * self._shape[1]
        if late:
            self.warnings.append(f"flats and darks: {late} came after the first projection, and are not used")
        if self.counts["saturated_values"] > MANY_SATURATED * max(prepared, 1):
            self.warnings.append(
                f"projections: saturated in more than {MANY_SATURATED:.0%} of their values; was the exposure too long?"
            )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return dark, inverse gain, dead pixels, saturation and later flats and darks, for `restore`."""
        arrays = {"dark": self._dark, "scale": self._scale, "dead": self._dead, "limits": self._limits}
        later = {f"{_LATER}{r.kind}_{r.index}_{r.after}_{r.monitor}": r.frame for r in self._references.values()}
        return {**arrays, **later, "monitor": np.asarray(self._monitor)}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], counts: Mapping[str, int]) -> None:
        """Go on with what `arrays` returned, and these counts; flats and darks that still come are late."""
        self._frozen = True
        self._dark, self._scale = arrays["dark"].astype(np.float32), arrays["scale"].astype(np.float32)
        self._set_dead(arrays["dead"].astype(bool))
        self._limits = arrays["limits"].astype(np.float64)
        self._monitor = float(arrays["monitor"])
        self.counts.update({name: counts[name] for name in self.counts if name in counts})
        self._references = {}
        for name in arrays:
            if name.startswith(_LATER):
                kind, index, after, monitor = name.removeprefix(_LATER).split("_")
                place = int(index), int(after)
                self.add_reference("flat" if kind == "flat" else "dark", arrays[name], place, float(monitor))

    def _freeze(self) -> None:
        """Make dark and gain of what has come."""
        self._frozen = True
        held, self._references = list(self._references.values()), {}
        flats, darks = ([each for each in held if each.kind == kind] for kind in get_args(Kind))
        if self._values != "counts":
            return
        if not flats:
            raise DataError(
                f"{self._where}got a projection and no flat field, expected at least one flat before (or pixels "
                "that are said to be transmission or line integrals); were flats taken?"
            )
        self._monitor = float(np.mean([each.monitor for each in flats]))
        means = average(
            [each.frame for each in flats],
            [each.frame for each in darks],
            self._limit(flats[0].frame.dtype),
            [each.monitor / self._monitor for each in flats],
        )
        self.warnings += means.warnings
        self._limits = means.limit
        gain = means.flat - means.dark
        # Judged row by row, so that it does not matter which rows a rank has.
        usual = np.median(np.maximum(gain, 0), axis=1, keepdims=True)
        dead = gain <= _DEAD_GAIN * usual
        dead |= np.median(gain, axis=1, keepdims=True) <= _DEAD_GAIN * np.median(means.dark, axis=1, keepdims=True)
        if np.mean(dead) > _MOST:
            self.warnings.append(
                "flats: hardly anywhere brighter than the darks, so there is no image; was the shutter closed for the "
                "flats or open for the darks, or were they swapped?"
            )
        if (Gaps(dead).longer_than(_LONGEST_GAP) & ~dead.all(axis=1, keepdims=True)).any():
            self.warnings.append(
                f"flats: no brighter than the darks in more than {_LONGEST_GAP} pixels side by side, whose values are "
                "taken from beside them, and the image is wrong there and around; does the beam fill the detector's "
                "width, and was the shutter closed for the darks?"
            )
        # Where a few pixels are saturated in the flats, their neighbours know better.
        dead |= means.saturated & ~Gaps(means.saturated).longer_than(_LONGEST_GAP)
        gain[dead] = 1.0
        self._dark = means.dark.astype(np.float32)
        self._scale = (1.0 / gain).astype(np.float32)
        self._set_dead(dead)
        self.counts["dead_pixels"] = int(np.count_nonzero(dead[self._own]))

    def _limit(self, dtype: np.dtype[np.generic]) -> float | None:
        if self._saturation is not None:
            return self._saturation
        if self._values == "counts" and np.issubdtype(dtype, np.integer):
            return float(np.iinfo(dtype).max)  # type: ignore[type-var]
        return None

    def _saturates_at(self, dtype: np.dtype[np.generic]) -> NDArray[np.generic] | None:
        """Return the counts from which pixels are saturated, shape (rows, 1), in the type of the frames."""
        if self._saturates is None or self._saturates[0] != dtype:
            known = self._limit(dtype)
            limits = np.minimum(self._limits, np.inf if known is None else known)
            if np.issubdtype(dtype, np.integer):
                most = np.iinfo(dtype).max  # type: ignore[type-var]
                counts = np.full(limits.shape, most, dtype)
                below = limits < most  # the largest 64-bit integers are no doubles
                counts[below] = np.ceil(limits[below]).astype(dtype)
                self._saturates = dtype, counts
            else:
                self._saturates = dtype, limits if np.isfinite(limits).any() else None
        return self._saturates[1]

    def _check(self, frame: NDArray[np.generic], kind: str) -> None:
        if frame.shape != self._shape:
            raise DataError(
                f"{self._where}got a {kind} of shape {frame.shape}, expected {self._shape}; was the detector's "
                "region changed after the run was opened?"
            )


def _loaded_kernels() -> tuple[Callable[..., int], Callable[..., None]]:
    """Return `correct` and `minus_log`, compiled, or loaded from disk, before projections come."""
    from bluesky_streamrecon.recon.kernels.preparation import correct, minus_log

    one = np.ones((1, 1), np.float32)
    correct(one, one.copy(), one.copy(), np.zeros((1, 1), bool), np.zeros(1, np.float32))
    minus_log(one, np.float32(LEAST_TRANSMISSION))
    return correct, minus_log
