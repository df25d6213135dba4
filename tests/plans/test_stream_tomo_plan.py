"""What `stream_tomo_plan` promises, with a RunEngine, simulated devices and a job that is pretended."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def tomo(beamline, pretend_job):
    def plan(**kwargs):
        given = {
            "num": 12,
            "window": 4,
            "flats": 2,
            "darks": 3,
            "shutter": beamline.shutter,
            "sample_table": beamline.table,
            "job": pretend_job,
            "compose": None,
        }
        return stream_tomo_plan([beamline.detector], beamline.stage, **{**given, **kwargs})

    return plan


def of(documents, name, stream=None):
    streams = {doc["uid"]: doc["name"] for kind, doc in documents if kind == "descriptor"}
    return [doc for kind, doc in documents if kind == name and stream in (None, streams.get(doc.get("descriptor")))]


def test_all_angles_are_taken_and_the_reason_says_so_when_the_threshold_is_not_reached(
    run_engine, documents, tomo, script
):
    script.score = lambda n: 0.5 + n / 100
    result = run_engine(tomo())
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
        stream_tomo_plan(beamline.detector, beamline.stage, num=5, window=4, flats=0, darks=0, job=pretend_job)
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
    assert block["steering"]["threshold"] == 0.95
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
        ({"shutter": None, "flats": 0}, "need shutter="),
        ({"ranks": 0}, "ranks"),
        ({"suspend": "soon"}, "suspender mode"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_moves_or_starts(
    run_engine, documents, tomo, script, beamline, arguments, words
):
    with pytest.raises(ConfigError, match="^.*") as refused:
        run_engine(tomo(**arguments))
    assert words in str(refused.value)
    assert documents == []
    assert script.launched == []
    assert beamline.stage.angle == 0.0


def test_job_is_stopped_and_shutter_closed_after_every_end(run_engine, tomo, script, beamline):
    run_engine(tomo())
    assert script.stopped == 1
    states = []
    beamline_state = beamline.shutter.state

    def look():
        states.append((yield from_signal(beamline_state)))

    run_engine(look())
    assert states == ["closed"]


def from_signal(signal):
    from bluesky.utils import Msg

    async def get():
        return await signal.get_value()

    return Msg("wait_for", None, [get])
