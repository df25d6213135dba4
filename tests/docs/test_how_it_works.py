"""The way of a projection and of a score through the modules is what the documentation says, and short."""

from __future__ import annotations

import importlib
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.beamline.serving import QueuedFrame
from bluesky_streamrecon.beamline.steering import Decision
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.plans.engines import run_engine
from bluesky_streamrecon.quality.controller import run_controller
from bluesky_streamrecon.recon.analysis import Frame
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.job import run_job
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.wire import Item, Preview, Score

PAGE = Path(__file__).parents[2] / "docs" / "explanations" / "how-it-works.md"
RUN_ENGINE = "RunEngine"  # its thread is not ours


class Row(NamedTuple):
    """One line of a table."""

    stop: str
    module: str
    function: str
    what: str
    thread: str
    queue: str


def section(heading: str) -> str:
    return PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]


def table(heading: str) -> list[Row]:
    """Return the rows of the table under a heading."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [Row(*(cell.strip().strip("`") for cell in line.strip("|").split("|"))) for line in lines[2:]]


@pytest.mark.parametrize("heading", ["The way of one projection", "The way of one score"])
def test_each_function_on_the_way_exists(heading):
    rows = table(heading)
    assert rows
    for row in rows:
        found = importlib.import_module("bluesky_streamrecon." + row.module.removesuffix(".py").replace("/", "."))
        for name in row.function.split("."):
            found = getattr(found, name)
        assert callable(found), row


@pytest.mark.parametrize(
    ("heading", "stops", "classes"), [("The way of one projection", 10, 16), ("The way of one score", 8, 16)]
)
def test_way_has_no_more_stops_than_can_be_kept_in_mind(heading, stops, classes):
    """Of `classes` in all, so many change, check or keep what passes."""
    rows = table(heading)
    numbered = {(row.stop, row.function.split(".")[0]) for row in rows if row.stop != "–"}
    assert sorted(int(stop) for stop, _ in numbered) == list(range(1, len(numbered) + 1)), "one number for each class"
    assert len({name for _, name in numbered}) <= stops
    assert len({row.function.split(".")[0] for row in rows}) <= classes


def test_projection_waits_in_four_queues_and_passes_four_threads_at_most():
    rows = table("The way of one projection")
    assert len({row.queue for row in rows} - {""}) <= 4
    assert len({row.thread for row in rows} - {RUN_ENGINE}) <= 4


# ---------------------------------------------------------------------------- what a profiler sees of it

ROWS, COLUMNS = 11, 67  # of no other array
BOUND = 60.0


class JobInThreads:
    """Launches a rank and a controller in this process."""

    def check_ranks(self, ranks: int) -> None:
        """There is one."""

    def start(self, address: str, job_id: str, ranks: int, on_exit: Any) -> None:
        rank = partial(run_job, address, job_id, threads=1, communicator=Communicator())
        self._threads = [threading.Thread(target=each) for each in (rank, partial(run_controller, address, job_id))]
        for thread in self._threads:
            thread.start()

    def stop(self, grace: float = 5.0) -> None:
        for thread in self._threads:
            thread.join(BOUND)

    running = True


def has_projection(value: Any, depth: int = 0) -> bool:
    """Return whether this is a frame, of the detector or a rank, or a document or message that holds one."""
    if isinstance(value, np.ndarray):
        return value.shape[-2:] == (ROWS, COLUMNS)
    if isinstance(value, memoryview):
        return value.nbytes == ROWS * COLUMNS * 2
    if isinstance(value, dict) and ("seq_num" in value or "seq_nums" in value):
        return True
    if isinstance(value, (list, tuple)) and depth < 2:
        return any(has_projection(each, depth + 1) for each in value[:8])
    return isinstance(value, (Item, QueuedFrame, Frame))


def has_score(value: Any) -> bool:
    return isinstance(value, (Preview, Score, Decision))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of the classes of ours whose methods get, or return, a projection or a score of a scan in this process."""
    found: dict[str, set[str]] = {"projection": set(), "score": set()}
    rooms = ("plans", "sim_devices", "hdf5", "recon.references", "recon.later_references")  # detector, flats and darks
    beyond = tuple(f"bluesky_streamrecon.{room}" for room in rooms)

    def look(frame: Any, event: str, result: Any) -> None:
        if event not in ("call", "return") or "self" not in frame.f_code.co_varnames[:1]:
            return
        kind = type(frame.f_locals.get("self"))
        if not kind.__module__.startswith("bluesky_streamrecon.") or kind.__module__.startswith(beyond):
            return
        names = frame.f_code.co_varnames[1 : frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
        values = [result] if event == "return" else [frame.f_locals.get(name) for name in names]
        for what, has in (("projection", has_projection), ("score", has_score)):
            if any(map(has, values)):
                found[what].add(kind.__name__)

    directory = tmp_path_factory.mktemp("scan")
    threading.setprofile(look)
    try:
        with run_engine(context_managers=[]) as engine:
            beamline = sim_beamline(rows=ROWS, columns=COLUMNS, directory=directory, instant=True)
            job = ReconJob("job", ranks=1, launcher=JobInThreads())
            engine(
                stream_tomo_plan(
                    beamline.detector, beamline.stage, shutter=beamline.shutter, sample_table=beamline.table, job=job,
                    num=24, window=8, flats=2, darks=2, final="none", size=50,
                )
            )  # fmt: skip
            job.close()
    finally:
        threading.setprofile(None)
    assert job.last_run.problems == ()
    return found


@pytest.mark.nightly
@pytest.mark.parametrize(("heading", "what", "most"), [
    ("The way of one projection", "projection", 26), ("The way of one score", "score", 19),
])  # fmt: skip
def test_profiler_sees_no_other_classes_than_the_page_names(seen, heading, what, most):
    named = set(re.findall(r"`(_?[A-Z]\w+)[`.]", section(heading)))
    assert seen[what] - named == set()
    assert len(seen[what]) <= most
