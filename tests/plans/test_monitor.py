"""A monitor of the beam normalises each frame: a beam that fades leaves the image as it is."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import stream_tomo_fly_plan, stream_tomo_plan, use_beamline
from bluesky_streamrecon.sim_devices import FrameKind, Noise, detector, sim_beamline

PERFECT = Noise(poisson=False, readout=0, dead=0, hot=0)
SCAN = {
    "num": 24,
    "window": 8,
    "flats": 2,
    "flats_after": 2,
    "darks": 2,
    "axis": 34.8,
    "threshold": 1.0,
    "coalesce": False,
    "final": "fbp",
}


@pytest.fixture
def in_use(run_engine, tmp_path):
    """Make a simulated beamline, and have plans use it."""

    def make(**options):
        beamline = sim_beamline(
            rows=4, columns=64, directory=tmp_path, instant=True, noise=PERFECT, projections=24, **options
        )
        use_beamline(beamline)
        return beamline

    yield make
    use_beamline(None)


def images_of(record):
    with h5py.File(record.result) as file:
        return file["/exchange/data"][:], file["/exchange/volume"][:]


@pytest.mark.mpi
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("plan", "options"),
    [(stream_tomo_plan, {"inline": True}), (stream_tomo_plan, {}), (stream_tomo_fly_plan, {})],
    ids=["in events", "in a file", "on the fly"],
)
def test_faded_beam_with_a_monitor_gives_the_image_of_the_full_beam(run_engine, in_use, kept_job, plan, options):
    found = []
    for fading, monitor in ((0.0, None), (0.4, None), (0.4, "monitor")):
        in_use(fading=fading, **options)
        assert run_engine(plan(job=kept_job, monitor=monitor, **SCAN)).exit_status == "success"
        record = kept_job.last_run
        assert record.problems == ()
        assert record.ledger_totals()["balanced"]
        found.append(images_of(record))
    (live, volume), faded, normalised = found
    errors = [np.sqrt(np.mean((image - live) ** 2)) / live.max() for image in (faded[0], normalised[0])]
    errors += [np.sqrt(np.mean((normalised[1] - volume) ** 2)) / volume.max()]
    assert errors[0] > 0.01
    assert max(errors[1:]) < 2e-4


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_projection_whose_reading_can_not_be_used_is_left_out_of_the_image_and_the_run_says_so(
    run_engine, in_use, kept_job, documents, of, monkeypatch
):
    def reading(camera, exposure):
        return 0.0 if exposure.kind is FrameKind.PROJECTION and exposure.index == 4 else 5.0

    monkeypatch.setattr(detector.BeamReadings, "frame", reading)
    in_use(inline=True)
    assert run_engine(stream_tomo_plan(job=kept_job, monitor="monitor", **SCAN)).exit_status == "success"
    totals, (stop,) = kept_job.last_run.ledger_totals(), of(documents, "stop")
    assert (stop["num_events"]["primary"], totals["dropped"], totals["applied"]) == (24, 2, 2 * (24 + 6) - 2)
    assert "monitor 'monitor': got 0.0, expected a positive, finite number" in stop["reason"]
    live, volume = images_of(kept_job.last_run)
    assert np.isfinite(live).all()
    assert np.isfinite(volume).all()


@pytest.mark.parametrize(
    ("plan", "inline", "monitor", "words"),
    [
        (stream_tomo_plan, True, "i0", "monitor: got 'i0', expected .*; those of the detectors are 'monitor'; add its"),
        (
            stream_tomo_plan,
            False,
            "i0",
            "monitor: got 'i0', expected .*; those of the detectors are 'monitor'; add its",
        ),
        (
            stream_tomo_fly_plan,
            False,
            "encoder",
            "monitor: got 'encoder', expected a number that is read with each flat",
        ),
    ],
)
def test_monitor_that_is_not_read_with_flats_and_projections_is_refused_before_the_stage_moves(
    run_engine, in_use, pretend_job, documents, of, plan, inline, monitor, words
):
    beamline = in_use(inline=inline)
    with pytest.raises(ConfigError, match=words):
        run_engine(plan(job=pretend_job, num=8, window=4, flats=1, darks=1, monitor=monitor))
    assert {doc["name"] for doc in of(documents, "descriptor")} <= {"dark"}
    assert beamline.stage.angle == 0.0


@pytest.mark.mpi
@pytest.mark.timeout(120)
def test_lines_of_the_how_to_take_a_scan_in_a_fading_beam_that_is_normalised(run_engine, kept_job, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "rings-and-zingers.md"
    (lines,) = re.findall(r"```\n(use_beamline.*?)```", page.read_text(), flags=re.DOTALL)
    names = {
        "RE": run_engine,
        "stream_tomo_plan": partial(stream_tomo_plan, job=kept_job, window=8, threshold=1.0),
        "sim_beamline": partial(sim_beamline, rows=4, columns=64, directory=tmp_path, instant=True),
        "use_beamline": use_beamline,
    }
    try:
        exec(compile(lines, str(page), "exec"), names)
    finally:
        use_beamline(None)
    record = kept_job.last_run
    assert (record.taken, record.counts["later_flats"], record.problems) == (60, 10 * record.ranks, ())
    assert record.ledger_totals()["balanced"]
