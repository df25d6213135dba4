"""What `check_devices_plan` finds out about devices that speak Channel Access."""

from __future__ import annotations

import pytest

from bluesky_streamrecon.plans import check_devices_plan

pytestmark = pytest.mark.epics


def check(run_engine, devices, **more):
    plan = check_devices_plan([devices.detector], devices.stage, **devices.around, **more)
    found = run_engine(plan).plan_result
    return {item.name: (item.status, item.hint) for item in found}


@pytest.mark.parametrize("library", ["modern", "classic"])
def test_devices_that_work_are_described(run_engine, start_ioc, modern, classic, library):
    devices = {"modern": modern, "classic": classic}[library](start_ioc())
    found = check(run_engine, devices)
    assert {status for status, _ in found.values()} == {"OK"}
    assert found["stage rot"][1] == "is at 0 degrees (in degrees), may go from 0 to 180"
    assert "'Open' and 'Closed'" in found["shutter shutter"][1]
    assert "16 x 64" in found["detector camera"][1]
    assert "application/x-hdf5, read here as uint16" in found["detector camera"][1]


def test_limits_and_a_file_that_can_not_be_read_are_found(run_engine, start_ioc, modern, monkeypatch):
    found = check(run_engine, modern(start_ioc("--no-swmr")), stop=1000.0)
    assert found["stage rot"][0] == "ERROR"
    assert "angle 1000 degrees: rot can not go there" in found["stage rot"][1]
    assert found["detector camera"][0] == "ERROR"
    assert "can not be read here while the detector is armed" in found["detector camera"][1]
