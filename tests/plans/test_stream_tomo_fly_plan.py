"""What `stream_tomo_fly_plan` promises, with a RunEngine, simulated devices and a job that is pretended."""

from __future__ import annotations

import asyncio
import math

import h5py
import numpy as np
import pytest
from bluesky.run_engine import RunEngineInterrupted
from bluesky.utils import FailedStatus

from bluesky_streamrecon.errors import ConfigError, DataError, JobError
from bluesky_streamrecon.plans import stream_tomo_fly_plan, use_beamline
from bluesky_streamrecon.sim_devices import Faults, sim_beamline
from bluesky_streamrecon.storage import load_run, open_storage

CORRECTED = {"flats": 0, "darks": 0, "pixel_values": "transmission"}


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def fly(beamline, pretend_job):
    def plan(beamline=beamline, **kwargs):
        given = {
            "trigger": beamline.trigger,
            "encoder": beamline.encoder,
            "num": 12,
            "window": 4,
            "flats": 2,
            "darks": 3,
            "shutter": beamline.shutter,
            "sample_table": beamline.table,
            "job": pretend_job,
        }
        return stream_tomo_fly_plan([beamline.detector], beamline.stage, **{**given, **kwargs})

    return plan


def in_file(documents, data_key, which=-1):
    """What a file of a data key has, by default the newest."""
    resource = [doc for name, doc in documents if name == "stream_resource" and doc["data_key"] == data_key][which]
    with h5py.File(resource["uri"].removeprefix("file://localhost")) as file:
        return file[resource["parameters"]["dataset"]][:]


def projections(script):
    return [(angle, pixels) for kind, _, angle, pixels in script.frames if kind == "projection"]


def test_all_sweeps_are_flown_and_frames_arrive_with_the_angles_that_were_recorded(
    run_engine, documents, fly, script, of
):
    script.score = lambda n: 0.5
    assert run_engine(fly(threshold=0.95)).exit_status == "success"
    (stop,) = of(documents, "stop")
    assert stop["reason"] == "all 12 projections taken; best score 0.500, threshold 0.95 not reached"
    assert {name: stop["num_events"][name] for name in ("dark", "flat", "primary")} == {
        "dark": 3, "flat": 2, "primary": 12
    }  # fmt: skip
    assert [kind for kind, *_ in script.frames] == ["dark"] * 3 + ["flat"] * 2 + ["projection"] * 12
    sent = projections(script)
    planned = of(documents, "start")[0]["streamrecon"]["angles"]
    assert planned == [0, 60, 120, 30, 90, 150, 15, 75, 135, 45, 105, 165]
    assert [math.degrees(angle) for angle, _ in sent] == pytest.approx(planned)
    np.testing.assert_array_equal(
        [math.degrees(a) for a, _ in sent], np.degrees(np.radians(in_file(documents, "encoder")))
    )
    np.testing.assert_array_equal(np.stack([pixels for _, pixels in sent]), in_file(documents, "detector"))


@pytest.mark.parametrize(
    ("order", "sweeps"), [("fixed", 1), ("interleaved(3)", 3), ("golden-continuous", 1), ([3, 5, 7, 4, 6], 2)]
)
def test_any_order_of_equal_steps_is_flown(run_engine, documents, fly, script, of, order, sweeps):
    run_engine(fly(order=order, **CORRECTED))
    (start,) = of(documents, "start")
    assert start["streamrecon"]["sweeps"] == sweeps
    assert [math.degrees(a) for a, _ in projections(script)] == pytest.approx(start["streamrecon"]["angles"])


