"""How the step "paganin" compares with algotom's filter, and what it leaves of fringes where the phase is known.

``python docs/studies/phase.py tooth.h5``, with the extra ``bench``. Each sample is a projection of one material whose
line integrals are known: a ball and a block, a simulated foam, and a measured line of a file in all rows; smoothed, and
scaled so that pixels resolve the phase. Its wave is propagated by Fresnel's propagator, exactly, and the transmissions
that a detector sees are given to both filters. "Differs": the largest difference of line integrals, relative to the
largest. Fringes are root mean squares of what differs from the known line integrals, before, relative to their range,
and what is left of it after.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from algotom.prep.filtering import fresnel_filter
from scipy.ndimage import gaussian_filter

from bluesky_streamrecon.evaluation.scans import prepared
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.sim_devices.samples import sample_named
from bluesky_streamrecon.storage import read_scan

ROWS, COLUMNS = 96, 384
DELTA_BETA, ENERGY, PIXEL = 200.0, 25.0, 1.5
BEYOND = 256
"""Pixels by which a projection is continued on each side before it is propagated."""


STEEPEST = 0.02
"""Largest change of a line integral from pixel to pixel: the phase, a hundred times as much, must not jump by pi."""


def samples() -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and line integrals that a wave on this grid can have."""
    for name, lines in shapes():
        smooth = gaussian_filter(lines, 2.0)
        yield name, smooth * STEEPEST / max(np.abs(np.diff(smooth, axis=axis)).max() for axis in (0, 1))


def shapes() -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and line integrals."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    ball = 0.04 * np.sqrt(np.maximum(30.0**2 - (x - 120) ** 2 - (y - 48) ** 2, 0))
    block = 0.8 * ((x > 220) & (x < 290) & (y > 20) & (y < 70))
    yield "ball and block", ball + block
    foam = sample_named("foam").body(ROWS, 0.4 * COLUMNS)
    lines = foam.projection(0.3, COLUMNS, (COLUMNS - 1) / 2)
    yield "foam", np.asarray(lines, float)
    for path in sys.argv[1:]:
        measured = prepared(read_scan(path).frames, path).integrals
        line = measured[len(measured) // 3, measured.shape[1] // 2].astype(float)
        yield f"{path}, one line", np.repeat(line[None], ROWS, axis=0)


def seen(lines: np.ndarray, alpha: float) -> np.ndarray:
    """Return minus the logarithm of what a detector sees of a wave with these line integrals."""
    far = np.pad(lines, BEYOND, mode="edge")
    wave = np.exp(-far / 2 * (1 + 1j * DELTA_BETA))
    squared = np.fft.fftfreq(far.shape[0])[:, None] ** 2 + np.fft.fftfreq(far.shape[1])[None] ** 2
    propagator = np.exp(-1j * np.pi * (4 * np.pi * alpha / DELTA_BETA) * squared)
    light = np.abs(np.fft.ifft2(np.fft.fft2(wave) * propagator)) ** 2
    return -np.log(light[BEYOND:-BEYOND, BEYOND:-BEYOND])


def ours(lines: np.ndarray, distance: float) -> np.ndarray:
    """Return line integrals as the step leaves them."""
    step = {
        "step": "paganin", "delta_beta": DELTA_BETA, "energy": ENERGY, "distance": distance, "pixel_size": PIXEL,
    }  # fmt: skip
    return Pipeline([step], *lines.shape).first_part(lines.astype(np.float32), 0.0)


def algotoms(lines: np.ndarray, alpha: float, pad: int | None) -> np.ndarray:
    """Return the same by algotom: padded by us, so that its window has the padded size, or as it pads by default."""
    ratio = 4 * np.pi**2 * alpha
    if pad is None:
        return -np.log(fresnel_filter(np.exp(-lines), ratio, dim=2, apply_log=False))
    light = np.pad(np.exp(-lines), pad, mode="edge")
    return -np.log(fresnel_filter(light, ratio, dim=2, pad=0, apply_log=False)[pad:-pad, pad:-pad])


def root_mean_square(values: np.ndarray) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def main() -> None:
    """Print the table."""
    print("| sample | kernel | differs from algotom | fringes | left | by algotom | by algotom, its padding |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, lines in samples():
        for distance in (5.0, 60.0, 240.0):
            alpha = 1.239841984 / ENERGY * distance * DELTA_BETA / (4 * np.pi) / PIXEL**2
            given = seen(lines, alpha)
            mine, theirs = ours(given, distance), algotoms(given, alpha, BEYOND)
            before = root_mean_square(given - lines)
            left = [root_mean_square(each - lines) / before for each in (mine, theirs, algotoms(given, alpha, None))]
            differs = np.abs(mine - theirs).max() / np.abs(theirs).max()
            cells = " | ".join(f"{share:.3f}" for share in left)
            print(f"| {name} | {alpha**0.5:.1f} px | {differs:.1e} | {before / np.ptp(lines):.3f} | {cells} |")


if __name__ == "__main__":
    main()
