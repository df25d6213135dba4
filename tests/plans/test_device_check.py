"""Devices are tried before the first scan, and what can not work is refused before the job is started."""

from __future__ import annotations

import json

import pytest
from ophyd.sim import SynAxis, det

from bluesky_streamrecon import diagnosis
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import check_devices_plan, stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


def test_simulated_devices_work_and_nothing_moves(run_engine, documents, beamline):
    lines = []
    plan = check_devices_plan(
        [beamline.detector], beamline.stage, shutter=beamline.shutter, sample_table=beamline.table, show=lines.append
    )
    found = run_engine(plan).plan_result
    assert [item.status for item in found] == ["OK"] * 4
    assert "4 x 32" in lines[-1]
    assert "read here" in lines[-1]
    assert documents == []


def test_each_device_that_does_not_work_is_named_and_the_others_are_still_tried(run_engine, beamline):
    class Silent(SynAxis):
        def read(self):
            raise TimeoutError("no answer")

    plan = check_devices_plan([det, beamline.detector], Silent(name="rot"), shutter=beamline.shutter, show=None)
    found = {item.name: item for item in run_engine(plan).plan_result}
    assert found["stage rot"].hint == "TimeoutError: no answer"
    assert "no image among its data keys ['det']" in found["detector det"].hint
    assert [item.status for item in found.values()] == ["ERROR", "OK", "ERROR", "OK"]


def test_detector_without_an_image_is_refused_before_the_job_is_started(run_engine, documents, pretend_job, script):
    with pytest.raises(ConfigError, match="detector det: no image among its data keys 'det'"):
        run_engine(stream_tomo_plan([det], SynAxis(name="rot"), pixel_values="transmission", job=pretend_job))
    assert documents == []
    assert script.launched == []


def test_command_tries_the_devices_of_a_file(program, tmp_path, monkeypatch):
    path = tmp_path / "devices.py"
    path.write_text(
        "from bluesky_streamrecon.sim_devices import sim_beamline\n"
        f"beamline = sim_beamline(rows=4, columns=32, directory={str(tmp_path)!r}, instant=True)\n"
        "stage, detector = beamline.stage, beamline.detector\n"
        "shutter, sample_table = beamline.shutter, beamline.table\n"
    )
    monkeypatch.setattr(diagnosis, "check_setup", lambda *arguments, **options: iter(()))  # it takes its time
    done = program("check", "--devices", path, "--json")
    items = {item["name"]: item for item in json.loads(done.stdout.splitlines()[-1])["items"]}
    assert items["detector detector"]["status"] == "OK"
    assert items["stage stage"]["status"] == "OK"
