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

import msgspec
import numpy as np

from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.evaluation.bench.harness import END_SECONDS, check_repeats, percentile, started, take_turns
from bluesky_streamrecon.evaluation.bench.sample import DARK_COUNT, FLAT_COUNT, counts_of, disc_scan
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.wire import Cut

__all__ = ["main", "measure_view", "watch_page"]

WARM_UP = 12
SIDES = (512, 320, 320, 320)
"""Pixels of the cuts that a page asks for, at most: a row, large, two upright ones and an oblique one."""

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
        ``median_delay`` and ``p99_delay`` from an image at rank 0 to its cuts in a viewer's hands, of all ``pictures``;
        ``side`` of the largest cut, and ``pictures_per_second`` of a viewer, median over turns; ``rate_ratio``,
        projections per second of a watched scan over those of one that is not, median over turns, and its ``spread``;
        ``projections_per_second`` of the scans without viewers, from the first exposure to the last verdict; and the
        arguments.

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
                began = time.monotonic()
                watched = scan(num)
                took = time.monotonic() - began
            delays.extend(seen)
            return {"alone": alone, "ratio": watched / alone, "pictures": len(seen) / viewers / took}

        found = take_turns(repeats, turn)
    if not delays:
        raise JobError("benchmark: no viewer was shown a picture; is the scan too short?")
    return Report({
        "median_delay": percentile(delays, 50),
        "p99_delay": percentile(delays, 99),
        "viewers": viewers,
        "side": min(SIDES[0], max(rows, columns)),
        "pictures": len(delays),
        "pictures_per_second": found["pictures"].median,
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
    """Watch a live view as one page does: receive changes, and fetch the cuts of each new image.

    Parameters
    ----------
    url : str
        Of the page, with its token.
    ready, ending : Event
        Set here when it watches, and elsewhere when it is to end.

    Returns
    -------
    list of float
        How old each image was when its cuts had arrived.
    """
    parts = urlsplit(url)
    token = parse_qs(parts.query)["token"][0]
    began, delays, newest = time.time(), [], ""
    cuts = [Cut(corner=(0, 0, 0), down=(0, 1, 0), across=(0, 0, 1), shape=(1, 1))]  # which tells how large it is

    def request(method: str, path: str, body: bytes | None = None) -> HTTPResponse:
        connection = held.enter_context(contextlib.closing(HTTPConnection(parts.netloc, timeout=END_SECONDS)))
        connection.request(method, path, body, {"X-Streamrecon-Token": token})
        return connection.getresponse()

    def fetch() -> dict[str, Any]:
        wish = {"viewer": f"bench {threading.get_ident()}", "cuts": cuts}
        answer = request("POST", "/cuts", msgspec.json.encode(wish))
        answer.read()
        return dict(json.loads(answer.headers.get("X-Streamrecon-Cuts", "{}")))

    with contextlib.suppress(OSError, HTTPException), contextlib.ExitStack() as held:
        changes = request("GET", "/events")
        while not ending.is_set() and (line := changes.readline()):
            ready.set()
            state = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if not state.get("newest") or state["newest"] == newest or not (about := fetch()):
                continue
            newest = state["newest"]
            if len(cuts) == 1:
                cuts = list(_page_cuts(*about["volume"]))
            elif about["made"] > began:  # else it was there before us
                delays.append(time.time() - about["made"])
    return delays


def _page_cuts(rows: int, height: int, width: int) -> Iterator[Cut]:
    """Yield the cuts of a page that has just been opened: through the middle, a square as large as the volume."""
    side = max(rows, height, width)
    middle = np.array([rows - 1, height - 1, width - 1]) / 2
    edges = (((0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0)), ((0.8, 0.6, 0), (-0.3, 0.4, 0.87)))
    for (down, across), pixels in zip(edges, SIDES, strict=True):
        corner = middle - side * (np.array(down) + across) / 2
        made = [tuple((side * np.array(edge)).tolist()) for edge in (down, across)]
        most = min(pixels, side)
        yield Cut(corner=tuple(corner.tolist()), down=made[0], across=made[1], shape=(most, most))


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
