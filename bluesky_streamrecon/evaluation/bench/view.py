"""What the live view costs a run, and how old its pictures are: scans, watched and not watched in turns.

Everything is there: RunEngine, simulated devices, publisher, job, controller, and a live view with viewers that fetch
what a browser fetches. Times are seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench.harness import END_SECONDS, check_repeats, percentile, started, take_turns
from bluesky_streamrecon.evaluation.bench.sample import DARK_COUNT, FLAT_COUNT, counts_of, disc_scan
from bluesky_streamrecon.evaluation.report import Report

__all__ = ["main", "measure_view", "watch_page"]

WARM_UP = 12
FAST = 1e6
"""Of the stage, degrees per second."""

logger = logging.getLogger(__name__)


def measure_view(
    *, viewers: int = 3, rows: int = 16, columns: int = 256, ranks: int = 2, num: int = 360, repeats: int = 3
) -> Report:
    """Scan as fast as detector and job can, watched and not watched in turns.

    Parameters
    ----------
    viewers : int, optional
        Pages that watch.
    rows, columns, ranks, num : int, optional
        Detector, MPI ranks, and projections of a scan.
    repeats : int, optional
        Turns.

    Returns
    -------
    Report
        ``median_delay`` and ``p99_delay`` from an image's last slice at the controller to its PNGs in a viewer's hands,
        of all ``pictures``; ``rate_ratio``, projections per second of a watched scan over those of one that is not,
        median over turns, and its ``spread``; ``projections_per_second`` of the scans without viewers, from the
        first exposure to the last verdict; and the arguments.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If a scan or the live view fails.
    """
    check_repeats(repeats)
    if viewers < 1 or num < 2 * WARM_UP:
        raise ConfigError(f"viewers={viewers}, num={num}: expected at least 1 viewer and {2 * WARM_UP} projections")
    delays: list[float] = []
    with _beamline(rows, columns, ranks, num) as scan:
        logger.info("job starts and warms up")
        scan(WARM_UP)

        def turn() -> dict[str, float]:
            alone = scan(num)
            with _watched(viewers) as seen:
                watched = scan(num)
            delays.extend(seen)
            return {"alone": alone, "ratio": watched / alone}

        found = take_turns(repeats, turn)
    if not delays:
        raise JobError("benchmark: no viewer was shown a picture; is the scan too short?")
    return Report({
        "median_delay": percentile(delays, 50),
        "p99_delay": percentile(delays, 99),
        "viewers": viewers,
        "pictures": len(delays),
        "rate_ratio": found["ratio"].median,
        "spread": found["ratio"].spread,
        "projections_per_second": found["alone"].median,
        "rows": rows, "columns": columns, "ranks": ranks, "num": num,
    })  # fmt: skip


@contextlib.contextmanager
def _beamline(rows: int, columns: int, ranks: int, num: int) -> Iterator[Callable[[int], float]]:
    """Keep a simulated beamline and a job.

    Yields
    ------
    callable
        Takes a scan of so many projections to its end, whatever its verdicts; returns projections per second, from the
        first exposure to the last verdict.
    """
    from bluesky_streamrecon.beamline import MpiLauncher, ReconJob
    from bluesky_streamrecon.evaluation.engines import run_engine
    from bluesky_streamrecon.plans import stream_tomo_plan
    from bluesky_streamrecon.sim_devices import sim_beamline
    from bluesky_streamrecon.storage import TomoScan, write_dxfile

    made = disc_scan(columns, rows, num)
    counts, angles = counts_of(made.integrals), made.angles
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrecon-bench-")))
        # Projections for the detector to show: to make each when it is wanted would take a core from the job.
        flat = np.full((2, rows, columns), FLAT_COUNT)
        recorded = TomoScan(
            projections=counts,
            angles_deg=np.degrees(angles),
            flats=flat.astype(np.uint16),
            darks=np.full(flat.shape, DARK_COUNT, np.uint16),
        )
        write_dxfile(directory / "recorded.h5", recorded)
        engine = stack.enter_context(run_engine(context_managers=[]))
        beamline = sim_beamline(directory / "recorded.h5", directory=directory, instant=True, velocity=FAST)
        job = ReconJob(ranks=ranks, keep_alive=True, launcher=MpiLauncher(log_directory=directory / "logs"))
        stack.callback(job.close)
        documents: list[tuple[str, dict[str, Any]]] = []
        engine.subscribe(lambda name, doc: documents.append((name, doc)))

        def scan(projections: int) -> float:
            documents.clear()
            plan = stream_tomo_plan(
                [beamline.detector],
                beamline.stage,
                order=np.degrees(angles[:projections]).tolist(),
                flats=2,
                darks=2,
                shutter=beamline.shutter,
                sample_table=beamline.table,
                axis=made.axis,
                job=job,
                advisory=True,
                coalesce=False,
            )
            engine(plan)
            record = job.last_run
            if record is None or record.exit_status != "success" or record.problems:
                why = "it was not reconstructed" if record is None else "; ".join(record.problems) or record.reason
                raise JobError(f"benchmark: the scan failed: {why}")
            return _rate(documents, f"{job.name}-steering-when")

        yield scan


def _rate(documents: list[tuple[str, dict[str, Any]]], when: str) -> float:
    """Return the projections per second of one scan, from its documents; `when` names the moment of a verdict."""
    streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    events = [(streams[doc["descriptor"]], doc) for name, doc in documents if name == "event"]
    exposed = [float(doc["time"]) for stream, doc in events if stream == "primary"]
    verdicts = [float(doc["data"][when]) for stream, doc in events if stream == "steering"]
    return (len(exposed) - 1) / (max(*verdicts, exposed[-1]) - exposed[0])


@contextlib.contextmanager
def _watched(viewers: int) -> Iterator[list[float]]:
    """Run a live view with so many pages meanwhile; the list holds their delays afterwards."""
    delays: list[float] = []
    with started("bluesky_streamrecon", "view", "--json") as view:
        line = view.stdout.readline() if view.stdout is not None else ""
        if not line:
            raise JobError("benchmark: the live view did not start; is the extra 'view' installed?")
        with started(__name__, json.loads(line)["url"], str(viewers)) as watching:
            if watching.stdout is None or watching.stdout.readline() != "True\n":
                raise JobError("benchmark: the viewers did not start; does the live view answer?")
            yield delays
            found, _ = watching.communicate(timeout=END_SECONDS)
            delays.extend(json.loads(found))


def watch_page(url: str, ready: threading.Event, ending: threading.Event) -> list[float]:
    """Watch a live view as one page does: receive changes, and fetch the slices of each new picture.

    Parameters
    ----------
    url : str
        Of the page, with its token.
    ready, ending : Event
        Set here when it watches, and elsewhere when it is to end.

    Returns
    -------
    list of float
        How old each picture was when its slices had arrived.
    """
    parts = urlsplit(url)
    token = parse_qs(parts.query)["token"][0]
    began, delays, seen = time.time(), [], None

    def get(path: str) -> HTTPResponse:
        connection = held.enter_context(contextlib.closing(HTTPConnection(parts.netloc, timeout=END_SECONDS)))
        connection.request("GET", f"{path}?token={token}")
        return connection.getresponse()

    with contextlib.suppress(OSError, HTTPException), contextlib.ExitStack() as held:
        changes = get("/events")
        while not ending.is_set() and (line := changes.readline()):
            ready.set()
            state = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            picture = state.get("picture")
            if picture and (picture["run"], picture["image"]) != seen:
                seen = (picture["run"], picture["image"])
                for index in range(len(picture["rows"])):
                    get(f"/picture/{picture['image']}/{index}.png").read()
                if picture["made"] > began:  # else it was there before us
                    delays.append(time.time() - picture["made"])
    return delays


def main() -> None:
    """Watch a page with so many viewers until standard input ends; print when they do, and their delays as JSON."""
    os.nice(10)  # browsers are other people's computers
    url, number = sys.argv[1], int(sys.argv[2])
    ending, ready = threading.Event(), [threading.Event() for _ in range(number)]
    with ThreadPoolExecutor(number) as pool:
        pages = [pool.submit(watch_page, url, each, ending) for each in ready]
        print(all(each.wait(END_SECONDS) for each in ready), flush=True)
        sys.stdin.read()
        ending.set()
        print(json.dumps([delay for page in pages for delay in page.result()]))


if __name__ == "__main__":
    main()
