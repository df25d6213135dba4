"""Devices are tried before the first scan, and what can not work is refused before the job is started."""

from __future__ import annotations

import json
import re

import pytest
from ophyd.sim import SynAxis, det

from bluesky_streamrecon import diagnosis
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import check_devices_plan, stream_tomo_fly_plan, stream_tomo_plan
from bluesky_streamrecon.profile import install_profile
from bluesky_streamrecon.sim_devices import sim_beamline


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


def test_simulated_devices_work_and_nothing_moves(run_engine, documents, beamline, capsys):
    around = {"shutter": beamline.shutter, "sample_table": beamline.table}
    found = run_engine(check_devices_plan([beamline.detector], beamline.stage, **around)).plan_result
    lines = capsys.readouterr().out.splitlines()
    assert [item.status for item in found] == ["OK"] * 4
    assert "4 x 32" in lines[-1]
    assert "read here" in lines[-1]
    assert documents == []


def test_each_device_that_does_not_work_is_named_and_the_others_are_still_tried(run_engine, beamline):
    class Silent(SynAxis):
        def read(self):
            raise TimeoutError("no answer")

    plan = check_devices_plan([det, beamline.detector], Silent(name="rot"), shutter=beamline.shutter)
    found = {item.name: item for item in run_engine(plan).plan_result}
    assert found["stage rot"].hint == "TimeoutError: no answer"
    assert "no image among its data keys ['det']" in found["detector det"].hint
    assert [item.status for item in found.values()] == ["ERROR", "OK", "ERROR", "OK"]


def test_detector_without_an_image_is_refused_before_the_job_is_started(run_engine, documents, pretend_job, script):
    with pytest.raises(ConfigError, match="detector det: no image among its data keys 'det'"):
        run_engine(stream_tomo_plan([det], SynAxis(name="rot"), pixel_values="transmission", job=pretend_job))
    assert documents == []
    assert script.launched == []


NONSENSE = [
    ({"axis": 700.5}, "rotation axis: got column 700.5, expected within one detector width of the 32 columns"),
    ({"size": 100_000}, "image size: got 100000"),
    ({"preparation": [{"step": "beam", "left": 20, "right": 20}]}, "got left=20, right=20 for 32 detector columns"),
    ({"preview_rows": (1, 4)}, "preview_rows: got 4, expected less than the 4 rows of a frame"),
    ({"size": 30, "region": (0, 0, 32, 32)}, "region: got (0, 0, 32, 32), expected a part of slices of 30 x 30 pixels"),
    ({"rows": (1, 3), "preview_rows": (2,)}, "preview_rows: got 2, expected less than the 2 rows of a frame"),
    ({"rows": (0, 5)}, "rows: got (0, 5), expected detector rows (first, stop) with stop <= 4"),
    ({"bin": 5}, "bin=5: got frames of 4 rows and 32 columns, expected at least 5 rows and 10 columns"),
    ({"bin": 2, "axis": 40.0}, "rotation axis: got column 40.0, expected within one detector width of the 16 columns"),
]


@pytest.mark.parametrize(("settings", "why"), NONSENSE)
def test_settings_that_do_not_fit_the_frames_are_refused_before_the_job_is_started(
    run_engine, documents, tmp_path, pretend_job, script, settings, why
):
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, inline=True, instant=True)
    settings = {"pixel_values": "transmission", "job": pretend_job, **settings}
    with pytest.raises(ConfigError, match=re.escape(why)):
        run_engine(stream_tomo_plan([beamline.detector], beamline.stage, **settings))
    assert (documents, script.launched) == ([], [])


@pytest.mark.parametrize("fly", [False, True])
@pytest.mark.parametrize(("taken", "stream"), [({"darks": 3}, "dark"), ({"darks": 0}, "flat")])
def test_settings_that_do_not_fit_frames_that_an_armed_detector_describes_end_the_scan_before_the_stage_turns(
    run_engine, documents, beamline, pretend_job, of, fly, taken, stream
):
    settings, why = NONSENSE[0]
    devices = {"shutter": beamline.shutter, "sample_table": beamline.table, "job": pretend_job}
    plan, more = stream_tomo_plan, {}
    if fly:
        plan, more = stream_tomo_fly_plan, {"trigger": beamline.trigger, "encoder": beamline.encoder}
    with pytest.raises(ConfigError, match=re.escape(why)):
        run_engine(
            plan([beamline.detector], beamline.stage, start=90, stop=270, **devices, **more, **taken, **settings)
        )
    (stop,) = of(documents, "stop")
    assert (stop["exit_status"], stop["num_events"]) == ("fail", {stream: 1})
    assert why in stop["reason"]
    assert beamline.stage.angle == 0


@pytest.fixture
def checked(program, monkeypatch):
    """Try the devices of a file by the command, without all else that it tries; return its items by name."""
    monkeypatch.setattr(diagnosis, "check_setup", lambda *arguments, **options: iter(()))  # it takes its time

    def check(path):
        done = program("check", "--devices", path, "--json")
        return {item["name"]: item for item in json.loads(done.stdout.splitlines()[-1])["items"]}

    return check


def test_command_tries_the_devices_of_a_file(checked, tmp_path):
    path = tmp_path / "devices.py"
    path.write_text(
        "from bluesky_streamrecon.sim_devices import sim_beamline\n"
        f"beamline = sim_beamline(rows=4, columns=32, directory={str(tmp_path)!r}, instant=True)\n"
        "stage, detector = beamline.stage, beamline.detector\n"
        "shutter, sample_table = beamline.shutter, beamline.table\n"
    )
    items = checked(path)
    assert {name: item["status"] for name, item in items.items()} == {
        "stage stage": "OK",
        "shutter shutter": "OK",
        "sample_table table": "OK",
        "detector detector": "OK",
    }


@pytest.mark.parametrize("queueserver", [False, True])
def test_command_says_which_plans_of_a_profile_a_queue_would_see(checked, tmp_path, monkeypatch, queueserver):
    monkeypatch.setenv("STREAMRECON_DATA", str(tmp_path / "data"))
    startup = install_profile("tomo", tmp_path, queueserver=queueserver).directory / "startup"
    item = checked(startup / "20-streamrecon-devices.py")["queue"]
    assert item["status"] == "OK"
    plans = "check_devices_plan, take_references_plan, stream_tomo_fly_plan, stream_tomo_plan"
    assert set(plans.split(", ")) <= set(item["hint"].partition(";")[0].replace(",", "").split())
    assert ("profile install NAME --queueserver" in item["hint"]) is not queueserver
    (startup / "40-mine.py").write_text("def my_scan(filters=open):\n    yield from bps.null()\n")
    item = checked(startup / "20-streamrecon-devices.py")["queue"]
    assert item["status"] == "ERROR"
    assert "my_scan: the default of filters, <built-in function open>, is not a number" in item["hint"]
