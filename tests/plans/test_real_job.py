"""The main job with everything real: processes, MPI, sockets, HDF5."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import datetime

import h5py
import numpy as np
import pytest
from bluesky.run_engine import RunEngineInterrupted
from pace import held_back

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.ordering import optimized_interleaved
from bluesky_streamrecon.plans import budget, stream_tomo_fly_plan, stream_tomo_plan
from bluesky_streamrecon.sim_devices import SheppLogan, sim_beamline
from bluesky_streamrecon.storage import TomoScan, write_dxfile

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]
with_own_job = pytest.mark.usefixtures("own_job", "no_orphans")  # for tests of how a job ends


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=64, directory=tmp_path, instant=True)


@pytest.fixture
def own_job(tmp_path):
    made = ReconJob("job", ranks=2, output=tmp_path / "recon")
    yield made
    made.close()


@pytest.fixture
def job(request):
    """The job that goes from test to test, unless the test uses one of its own."""
    return request.getfixturevalue("own_job" if "own_job" in request.fixturenames else "kept_job")


@pytest.fixture
def tomo(beamline, job):
    def plan(beamline=beamline, **kwargs):
        given = {"num": 40, "window": 8, "flats": 2, "darks": 2}
        return stream_tomo_plan(
            beamline.detector,
            beamline.stage,
            shutter=beamline.shutter,
            sample_table=beamline.table,
            job=job,
            **{**given, **kwargs},
        )

    return plan


def test_scan_is_reconstructed_by_two_ranks_and_every_item_is_accounted_for(
    run_engine, documents, tomo, job, beamline, of
):
    assert run_engine(tomo(threshold=1.0)).exit_status == "success"
    record = job.last_run
    assert (record.taken, record.used, record.ranks) == (40, 40, 2)
    totals = record.ledger_totals()
    assert totals["balanced"]
    assert (totals["sent"], totals["applied"], totals["dropped"]) == (88, 88, 0)
    assert record.axis == pytest.approx(beamline.axis, abs=1.0)
    assert record.problems == ()
    with h5py.File(record.result) as file:
        image = file["/exchange/data"][:]
    assert image.shape == (4, 64, 64)
    assert np.isfinite(image).all()
    assert record.image_number == record.verdicts[-1].image_number
    assert of(documents, "stop")[0]["num_events"]["steering"] == len(record.verdicts)


def test_binned_frames_of_a_region_are_reconstructed_and_the_file_keeps_all_pixels(
    run_engine, documents, tomo, job, of, tmp_path
):
    beamline = sim_beamline(rows=8, columns=128, directory=tmp_path, instant=True)
    assert run_engine(tomo(beamline, bin=2, rows=(2, 7), threshold=1.0)).exit_status == "success"
    record = job.last_run
    assert record.problems == ()
    assert record.axis == pytest.approx((beamline.axis + 0.5) / 2 - 0.5, abs=1.0)
    with h5py.File(record.result) as file:
        assert file["/exchange/data"].shape == (2, 64, 64)
    images = [doc for doc in of(documents, "stream_resource") if doc["data_key"] == beamline.detector.name]
    for image in images:
        with h5py.File(image["uri"].removeprefix("file://localhost")) as file:
            assert file[image["parameters"]["dataset"]].shape[-2:] == (8, 128)
    assert images


def test_scan_ends_by_quality_and_the_next_one_works(run_engine, documents, tomo, job, of):
    for _ in range(2):
        # Each projection waits until the one before is in the image, as at a detector that is slower than the job.
        run_engine(held_back(tomo(threshold=0.8, compare_to=4, axis=34.8), job))
        stop = of(documents, "stop")[-1]
        assert stop["exit_status"] == "success"
        assert stop["reason"].startswith("quality: stopped at ")
        assert stop["num_events"]["primary"] < 40
        assert job.last_run.ledger_totals()["balanced"]


@pytest.fixture
def fly(beamline, job):
    def plan(beamline=beamline, **kwargs):
        given = {"num": 40, "window": 8, "flats": 2, "darks": 2}
        return stream_tomo_fly_plan(
            beamline.detector,
            beamline.stage,
            trigger=beamline.trigger,
            encoder=beamline.encoder,
            shutter=beamline.shutter,
            sample_table=beamline.table,
            job=job,
            **{**given, **kwargs},
        )

    return plan


class Timed:
    """A camera whose counts are as many as its detector is exposed for."""

    def __init__(self, camera, detector):
        self.shape, self.dtype, self._camera, self._detector = camera.shape, camera.dtype, camera, detector

    def frame(self, exposure):
        seconds = self._detector.exposure_time._connector.backend.reading["value"]
        return (self._camera.frame(exposure) * (seconds / 0.05)).astype(self.dtype)


def test_flats_and_darks_of_a_flight_are_exposed_as_long_as_its_projections(run_engine, fly, job, tmp_path, documents):
    beamline = sim_beamline(SheppLogan(), rows=4, columns=64, directory=tmp_path, instant=True, counts=2e4)
    acquire = beamline.detector._acquire_logic
    acquire.scene = replace(acquire.scene, camera=Timed(beamline.camera, beamline.detector))
    assert run_engine(fly(beamline, exposure=0.02, threshold=1.0, axis=beamline.axis)).exit_status == "success"
    assert job.last_run.problems == ()
    with h5py.File(job.last_run.result) as file:
        volume = file["/exchange/volume"][:]
    assert volume.mean() == pytest.approx(beamline.camera.sample.image(64).mean(), rel=0.03)
    exposed = {
        doc["name"]: doc["configuration"]["detector"]["data"]["detector-exposure_time"]
        for name, doc in documents
        if name == "descriptor" and "detector" in doc["configuration"]
    }
    assert exposed == {"dark": 0.02, "flat": 0.02, "primary": 0.02}


def test_flight_is_reconstructed_by_two_ranks_from_the_angles_that_were_recorded(
    run_engine, documents, fly, tomo, job, beamline, of, tmp_path
):
    assert run_engine(fly(threshold=1.0, coalesce=False)).exit_status == "success"
    record = job.last_run
    assert (record.taken, record.used, record.ranks) == (40, 40, 2)
    totals = record.ledger_totals()
    assert (totals["balanced"], totals["sent"], totals["applied"], totals["dropped"]) == (True, 88, 88, 0)
    assert record.axis == pytest.approx(beamline.axis, abs=1.0)
    assert record.problems == ()
    with h5py.File(record.result) as file:
        flown, recorded = file["/exchange/data"][:], file["/exchange/theta"][:]
    same = sim_beamline(rows=4, columns=64, directory=tmp_path, instant=True)  # step by step, to where it flew by
    assert run_engine(tomo(same, threshold=1.0, order=recorded.tolist(), num=None, axis=record.axis, coalesce=False))
    with h5py.File(job.last_run.result) as file:
        stepped = file["/exchange/data"][:]
    assert record.image_number == job.last_run.image_number == 40
    difference = np.sqrt(((flown - stepped) ** 2).mean()) / np.sqrt((stepped**2).mean())
    assert difference < 0.05  # noise of the sensor is drawn per exposure


def test_flight_is_ended_by_quality_in_the_middle_of_a_sweep_and_all_of_it_is_used(
    run_engine, documents, fly, job, of, tmp_path
):
    moving = sim_beamline(rows=4, columns=64, directory=tmp_path, exposure=0.01, acceleration_time=0.05, velocity=360)
    run_engine(
        fly(moving, num=720, order="fixed", velocity=6, threshold=0.5, compare_to=4, flush_period=0.05, axis=34.8)
    )
    (stop,) = of(documents, "stop")
    record, taken = job.last_run, stop["num_events"]["primary"]
    assert stop["exit_status"] == "success"
    assert stop["reason"].startswith("quality: stopped at ")
    assert 12 <= taken < 720
    assert (record.taken, record.used) == (taken, taken)
    assert record.ledger_totals()["balanced"]
    assert moving.stage.angle < 175


def test_time_ends_a_scan_as_a_success_with_its_volume(run_engine, documents, tomo, job, of, monkeypatch):
    """By a clock that goes on by 10 s with each projection."""
    begun = datetime(2026, 11, 28, 18, 0).timestamp()

    def clock():
        return begun + 10.0 * (job.runs.open.taken if job.runs.open is not None else 0)

    monkeypatch.setattr(budget, "wall_clock", clock)
    run_engine(tomo(until="18:05:09", threshold=1.0))
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 30)
    assert stop["reason"].startswith("until 18:05: ended after 30 of 40 projections; best score ")
    job.wait_for_volume()
    assert job.last_run.volume


def test_flight_ends_in_the_middle_of_a_sweep_when_its_time_is_over(
    run_engine, documents, fly, job, of, tmp_path, monkeypatch
):
    moving = sim_beamline(rows=4, columns=64, directory=tmp_path, exposure=0.01, acceleration_time=0.05, velocity=360)
    streams, begun, late = {}, datetime(2026, 11, 28, 18, 0).timestamp(), []

    def count(name, doc):
        if name == "descriptor":
            streams[doc["uid"]] = doc["name"]
        elif name == "event" and streams[doc["descriptor"]] == "progress" and doc["seq_num"] == 3:
            late.append(3600.0)

    run_engine.subscribe(count)
    monkeypatch.setattr(budget, "wall_clock", lambda: begun + sum(late))
    run_engine(fly(moving, num=720, order="fixed", velocity=6, threshold=1.0, until="18:30", flush_period=0.05))
    (start,), (stop,), record = of(documents, "start"), of(documents, "stop"), job.last_run
    assert start["streamrecon"]["budget"].startswith("until 18:30: enough for all 720 projections (0.01 s of exposure")
    assert stop["exit_status"] == "success"
    assert stop["reason"].startswith(f"until 18:30: ended after {record.taken} of 720 projections; ")
    assert 3 <= record.taken == record.used == stop["num_events"]["primary"] < 720
    assert moving.stage.angle < 175


@pytest.mark.parametrize("kind", ["step", "fly"])
def test_dose_ends_a_scan_as_a_success_with_its_volume(run_engine, documents, tomo, fly, beamline, job, of, kind):
    plan = {"step": tomo, "fly": fly}[kind]
    run_engine(plan(dose=30 * 0.05, threshold=1.0))
    (stop,), record = of(documents, "stop"), job.last_run
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 30)
    assert stop["reason"].startswith("dose of 1.5 s: ended after 30 of 40 projections of 0.05 s each; best score ")
    assert (record.taken, record.used, record.problems) == (30, 30, ())
    assert record.ledger_totals()["balanced"]
    job.wait_for_volume()
    assert job.last_run.volume


@pytest.fixture
def killed(run_engine, job):
    """Have one process of the job killed at a projection of each scan from now on."""

    def at(victim, projection):
        def kill(name, doc):
            if doc["seq_num"] == projection and "stage" in doc["data"]:
                children = dict(zip(("mpiexec", "controller"), job.job.launcher._children, strict=True))
                pid = children[victim].pid if victim in children else None
                if victim == "rank":
                    pid = next(peer.pid for peer in job.job.link.endpoint.peers() if peer.role == "rank")
                os.kill(pid, signal.SIGKILL)
                assert children.get(victim, children["mpiexec"]).wait(30)  # one rank's death is the death of all

        return run_engine.subscribe(kill, "event")

    return at


@with_own_job
@pytest.mark.parametrize("victim", ["mpiexec", "rank"])
def test_job_that_is_killed_and_not_started_again_leaves_a_complete_scan_and_a_loud_message(
    run_engine, documents, tomo, job, of, victim, caplog, killed
):
    job.options.restarts = 0
    killed(victim, 10)
    result = run_engine(tomo(num=20))
    (stop,) = of(documents, "stop")
    assert (result.exit_status, stop["exit_status"]) == ("success", "success")
    assert stop["num_events"]["primary"] == 20
    assert "reconstruction job lost after" in stop["reason"]
    assert "log: " in stop["reason"]
    assert job.last_run.lost
    assert any(record.levelname == "ERROR" and "lost after" in record.message for record in caplog.records)


@pytest.fixture(scope="module")
def undisturbed():
    """Holds the image of a scan whose job was left alone."""
    return []


@pytest.mark.parametrize(("victim", "checkpoint_every"), [("rank", 0), ("rank", 3), ("controller", 0)])
def test_job_that_is_killed_is_started_again_and_gives_the_same_image(
    run_engine,
    documents,
    tomo,
    job,
    of,
    victim,
    checkpoint_every,
    killed,
    tmp_path,
    undisturbed,
    monkeypatch,
):
    """With the default settings: steps are taken together where the job is behind, but not to catch up."""
    chosen = {"num": 30, "threshold": 1.0, "axis": 34.8}
    if not undisturbed:
        run_engine(held_back(tomo(**chosen), job, ahead=4))
        with h5py.File(job.last_run.result) as file:
            undisturbed.append(file["/exchange/data"][:])
        assert job.last_run.image_number == 30
    (expected,) = undisturbed
    chosen["checkpoint_every"] = checkpoint_every
    token = killed(victim, 15)
    monkeypatch.setattr(job.options, "backoff", 0.05)
    same = sim_beamline(rows=4, columns=64, directory=tmp_path, instant=True)  # down to the noise
    result = run_engine(held_back(tomo(same, **chosen), job, ahead=4))
    run_engine.unsubscribe(token)
    record, stop = job.last_run, of(documents, "stop")[-1]
    assert (result.exit_status, stop["exit_status"], record.used) == ("success", "success", 30)
    assert "is started again (restart 1 of 3)" in stop["reason"]
    assert record.ledger_totals()["balanced"]
    assert [entry.restarts for entry in record.ledger.values()] == ([0, 0] if victim == "controller" else [1, 1])
    images = [verdict.image_number for verdict in record.verdicts]
    assert images == sorted(set(images))
    assert images[-1] == record.image_number == 30
    with h5py.File(record.result) as file:
        image = file["/exchange/data"][:]
    assert np.abs(image - expected).max() <= 1e-4 * expected.max()


@with_own_job
def test_no_process_survives_a_scan_that_is_halted(run_engine, documents, tomo, job, of, in_thread):
    def pause(name, doc):
        if doc["seq_num"] == 5 and "stage" in doc["data"]:
            in_thread(lambda: run_engine.request_pause(defer=False))

    token = run_engine.subscribe(pause, "event")
    with pytest.raises(RunEngineInterrupted):
        run_engine(tomo(threshold=1.0))
    run_engine.unsubscribe(token)
    run_engine.halt()
    assert of(documents, "stop")[0]["exit_status"] == "abort"


def test_no_process_survives_an_interpreter_that_is_left_in_the_middle_of_a_scan(tmp_path, no_orphans):
    source = textwrap.dedent(f"""
        import threading
        from bluesky import RunEngine
        from bluesky_streamrecon.beamline import ReconJob
        from bluesky_streamrecon.plans import stream_tomo_plan
        from bluesky_streamrecon.sim_devices import sim_beamline
        RE = RunEngine({{}})
        b = sim_beamline(rows=4, columns=64, directory={str(tmp_path)!r}, instant=True)
        def pause(name, doc):
            if doc["seq_num"] == 5:
                threading.Thread(target=RE.request_pause).start()
        RE.subscribe(pause, "event")
        try:
            RE(stream_tomo_plan(b.detector, b.stage, pixel_values="transmission", job=ReconJob()))
        except Exception as error:
            print(type(error).__name__, RE.state)
    """)
    done = subprocess.run(
        [sys.executable, "-c", source], timeout=60, check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert "RunEngineInterrupted paused" in done.stdout


def recorded(path, axis, reach, turn, num=40):
    """A beamline that replays a scan around an axis anywhere, of a sample that may be wider than the detector."""
    sample = SheppLogan().body(4, reach)
    angles = np.arange(num) * turn / num
    lines = np.stack([sample.projection(np.radians(angle), 64, axis) for angle in angles])
    rng = np.random.default_rng(0)
    taken = rng.poisson(3e4 * np.exp(-lines)).astype(np.uint16)
    flats = rng.poisson(3e4, (3, 4, 64)).astype(np.uint16)
    write_dxfile(path / "scan.h5", TomoScan(taken, flats, np.zeros((2, 4, 64), np.uint16), angles))
    order = {"order": [float(angles[int(place)]) for place in optimized_interleaved(num, 0, num)], "stop": float(turn)}
    return sim_beamline(path / "scan.h5", directory=path, instant=True), order


@pytest.mark.parametrize(("axis", "reach"), [(22.0, 30.0), (45.5, 60.0)])
def test_scan_whose_axis_nobody_knows_is_taken_to_its_end_and_says_why_in_the_same_words_everywhere(
    run_engine, documents, tomo, job, tmp_path, of, axis, reach
):
    wide, order = recorded(tmp_path, axis, reach, 180)
    run_engine(tomo(wide, **order, policy="ms-ssim", threshold=0.1, minimum_projections=0, compare_to=1))
    stop, record = of(documents, "stop")[-1], job.last_run
    assert stop["num_events"]["primary"] == 40
    doubt = record.problems[-1]
    assert doubt.startswith("rotation axis: column ")
    assert "not certain" in doubt
    assert "(the sample reaches out of view at the " in doubt
    assert doubt.endswith("; give axis= in detector columns")
    assert stop["reason"].startswith("all 40 projections taken; not judged at 40 of 40 projections: rotation axis: ")
    assert stop["reason"].count(doubt) == 1
    assert all(verdict.verdict == "invalid" and "not certain" in verdict.text for verdict in record.verdicts)
    assert record.image_number > 1  # there was an image before the end


@pytest.mark.parametrize("axis", [14.0, 48.0])
def test_full_turn_about_an_axis_near_the_edge_is_reconstructed_about_the_right_one_as_wide_as_is_seen(
    run_engine, documents, tomo, job, tmp_path, of, axis
):
    near, order = recorded(tmp_path, axis, max(axis, 63 - axis) - 4, 360)
    run_engine(tomo(near, **order, threshold=1.0))
    assert job.last_run.axis == pytest.approx(axis, abs=0.3)
    (problem,) = job.last_run.problems
    assert problem.startswith("field of view: half acquisition: the sample reaches out of view at the ")
    wide = 2 * math.ceil(max(job.last_run.axis, 63 - job.last_run.axis)) + 1
    assert problem.endswith(f"the image has {wide} x {wide} pixels")
    assert problem in of(documents, "stop")[-1]["reason"]
