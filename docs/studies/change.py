"""How surely a change is told from noise in a time series: still samples, and one in which a crack opens.

``python docs/studies/change.py``, or with ``--series 10`` for a quick look. Each series is 4 half turns of 180
projections of a foam, 3 rows of 256 columns, with Poisson noise and flats from 10 frames, a beam that fades by 0.02 %
with each projection, and zingers in 0.05 % of the pixels. The crack (`sim_devices.samples.crack`) opens over
20 projections, at another moment in each series.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.quality.changes import ChangeDetector
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.sim_devices.ellipses import Ellipses
from bluesky_streamrecon.sim_devices.samples import Foam, crack
from bluesky_streamrecon.wire import OpenRun, Preview

ROWS, COLUMNS, PER_VOLUME, TURNS = 3, 256, 180, 4
OPENS_OVER, SAMPLES = 20, 5


@dataclass(frozen=True)
class Series:
    """Clean line integrals of a time series, shape (180, rows, columns) for each half turn, and what a crack adds."""

    angles: NDArray[np.float64]
    sample: NDArray[np.float64]
    opened: NDArray[np.float64]


@cache
def clean(order: str, seed: int) -> Series:
    """Return the line integrals of a foam in an order of angles."""
    radius, axis = 0.46 * COLUMNS, (COLUMNS - 1) / 2
    angles = np.radians(make_order(order, num=PER_VOLUME).angles)
    foam = Foam(seed=seed).body(ROWS, radius)

    def seen(ellipses: Ellipses) -> NDArray[np.float64]:
        return np.stack([ellipses.projection(float(angle), COLUMNS, np.full(ROWS, axis)) for angle in angles])

    return Series(angles, seen(foam), seen(crack(foam)))


def measured(series: Series, photons: float, seed: int, opens: int | None) -> NDArray[np.float32]:
    """Return line integrals as they are measured, shape (720, rows, columns)."""
    random = np.random.default_rng(seed)
    flat = random.poisson(10 * photons, (ROWS, COLUMNS)) / 10
    number = np.arange(TURNS * PER_VOLUME)
    share = np.zeros(len(number)) if opens is None else np.clip((number - opens + 1) / OPENS_OVER, 0, 1)
    of_view = number % PER_VOLUME
    lines = series.sample[of_view] + share[:, None, None] * series.opened[of_view]
    counts = random.poisson(photons * 0.9998 ** number[:, None, None] * np.exp(-lines)).astype(np.float64)
    zingers = random.random(counts.shape) < 5e-4
    counts[zingers] += random.exponential(photons, int(zingers.sum()))
    return -np.log(np.maximum(counts, 0.5) / flat).astype(np.float32)


def watched(lines: NDArray[np.float32], angles: NDArray[np.float64]) -> tuple[int, int | None, int | None]:
    """Return the marks, where the first change began, and at which projection it was known."""
    detector = ChangeDetector(
        OpenRun(
            run_uid="study",
            recon_uid="recon",
            planned=len(lines),
            detector_shape=(ROWS, COLUMNS),
            dtype="<u2",
            recon=ReconSettings(turns=TURNS),
            preview_rows=tuple(range(ROWS)),
            block=RowBlock(0, ROWS, 0, 0, 1),
        )
    )
    began, known = None, None
    for number, view in enumerate(lines):
        detector.add(
            Preview(
                run_uid="study",
                rank=0,
                image_number=number + 1,
                projections=number + 1,
                rows=tuple(range(ROWS)),
                shape=(2, 2),
                angles_used=(float(angles[number % PER_VOLUME]) % (2 * math.pi),),
                columns=COLUMNS,
                lines_first=number,
                lines=view[None],
            )
        )
        if began is None and detector.began is not None:
            began, known = detector.began, number + 1
    return detector.marks, began, known


def main(arguments: Sequence[str] | None = None) -> dict[float, tuple[int, list[int]]]:
    """Print a table, and return the false marks and the delays (projections from the first of the crack on) of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=50, help="still series, and as many with a crack")
    parser.add_argument("--seed", type=int, default=2000, help="of the first; the threshold was chosen on seeds from 0")
    parser.add_argument("--photons", type=float, nargs="+", default=[1e3, 1e4, 1e5])
    parser.add_argument("--order", default="optimized-interleaved")
    chosen = parser.parse_args(arguments)
    print("photons  still series marked  cracks marked early  cracks marked  median delay  longest delay")
    result = {}
    for photons in chosen.photons:
        false, early, delays = 0, 0, []
        for seed in range(chosen.seed, chosen.seed + chosen.series):
            series = clean(chosen.order, seed % SAMPLES)
            lines = measured(series, photons, seed, None)
            false += watched(lines, series.angles)[0] > 0
            opens = PER_VOLUME + 20 + (seed * 67) % (2 * PER_VOLUME)
            _, _, known = watched(measured(series, photons, 1000 + seed, opens), series.angles)
            if known is not None and known <= opens:
                early += 1
            elif known is not None:
                delays.append(known - opens)
        result[photons] = false, delays
        print(
            f"{photons:7g}  {false:9d} of {chosen.series:3d}       {early:4d}                {len(delays):3d}"
            f"            {np.median(delays) if delays else math.nan:6.0f}        {max(delays, default=0):6d}"
        )
    return result


if __name__ == "__main__":
    main()
