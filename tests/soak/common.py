"""What the soak scripts share: scans of a simulated beamline, what processes use, and a report as lines of JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from bluesky import RunEngine
from numpy.typing import NDArray

from bluesky_streamrecon.beamline import ReconJob, RunRecord
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline

LEAST_ERROR = 1e-4


def say(**what: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps(what, default=str), flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all scripts take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--directory", type=Path, default=Path("soak-data"), help="for detector files, results and logs")
    made.add_argument("--seed", type=int, default=0, help="of the random projections")
    return made


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Size of a scan: detector rows and columns, projections, exposure in seconds."""

    rows: int = 8
    columns: int = 64
    projections: int = 60
    exposure: float = 0.05


class Scans:
    """One RunEngine and one job that stays, for scan after scan of the same sample, down to the noise."""

    def __init__(self, directory: Path, shape: Shape, **job: Any) -> None:
        self.shape = shape
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.engine = RunEngine({}, call_returns_result=True, context_managers=[])
        self.job = ReconJob("job", output=directory / "recon", keep_alive=True, **job)
        self._number = 0

    def run(self, on_projection: Callable[[int], None] | None = None, **plan: Any) -> tuple[RunRecord, list[float]]:
        """Scan once; give what became of it, and when each projection was taken (monotonic seconds)."""
        self._number += 1
        shape = self.shape
        beamline = sim_beamline(
            rows=shape.rows,
            columns=shape.columns,
            directory=self.directory / f"detector-{self._number}",
            exposure=shape.exposure,
            instant=shape.exposure == 0,
            velocity=36000.0,
            acceleration_time=0.0,
        )
        times: list[float] = []

        def taken(name: str, doc: dict[str, Any]) -> None:
            if "stage" in doc["data"]:
                times.append(time.monotonic())
                if on_projection is not None:
                    on_projection(doc["seq_num"])

        token = self.engine.subscribe(taken, "event")
        given = {"num": shape.projections, "window": 8, "flats": 2, "darks": 2, "threshold": 1.0}
        given |= {"axis": (shape.columns - 1) / 2 + 3.3}
        try:
            result = self.engine(
                stream_tomo_plan(
                    beamline.detector,
                    beamline.stage,
                    shutter=beamline.shutter,
                    sample_table=beamline.table,
                    job=self.job,
                    **{**given, **plan},
                )
            )
        finally:
            self.engine.unsubscribe(token)
        record = self.job.last_run
        if record is None or result.exit_status != "success":
            raise SystemExit(f"the scan did not end as a success: {result.exit_status} {result.reason}")
        return record, times


def image_of(record: RunRecord) -> NDArray[np.float32] | None:
    """Return the final image; None if there is none."""
    if record.result is None:
        return None
    with h5py.File(record.result) as file:
        return np.asarray(file["/exchange/data"][:])


def difference(record: RunRecord, expected: NDArray[np.float32]) -> float:
    """Return the largest difference of the final image from what was expected, relative to its maximum."""
    image = image_of(record)
    return float("inf") if image is None else float(np.abs(image - expected).max() / expected.max())


def usage(pids: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return resident memory (bytes) and open file descriptors of each process that is there."""
    found = {}
    for name, pid in pids.items():
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found[name] = pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            continue
    return found


def job_pids(job: ReconJob) -> dict[str, int]:
    """Return the processes that say hello, and our own."""
    peers = job.job.link.endpoint.peers() if job.job.link is not None else ()
    named = {f"rank {peer.rank}" if peer.role == "rank" else "controller": peer.pid for peer in peers if peer.linked}
    return {"beamline": os.getpid(), **named}


def step_back(job: ReconJob) -> None:
    """Let the job have only what is left of the cores: it would be on other computers."""
    for name, pid in job_pids(job).items():
        if name != "beamline":
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)


def pace(times: list[float]) -> float:
    """Return the median time from one projection to the next, seconds."""
    return statistics.median(np.diff(times)) if len(times) > 1 else float("nan")


def end(results: Iterable[bool], what: str, **told: Any) -> NoReturn:
    """Print the summary as JSON, then the verdict in words, and exit: 0 if nothing failed, else 1."""
    each = list(results)
    passed = bool(each) and all(each)
    say(what=what, tried=len(each), good=sum(each), passed=passed, **told)
    print(f"{'PASSED' if passed else 'FAILED'}: {what}: {sum(each)} of {len(each)} good", flush=True)
    sys.exit(0 if passed else 1)
