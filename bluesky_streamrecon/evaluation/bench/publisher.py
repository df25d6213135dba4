"""How long the publisher's callback holds the RunEngine's thread, per projection.

Documents are those of a real scan, for a detector that writes HDF5 and for one that puts frames into events; the
stream really goes out to processes that receive it, so the link's threads compete for the interpreter. Only the calls
are timed, in milliseconds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.documents import Document, ScanDocuments
from bluesky_streamrecon.evaluation.bench.links import receiving_ranks
from bluesky_streamrecon.evaluation.bench.listening import Ear
from bluesky_streamrecon.evaluation.bench.sample import scan_angles
from bluesky_streamrecon.evaluation.bench.timing import Tell, percentile, silent
from bluesky_streamrecon.wire import BeamlineEndpoint

__all__ = ["PublisherResult", "PublisherRow", "measure_publisher"]

DIFFERENT_FRAMES = 4
IN_FLIGHT = 8
TIMEOUT = 120.0
DATASET = "/entry/data"


@dataclass(frozen=True, slots=True)
class PublisherRow:
    """Time of the callback per projection, all its documents together, for one kind of detector."""

    detector: str
    median_ms: float
    p99_ms: float
    maximum_ms: float
    projections: int


@dataclass(frozen=True, slots=True)
class PublisherResult:
    """Both kinds of detectors.

    Parameters
    ----------
    median_ms, p99_ms : float
        Of the slower kind.
    frame_bytes : int
        Of one projection.
    rows : tuple of PublisherRow
        Each kind.
    """

    median_ms: float
    p99_ms: float
    frame_bytes: int
    rows: tuple[PublisherRow, ...]


def measure_publisher(
    *, rows: int = 2048, columns: int = 2048, projections: int = 200, receivers: int = 2, tell: Tell = silent
) -> PublisherResult:
    """Publish to processes on this computer.

    Parameters
    ----------
    rows, columns : int, optional
        Of a frame of uint16.
    projections : int, optional
        For each kind of detector.
    receivers : int, optional
        Processes that receive; each gets its share of the rows.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If something could not be published, or a receiving process fails.
    """
    if min(projections, receivers, columns) < 1 or rows < receivers:
        raise ConfigError(
            f"projections={projections}, receivers={receivers}, frame {rows} x {columns}: expected 1 or more of each, "
            "and a row for every receiver"
        )
    random = np.random.default_rng(0)
    pool = [random.integers(0, 2**16, (rows, columns), np.uint16) for _ in range(DIFFERENT_FRAMES)]
    memory = (projections + DIFFERENT_FRAMES) * pool[0].nbytes
    with tempfile.TemporaryDirectory(prefix="streamrecon-bench-") as name:
        directory = Path(name)
        path = directory / "detector.h5"
        with h5py.File(path, "w", libver="latest") as file:
            file.create_dataset(DATASET, data=np.stack(pool), chunks=(1, rows, columns))
        tell(f"{receivers} receiving processes start")
        with receiving_ranks(receivers, directory, curve=False, memory=memory) as (endpoint, ear):
            results = []
            for kind, file_of in (("frames in events", None), ("frames in a file", (path.as_uri(), DATASET))):
                tell(f"{projections} projections, {kind}")
                scan = ScanDocuments((rows, columns), projections, ReconSettings(), SteeringSettings(), file=file_of)
                sources: Sequence[NDArray[np.uint16] | int] = pool if file_of is None else range(len(pool))
                taken = _publish(endpoint, ear, scan, sources, projections)
                results.append(
                    PublisherRow(kind, percentile(taken, 50), percentile(taken, 99), max(taken), projections)
                )
    return PublisherResult(
        median_ms=max(row.median_ms for row in results),
        p99_ms=max(row.p99_ms for row in results),
        frame_bytes=pool[0].nbytes,
        rows=tuple(results),
    )


def _publish(
    endpoint: BeamlineEndpoint,
    ear: Ear,
    scan: ScanDocuments,
    sources: Sequence[NDArray[np.uint16] | int],
    projections: int,
) -> list[float]:
    """Publish one run; give the milliseconds of each projection."""
    publisher = Publisher(endpoint, on_problem=ear.fail)

    def publish(documents: list[Document]) -> float:
        start = time.perf_counter()
        for name, document in documents:
            publisher(name, document)
        return (time.perf_counter() - start) * 1000

    ear.begin(scan.uid)
    publish(scan.start())
    publish(scan.stream("primary"))
    taken = []
    for number, angle in enumerate(scan_angles(projections), 1):
        taken.append(publish(scan.frame("primary", float(angle), sources[number % len(sources)])))
        # A detector is slower than this loop: some frames are on their way, not hundreds.
        _wait_for(ear, number - IN_FLIGHT)
    publish(scan.stop())
    ear.wait("the end of a run", lambda: ear.finished, TIMEOUT)
    return taken


def _wait_for(ear: Ear, projection: int) -> None:
    ear.wait(f"acknowledgement of projection {projection}", lambda: ear.used >= projection, TIMEOUT)
