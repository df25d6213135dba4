"""Real scans of the simulated beamline, one after the other with one job, and when what happened in them.

Everything is there: RunEngine, devices, HDF5 files, publisher, link, MPI ranks, controller. Times are seconds.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.utils import Msg

from bluesky_streamrecon.beamline import MpiLauncher, ReconJob, RunRecord
from bluesky_streamrecon.errors import JobError
from bluesky_streamrecon.evaluation.bench.sample import DARK_COUNT, FLAT_COUNT, counts_of, disc_projections
from bluesky_streamrecon.evaluation.engines import run_engine
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.storage import TomoScan, write_dxfile

__all__ = ["ScanTimes", "Scanner"]

FAST = 1e6  # degrees per second


@dataclass(slots=True)
class ScanTimes:
    """When things happened in one scan, seconds since the epoch.

    Parameters
    ----------
    exposed : list of float
        When each exposure of a projection had ended.
    decided : list of (int, float)
        Projections and moment of each verdict.
    record : RunRecord or None
        The run.
    """

    exposed: list[float] = field(default_factory=list)
    decided: list[tuple[int, float]] = field(default_factory=list)
    ended: float = 0.0
    record: RunRecord | None = None

    @property
    def rate(self) -> float:
        """Projections per second, from the first exposure's end to the last image's verdict."""
        last = max((moment for _, moment in self.decided), default=self.ended)
        return (len(self.exposed) - 1) / (last - self.exposed[0])

    def latencies(self, first: int) -> list[float]:
        """Give, from projection `first` on, the time from its exposure's end to the first verdict that has it."""
        found = []
        for number, moment in enumerate(self.exposed, 1):
            verdicts = [when for projections, when in self.decided if projections >= number]
            if number >= first and verdicts:
                found.append(min(verdicts) - moment)
        return found


class Scanner:
    """A beamline and a job that is kept; use as a context manager.

    Parameters
    ----------
    rows, columns : int
        Of the detector.
    ranks : int
        Of the job.
    exposure : float
        Seconds; 0: exposures take no time.
    num : int
        Most projections of a scan.
    """

    def __init__(self, *, rows: int, columns: int, ranks: int, exposure: float, num: int) -> None:
        self._ranks = ranks
        self._held = ExitStack()
        self._rows, self._geometry = rows, TomoGeometry(columns)
        self._angles = make_order("optimized-interleaved", num=num).angles
        self._exposure = exposure
        self._times = ScanTimes()
        self._descriptors: dict[str, str] = {}
        self._stream = ""

    def __enter__(self) -> Scanner:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrecon-bench-")))
            self._engine = stack.enter_context(run_engine(context_managers=[]))
            self._beamline = sim_beamline(
                self._record(directory / "recorded.h5"),
                directory=directory,
                instant=not self._exposure,
                exposure=self._exposure or 0.05,
                velocity=FAST,
            )
            self.job = ReconJob(
                ranks=self._ranks, keep_alive=True, launcher=MpiLauncher(log_directory=directory / "logs")
            )
            stack.callback(self.job.close)
            self._engine.subscribe(self._document)
            self._engine.msg_hook = self._message  # type: ignore[assignment]
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def scan(self, num: int, **settings: Any) -> ScanTimes:
        """Take one scan to its end, whatever its verdicts.

        Raises
        ------
        JobError
            If it did not come to its end, or something went wrong with its reconstruction.
        """
        self._times = times = ScanTimes()
        plan = stream_tomo_plan(
            [self._beamline.detector],
            self._beamline.stage,
            order=self._angles[:num],
            flats=2,
            darks=2,
            shutter=self._beamline.shutter,
            sample_table=self._beamline.table,
            axis=self._geometry.axis,
            job=self.job,
            compose=None,
            advisory=True,
            **settings,
        )
        self._engine(plan)
        times.record = record = self.job.last_run
        if record is None or record.exit_status != "success" or record.problems:
            why = "it was not reconstructed" if record is None else "; ".join(record.problems) or record.reason
            raise JobError(f"benchmark: the scan failed: {why}")
        return times

    def _record(self, path: Path) -> Path:
        """Write projections for the detector to show: to make each when it is wanted would take a core from the job."""
        counts = counts_of(disc_projections(self._geometry, np.radians(self._angles), self._rows))
        flat = np.full((2, *counts.shape[1:]), FLAT_COUNT, np.uint16)
        dark = np.full_like(flat, DARK_COUNT)
        write_dxfile(path, TomoScan(projections=counts, angles_deg=np.asarray(self._angles), flats=flat, darks=dark))
        return path

    def _message(self, msg: Msg) -> None:
        if msg.command == "create":  # what follows the end of an exposure
            self._stream = msg.kwargs.get("name") or ""
            if self._stream == "primary":
                self._times.exposed.append(time.time())

    def _document(self, name: str, doc: dict[str, Any]) -> None:
        if name == "descriptor":
            self._descriptors[doc["uid"]] = doc["name"]
        elif name == "stop":
            self._times.ended = time.time()
        elif name == "event" and self._descriptors.get(doc["descriptor"]) == "steering":
            steering = f"{self.job.name}-steering"
            data = doc["data"]
            self._times.decided.append((int(data[f"{steering}-projections"]), float(data[f"{steering}-when"])))
