"""Tomograms with devices that speak Channel Access: those of ophyd-async, and those of classic ophyd."""

from __future__ import annotations

import math
from dataclasses import replace

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.plans import stream_tomo_plan, streaming_wrapper
from bluesky_streamrecon.plans.reference_frames import take_frames
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

from .ioc import BYTE, frame

pytestmark = pytest.mark.epics

NUM = 40
RECON = ReconSettings(ranks=2, axis=33.0, window=None)
STEERING = SteeringSettings(tolerance=0.3)
SMALL = {"num": 4, "flats": 2, "darks": 2, "axis": 33.0, "window": None}


def stop_of(documents):
    (stop,) = [doc for kind, doc in documents if kind == "stop"]
    return stop


def tomogram(devices, job, **more):
    """Take a tomogram whose tolerance is wide, so that it ends early."""
    wanted = {"num": NUM, "flats": 2, "darks": 2, "tolerance": 0.3, "axis": 33.0, "window": None, "job": job}
    return stream_tomo_plan([devices.detector], devices.stage, **{**wanted, **devices.around, **more})


def wrapped(devices, job):
    """Take a tomogram by a plan that knows nothing of reconstructions, from first angle to last."""
    detectors = [devices.detector]

    @bpp.run_decorator(md={"num_points": NUM})
    def plan():
        yield from bps.mv(devices.shutter, "Closed")
        yield from take_frames(detectors, "dark", 2)
        yield from bps.mv(devices.shutter, "Open", devices.table, "Out")
        yield from take_frames(detectors, "flat", 2)
        yield from bps.mv(devices.table, "In")
        yield from projections()

    @bpp.stage_decorator([*detectors, devices.stage])
    def projections():
        for angle in make_order("optimized-interleaved", num=NUM, start=0.0, stop=180.0):
            yield from bps.one_nd_step(detectors, {devices.stage: angle}, {devices.stage: None})

    what = {"detector": devices.detector, "angle": devices.stage, "references": "own", "job": job}
    return streaming_wrapper(plan(), recon=RECON, steering=STEERING, **what)


def assert_all_frames_are_those_of_the_camera(script, projections):
    assert [kind for kind, *_ in script.frames] == ["dark"] * 2 + ["flat"] * 2 + ["projection"] * projections
    for kind, _, angle, pixels in script.frames:
        np.testing.assert_array_equal(pixels, frame(math.degrees(angle), kind))


def stops_by_quality(documents):
    stop = stop_of(documents)
    assert stop["exit_status"] == "success"
    assert stop["reason"].startswith("quality: stopped at")
    assert stop["num_events"]["primary"] < NUM


def test_tomogram_by_ophyd_async_stops_by_quality(run_engine, documents, start_ioc, modern, kept_job):
    run_engine(tomogram(modern(start_ioc()), kept_job))
    stops_by_quality(documents)


def test_tomogram_by_classic_ophyd_stops_by_quality(run_engine, documents, start_ioc, classic, kept_job):
    run_engine(tomogram(classic(start_ioc()), kept_job))
    stops_by_quality(documents)


def test_file_that_is_not_written_in_swmr_mode_is_read_when_it_is_closed(
    run_engine, documents, start_ioc, modern, pretend_job, script
):
    run_engine(tomogram(modern(start_ioc("--no-swmr")), pretend_job, num=6))
    assert_all_frames_are_those_of_the_camera(script, 6)
    assert not pretend_job.last_run.problems


@pytest.mark.parametrize("library", ["modern", "classic"])
def test_tiff_files_are_read_as_they_come(run_engine, start_ioc, modern, classic, pretend_job, script, library):
    devices = {"modern": modern, "classic": classic}[library](start_ioc(), "tiff")
    run_engine(tomogram(devices, pretend_job, num=4))
    assert_all_frames_are_those_of_the_camera(script, 4)
    assert not pretend_job.last_run.problems