def test_binned_frames_of_a_region_are_flown_and_the_file_keeps_all_pixels(run_engine, documents, fly, script):
    assert run_engine(fly(bin=2, rows=(1, 4))).exit_status == "success"
    (spec,) = script.specs
    assert spec.detector_shape == (1, 16)
    kept = in_file(documents, "detector")
    assert kept.shape == (12, 4, 32)
    expected = kept[:, 1:3].reshape(12, 1, 2, 16, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(np.stack([pixels for _, pixels in projections(script)]), expected, rtol=1e-6)
    assert [pixels.shape for kind, _, _, pixels in script.frames if kind != "projection"] == [(1, 16)] * 5


def test_flight_is_cut_short_as_a_success_and_every_frame_that_was_taken_is_used(
    run_engine, documents, fly, script, of, beamline, pretend_job
):
    script.score = lambda n: 0.97 if n >= 5 else 0.4
    run_engine(fly(num=400, order="fixed", flush_period=0.02, flats_after=4))
    (stop,) = of(documents, "stop")
    taken = stop["num_events"]["primary"]
    assert (stop["exit_status"], stop["num_events"]["flat"]) == ("success", 6)
    assert stop["reason"].startswith("quality: MS-SSIM 0.970 >= 0.95 at 5 of 400 projections")
    assert stop["reason"].endswith(f"; {taken} taken")
    assert 5 <= taken < 400
    assert len(in_file(documents, "detector", -2)) == len(in_file(documents, "encoder")) == taken
    assert (pretend_job.last_run.taken, pretend_job.last_run.used) == (taken, taken)


def test_moving_stage_comes_to_rest_where_the_flight_is_cut_short(run_engine, documents, fly, script, of, tmp_path):
    """In real time: half a turn would take ten seconds."""
    moving = sim_beamline(rows=4, columns=32, directory=tmp_path, exposure=0.005, acceleration_time=0.02, velocity=720)
    script.score = lambda n: 0.97 if n >= 3 else 0.4
    run_engine(fly(moving, num=180, order="fixed", velocity=18, flush_period=0.05, **CORRECTED))
    angles = in_file(documents, "encoder")
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "success"
    assert stop["num_events"]["primary"] == len(angles) < 100
    assert angles[-1] <= moving.stage.angle < angles[-1] + 30
    np.testing.assert_allclose(angles, np.arange(len(angles)), atol=1e-6)
    assert math.degrees(projections(script)[-1][0]) == pytest.approx(angles[-1])


def test_velocity_of_the_stage_is_as_before_when_the_scan_is_over(run_engine, fly, beamline):
    def velocity() -> float:
        return asyncio.run_coroutine_threadsafe(beamline.stage.velocity.get_value(), run_engine.loop).result(5)

    before = velocity()
    run_engine(fly(velocity=7.5))
    assert velocity() == before != 7.5


def test_job_signals_are_read_with_the_progress_of_the_flight_and_verdicts_are_events(
    run_engine, documents, fly, script, of
):
    script.score = lambda n: 0.1 + n / 100
    run_engine(fly(threshold=0.99))
    events = of(documents, "event", "progress")
    assert events
    assert {"stage", "job-score", "job-lag", "job-projections"} <= events[-1]["data"].keys()
    (start,) = of(documents, "start")
    assert start["hints"]["dimensions"] == [(["stage"], "progress")]
    assert [doc["data"]["job-steering-projections"] for doc in of(documents, "event", "steering")] == list(range(1, 13))


def test_start_document_tells_everything_that_was_asked_for(run_engine, documents, fly, of):
    run_engine(fly(md={"sample": "a tooth"}, velocity=10.0, exposure=0.1, window=5, tolerance=0.03))
    (start,) = of(documents, "start")
    assert (start["plan_name"], start["detectors"], start["motors"]) == (
        "stream_tomo_fly_plan",
        ["detector"],
        ["stage"],
    )
    assert (start["num_points"], start["sample"]) == (12, "a tooth")
    block = start["streamrecon"]
    assert (block["projections"], block["angle"], block["velocity"], block["sweeps"]) == (12, "encoder", 10.0, 4)
    assert (block["recon"]["window"], block["steering"]["tolerance"]) == (5, 0.03)
    assert (start["plan_args"]["exposure"], start["plan_args"]["order"]) == (0.1, "interlaced(4)")


def test_people_may_extend_a_flight_by_sweeps_between_the_planned_ones(
    run_engine, documents, fly, script, of, pretend_job, in_thread
):
    told = []

    def extend(n):
        if n == 4 and not told:
            told.append(in_thread(lambda: pretend_job.extend(16)))
            told[0].join(10)

    script.on_frame = extend
    run_engine(fly(**CORRECTED))
    taken = [math.degrees(a) for a, _ in projections(script)]
    assert len(told) == 1
    assert len(taken) >= 20
    assert taken[12:18] == pytest.approx([7.5, 67.5, 127.5, 37.5, 97.5, 157.5])
    assert len(set(taken)) == len(taken)
    assert "12 planned, extended to" in of(documents, "stop")[0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trigger": None}, "trigger: got none, expected a position-compare unit"),
        ({"encoder": None}, "encoder: got none"),
        ({"order": "golden"}, "turns"),
        ({"num": 180, "order": "optimized-interleaved"}, "power of two"),
        ({"velocity": 0}, "velocity: got 0, expected a positive number"),
        ({"velocity": 500.0, "exposure": 0.001}, "expected at most 180, the stage's"),
        ({"velocity": 50.0, "exposure": 2.0}, "velocity: got 50 degrees per second, expected at most 30"),
        ({"velocity": 50.0, "exposure": 1.0, "deadtime": 1.0}, "with its dead time"),
        ({"exposure": -1.0}, "exposure: got -1.0"),
        ({"exposure": math.nan}, "exposure: got nan"),
        ({"deadtime": -1.0}, "deadtime: got -1.0"),
        ({"flush_period": 0}, "flush_period: got 0"),
        ({"flats": -1}, "flats: got -1"),
        ({"shutter": None}, "flats=2: need shutter="),
        ({"num": 0}, "num: got 0"),
        ({"start": 35_990, "stop": 36_170}, "degrees: stage can not go there"),
        ({"window": 2, "step": 3}, "window=2 is shorter than step=3"),
        ({"threshold": 1.5}, "threshold: got 1.5"),
        ({"speed": 3}, "speed: not an argument of this plan"),
        ({"algorithm": "magic"}, "algorithm: got 'magic'"),
        ({"ranks": "two"}, "ranks: got .two."),
    ],
)
def test_what_can_not_work_is_refused_before_anything_moves(
    run_engine, documents, fly, beamline, script, arguments, words
):
    moves = []
    beamline.stage.travel = moves.append
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        run_engine(fly(**arguments))
    assert (documents, moves, script.launched) == ([], [], [])


