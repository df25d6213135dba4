"""A program of its own follows a scan of this process by its documents, and finds what the attached job finds."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bluesky.callbacks.zmq import Publisher
from follower_program import Program
from pace import held_back

from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.storage import open_storage

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("no_orphans"), pytest.mark.timeout(400)]

SCAN = {"num": 24, "window": 8, "threshold": 0.9, "minimum_projections": 6, "flats": 2, "darks": 2}


CONFIGURATION = """
[job]
ranks = 1
[recon]
window = 8
axis = {axis}
final = "none"
[steering]
policy = "ms-ssim"
threshold = {threshold}
minimum_projections = 6
[storage]
directory = "{directory}"
[follow]
plans = ["stream_tomo_plan", "count"]
detector = "detector"
"""


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Program]]:
    """Start ``streamrecon follow`` with a configuration file."""
    monkeypatch.setenv("STREAMRECON_CONFIG", str(tmp_path / "streamrecon.toml"))
    programs: list[Program] = []

    def start(*arguments: object) -> Program:
        programs.append(Program(*arguments))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """Write the configuration file."""

    def write(axis: float, threshold: float = 0.9, more: str = "") -> None:
        text = CONFIGURATION.format(axis=axis, threshold=threshold, directory=tmp_path / "followed")
        (tmp_path / "streamrecon.toml").write_text(text + more)

    return write


PROXY = "from bluesky.callbacks.zmq import Proxy; p = Proxy(); print(p.in_port, p.out_port, flush=True); p.start()"


@pytest.fixture
def proxy() -> Iterator[tuple[Publisher, str]]:
    """Bluesky's proxy: a publisher for a RunEngine, and the address to which it publishes."""
    with subprocess.Popen([sys.executable, "-c", PROXY], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ports = [text.rpartition(":")[2] for text in server.stdout.readline().split()]
        publisher = Publisher(f"localhost:{ports[0]}")
        yield publisher, f"localhost:{ports[1]}"
        publisher.close()
        server.kill()


def verdict_of(job):
    """Return the verdict of the attached job, and the projections at which it was met first."""
    verdicts = job.last_run.verdicts
    met = next((each for each in verdicts if each.verdict == "enough"), verdicts[-1])
    return met.verdict, met.projections


def same(found, start, job):
    """Compare what a follower has found with what the attached job has."""
    assert found["problems"] == []
    assert found["run_uid"] == start["uid"]
    verdict, projections = verdict_of(job)
    assert verdict == "enough"
    assert found["verdict"] == verdict
    assert abs(found["projections"] - projections) <= 1
    assert found["score"] == pytest.approx(next(v.score for v in job.last_run.verdicts if v.verdict == "enough"), 1e-3)


@pytest.fixture
def scan(overruled, kept_job):
    """Take a scan that nothing ends early, with an attached job that judges every image."""

    def plan(beamline):
        devices = {"shutter": beamline.shutter, "sample_table": beamline.table, "job": kept_job}
        settings = {
            "axis": beamline.axis,
            "policy": "ms-ssim",
            "advisory": True,
            "coalesce": False,
            "ranks": 2,
            "final": "none",
        }
        scanned = stream_tomo_plan(beamline.detector, beamline.stage, **devices, **settings, **SCAN)
        return held_back(scanned, kept_job, ahead=5)  # far from the 8 images that wait with the controller at most

    def take(speak=lambda: None, at=10):
        overruled(speak, at + SCAN["flats"] + SCAN["darks"], plan)

    return take


def test_follower_by_0mq_finds_the_verdict_of_the_attached_job_at_the_same_projection(
    follow, configure, proxy, scan, run_engine, documents, kept_job
):
    publisher, address = proxy
    configure(axis=sim_beamline(rows=4, columns=64, instant=True).axis)
    program = follow("--zmq", address, "--count", "1")
    program.wait_for("ready")
    # It connects at some time: a run whose start it has missed shows when.
    told, pause = threading.Event(), threading.Event()
    waiting = threading.Thread(target=lambda: (program.wait_for("its start document was missed"), told.set()))
    waiting.start()
    while not told.is_set():
        publisher("event", {"descriptor": "of a run that had begun before", "seq_num": 7, "data": {}})
        pause.wait(0.05)
    waiting.join()
    run_engine.subscribe(publisher)
    scan()
    (found,) = program.end()
    same(found, documents[0][1], kept_job)
    assert found["taken"] == 24


def test_follower_by_tiled_that_is_killed_in_mid_run_and_started_again_finds_the_verdict_of_the_attached_job(
    follow, configure, scan, run_engine, documents, kept_job, tmp_path
):
    from bluesky_tiled_plugins import TiledWriter

    configure(axis=sim_beamline(rows=4, columns=64, instant=True).axis)
    with open_storage(directory=tmp_path / "catalogue", readable=[tmp_path]) as storage:
        run_engine.subscribe(TiledWriter(storage.catalog, batch_size=1))
        started = []

        def start_twice():
            for _ in range(2):
                started.append(follow("--tiled", storage.uri, "--count", "1"))
                started[-1].wait_for("12 of 24 projections")
                if len(started) == 1:
                    started[0].kill()

        scan(start_twice, at=14)
        (found,) = started[1].end()
    same(found, documents[0][1], kept_job)
    assert found["taken"] == 24
