"""What a time series promises: many half turns in one run, each a volume of its own, of a sample that may change."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest
from pace import held_back

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import stream_tomo_fly_plan, stream_tomo_plan
from bluesky_streamrecon.sim_devices import Faults, sim_beamline

NUM = 12


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def series(beamline, pretend_job):
    def plan(kind, beamline=beamline, **kwargs):
        flying = {"trigger": beamline.trigger, "encoder": beamline.encoder} if kind is stream_tomo_fly_plan else {}
        given = {"num": NUM, "window": 4, "flats": 0, "darks": 0, "pixel_values": "transmission", "job": pretend_job}
        return kind([beamline.detector], beamline.stage, **{**flying, **given, **kwargs})

    return plan


BASE = [15.0 * k for k in range(NUM)]
ON = [15.0 * k for k in range(3 * NUM)]
INTERLACED = [*BASE[::2], *BASE[1::2]]


@pytest.mark.parametrize(
    ("plan", "order", "angles"),
    [
        (stream_tomo_plan, "fixed", BASE * 3),
        (stream_tomo_fly_plan, None, ON),
        (stream_tomo_fly_plan, "interlaced(2)", INTERLACED * 3),
    ],
    ids=["step by step the same angles again", "one sweep goes on", "several sweeps are flown again"],
)
def test_half_turns_are_one_run_that_says_which_volume_a_projection_is_of(
    run_engine, documents, series, script, of, plan, order, angles
):
    given = {} if order is None else {"order": order}
    assert run_engine(series(plan, turns=3, **given)).exit_status == "success"
    (start,), (stop,) = of(documents, "start"), of(documents, "stop")
    assert stop["num_events"]["primary"] == start["num_points"] == 3 * NUM
    sent = [math.degrees(angle) for kind, _, angle, _ in script.frames if kind == "projection"]
    np.testing.assert_allclose(np.mod(sent, 360), np.mod(angles, 360), atol=1e-9)
    block = start["streamrecon"]
    assert (block["per_volume"], block["projections"], block["angles"]) == (NUM, 3 * NUM, angles)
    assert (block["start"], block["stop"], block["extendable"]) == (0.0, 180.0, False)
    assert (start["plan_args"]["num"], start["plan_args"]["turns"]) == (NUM, 3)
    assert (block["recon"]["turns"], block["steering"]["policy"]) == (3, "change")


@pytest.mark.parametrize("plan", [stream_tomo_plan, stream_tomo_fly_plan])
def test_one_turn_is_the_scan_that_it_is_without(run_engine, documents, series, of, plan):
    for given in ({}, {"turns": 1}):
        run_engine(series(plan, **given))
    first, second = (dict(start["streamrecon"]) for start in of(documents, "start"))
    assert first.pop("recon_uid") != second.pop("recon_uid")
    assert first == second
    assert "per_volume" not in first
    assert first["steering"]["policy"] is None


@pytest.mark.parametrize(
    ("plan", "given", "said"),
    [
        (stream_tomo_plan, {"turns": 2, "policy": "predicted-gain"}, "for a still sample; expected 'change'"),
        (stream_tomo_plan, {"turns": 2, "policy": "ms-ssim|resolution"}, "for a still sample; expected 'change'"),
        (stream_tomo_plan, {"policy": "change"}, "expected turns=2 or more"),
        (stream_tomo_plan, {"turns": 0}, "turns: got 0"),
        (stream_tomo_plan, {"turns": 2, "policy_options": {"until": "later"}}, "until='end', 'change', 'over'"),
        (stream_tomo_fly_plan, {"turns": 40}, "turns=40: angle .* can not go there.* order='interlaced"),
    ],
)
def test_series_that_can_not_work_is_refused_before_anything_moves(run_engine, tmp_path, series, plan, given, said):
    narrow = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True, limits=(-100.0, 400.0))
    with pytest.raises(ConfigError, match=said):
        run_engine(series(plan, narrow, **given))
    assert narrow.stage.angle == 0


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_crack_is_marked_where_it_opens_and_ends_the_series_when_it_is_over(
    run_engine, documents, kept_job, tmp_path, of
):
    faults = Faults(crack_at=40, crack_over=8)
    cracks = sim_beamline(rows=4, columns=64, directory=tmp_path, instant=True, counts=1e5, faults=faults)
    plan = stream_tomo_plan(
        cracks.detector,
        cracks.stage,
        num=24,
        turns=6,
        flats=4,
        darks=2,
        shutter=cracks.shutter,
        sample_table=cracks.table,
        policy_options={"until": "over"},
        axis=cracks.axis,
        job=kept_job,
    )
    assert run_engine(held_back(plan, kept_job)).exit_status == "success"
    record = kept_job.last_run
    marked = next(verdict for verdict in record.verdicts if verdict.metrics["change-began"] is not None)
    assert 40 < marked.metrics["change-began"] <= marked.projections < 40 + 24
    assert {verdict.verdict for verdict in record.verdicts} == {"continue", "enough"}
    ended = next(verdict for verdict in record.verdicts if verdict.verdict == "enough")
    # Projections are looked at as they come, which may be before the image of those before them is judged.
    assert all(48 + 24 // 2 <= at < 24 * 5 for at in (ended.metrics["change-over"], ended.projections))
    assert "the sample changed from about projection" in ended.text
    assert "in volume 2 of 6; that is over at projection" in ended.text
    (stop,) = of(documents, "stop")
    assert "that is over at projection" in stop["reason"]
    kept_job.wait_for_volume()
    with h5py.File(record.result) as file:
        made_of = dict(file["/exchange/volume"].attrs)
    assert (made_of["volume"], made_of["projections"]) == (record.taken // 24, 24)
