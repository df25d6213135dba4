"""Energy, distance and pixel size of a preparation step are found in the run, or it ends before the stage moves."""

from __future__ import annotations

import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import stream_tomo_fly_plan, stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline

PHASE = {"delta_beta": 200.0, "energy": 25.0, "distance": 60.0, "pixel_size": 1.5}
STEP = {"step": "paganin", "delta_beta": 200.0}
OF_THE_DETECTOR = [f"(configuration of detector: detector-{name})" for name in ("energy", "distance", "pixel_size")]


def scan(beamline, job, plan=stream_tomo_plan, **kwargs):
    given = {"num": 4, "flats": 1, "darks": 1, "shutter": beamline.shutter, "sample_table": beamline.table, "job": job}
    if plan is stream_tomo_fly_plan:
        given |= {"trigger": beamline.trigger, "encoder": beamline.encoder}
    return plan([beamline.detector], beamline.stage, **{**given, **kwargs})


@pytest.mark.parametrize("plan", [stream_tomo_plan, stream_tomo_fly_plan])
def test_step_gets_what_its_options_the_metadata_and_the_devices_say(run_engine, tmp_path, pretend_job, script, plan):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True, phase=PHASE)
    run_engine.md["distance"] = 50.0
    steps = [{**STEP, "energy": 30.0}, "rings"]
    assert run_engine(scan(beamline, pretend_job, plan, preparation=steps)).exit_status == "success"
    (spec,) = script.specs
    assert spec.recon.preparation == ({**STEP, "energy": 30.0, "distance": 50.0, "pixel_size": 1.5}, "rings")
    assert spec.metadata["found"] == f"distance 50 mm (metadata: distance); pixel_size 1.5 µm {OF_THE_DETECTOR[2]}"
    assert spec.halo > 8
    assert pretend_job.last_run.spec == spec


@pytest.mark.parametrize(
    ("md", "said"),
    [
        ({"energy": 25.0}, "got no distance and no pixel_size; expected distance .mm., pixel_size .µm. as an option"),
        ({**PHASE, "energy": 25000.0}, "got energy=25000.*at most 1000 keV: are these eV"),
    ],
)
def test_run_that_does_not_say_it_ends_before_the_stage_moves(
    run_engine, documents, of, tmp_path, pretend_job, script, md, said
):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
    with pytest.raises(ConfigError, match=said):
        run_engine(scan(beamline, pretend_job, preparation=[STEP], start=10.0, md=md))
    assert beamline.stage.angle == 0
    assert not of(documents, "event")
    (stop,) = of(documents, "stop")
    assert stop["exit_status"] == "fail"
    assert "preparation step 'paganin': got " in stop["reason"]
    assert script.specs == []
