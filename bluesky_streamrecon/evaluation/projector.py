"""What the fast projector costs in sharpness: ``streamrecon evaluate projector``.

The same projections, which no projector of ours has made, are reconstructed with the fast projector, with exact line
integrals, and with those averaged over each detector column, as a detector does. Noise is photons per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.evaluation.scans import LineScan, measured_scan, simulated_scan
from bluesky_streamrecon.evaluation.tables import new_directory, write_csv
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.recon.siddon import SiddonProjector
from bluesky_streamrecon.sim_devices import Foam, SheppLogan

__all__ = ["ALGORITHMS", "ITERATIONS", "ColumnProjector", "ProjectorRow", "evaluate_projector"]

ALGORITHMS = ("mlem", "pml-quadratic", "pml-hybrid", "sirt", "osem", "art")
ITERATIONS = 20
NOISE = (None, 1e5, 1e4)
AVERAGED = "siddon-averaged"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ProjectorRow:
    """One scan, one algorithm.

    Parameters
    ----------
    sample, algorithm : str
        Names.
    noise : float or None
        Photons per pixel; None: no noise, or as measured.
    columns, projections, iterations : int
        Of the detector, reconstructed from, and times that the algorithm went over all of them.
    fast, lines : float
        Error with the fast projector and with line integrals: root mean square over that of the truth. The truth is
        the sample; of a measured scan, the projections that were not reconstructed from.
    averaged : float or None
        The same with line integrals averaged over each column; None where it was not made.
    excess : float
        fast / lines - 1.
    """

    sample: str
    noise: float | None
    algorithm: str
    columns: int
    projections: int
    iterations: int
    fast: float
    lines: float
    averaged: float | None
    excess: float


class ColumnProjector:
    """Line integrals averaged over each detector column: the mean of several rays, and its adjoint.

    Parameters
    ----------
    geometry : TomoGeometry
        Detector, axis, image size and mask.
    angles : ndarray of float64, shape (A,)
        Radians.
    rays : int, optional
        In each column, evenly spread.
    """

    def __init__(self, geometry: TomoGeometry, angles: NDArray[np.float64], rays: int = 3) -> None:
        offsets = (np.arange(rays) - (rays - 1) / 2) / rays
        self._parts = [
            SiddonProjector(
                TomoGeometry(geometry.columns, geometry.axis + float(offset), geometry.size, geometry.disc), angles
            )
            for offset in offsets
        ]

    @property
    def domain_shape(self) -> tuple[int, int]:
        """Shape of one slice's image, (N, N)."""
        return self._parts[0].domain_shape

    @property
    def range_shape(self) -> tuple[int, int]:
        """Shape of one slice's line integrals, (A, C)."""
        return self._parts[0].range_shape

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Integrate (N, N, S) along all rays, giving the means (A, C, S)."""
        means: NDArray[np.float32] = np.mean([part.forward(image) for part in self._parts], axis=0, dtype=np.float32)
        return means

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Spread (A, C, S) back along all rays, giving (N, N, S)."""
        means: NDArray[np.float32] = np.mean([part.back(sinogram) for part in self._parts], axis=0, dtype=np.float32)
        return means


def evaluate_projector(
    out: Path,
    *,
    data: Path | None = None,
    columns: int = 256,
    projections: int = 180,
    threads: int = 1,
    tell: Tell | None = None,
) -> list[ProjectorRow]:
    """Compare the projectors in all algorithms; write ``projector.csv``.

    Parameters
    ----------
    out : Path
        Directory; made if missing.
    data : Path, optional
        Measured scan (DXfile); left out if not given.
    columns, projections : int, optional
        Of the simulated scans.
    threads : int, optional
        That compute.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    StorageError, DataError
        If `data` can not be used or `out` can not be written.
    """
    new_directory(out)
    tell = tell or (lambda _text: None)
    if AVERAGED not in projectors.names():
        projectors.add(AVERAGED, ColumnProjector)
    order = make_order("fixed", num=projections)
    rows = []
    scans = [
        simulated_scan(name, sample, columns=columns, order=order, counts=noise)
        for name, sample in (("shepp-logan", SheppLogan()), ("foam", Foam()))
        for noise in NOISE
    ]
    together = LineScan(
        "simulated",
        scans[0].angles,
        np.maximum(np.concatenate([scan.integrals for scan in scans], axis=1), 0),
        scans[0].axis,
    )
    truths = [scan.truth for scan in scans]
    for algorithm in ALGORITHMS:
        errors = {}
        for projector in ("shear", "siddon", AVERAGED):
            tell(f"{algorithm}, simulated scans, {projector}")
            images = _made(together, algorithm, projector, threads)
            errors[projector] = [_relative(image, truth) for image, truth in zip(images, truths, strict=True)]
        for i, scan in enumerate(scans):
            fast, lines, averaged = (errors[name][i] for name in ("shear", "siddon", AVERAGED))
            rows.append(_row(scan, NOISE[i % len(NOISE)], algorithm, fast, lines, averaged))
    if data is not None:
        rows += _measured(measured_scan(data, order="fixed"), threads, tell)
    write_csv(out / "projector.csv", [asdict(row) for row in rows])
    return rows


def _measured(scan: LineScan, threads: int, tell: Tell) -> list[ProjectorRow]:
    """Reconstruct from every second projection, and predict the others by averaged line integrals."""
    used, held = scan.in_order(range(0, len(scan), 2)), scan.in_order(range(1, len(scan), 2))
    predict = ColumnProjector(scan.geometry, held.angles)
    # What the disc does not reach can not be predicted.
    reach = np.abs(np.arange(scan.integrals.shape[2]) - scan.axis) < scan.geometry.size / 2 - 1
    rows = []
    for algorithm in ALGORITHMS:
        errors = []
        for projector in ("shear", "siddon"):
            tell(f"{algorithm}, {scan.name}, {projector}")
            image = _made(used, algorithm, projector, threads)
            predicted = predict.forward(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
            errors.append(_relative(np.moveaxis(predicted, -1, 1)[..., reach], held.integrals[..., reach]))
        rows.append(_row(used, None, algorithm, errors[0], errors[1], None))
    return rows


def _made(scan: LineScan, algorithm: str, projector: str, threads: int) -> NDArray[np.float32]:
    return reconstruct(
        scan.integrals,
        scan.angles,
        axis=scan.axis,
        algorithm=algorithm,
        iterations=ITERATIONS,
        disc=True,
        threads=threads,
        projector=projector,
    )


def _relative(values: NDArray[np.float32], truth: NDArray[np.float32] | None) -> float:
    assert truth is not None  # noqa: S101 - simulated samples have one
    difference = values.astype(np.float64) - truth
    return float(np.sqrt(np.mean(difference**2) / np.mean(truth.astype(np.float64) ** 2)))


def _row(
    scan: LineScan, noise: float | None, algorithm: str, fast: float, lines: float, averaged: float | None
) -> ProjectorRow:
    return ProjectorRow(
        sample=scan.name,
        noise=noise,
        algorithm=algorithm,
        columns=int(scan.integrals.shape[2]),
        projections=len(scan),
        iterations=ITERATIONS,
        fast=fast,
        lines=lines,
        averaged=averaged,
        excess=fast / lines - 1,
    )
