"""How the paper's score and the likeness to the truth go along during a scan: figures 7 and 8 of Bicer et al. 2017."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import ReconSettings
from bluesky_streamrecon.evaluation.live import live_images
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.quality import ImageHistory, MsSsimMetric, PreviewImage

__all__ = ["SimilarityCurve", "SimilarityPoint", "follow"]


@dataclass(frozen=True, slots=True)
class SimilarityPoint:
    """One live image.

    Parameters
    ----------
    sample : str
        Name.
    projections : int
        It was made from.
    self_similarity : float or None
        MS-SSIM to the image `compare_to` projections earlier; None before there is one.
    ms_ssim, rmse : float
        To the truth; RMSE as a fraction of the truth's range.
    """

    sample: str
    projections: int
    self_similarity: float | None
    ms_ssim: float
    rmse: float


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityCurve:
    """One scan from the first image to the last.

    Parameters
    ----------
    points : tuple of SimilarityPoint
        In the order of projections.
    shown : dict of int to ndarray
        Slices kept for the picture, by projections.
    truth : Truth
        What images were compared with.
    """

    points: tuple[SimilarityPoint, ...]
    shown: dict[int, NDArray[np.float32]]
    truth: Truth

    def crossing(self, threshold: float, *, settled: int = 0) -> int | None:
        """Give the projections at which the score first reaches `threshold`, not before `settled`; None: never."""
        for point in self.points:
            score = point.self_similarity
            if score is not None and score >= threshold and point.projections >= settled:
                return point.projections
        return None

    def stays(self, threshold: float) -> int | None:
        """Give the projections from which on the score is never below `threshold` again; None: never."""
        below = [p.projections for p in self.points if p.self_similarity is None or p.self_similarity < threshold]
        after = [p.projections for p in self.points if not below or p.projections > below[-1]]
        return after[0] if after else None


def follow(
    scan: LineScan,
    truth: Truth,
    recon: ReconSettings,
    *,
    compare_to: int,
    scales: int = 5,
    show_at: tuple[int, ...] = (),
    threads: int = 1,
    tell: Callable[[str], None] | None = None,
) -> SimilarityCurve:
    """Reconstruct live, and compare every image with an earlier one and with the truth.

    Parameters
    ----------
    scan : LineScan
        All of it.
    truth : Truth
        To compare with.
    recon : ReconSettings
        Of the live image.
    compare_to : int
        Distance k of compared images, projections.
    scales : int, optional
        See `ms_ssim`.
    show_at : tuple of int, optional
        Projections at which slices are kept for the picture.
    threads : int, optional
        That compute.
    tell : callable, optional
        Told how far it is.
    """
    metric = MsSsimMetric(compare_to, scales)
    history = ImageHistory()
    points = []
    shown = {}
    rows = tuple(range(scan.rows))
    for number, (projections, image) in enumerate(live_images(scan, recon, threads=threads), 1):
        history = history.appended(PreviewImage(number, projections, rows, image))
        history = history.trimmed(projections - compare_to, most=2 * compare_to + 2)
        points.append(
            SimilarityPoint(
                scan.name, projections, metric(history), truth.similarity(image, scales=scales), truth.rmse(image)
            )
        )
        if projections in show_at:
            shown[projections] = image[0]
        if tell is not None and projections % 30 == 0:
            tell(f"{scan.name}: {projections} of {len(scan)}")
    return SimilarityCurve(tuple(points), shown, truth)
