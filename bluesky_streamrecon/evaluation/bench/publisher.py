"""How long the publisher's callback holds the RunEngine's thread, per projection.

Documents are those of a real scan, for a detector that writes HDF5 and for one that puts frames into events; the
stream really goes out to processes that receive it, so the link's threads compete for the interpreter. Only the calls
are timed, in milliseconds.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.publisher import Publisher
from bluesky_streamrecon.evaluation.bench.documents import ScanDocuments
from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
from bluesky_streamrecon.evaluation.bench.receivers import receiving_ranks
from bluesky_streamrecon.evaluation.bench.sample import random_frames, sample_scan
from bluesky_streamrecon.evaluation.report import Report, Row
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["measure_publisher"]

IN_FLIGHT = 8
TIMEOUT = 120.0
DATASET = "/entry/data"

logger = logging.getLogger(__name__)


def measure_publisher(*, rows: int = 2048, columns: int = 2048, projections: int = 200, receivers: int = 2) -> Report:
    """Publish to processes on this computer.

    Parameters
    ----------
    rows, columns : int, optional
        Of a frame of uint16.
    projections : int, optional
        For each kind of detector.
    receivers : int, optional
        Processes that receive; each gets its share of the rows.

    Returns
    -------
    Report
        ``rows``, one for each kind of detector, with ``median_ms``, ``p99_ms`` and ``maximum_ms`` of the callback per
        projection, all its documents together; the first two of the slower kind; and ``frame_bytes`` of a projection.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If something could not be published, or a receiving process fails.
    """
    pool = random_frames(rows, columns, num=projections, receivers=receivers)
    memory = (projections + len(pool)) * pool[0].nbytes
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="streamrecon-bench-") as name:
        path = Path(name) / "detector.h5"
        with h5py.File(path, "w", libver="latest") as file:
            file.create_dataset(DATASET, data=np.stack(pool), chunks=(1, rows, columns))
        logger.info("%d receiving processes start", receivers)
        with receiving_ranks(receivers, memory=memory) as (endpoint, events):
            publisher = Publisher(endpoint, on_problem=events.fail)
            for kind, file_of in (("frames in events", None), ("frames in a file", (path.as_uri(), DATASET))):
                logger.info("%d projections, %s", projections, kind)
                taken = _publish(publisher, events, file_of, pool, projections)
                found.append(
                    {
                        "detector": kind,
                        "median_ms": statistics.median(taken),
                        "p99_ms": float(np.percentile(taken, 99)),
                        "maximum_ms": max(taken),
                        "projections": projections,
                    }
                )
    slowest = {field: max(row[field] for row in found) for field in ("median_ms", "p99_ms")}
    return Report({**slowest, "frame_bytes": pool[0].nbytes, "rows": found})


def _publish(
    publisher: Publisher,
    events: EventRecorder,
    file: tuple[str, str] | None,
    pool: Sequence[NDArray[np.uint16]],
    projections: int,
) -> list[float]:
    """Publish one run; return the milliseconds of each projection."""
    spent = 0.0

    def timed(name: str, document: dict[str, Any]) -> None:
        nonlocal spent
        start = time.perf_counter()
        publisher(name, document)
        spent += (time.perf_counter() - start) * 1000

    scan = ScanDocuments(timed, pool[0].shape, projections, ReconSettings(), SteeringSettings(), file=file)
    events.begin(scan.uid)
    scan.start()
    scan.stream("primary")
    taken = []
    for number, angle in enumerate(sample_scan(2, 1, projections).angles, 1):
        spent, place = 0.0, number % len(pool)
        scan.frame("primary", float(angle), pool[place] if file is None else place)
        taken.append(spent)
        # A detector is slower than this loop: some frames are on their way, not hundreds.
        behind = number - IN_FLIGHT
        events.wait(f"acknowledgement of projection {behind}", lambda: events.used >= behind, TIMEOUT)  # noqa: B023
    scan.stop()
    events.wait("the end of a run", lambda: events.finished, TIMEOUT)
    return taken