def test_jpeg_files_are_read_as_they_come(run_engine, start_ioc, modern, pretend_job, script):
    run_engine(tomogram(modern(start_ioc("--bytes"), "jpeg"), pretend_job, num=4))
    assert [kind for kind, *_ in script.frames] == ["dark"] * 2 + ["flat"] * 2 + ["projection"] * 4
    for kind, _, angle, pixels in script.frames:
        seen = (frame(math.degrees(angle), kind) // BYTE).astype(int)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels - seen).max() <= 4  # of about 156: JPEG keeps no pixel as it was
    assert not pretend_job.last_run.problems


@pytest.mark.parametrize("reconstruct", ["camera", "left"])
def test_one_of_several_detectors_is_reconstructed_by_name(
    run_engine, start_ioc, modern, pretend_job, script, reconstruct
):
    first, second = modern(start_ioc()), modern(start_ioc("--bytes"), "jpeg")
    second.detector.set_name("left")
    devices = replace(first, detector=[first.detector, second.detector])
    plan = {**SMALL, **devices.around, "reconstruct": reconstruct, "job": pretend_job}
    run_engine(stream_tomo_plan(devices.detector, devices.stage, **plan))
    assert {pixels.dtype.str for *_, pixels in script.frames} == {"<u2" if reconstruct == "camera" else "|u1"}
    assert [kind for kind, *_ in script.frames].count("projection") == SMALL["num"]
    assert not pretend_job.last_run.problems
    with pytest.raises(ConfigError, match="reconstruct: got 'right', expected the name of a detector: camera, left"):
        run_engine(stream_tomo_plan(devices.detector, devices.stage, **{**plan, "reconstruct": "right"}))


def test_one_of_several_data_keys_is_reconstructed_by_name(run_engine, start_ioc, modern, pretend_job, script):
    devices = modern(start_ioc(), "hdf", "tiff")
    run_engine(tomogram(devices, pretend_job, num=4))
    assert_all_frames_are_those_of_the_camera(script, 4)
    assert not pretend_job.last_run.problems


def test_tomogram_over_pv_access_stops_by_quality_although_a_frame_is_lost(
    run_engine, documents, start_ioc, modern, kept_job
):
    run_engine(tomogram(modern(start_ioc("--pva", "--loses", "9"), "pva"), kept_job))  # the fifth projection
    stops_by_quality(documents)
    assert kept_job.last_run.ledger[0].dropped == 1
    assert any("frame 4 of" in problem and "lost" in problem for problem in kept_job.last_run.problems)


def test_frame_that_pv_access_loses_costs_one_projection_and_the_scan_goes_on(
    run_engine, documents, start_ioc, modern, pretend_job, script, caplog
):
    devices = modern(start_ioc("--pva", "--loses", "7"), "pva")
    run_engine(tomogram(devices, pretend_job, num=6))  # after two darks and two flats
    assert [kind for kind, *_ in script.frames] == ["dark"] * 2 + ["flat"] * 2 + ["projection"] * 5
    for kind, _, angle, pixels in script.frames:
        np.testing.assert_array_equal(pixels, frame(math.degrees(angle), kind))
    assert stop_of(documents)["exit_status"] == "success"
    assert "5 images of 6, 1 lost" in caplog.text


def test_frames_over_pv_access_are_reconstructed_while_the_plugin_keeps_them(
    run_engine, documents, start_ioc, modern, pretend_job, script
):
    devices = modern(start_ioc("--pva", "--no-swmr"), "pva", "hdf")
    run_engine(tomogram(devices, pretend_job, num=4))
    assert_all_frames_are_those_of_the_camera(script, 4)
    assert not pretend_job.last_run.problems
    keys = {doc["data_key"] for name, doc in documents if name == "stream_resource"}
    assert keys == {"camera", "camera-hdf"}


@pytest.mark.parametrize("library", ["modern", "classic"])
def test_plans_of_bluesky_are_streamed_from_these_devices(
    run_engine, documents, start_ioc, modern, classic, kept_job, library
):
    run_engine(wrapped({"modern": modern, "classic": classic}[library](start_ioc()), kept_job))
    stops_by_quality(documents)
