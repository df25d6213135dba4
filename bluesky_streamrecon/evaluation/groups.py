"""Scans that are taken alike, reconstructed live as the rows of one, and compared with the truth on the way.

Noise is photons per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import ReconSettings
from bluesky_streamrecon.evaluation.live import live_images
from bluesky_streamrecon.evaluation.scans import LineScan, simulated_scan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.recon.window import Spread
from bluesky_streamrecon.sim_devices import Discs, Foam

__all__ = ["ScanGroup", "follow", "simulated_group"]

PORES = 90
DOSE = 1.8e5, 1.8e6, 1.8e7
"""Photons per pixel of a whole scan: more projections, less light for each."""

POINTS = 60
"""Images of a scan that are compared with the truth, at least."""


@dataclass(frozen=True, slots=True, eq=False)
class ScanGroup:
    """Scans that are taken alike, as the rows of one.

    Parameters
    ----------
    names : tuple of (str, float or None)
        Sample and noise of each row; None: as measured.
    scan : LineScan
        All of them.
    truths : tuple of Truth
        One for each row.
    order : str
        Of angles.
    """

    names: tuple[tuple[str, float | None], ...]
    scan: LineScan
    truths: tuple[Truth, ...]
    order: str


def simulated_group(columns: int, seeds: int, num: int, order: str) -> ScanGroup:
    """Take foam and discs at three doses, the same for any number of projections."""
    taken, names = [], []
    for seed in range(seeds):
        for i, dose in enumerate(DOSE):
            for name, sample in (("foam", Foam(pores=PORES, seed=seed)), ("discs", Discs(seed=seed))):
                visiting = make_order(order, num=num)
                noise = dose / num
                taken.append(
                    simulated_scan(name, sample, columns=columns, order=visiting, counts=noise, seed=100 * seed + i)
                )
                names.append((name, noise))
    together = np.concatenate([scan.integrals for scan in taken], axis=1)
    truths = tuple(Truth.known(scan.truth) for scan in taken if scan.truth is not None)
    return ScanGroup(tuple(names), replace(taken[0], integrals=together, truth=None), truths, order)


def follow(
    group: ScanGroup, recon: ReconSettings, *, spread: Spread | None = None, threads: int = 1
) -> NDArray[np.float64]:
    """Reconstruct a group of scans live, and compare images with the truth.

    Parameters
    ----------
    group : ScanGroup
        The scans.
    recon : ReconSettings
        As for a job.
    spread : Spread, optional
        Another window than that of the settings.
    threads : int, optional
        That compute.

    Returns
    -------
    ndarray of float64, shape (images, 1 + scans)
        Projections, from the first full window on, and MS-SSIM of each scan's image to its truth.
    """
    last = len(group.scan)
    window = recon.window or last
    points = []
    for number, image in live_images(group.scan, recon, spread=spread, threads=threads):
        if number == last or (number >= window and number % max(recon.step, last // POINTS) == 0):
            points.append([number, *(t.similarity(image[i : i + 1]) for i, t in enumerate(group.truths))])
    return np.array(points)
