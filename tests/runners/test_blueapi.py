"""blueapi registers the profile's plans with forms, finds devices by name, and runs a scan for a client of REST."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request

import h5py
import pytest

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("blueapi") is None,
        reason="blueapi is not installed here; it comes with the extra 'runners'",
    ),
    pytest.mark.timeout(590),
]

PLANS = {"stream_tomo_plan", "stream_tomo_fly_plan", "take_references_plan", "check_devices_plan"}


def test_module_of_plans_is_registered_with_the_settings_as_fields_of_a_form(installed):
    script = """
        import json
        from blueapi.core import BlueskyContext
        import bluesky_streamrecon.plans

        context = BlueskyContext()
        context.with_plan_module(bluesky_streamrecon.plans)
        print(json.dumps({name: plan.model.model_json_schema() for name, plan in context.plans.items()}))
    """
    forms = json.loads(installed.run(sys.executable, "-c", textwrap.dedent(script)).splitlines()[-1])
    assert set(forms) == PLANS
    fields = forms["stream_tomo_plan"]["properties"]
    assert fields["detectors"]["items"]["type"] == "bluesky.protocols.Readable"
    assert fields["stage"]["type"] == "bluesky.protocols.Movable"
    assert (fields["window"]["type"], fields["window"]["default"]) == ("integer", 24)
    assert fields["pixel_values"]["enum"] == ["counts", "transmission", "line-integrals"]


def test_plans_of_the_profile_take_its_devices_by_name_and_refuse_others(installed):
    script = f"""
        import glob, json, runpy
        from blueapi.core import BlueskyContext
        from pydantic import ValidationError

        names = {{}}
        for file in sorted(glob.glob({str(installed.startup)!r} + "/*.py")):
            names = runpy.run_path(file, names)
        context = BlueskyContext(run_engine=names["RE"])
        for name in ("stage", "detector", "shutter", "sample_table"):
            context.register_device(names[name], name)
        context.register_device(names["recon_job"])
        for name in {sorted(PLANS)!r}:
            context.register_plan(names[name])
        model = context.plans["stream_tomo_plan"].model
        given = model.model_validate_json(
            '{{"detectors": ["detector"], "stage": "stage", "job": "recon_job", "order": [3, 5, 7], "window": null,'
            ' "shutter_words": ["open", "closed"]}}'
        )
        assert given.detectors == [names["detector"]] and given.stage is names["stage"]
        assert given.job is names["recon_job"] and list(given.order) == [3, 5, 7] and given.window is None
        refused = []
        wrongs = '{{"stage": "detector"}}', '{{"stage": "nobody"}}', '{{"windoow": 3}}', '{{"threshold": "high"}}'
        for wrong in wrongs:
            try:
                model.model_validate_json(wrong)
            except ValidationError:
                refused.append(wrong)
        print(json.dumps(refused))
    """
    refused = json.loads(installed.run(sys.executable, "-c", textwrap.dedent(script)).splitlines()[-1])
    assert len(refused) == 4


DEVICES = """
import pathlib
from types import SimpleNamespace

from bluesky_streamrecon.sim_devices import sim_beamline


class Devices:
    def build_and_connect(self, *, fixtures=None, mock=False, connect_immediately=True, timeout=None):
        beamline = sim_beamline(rows=4, columns=64, directory=pathlib.Path({directory!r}))
        made = (beamline.stage, beamline.detector, beamline.shutter, beamline.table)
        return SimpleNamespace(devices={{each.name: each for each in made}}, build_errors={{}}, connection_errors={{}})


devices = Devices()
"""

CONFIGURATION = """
api: {{url: "http://127.0.0.1:{port}"}}
env:
  sources:
    - {{kind: planFunctions, module: bluesky_streamrecon.plans}}
    - {{kind: deviceManager, module: my_devices}}
"""


@pytest.fixture
def served(installed, program, tmp_path):
    """Serve the plans and simulated devices; return how a client asks."""
    command = program("blueapi")
    frames = tmp_path / "frames"
    frames.mkdir()
    (tmp_path / "my_devices.py").write_text(DEVICES.format(directory=str(frames)))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "blueapi.yaml").write_text(CONFIGURATION.format(port=port))

    def ask(path, method="GET", **body):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1{path}", method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, json.dumps(body).encode() if body else None, timeout=20) as answer:
            return json.load(answer)

    log = tmp_path / "blueapi.log"
    environment = installed.environment | {"PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [command, "-c", "blueapi.yaml", "serve"], env=environment, cwd=tmp_path, stdout=out, stderr=out
        )
        try:
            yield ask, frames
        finally:
            print(log.read_text()[-6000:])  # shown where the test fails
            process.terminate()
            process.wait(60)


def until(look, what, seconds=250.0):
    """Look until there is something, and return it."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := look():
                return found
        pause.wait(0.2)
    raise AssertionError(f"waited {seconds:g} s for {what}")


@pytest.mark.mpi
@pytest.mark.usefixtures("no_orphans")
def test_scan_that_a_rest_client_asks_for_by_names_of_devices_ends_by_quality(served):
    ask, frames = served
    until(lambda: ask("/environment")["initialized"], "the environment")
    assert {each["name"] for each in ask("/plans")["plans"]} == PLANS
    around = {"shutter": "shutter", "sample_table": "table", "flats": 2, "darks": 2}
    image = {"num": 360, "threshold": 0.5, "window": 4, "algorithm": "sirt", "final": "none"}
    wanted = {"detectors": ["detector"], "stage": "stage", **around, **image}
    task = ask("/tasks", "POST", name="stream_tomo_plan", params=wanted, instrument_session="cm1-1")["task_id"]
    ask("/worker/task", "PUT", task_id=task)
    done = until(lambda: (found := ask(f"/tasks/{task}"))["is_complete"] and found, "the end of the scan")
    assert (done["errors"], done["outcome"]["outcome"]) == ([], "success"), done
    taken = []
    for path in frames.glob("*.h5"):
        with h5py.File(path) as file:
            taken.append(len(file["/entry/data/data"]))
    assert sorted(taken)[:2] == [2, 2]
    assert 8 <= max(taken) < 360
