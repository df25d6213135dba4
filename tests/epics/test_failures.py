"""IOCs that stall, die and come back: the scan ends in time, or goes on; the beam is off and the frames can be read."""

from __future__ import annotations

from dataclasses import replace

import bluesky.plan_stubs as bps
import h5py
import pytest
from bluesky.utils import FailedStatus

from bluesky_streamrecon.errors import MotionError
from bluesky_streamrecon.plans import motion, stream_tomo_plan

pytestmark = [pytest.mark.epics, pytest.mark.usefixtures("no_orphans")]

LIBRARIES = pytest.mark.parametrize("library", ["modern", "classic"])
AT = 3  # projections, when something happens


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    monkeypatch.setattr(motion, "LATE_SECONDS", 3.0)


@pytest.fixture
def make(modern, classic):
    """Make devices by a library: the motor's of one IOC, all else of another."""

    def devices(library, motor, rest):
        made = {"modern": modern, "classic": classic}[library]
        return replace(made(rest), stage=made(motor).stage)

    return devices


def scan(devices, job):
    wanted = {"num": 8, "order": "fixed", "flats": 1, "darks": 1, "window": None, "job": job}
    return stream_tomo_plan([devices.detector], devices.stage, **wanted, **devices.around)


def after_projections(run_engine, act):
    """Call `act` in the RunEngine when so many projections are taken."""
    streams = {}

    def follow(name, doc):
        if name == "descriptor":
            streams[doc["uid"]] = doc["name"]
        if name == "event" and streams[doc["descriptor"]] == "primary" and doc["seq_num"] == AT:
            act()

    run_engine.subscribe(follow)


def assert_beam_is_off_and_frames_are_readable(run_engine, devices, tmp_path):
    assert run_engine(read(devices.shutter)).plan_result == "Closed"
    counts = []
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path) as file:
            counts.append(len(file["/entry/data/data"]))
    dark, flat, projections = sorted(counts)
    assert (dark, flat) == (1, 1)
    assert projections >= AT


def test_frames_that_a_full_disk_did_not_take_are_reported_and_the_scan_goes_on(
    run_engine, start_ioc, modern, pretend_job, script, tmp_path
):
    ioc = start_ioc()
    after_projections(run_engine, lambda: ioc.put("fault", "disk full, counted"))
    run_engine(scan(modern(ioc), pretend_job))
    record = pretend_job.last_run
    assert (record.exit_status, record.taken) == ("success", 8)
    assert [kind for kind, *_ in script.frames].count("projection") == AT
    assert record.problems[0].startswith(f"streaming: frames {AT} to {AT} of {tmp_path}"), record.problems
    assert f"the file has {AT} frames after 5 s" in record.problems[0]
    assert {entry.dropped for entry in record.ledger.values()} == {8 - AT}


def test_detector_that_stops_at_a_full_disk_ends_the_scan_and_what_was_written_is_there(
    run_engine, documents, start_ioc, modern, pretend_job, script, tmp_path
):
    ioc = start_ioc()
    devices = modern(ioc)
    after_projections(run_engine, lambda: ioc.put("fault", "disk full"))
    with pytest.raises(FailedStatus):
        run_engine(scan(devices, pretend_job))
    assert "Timeout Error while waiting 10.0s to update ['" in failed_reason(documents).replace("\\", "")
    assert f"{ioc.prefix}AD:HDF1:NumCaptured_RBV" in failed_reason(documents)
    assert [kind for kind, *_ in script.frames].count("projection") == AT
    assert_beam_is_off_and_frames_are_readable(run_engine, devices, tmp_path)


def read(device):
    return (yield from bps.rd(device))


def failed_reason(documents):
    (stop,) = [doc for name, doc in documents if name == "stop"]
    assert stop["exit_status"] == "fail"
    return stop["reason"]


@LIBRARIES
@pytest.mark.parametrize("fault", ["stalls", "is killed"])
def test_motor_that_does_not_arrive_ends_the_scan_in_time(
    run_engine, documents, start_ioc, make, pretend_job, tmp_path, monkeypatch, library, fault
):
    monkeypatch.setattr(motion, "RECONNECT_SECONDS", 3.0)
    motor, rest = start_ioc(), start_ioc()
    devices = make(library, motor, rest)

    def act():
        if fault == "stalls":
            motor.put("fault", "stall")
        else:
            motor.put("rot.VELO", 10.0)  # so that it is under way when it is killed
            timer.start()

    timer = motor.killed_after(0.5)
    after_projections(run_engine, act)
    with pytest.raises(MotionError) as raised:
        run_engine(scan(devices, pretend_job))
    if fault == "is killed":
        timer.join()
    assert str(raised.value) == failed_reason(documents)
    assert failed_reason(documents).startswith(("rot: not at", "rot: does not answer"))
    assert_beam_is_off_and_frames_are_readable(run_engine, devices, tmp_path)


@LIBRARIES
def test_motor_ioc_that_is_killed_and_started_again_between_moves_does_no_harm(
    run_engine, documents, start_ioc, make, pretend_job, script, library
):
    motor, rest = start_ioc(), start_ioc()
    devices = make(library, motor, rest)

    def act():
        motor.kill()
        motor.start()

    after_projections(run_engine, act)
    run_engine(scan(devices, pretend_job))
    assert [kind for kind, *_ in script.frames].count("projection") == 8