def test_detector_with_frames_in_events_is_refused(run_engine, fly, beamline, tmp_path):
    inline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True, inline=True)
    with pytest.raises(ConfigError, match="detectors: got 'detector', which is not Preparable and Flyable"):
        run_engine(fly(inline, trigger=beamline.trigger, encoder=beamline.encoder))


def test_run_in_which_the_detector_misses_a_pulse_is_a_failure(run_engine, documents, fly, of, tmp_path, monkeypatch):
    """An exposure that was made longer behind the plan's back."""
    monkeypatch.setattr("bluesky_streamrecon.plans.flight.STALL_SECONDS", 2.0)
    moving = sim_beamline(rows=4, columns=32, directory=tmp_path, exposure=0.01, acceleration_time=0.01, velocity=720)
    logic = moving.detector._trigger_logic
    plain = logic.prepare_edge

    async def longer(num, livetime):
        await plain(num, 3 * livetime)

    logic.prepare_edge = longer
    with pytest.raises(DataError, match=r"no frame for .* of detector, 12 of encoder of 12"):
        run_engine(fly(moving, order="fixed", start=0, stop=12, velocity=60.0, **CORRECTED))
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "fail"


@pytest.mark.parametrize("faults", [Faults(stalls_from=1), Faults(stalls_from=2)])
def test_stage_that_does_not_start_fails_the_run(run_engine, documents, fly, of, tmp_path, faults):
    stuck = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True, faults=faults)
    with pytest.raises(FailedStatus):
        run_engine(fly(stuck, **CORRECTED))
    assert of(documents, "stop")[0]["exit_status"] == "fail"


@pytest.mark.parametrize("defer", [True, False])
def test_scan_that_is_paused_in_a_sweep_goes_on_and_nothing_is_lost_or_taken_twice(
    run_engine, documents, fly, script, of, in_thread, tmp_path, defer
):
    moving = sim_beamline(rows=4, columns=32, directory=tmp_path, exposure=0.005, acceleration_time=0.02, velocity=720)
    asked = []

    def pause(_, doc):  # when they are written: they may reach the job when the stage has come to rest
        if doc["indices"]["stop"] >= 3 and not asked:
            asked.append(in_thread(lambda: run_engine.request_pause(defer=defer)))

    run_engine.subscribe(pause, "stream_datum")
    with pytest.raises(RunEngineInterrupted):
        run_engine(fly(moving, num=40, order="interlaced(2)", velocity=180, **CORRECTED, flush_period=0.02))
    run_engine.resume()
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 40)
    assert len(set(in_file(documents, "encoder"))) == len(projections(script)) == 40


def test_scan_that_is_aborted_in_a_sweep_leaves_nothing_moving(
    run_engine, documents, fly, of, tmp_path, in_thread, script
):
    moving = sim_beamline(rows=4, columns=32, directory=tmp_path, exposure=0.005, acceleration_time=0.02, velocity=720)
    asked = []

    def stop(n):
        if n == 3 and not asked:
            asked.append(in_thread(run_engine.abort))

    script.on_frame = stop
    with pytest.raises(RunEngineInterrupted):
        run_engine(fly(moving, num=180, order="fixed", velocity=18, flush_period=0.05, **CORRECTED))
    assert of(documents, "stop")[0]["exit_status"] == "abort"
    assert moving.stage._leg.stopped < math.inf
    assert moving.stage.angle < 100


@pytest.mark.timeout(180)  # a server is started
def test_stored_flight_is_read_back_with_its_angles(run_engine, documents, fly, of, tmp_path):
    with open_storage(directory=tmp_path / "catalogue", readable=[tmp_path]) as storage:
        run_engine.subscribe(storage.writer)
        run_engine(fly(flats_after=4))
        (start,) = of(documents, "start")
        scan = load_run(storage.catalog, start["uid"])
        np.testing.assert_array_equal(scan.angles_deg, in_file(documents, "encoder"))
        np.testing.assert_array_equal(scan.projections[:], in_file(documents, "detector", -2))
        assert (len(scan.flats), len(scan.darks)) == (6, 3)
        np.testing.assert_array_equal(scan.flats[2:], in_file(documents, "detector"))


def test_plan_without_devices_flies_the_beamline_in_use(run_engine, documents, pretend_job, beamline, of):
    use_beamline(beamline, pretend_job)
    try:
        run_engine(stream_tomo_fly_plan(num=8, order="fixed", window=4, flats=1, darks=1))
    finally:
        use_beamline(None)
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 8)


def test_nothing_is_flown_when_the_job_does_not_start(run_engine, documents, fly, script):
    script.refuse_start = True
    with pytest.raises(JobError):
        run_engine(fly())
    assert documents == []
