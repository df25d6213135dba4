"""What `stream_tomo_plan` promises, with a RunEngine, simulated devices and a job that is pretended."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math

import h5py
import msgspec
import numpy as np
import pytest
from bluesky.utils import FailedStatus

from bluesky_streamrecon.beamline import job_runs
from bluesky_streamrecon.beamline.event_frame import EventFrame
from bluesky_streamrecon.errors import ConfigError, DataError, JobError
from bluesky_streamrecon.ordering import AngleOrder
from bluesky_streamrecon.plans import stream_tomo_plan, use_beamline, with_settings
from bluesky_streamrecon.quality import policy
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices import Faults, sim_beamline


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def tomo(beamline, pretend_job):
    def plan(**kwargs):
        given = {
            "detectors": [beamline.detector],
            "stage": beamline.stage,
            "num": 12,
            "window": 4,
            "flats": 2,
            "darks": 3,
            "shutter": beamline.shutter,
            "sample_table": beamline.table,
            "job": pretend_job,
        }
        return stream_tomo_plan(**{**given, **kwargs})

    return plan


def of(documents, name, stream=None):
    streams = {doc["uid"]: doc["name"] for kind, doc in documents if kind == "descriptor"}
    return [doc for kind, doc in documents if kind == name and stream in (None, streams.get(doc.get("descriptor")))]


def test_all_angles_are_taken_and_the_reason_says_so_when_the_threshold_is_not_reached(
    run_engine, documents, tomo, script
):
    script.score = lambda n: 0.5 + n / 100
    result = run_engine(tomo(threshold=0.95))
    (stop,) = of(documents, "stop")
    assert result.exit_status == "success"
    assert stop["exit_status"] == "success"
    assert stop["reason"] == "all 12 projections taken; best score 0.620, threshold 0.95 not reached"
    assert stop["num_events"] == {"dark": 3, "flat": 2, "primary": 12, "steering": 12}
    assert [kind for kind, *_ in script.frames] == ["dark"] * 3 + ["flat"] * 2 + ["projection"] * 12


def test_frames_and_angles_that_arrive_are_those_in_the_detector_file(run_engine, documents, tomo, script, beamline):
    run_engine(tomo(order="interleaved(5)"))
    events = of(documents, "event", "primary")
    sent = [(angle, pixels) for kind, _, angle, pixels in script.frames if kind == "projection"]
    assert [angle for angle, _ in sent] == [math.radians(doc["data"]["stage"]) for doc in events]
    last = of(documents, "stream_resource")[-1]
    with h5py.File(last["uri"].removeprefix("file://localhost")) as file:
        written = file[last["parameters"]["dataset"]][:]
    np.testing.assert_array_equal(np.stack([pixels for _, pixels in sent]), written)


def test_inline_frames_arrive_as_they_are(run_engine, documents, pretend_job, script, tmp_path):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True, inline=True)
    run_engine(
        stream_tomo_plan(
            beamline.detector, beamline.stage, num=5, window=4, pixel_values="transmission", job=pretend_job
        )
    )
    events = of(documents, "event", "primary")
    for doc, (_, _, _, pixels) in zip(events, script.frames, strict=True):
        np.testing.assert_array_equal(doc["data"]["detector"], pixels)


def test_run_ends_as_success_at_the_next_checkpoint_when_quality_is_reached(run_engine, documents, tomo, script):
    script.score = lambda n: 0.953 if n >= 5 else 0.4
    result = run_engine(tomo())
    (stop,) = of(documents, "stop")
    taken = stop["num_events"]["primary"]
    assert result.exit_status == "success"
    assert stop["exit_status"] == "success"
    assert stop["reason"].startswith("quality: MS-SSIM 0.953 >= 0.95 at 5 of 12 projections")
    assert 5 <= taken < 12
    assert ("taken" in stop["reason"]) == (taken > 5)


def test_every_verdict_is_an_event_of_the_steering_stream(run_engine, documents, tomo, script, pretend_job):
    script.score = lambda n: None if n < 4 else 0.1 * n
    run_engine(tomo(num=6, threshold=0.99))
    events = of(documents, "event", "steering")
    assert [doc["data"]["job-steering-projections"] for doc in events] == [1, 2, 3, 4, 5, 6]
    scores = [doc["data"]["job-steering-score"] for doc in events]
    assert np.isnan(scores[:3]).all()
    assert scores[3:] == pytest.approx([0.4, 0.5, 0.6])
    assert pretend_job.last_run.scores == [(4, pytest.approx(0.4)), (5, pytest.approx(0.5)), (6, pytest.approx(0.6))]


def test_job_signals_are_read_with_each_projection(run_engine, documents, tomo):
    run_engine(tomo())
    descriptor = next(doc for name, doc in documents if name == "descriptor" and doc["name"] == "primary")
    assert descriptor["hints"]["job"]["fields"] == ["job-score", "job-lag"]
    assert {"job-score", "job-lag", "job-state", "job-image_number", "job-projections", "job-problem"} <= set(
        descriptor["data_keys"]
    )
    config = descriptor["configuration"]["job"]["data"]
    assert (config["job-algorithm"], config["job-window"], config["job-threshold"]) == ("mlem", 4, 0.95)


def test_start_document_tells_everything_that_was_asked_for(run_engine, documents, tomo):
    run_engine(tomo(num=6, md={"sample": "a tooth"}))
    (start,) = of(documents, "start")
    assert start["plan_name"] == "stream_tomo_plan"
    assert (start["detectors"], start["motors"]) == (["detector"], ["stage"])
    assert (start["num_points"], start["num_intervals"], start["sample"]) == (6, 5, "a tooth")
    assert start["hints"]["dimensions"] == [(["stage"], "primary")]
    block = start["streamrecon"]
    assert (block["projections"], block["flats"], block["darks"]) == (6, 2, 3)
    assert block["angles"] == [0.0, 90.0, 30.0, 120.0, 60.0, 150.0]
    assert block["recon"]["window"] == 4
    assert (block["steering"]["policy"], block["steering"]["tolerance"]) == (None, 0.02)
    assert (start["plan_args"]["policy"], start["plan_args"]["tolerance"]) == ("predicted-gain", 0.02)
    assert block["recon_uid"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"window": 2, "step": 3}, "window=2 is shorter than step=3"),
        ({"threshold": 0.0}, "threshold: got 0"),
        ({"threshold": 1.5}, "threshold: got 1.5"),
        ({"num": 0}, "num: got 0"),
        ({"flats": -1}, "flats: got -1"),
        ({"darks": 2.0}, "darks: got 2.0"),
        ({"start": 10, "stop": 10}, "start < stop"),
        ({"order": "random"}, "order: got 'random'"),
        ({"order": [0, 99_000]}, "angle 99000 degrees: stage can not go there"),
        ({"order": [-99_000, 0]}, "angle -99000 degrees"),
        ({"sample_table": None}, "need shutter= and sample_table="),
        ({"shutter": None, "take_flats": print}, "darks=3: need shutter="),
        ({"flats": 0}, "no flat field: pixels are counts"),
        ({"flats": 0, "pixel_values": "transmission"}, "darks=3 with pixel_values='transmission'"),
        ({"references": "last"}, "references='last' with flats=2 and darks=3"),
        ({"pixel_values": "photons"}, "pixel_values: got 'photons', expected one of counts"),
        ({"widnow": 4}, "widnow: not an argument of this plan; did you mean 'window'?"),
        ({"ranks": 0}, "ranks"),
        ({"ranks": 10_000}, "ranks: got 10000, expected at most"),
        ({"policy": "predicted-gain", "threshold": 0.9}, "which does not use it"),
        ({"suspend": "soon"}, "suspender mode"),
        ({"preparation": "rings"}, "preparation: got 'rings', expected a list of steps"),
        ({"preparation": ["rings", {"step": "rings", "snr": 2}]}, "got rings, rings; expected rings only once"),
        ({"final": "none", "final_iterations": 5}, "final_iterations=5 with final='none': no volume is finished"),
        ({"final": "none", "final_options": {"subsets": 5}}, "final_options={'subsets': 5} with final='none'"),
        ({"preparation": 3}, "preparation: got 3, expected a list of steps"),
        (
            {"final": "magic"},
            "final='magic' (expected 'auto', 'none', or an algorithm): algorithm: got 'magic'",
        ),
        ({"algorithm": "magic"}, "algorithm: got 'magic', expected one of"),
        ({"algorithm": "sirt", "options": {"relax": 1.0}}, "got option 'relax', expected one of: relaxation=1.0"),
        ({"options": {"projector": "joseph"}}, "projector: got 'joseph', expected one of"),
        ({"options": {"floor": None}}, "options: got floor=None, expected a number, a string"),
        ({"options": {"floor": [1, 2]}}, "options: got floor=[1, 2]"),
        ({"disc": "yes"}, "disc: got 'yes'; expected `bool`, got `str`"),
        ({"policy": "gut feeling"}, "gut feeling"),
        ({"minimum_projections": 13}, "minimum_projections: got 13 for a scan of 12 projections"),
        ({"patience": 13}, "patience: got 13 for a scan of 12 projections"),
        ({"threshold": 0.9, "compare_to": 12}, "compare_to: got 12 for a scan of 12 projections"),
        ({"algorithm": "fbp"}, "algorithm='fbp' with window=4: filtered back projection makes each image anew"),
        ({"policy": "ms-ssim", "policy_options": {"images": 3}}, "got options images, but it takes none"),
        ({"order": AngleOrder("mine", ())}, "order: got 'mine' with no angles"),
        ({"options": 3}, "options: got 3, expected names and values, as in options={'name': 1.0}"),
        ({"policy_options": ["images"]}, "policy_options: got ['images'], expected names and values"),
        ({"algorithm": "sirt", "options": {"relaxation": "much"}}, "relaxation: got 'much'"),
        ({"detectors": "camera"}, "detectors: got 'camera', expected a device; is it the object, not its name?"),
        ({"detectors": [7]}, "detectors: got 7, expected a device"),
        ({"stage": "rotation"}, "stage: got 'rotation', expected a device that can be set"),
        ({"shutter": "open"}, "shutter: got 'open', expected a device that can be set"),
        ({"sample_table": 3.5}, "sample_table: got 3.5, expected a device that can be set"),
        ({"shutter_words": 5}, "shutter_words: got 5, expected two that differ"),
        ({"take_flats": 10}, "take_flats: got 10, expected a function f(detectors, num)"),
        ({"md": "a tooth"}, "md: got 'a tooth', expected names and values, as in md={'sample': 'tooth'}"),
        ({"md": {5: 1}}, "md: got {5: 1}, expected names and values"),
        ({"md": {"uid": "mine"}}, "md: got 'uid', which the RunEngine gives to each run"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_moves_or_starts(
    run_engine, documents, tomo, script, beamline, arguments, words
):
    with pytest.raises(ConfigError) as refused:
        run_engine(tomo(**arguments))
    assert words in str(refused.value)
    assert documents == []
    assert script.launched == []
    assert beamline.stage.angle == 0.0


def test_stop_document_says_why_no_image_was_scored(run_engine, documents, tomo, script):
    script.text = "policy 'mine' failed at 12 of 12 projections: RuntimeError: boom"
    run_engine(tomo())
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "success"
    assert stop["reason"] == f"all 12 projections taken; no image was scored: {script.text}"


class Blind:
    name = "blind"
    metrics = ("no-such-metric",)

    def judge(self, evidence):
        raise AssertionError("there is nothing to judge")


def test_policy_whose_metric_does_not_exist_is_refused_before_anything_starts(run_engine, tomo, script, monkeypatch):
    monkeypatch.setitem(policy.policies._added, "blind", lambda settings: Blind())
    with pytest.raises(ConfigError, match="metric: got 'no-such-metric', expected one of"):
        run_engine(tomo(policy="blind"))
    assert script.launched == []


def test_numbers_of_numpy_are_as_good_as_plain_ones(run_engine, documents, tomo, script):
    run_engine(
        tomo(
            axis=np.float64(7.5),
            tolerance=np.float32(0.5),
            window=np.int64(4),
            preview_rows=np.array([1, 2]),
            options={"floor": np.float64(1e-3)},
        )
    )
    assert of(documents, "stop")[0]["exit_status"] == "success"
    (spec,) = script.specs
    assert msgspec.json.decode(msgspec.json.encode(spec.recon), type=ReconSettings) == spec.recon
    assert (spec.recon.axis, spec.recon.window, spec.recon.options) == (7.5, 4, {"floor": 1e-3})
    assert (spec.steering.tolerance, spec.steering.preview_rows) == (0.5, (1, 2))


def value_of(run_engine, device):
    return asyncio.run_coroutine_threadsafe(device.read(), run_engine.loop).result(20)[device.name]["value"]


def test_job_is_stopped_and_shutter_closed_after_a_success(run_engine, tomo, script, beamline):
    run_engine(tomo())
    assert script.stopped == 1
    assert value_of(run_engine, beamline.shutter) == "closed"
    assert value_of(run_engine, beamline.table) == "in"


def test_job_is_stopped_and_shutter_closed_after_a_failure(run_engine, documents, pretend_job, script, tmp_path):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True, faults=Faults(stalls_from=4))
    plan = stream_tomo_plan(
        beamline.detector,
        beamline.stage,
        num=12,
        flats=2,
        darks=2,
        shutter=beamline.shutter,
        sample_table=beamline.table,
        job=pretend_job,
    )
    with pytest.raises(FailedStatus):
        run_engine(plan)
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "fail"
    assert script.stopped == 1
    assert value_of(run_engine, beamline.shutter) == "closed"


def test_quality_that_is_known_only_after_the_last_projection_is_told(run_engine, documents, tomo, script):
    script.gate.clear()
    script.score = lambda n: 0.97
    done = script.closed

    class Closed(list):
        def append(self, item):
            super().append(item)
            script.gate.set()

    script.closed = Closed(done)
    run_engine(tomo(num=4, flats=0, darks=0, pixel_values="transmission"))
    (stop,) = of(documents, "stop")
    assert stop["reason"].startswith("all 4 projections taken; quality reached, known too late to end the scan")


def test_advisory_verdicts_never_end_the_scan(run_engine, documents, tomo, script):
    script.score = lambda n: 0.97
    run_engine(tomo(advisory=True))
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 12
    assert "advisory only" in stop["reason"]


def test_threshold_of_one_takes_all_angles(run_engine, documents, tomo, script):
    script.score = lambda n: 1.0
    run_engine(tomo(threshold=1.0))
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 12


def test_score_above_threshold_at_the_first_comparison_ends_the_run_at_once(run_engine, documents, tomo, script):
    script.score = lambda n: 0.99
    run_engine(tomo())
    (stop,) = of(documents, "stop")
    assert "at 1 of 12 projections" in stop["reason"]
    assert stop["num_events"]["primary"] < 12


def test_score_of_another_run_does_nothing(run_engine, documents, tomo, script, monkeypatch):
    monkeypatch.setattr(job_runs, "FIRST_VERDICT_SECONDS", 0.1)
    script.score = lambda n: 0.99
    script.score_uid = "another"
    run_engine(tomo())
    assert of(documents, "stop")[0]["num_events"]["primary"] == 12


def test_second_run_starts_without_the_first_ones_verdict(run_engine, documents, tomo, script):
    script.score = lambda n: 0.99
    run_engine(tomo())
    script.score = lambda n: 0.5
    run_engine(tomo())
    first, second = of(documents, "stop")
    assert first["num_events"]["primary"] < 12
    assert second["num_events"]["primary"] == 12
    assert script.stopped == 2


def test_job_that_is_lost_leaves_a_complete_scan_and_a_precise_reason(
    run_engine, documents, tomo, script, pretend_job, caplog
):
    script.lost_at = 5
    result = run_engine(tomo())
    (stop,) = of(documents, "stop")
    assert (result.exit_status, stop["exit_status"]) == ("success", "success")
    assert stop["num_events"]["primary"] == 12
    assert "reconstruction job lost after" in stop["reason"]
    assert "job of 2 ranks ended (killed by SIGKILL); log: /nowhere/job.log" in stop["reason"]
    assert pretend_job.last_run.lost
    assert any("reconstruction job lost" in record.message for record in caplog.records if record.levelname == "ERROR")
    last = of(documents, "event", "primary")[-1]["data"]
    assert last["job-state"] in ("lost", "running")
    assert script.stopped == 1


def test_ledger_that_does_not_add_up_is_told_in_the_stop_document(run_engine, documents, tomo, script, pretend_job):
    script.dropped = {3}
    run_engine(tomo())
    (stop,) = of(documents, "stop")
    assert "ledger of rank 0 not balanced" in stop["reason"]
    assert stop["exit_status"] == "success"
    assert not pretend_job.last_run.ledger_totals()["balanced"]


def test_job_that_does_not_start_is_an_error_before_anything_moves(run_engine, documents, tomo, script, beamline):
    script.refuse_start = True
    with pytest.raises(JobError, match="no such program"):
        run_engine(tomo())
    assert documents == []
    assert beamline.stage.angle == 0.0
    script.refuse_start = False
    assert run_engine(tomo()).exit_status == "success"


def test_frames_that_can_not_be_read_are_told_and_the_scan_goes_on(run_engine, documents, tomo, script, monkeypatch):
    monkeypatch.setattr(EventFrame, "read", unreadable)
    run_engine(tomo())
    (stop,) = of(documents, "stop")
    assert stop["num_events"]["primary"] == 12
    assert "the disk is on fire" in stop["reason"]


def unreadable(self):
    raise DataError("the disk is on fire")


@pytest.mark.parametrize(
    ("order", "visited"),
    [
        ("interleaved(2)", [0.0, 1.0, 0.5, 1.5]),
        ("golden", [0.0, 1.0, 0.5, 1.5]),
        ("golden-continuous", [0.0, 1.0, 0.5, 1.5]),
    ],
)
def test_recorded_angles_are_visited_in_the_named_order(run_engine, documents, beamline, pretend_job, order, visited):
    use_beamline(dataclasses.replace(beamline, angles=(0.0, 0.5, 1.0, 1.5)), pretend_job)
    try:
        run_engine(stream_tomo_plan(order=order, window=4, flats=1, darks=1))
    finally:
        use_beamline(None)
    told = of(documents, "start")[0]["streamrecon"]
    assert (told["angles"], told["order"]) == (visited, order)


def test_beamline_and_job_in_use_are_taken_when_none_are_given(run_engine, documents, beamline, pretend_job, script):
    use_beamline(beamline, pretend_job)
    try:
        run_engine(stream_tomo_plan(num=6, window=4, flats=1, darks=1))
    finally:
        use_beamline(None)
    assert len(of(documents, "event", "primary")) == 6
    assert script.specs[0].output == str(beamline.directory / "reconstructions")


def test_steering_ledger_and_reason_are_in_the_record(run_engine, documents, tomo, script, pretend_job):
    script.score = lambda n: 0.953 if n >= 5 else None
    run_engine(tomo())
    record = pretend_job.last_run
    (start,), (stop,) = of(documents, "start"), of(documents, "stop")
    assert (record.run_uid, record.recon_uid) == (start["uid"], start["streamrecon"]["recon_uid"])
    assert (record.exit_status, record.reason) == ("success", stop["reason"])
    assert (record.planned, record.axis, record.ranks) == (12, 7.5, 2)
    assert record.taken == stop["num_events"]["primary"] == record.used
    assert record.score == pytest.approx(0.953)
    assert record.ledger_totals()["balanced"]
    assert record.seconds >= record.seconds_to_first_image > 0


def test_defaults_of_ones_own_count_unless_the_call_says_otherwise(run_engine, documents, tomo, of):
    configured = with_settings(tomo, {"window": 6, "tolerance": 0.03})
    run_engine(configured(tolerance=0.04))
    told = of(documents, "start")[0]["streamrecon"]
    assert (told["recon"]["window"], told["steering"]["tolerance"]) == (6, 0.04)


def test_every_setting_of_the_configuration_is_an_argument_of_the_plan():
    settings = dict.fromkeys((*ReconSettings.__struct_fields__, *SteeringSettings.__struct_fields__, "policy_options"))
    shown = inspect.signature(with_settings(stream_tomo_plan, settings)).parameters
    assert all(shown[name].default is None for name in settings)
    assert inspect.signature(with_settings(stream_tomo_plan, {"window": 30})).parameters["window"].default == 30
    with pytest.raises(ConfigError, match="stream_tomo_plan has no argument 'widnow'"):
        with_settings(stream_tomo_plan, {"widnow": 30})
