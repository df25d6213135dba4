"""What a detector's pixels hold: frames as a function of what stands in the beam, and of nothing else.

Nothing here moves, waits or writes. A frame depends on the camera's seed and the exposure alone, so that a scan
that is taken again gives the same data however fast it went. Angles are degrees, as at the stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError, GeometryError
from bluesky_streamrecon.pixels import common_dtype, exactly
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.samples import Body, crack
from bluesky_streamrecon.storage import TomoScan

__all__ = ["Camera", "Exposure", "FrameKind", "Noise", "RecordedCamera", "SimulatedCamera", "faulty_exposure"]

FULL_SCALE = 65535
FLAT_LEVEL = 40000.0


class FrameKind(Enum):
    """What stands between source and detector."""

    PROJECTION = "projection"
    FLAT = "flat"
    DARK = "dark"


@dataclass(frozen=True, slots=True)
class Exposure:
    """Everything that decides what a frame shows.

    Parameters
    ----------
    kind : FrameKind
        Sample in the beam, beam alone, or no beam.
    angle : float
        Of the sample, degrees.
    index : int
        Frames taken before since the detector was staged.
    beam : float, optional
        Share of the usual beam.
    pattern : float, optional
        How far the beam's pattern has moved along the row, pixels.
    shift : (float, float), optional
        Displacement of the sample on its mount, (u, v) in pixels.
    crack : float, optional
        How far a crack in it is open, 0 to 1.
    stage_angle : float, optional
        Of the stage, degrees, which the sample follows unless it slips.
    """

    kind: FrameKind
    angle: float
    index: int
    beam: float = 1.0
    pattern: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    crack: float = 0.0
    stage_angle: float = 0.0


class Camera(Protocol):
    """A sensor of fixed shape that turns exposures into frames."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Detector (rows, columns); () of one that sees a number."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Pixel type of each frame."""
        ...

    def frame(self, exposure: Exposure) -> Any:
        """Take one frame, shape (rows, columns), detector counts.

        Raises
        ------
        DataError
            If this camera has nothing to show for the exposure.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How imperfect the simulated sensor and beam are; all of it follows from the camera's seed.

    Parameters
    ----------
    counts : float
        Photons per pixel and frame in the open beam.
    poisson : bool
        Whether photons arrive at random.
    readout : float
        Standard deviation of the readout, detector counts.
    dark : float
        Mean dark level, detector counts; each pixel has its own.
    stripes : float
        Relative spread of the beam along the row (what makes rings in an image that is not flat-corrected).
    gain : float
        Relative spread of the pixels' gains.
    rings : float
        Relative spread of the pixels' gains that only projections have and flats do not show: it makes rings although
        the image is flat-corrected.
    dead : float
        Share of pixels that see no light.
    hot : float
        Share of pixels that read near full scale, light or not.
    zingers : float
        Probability that a pixel of a frame, projection, flat or dark, is where a zinger begins: half to all of the open
        beam's level is added there.
    zinger_width : int
        Pixels of the row that a zinger hits, from 1 to this many.
    bad_columns : int
        So many columns are stuck at the open beam's level while the sample is in the beam, and the gain of as many
        others differs by a tenth (standard deviation) from projection to projection.
    """

    counts: float = 1e4
    poisson: bool = True
    readout: float = 3.0
    dark: float = 100.0
    stripes: float = 0.03
    gain: float = 0.01
    rings: float = 0.0
    dead: float = 2e-4
    hot: float = 1e-4
    zingers: float = 0.0
    zinger_width: int = 1
    bad_columns: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.counts <= 1e9:
            raise ConfigError(f"counts: got {self.counts}, expected 1 to 1e9 photons per pixel and frame")
        for name in ("readout", "dark", "stripes", "gain", "rings", "dead", "hot", "zingers"):
            if not 0 <= getattr(self, name) < (10000 if name in {"readout", "dark"} else 0.5):
                raise ConfigError(f"{name}: got {getattr(self, name)}, which is negative or too large")
        if not 1 <= self.zinger_width <= 100 or self.bad_columns < 0:
            raise ConfigError(
                f"zinger_width, bad_columns: got {self.zinger_width} and {self.bad_columns}, expected 1 to 100 pixels "
                "and at least 0 columns of each kind"
            )


class SimulatedCamera:
    """Sees a sample in a beam with structure, on a sensor with faults.

    Parameters
    ----------
    sample : Body
        What stands on the stage.
    columns : int
        Detector columns.
    axis : float
        Detector column of the rotation axis, in the middle row if it is tilted.
    noise : Noise, optional
        Imperfections.
    seed : int, optional
        Of all that is random.
    truncated : bool, optional
        The sample may reach out of view.
    tilt : float, optional
        Angle of the rotation axis to the detector's columns, in the detector's plane, degrees. Positive: the axis lies
        further to the right (at larger columns) in lower rows (of larger number).
    fringes : float, optional
        Width of phase fringes at edges, pixels: that of the kernel which takes them back. Transmissions become
        (1 - fringes^2 Laplacian) of them, which is the transport of intensity from a sample of one material, to first
        order in the distance, as seen with a point spread of one pixel (standard deviation).

    Raises
    ------
    ConfigError
        If more columns are to be bad than a quarter of all.
    GeometryError
        If the sample would leave the field of view and may not.
    """

    def __init__(
        self,
        sample: Body,
        columns: int,
        axis: float,
        *,
        noise: Noise | None = None,
        seed: int = 0,
        truncated: bool = False,
        tilt: float = 0.0,
        fringes: float = 0.0,
    ):
        room = min(axis + 0.5, columns - 0.5 - axis)
        if sample.radius > room and not truncated:
            raise GeometryError(
                f"sample: reaches {sample.radius:.1f} pixels from the axis at column {axis}, but the nearer "
                f"edge of the {columns} columns is {room:.1f} away; make the sample smaller or the axis nearer to "
                "the middle"
            )
        self.sample = sample
        self.axis = axis
        self.noise = noise or Noise()
        self.seed = seed
        self.shape, self.dtype = (sample.rows, columns), np.dtype("<u2")
        rng = np.random.default_rng([seed, 0])
        self._stripes = 1 + self.noise.stripes * rng.standard_normal(columns)
        self._gain = 1 + self.noise.gain * rng.standard_normal(self.shape)
        self._offset = rng.normal(self.noise.dark, 0.1 * self.noise.dark, self.shape)
        self.dead_pixels = rng.random(self.shape) < self.noise.dead
        self.hot_pixels = (rng.random(self.shape) < self.noise.hot) & ~self.dead_pixels
        self._flat = self._open_beam(0.0)
        self._response = 1 + self.noise.rings * rng.standard_normal(self.shape) if self.noise.rings else None
        bad = self.noise.bad_columns
        if bad > columns // 8:
            raise ConfigError(f"bad_columns: got {bad} of each kind, expected at most an eighth of {columns} columns")
        chosen = np.random.default_rng([seed, 2]).permutation(columns)[: 2 * bad]
        self.stuck_columns, self.fluctuating_columns = np.sort(chosen[:bad]), np.sort(chosen[bad:])
        self._fringes = fringes
        # A pixel beside the axis sees another slice than one on it; what lies between slices is interpolated.
        rows = np.arange(sample.rows)
        self._axes: NDArray[np.float64] = np.asarray(
            axis + math.tan(math.radians(tilt)) * (rows - (sample.rows - 1) / 2), np.float64
        )
        above = math.sin(math.radians(tilt)) * (np.arange(columns) - axis)
        self._slices: list[tuple[NDArray[np.float64] | float, Body]] = [(1.0, sample)]
        if tilt:
            self._slices = [
                (np.clip(1 - np.abs(above - step), 0, 1), sample.taken_from(np.clip(rows + step, 0, sample.rows - 1)))
                for step in range(math.floor(above.min()), math.ceil(above.max()) + 1)
            ]

    def frame(self, exposure: Exposure) -> NDArray[Any]:
        """Take one frame; see `Camera.frame`."""
        kinds = list(FrameKind)
        micro_degrees = round(exposure.angle * 1e6) % 2**62
        key = [self.seed, 1, kinds.index(exposure.kind), micro_degrees, exposure.index]
        rng = np.random.Generator(np.random.SFC64(key))
        counts = self._offset.copy()
        if exposure.kind is not FrameKind.DARK:
            flat = self._open_beam(exposure.pattern) if exposure.pattern else self._flat
            photons = self.noise.counts * exposure.beam * flat
            if exposure.kind is FrameKind.PROJECTION:
                photons *= self._transmission(exposure)
                if self._response is not None:
                    photons *= np.maximum(self._response, 0)
                photons[:, self.fluctuating_columns] *= np.maximum(
                    1 + 0.1 * rng.standard_normal(len(self.fluctuating_columns)), 0
                )
            if self.noise.poisson:
                photons = rng.poisson(photons).astype(np.float64)
            counts += photons * (FLAT_LEVEL / self.noise.counts)
        if self.noise.readout:
            counts += self.noise.readout * rng.standard_normal(self.shape, dtype=np.float32)
        if self.noise.zingers:
            self._hit(counts, rng)
        counts[self.hot_pixels] = 0.98 * FULL_SCALE
        return np.clip(np.rint(counts), 0, FULL_SCALE).astype(self.dtype)

    def _open_beam(self, moved: float) -> NDArray[np.float64]:
        """Make the open beam: a smooth profile with stripes that has moved along the row, on pixels of unequal gain."""
        rows, columns = self.shape
        places = np.arange(columns) - moved
        x = 2 * places[np.newaxis] / (columns - 1) - 1
        y = np.linspace(-1, 1, rows)[:, None] if rows > 1 else np.zeros((1, 1))
        smooth = (1 - 0.12 * (x - 0.1) ** 2) * (1 - 0.1 * (y + 0.15) ** 2)
        smooth *= 1 + 0.015 * np.sin(2 * np.pi * (1.7 * x + y))
        stripes = np.interp(places, np.arange(columns), self._stripes)
        seen: NDArray[np.float64] = np.maximum(smooth * stripes * self._gain, 0.2)
        seen[self.dead_pixels] = 0.0
        return seen

    def _transmission(self, exposure: Exposure) -> NDArray[np.float64]:
        seen = np.exp(-self._line_integrals(exposure))
        if self._fringes:
            from scipy.ndimage import gaussian_filter, gaussian_laplace

            curved = gaussian_laplace(seen, 1.0, mode="nearest")
            seen = np.maximum(gaussian_filter(seen, 1.0, mode="nearest") - self._fringes**2 * curved, 0.0)
        seen[:, self.stuck_columns] = 1.0
        return np.asarray(seen)

    def _hit(self, counts: NDArray[np.float64], rng: np.random.Generator) -> None:
        row, column = np.nonzero(rng.random(self.shape) < self.noise.zingers)
        bright = FLAT_LEVEL * rng.uniform(0.5, 1.0, row.size)
        width = rng.integers(1, self.noise.zinger_width + 1, row.size)
        for beyond in range(self.noise.zinger_width):
            hit = (beyond < width) & (column + beyond < self.shape[1])
            counts[row[hit], column[hit] + beyond] += bright[hit]

    def _line_integrals(self, exposure: Exposure) -> NDArray[np.float64]:
        angle, columns = math.radians(exposure.angle), self.shape[1]
        seen = np.zeros(self.shape)
        for weights, slices in self._slices:
            seen += weights * slices.projection(angle, columns, self._axes, shift=exposure.shift)
        if exposure.crack:
            opened = crack(self.sample)
            seen += exposure.crack * opened.projection(angle, columns, self._axes, shift=exposure.shift)
        return seen


class RecordedCamera:
    """Replays a scan that was measured: the frame at the recorded angle nearest to the stage's.

    The two may differ by a twentieth of the recording's smallest step. Flats and darks are replayed one after the
    other, from the first again when the last has been shown.

    Parameters
    ----------
    scan : TomoScan
        With at least one flat and one dark.

    Raises
    ------
    DataError
        If the recording has no flats or no darks.
    """

    def __init__(self, scan: TomoScan):
        if not len(scan.flats) or not len(scan.darks):
            raise DataError(
                f"recorded scan: got {len(scan.flats)} flats and {len(scan.darks)} darks, expected at least one of "
                "each; was the file written without exchange/data_white or exchange/data_dark?"
            )
        stacks = [np.asarray(stack[:]) for stack in (scan.projections, scan.flats, scan.darks)]
        # A detector has one type for all that it takes.
        self.dtype = common_dtype(*(stack.dtype for stack in stacks))
        self._projections, self._flats, self._darks = (exactly(stack, self.dtype, "recorded scan") for stack in stacks)
        self.shape = self._projections.shape[1:]
        self.angles = np.array(scan.angles_deg, dtype=np.float64)
        steps = np.diff(np.unique(self.angles))
        self.tolerance = 0.05 * float(steps.min()) if steps.size else 0.01

    def frame(self, exposure: Exposure) -> NDArray[Any]:
        """Return the recorded frame; see `Camera.frame`."""
        dark = self._darks[exposure.index % len(self._darks)]
        if exposure.kind is FrameKind.DARK:
            return np.asarray(dark, dtype=self.dtype)
        if exposure.kind is FrameKind.FLAT:
            lit = self._flats[exposure.index % len(self._flats)]
        else:
            lit = self._projections[self._nearest(exposure.angle)]
        if exposure.beam != 1.0:
            dimmed = np.maximum(dark + (lit.astype(np.float64) - dark) * exposure.beam, 0)
            lit = np.rint(dimmed) if self.dtype.kind in "ui" else dimmed
        return np.asarray(lit, dtype=self.dtype)

    def _nearest(self, angle: float) -> int:
        away = np.abs((self.angles - angle + 180.0) % 360.0 - 180.0)
        nearest = int(np.argmin(away))
        if away[nearest] > self.tolerance:
            raise DataError(
                f"recorded scan: no projection at {angle:.6f} degrees, the nearest of {self.angles.size} between "
                f"{self.angles.min():.4f} and {self.angles.max():.4f} is {self.angles[nearest]:.6f}, expected one "
                f"within {self.tolerance:.4f}; scan the angles of SimBeamline.angles"
            )
        return nearest


def faulty_exposure(exposure: Exposure, faults: Faults, after: int = 0) -> Exposure:
    """Return `exposure` as the faults leave it; a flat is taken in the beam as it is `after` so many projections."""
    if exposure.kind is FrameKind.DARK:
        return exposure
    if exposure.kind is FrameKind.FLAT:
        return replace(exposure, beam=exposure.beam * faults.beam(after), pattern=faults.pattern(after))
    k = exposure.index
    kind = FrameKind(exposure.kind)
    if faults.empty_from is not None and k >= faults.empty_from:
        kind = FrameKind.FLAT
    if faults.dark_from is not None and k >= faults.dark_from:
        kind = FrameKind.DARK
    return replace(
        exposure,
        kind=kind,
        beam=exposure.beam * faults.beam(k),
        pattern=faults.pattern(k),
        shift=faults.shift(k),
        crack=faults.crack(k),
    )
