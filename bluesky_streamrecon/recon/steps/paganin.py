"""Phase contrast: edges that the beam, on its way to the detector, has drawn bright and dark become grey levels.

The single-distance method of [1]_ for a sample of one material: where the thickness T of a material of attenuation mu
and refractive index 1 - delta + i beta is seen at a distance z, transmissions I are, to first order in z,
exp(-mu T) after the operator 1 - (z delta / mu) times the Laplacian. So

    mu T = -ln F^-1{ F{I} / (1 + alpha k^2) },    alpha = z delta / mu = wavelength z (delta / beta) / (4 pi),

with k the angular spatial frequency; one material is enough to keep what other materials attenuate, too, and blurs or
sharpens their edges.

The filter is two-dimensional, and its kernel falls off as exp(-distance / sqrt(alpha)). It is cut off at a number of
rows that is known from the settings, so that a row can be computed from a few rows around it.

References
----------
.. [1] Paganin et al., J. Microsc. 206, 33-40, 2002, :doi:`10.1046/j.1365-2818.2002.01010.x`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.preparation_steps import Step
from bluesky_streamrecon.recon.later_references import LEAST_TRANSMISSION

__all__ = ["Paganin"]

KEV_NM = 1.239841984
"""Energy times wavelength of a photon, keV nm."""

WIDTHS = 7
"""Widths of the kernel after which it is cut off, in rows and where columns are continued beyond the detector: there
it has come to exp(-7), a thousandth of the whole."""

LEAST_ROWS = 8
"""Rows after which a narrow kernel is cut off: in pixels it swings a little on both sides."""

WIDEST = 100
"""Pixels: a kernel that is wider would leave nothing of the image, so a unit must be wrong."""


MOST_KEV = 1000
"""An energy above this is one in eV."""


@dataclass
class Paganin(Step):
    """Retrieve the phase from one distance, for a sample of one material.

    Parameters
    ----------
    delta_beta : float
        Ratio of decrement and absorption index of the material.
    energy : float or None
        Of the photons, keV; this and the next two are found where the run says them, if they are None.
    distance : float or None
        From the sample to the detector, mm; in a beam that diverges, this divided by the magnification.
    pixel_size : float or None
        Of the detector as it is, whatever the setting ``bin``, as seen at the sample, micrometres.
    """

    of_scan = ("energy", "distance", "pixel_size")

    delta_beta: float = 0.0
    energy: float | None = None
    distance: float | None = None
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("delta_beta", *self.of_scan)}
        for name, value in given.items():
            if name in self.lacking:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise _expected(f"{name}={value!r}" if value else f"no {name}")
        if self.energy is not None and self.energy > MOST_KEV:
            raise _expected(f"energy={self.energy:g}", f"; an energy is at most {MOST_KEV} keV: are these eV?")
        if not self.lacking and self.width > WIDEST:
            raise ConfigError(
                f"preparation step 'paganin': got a kernel that is {self.width:.3g} pixels wide, expected at most "
                f"{WIDEST}, from {given}; are these keV, mm and micrometres?"
            )

    def binned(self, side: int) -> Self:
        """Return this step for pixels that are `side` times as wide as the detector's."""
        return self if self.pixel_size is None else replace(self, pixel_size=self.pixel_size * side)

    @property
    def width(self) -> float:
        """Distance over which the kernel falls to 1/e: the square root of alpha, pixels.

        Raises
        ------
        ConfigError
            If something is lacking.
        """
        if self.energy is None or self.distance is None or self.pixel_size is None:
            raise _expected(f"no {' and no '.join(self.lacking)}")
        wavelength = KEV_NM / self.energy  # nm
        alpha = wavelength * self.distance * self.delta_beta / (4 * math.pi)  # nm mm = um^2
        return math.sqrt(alpha) / self.pixel_size

    @property
    def halo_rows(self) -> int:
        """Rows after which the kernel is cut off."""
        return max(LEAST_ROWS, math.ceil(WIDTHS * self.width))

    def begin(self, rows: int, columns: int) -> None:
        """Make the filter for projections of this shape."""
        from scipy.fft import next_fast_len

        from bluesky_streamrecon.recon.kernels.steps import sum_rows

        halo = self.halo_rows
        width = next_fast_len(columns + 2 * halo, real=True)
        taps = _taps(self.width**2, np.asarray(2 * np.pi * np.fft.rfftfreq(width), np.float64), halo).T
        self._rows = np.concatenate([taps[:0:-1, 0], taps[:, 0]])  # what is even along a row
        self._taps = np.repeat(taps, 2, axis=1)  # for real and imaginary parts
        self._light = np.zeros((rows, width))
        self._sums = np.empty((max(rows - 2 * halo, 0), self._taps.shape[1]))
        sum_rows(np.zeros((2 * halo + 1, 2)), self._taps[:, :2].copy(), np.zeros((1, 2)))

    def apply(self, projection: NDArray[np.float32], angle: float) -> NDArray[np.float32]:  # noqa: ARG002
        """Return attenuation times thickness; a row that was not measured stays so, and counts for none."""
        from scipy.fft import irfft, rfft

        from bluesky_streamrecon.recon.kernels.steps import sum_rows

        (rows, columns), halo = projection.shape, self.halo_rows
        measured = np.asarray(np.isfinite(projection).all(axis=1))
        light = self._light  # double precision: in single, a row's sums would depend on which rows there are
        np.exp(-projection, out=light[:, halo : halo + columns])
        light[:, :halo], light[:, halo + columns :] = light[:, [halo]], light[:, [halo + columns - 1]]
        light[~measured] = 0.0
        # Only rows of its own are filtered along columns and go back: they are fewer, and no circle closes upon them.
        sum_rows(rfft(light, axis=1).view(np.float64), self._taps, self._sums)
        found = irfft(self._sums.view(np.complex128), light.shape[1], axis=1)[:, halo : halo + columns]
        if not measured.all():
            share = np.convolve(measured, self._rows, "valid")[:, np.newaxis]
            own = measured[halo : rows - halo]
            found = np.divide(found, share, out=np.full(found.shape, np.nan), where=own[:, np.newaxis])
        return np.asarray(-np.log(np.maximum(found, LEAST_TRANSMISSION).astype(np.float32)))


def _expected(got: str, hint: str = "") -> ConfigError:
    return ConfigError(
        f"preparation step 'paganin': got {got}, expected delta_beta (ratio), energy (keV), distance (mm) and "
        f"pixel_size (micrometres), each a number above 0{hint}"
    )


def _taps(alpha: float, across: NDArray[np.float64], halo: int) -> NDArray[np.float64]:
    """Return the kernel along a column, 0 to `halo` rows away, for each frequency along the rows.

    It is that of the filter for infinitely many rows, made such that what is even along a column keeps its level.
    """
    length = 8 * halo
    along = 2 * np.pi * np.fft.rfftfreq(length)
    taps = np.fft.irfft(1 / (1 + alpha * (across[:, np.newaxis] ** 2 + along**2)), length)[:, : halo + 1]
    level = taps[:, 0] + 2 * taps[:, 1:].sum(axis=1)
    return np.asarray(taps / (level * (1 + alpha * across**2))[:, np.newaxis])
