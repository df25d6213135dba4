"""What the fast projector costs in sharpness: ``python docs/studies/projector.py --out DIR``.

The same projections, which no projector of ours has made, are reconstructed with the fast projector, with exact line
integrals, and with those averaged over each detector column, as a detector does. Noise is photons per pixel.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from siddon import SiddonProjector

from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.evaluation.scans import LineScan, ScanStack, measured_scan, simulated_scan
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.sim_devices import Foam, SheppLogan

__all__ = ["ALGORITHMS", "ITERATIONS", "NOISE", "ColumnProjector", "evaluate_projector"]

ALGORITHMS = ("mlem", "pml-quadratic", "pml-hybrid", "sirt", "osem", "art")
ITERATIONS = 20
NOISE = (None, 1e5, 1e4)
FAST, LINES, AVERAGED = "shear", "siddon", "siddon-averaged"

logger = logging.getLogger(__name__)


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
        self.domain_shape = self._parts[0].domain_shape
        self.range_shape = self._parts[0].range_shape

    def forward(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Integrate (N, N, S) along all rays; return the means (A, C, S)."""
        means: NDArray[np.float32] = np.mean([part.forward(image) for part in self._parts], axis=0, dtype=np.float32)
        return means

    def back(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Spread (A, C, S) back along all rays; return (N, N, S)."""
        means: NDArray[np.float32] = np.mean([part.back(sinogram) for part in self._parts], axis=0, dtype=np.float32)
        return means


def evaluate_projector(*, data: Path | None = None, columns: int = 256, num: int = 180, threads: int = 1) -> Report:
    """Compare the projectors in all algorithms.

    Parameters
    ----------
    data : Path, optional
        Measured scan (DXchange or NXtomo); left out if not given.
    columns, num : int, optional
        Detector columns and projections of the simulated scans.
    threads : int, optional
        That compute.

    Returns
    -------
    Report
        ``rows``: for each algorithm and scan the error with the ``fast`` projector, with ``lines``, and with lines
        ``averaged`` over a column (None where it was not made), root mean square over that of the truth; and
        ``excess``, fast / lines - 1. The truth is the sample; of a measured scan, the projections that were not
        reconstructed from. Also as ``projector.csv``.

    Raises
    ------
    StorageError, DataError
        If `data` can not be used.
    """
    for name, projector in ((LINES, SiddonProjector), (AVERAGED, ColumnProjector)):
        if name not in projectors.names():
            projectors.add(name, projector)
    order = make_order("fixed", num=num)
    stack = ScanStack.of(
        [
            simulated_scan(name, sample, columns=columns, order=order, counts=noise)
            for name, sample in (("shepp-logan", SheppLogan()), ("foam", Foam()))
            for noise in NOISE
        ]
    )
    together = replace(stack.whole, name="simulated", integrals=np.maximum(stack.whole.integrals, 0))
    rows = []
    for algorithm in ALGORITHMS:
        images = {name: stack.parts(_made(together, algorithm, name, threads)) for name in (FAST, LINES, AVERAGED)}
        for i, scan in enumerate(stack.scans):
            errors = {name: _error(found[i], scan.known.image) for name, found in images.items()}
            rows.append(_row(scan, algorithm, errors))
    if data is not None:
        rows += _of_measured(measured_scan(data, order="fixed"), threads)
    return Report({"rows": rows}, data={"projector": rows})


def _of_measured(scan: LineScan, threads: int) -> list[Row]:
    """Reconstruct from every second projection, and predict the others by averaged line integrals."""
    used, held = scan.in_order(range(0, len(scan), 2)), scan.in_order(range(1, len(scan), 2))
    predict = ColumnProjector(scan.geometry, held.angles)
    # What the disc does not reach can not be predicted.
    reach = np.abs(np.arange(scan.columns) - scan.axis) < scan.geometry.size / 2 - 1
    rows = []
    for algorithm in ALGORITHMS:
        errors = {}
        for projector in (FAST, LINES):
            image = np.ascontiguousarray(np.moveaxis(_made(used, algorithm, projector, threads), 0, -1))
            predicted = np.moveaxis(predict.forward(image), -1, 1)
            errors[projector] = _error(predicted[..., reach], held.integrals[..., reach])
        rows.append(_row(used, algorithm, errors))
    return rows


def _made(scan: LineScan, algorithm: str, projector: str, threads: int) -> NDArray[np.float32]:
    logger.info("%s, %s, %s", algorithm, scan.name, projector)
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


def _error(values: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    difference = values.astype(np.float64) - truth
    return float(np.sqrt(np.mean(difference**2) / np.mean(truth.astype(np.float64) ** 2)))


def _row(scan: LineScan, algorithm: str, errors: dict[str, float]) -> Row:
    return {
        "sample": scan.name,
        "noise": scan.noise,
        "algorithm": algorithm,
        "columns": scan.columns,
        "projections": len(scan),
        "iterations": ITERATIONS,
        "fast": errors[FAST],
        "lines": errors[LINES],
        "averaged": errors.get(AVERAGED),
        "excess": errors[FAST] / errors[LINES] - 1,
    }


def main(
    out: Annotated[Path, typer.Option(help="Directory for projector.csv.")],
    data: Annotated[Path | None, typer.Option(help="Also a measured scan (DXchange or NXtomo).")] = None,
    columns: Annotated[int, typer.Option(help="Detector columns of the simulated samples.")] = 256,
    num: Annotated[int, typer.Option(help="Projections of the simulated scans.")] = 180,
    threads: Annotated[int, typer.Option(help="Threads that compute.")] = 1,
) -> None:
    """Compare the fast projector with exact line integrals, in all algorithms, after 20 iterations.

    Line integrals are slow: minutes.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    evaluate_projector(data=data, columns=columns, num=num, threads=threads).write(out)


if __name__ == "__main__":
    typer.run(main)
