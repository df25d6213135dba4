"""Frames over PV Access: taken whole, used once, counted when they are lost, and kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky.utils import FailedStatus
from ophyd_async.core import (
    DetectorTrigger,
    StaticPathProvider,
    TriggerInfo,
    UUIDFilenameProvider,
    init_devices,
)
from pva_camera import image

from bluesky_streamrecon.beamline.pva import PvaDetector
from bluesky_streamrecon.plans import check_devices_plan, flight, stream_tomo_fly_plan, streaming_wrapper
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.sim_devices import sim_beamline

pytestmark = pytest.mark.epics

BOUND = 30.0
ROWS, COLUMNS = 2, 48
SHADOW = np.exp(-(((np.arange(COLUMNS) - 30) / 6.0) ** 2))


def pixels(number: int, dtype: str = "f4") -> np.ndarray:
    """Return what the camera takes at its image of this number: a disc beside the axis, and the number."""
    angle = number * math.pi / 200
    centre = COLUMNS / 2 - 0.5 + 8 * math.cos(angle)
    chord = np.sqrt(np.clip(36 - (np.arange(COLUMNS) - centre) ** 2, 0, None)) / 60
    return np.tile(chord, (ROWS, 1)).astype(dtype)


def taken(number: int, **more) -> object:
    return image(pixels(number), number, taken=1e9 + number / 100, Angle=number * 0.9, **more)


@pytest.fixture
def detector(run_engine, tmp_path, pva_camera):
    """Make a detector of the camera's images."""

    async def make(**options):
        paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
        async with init_devices():
            camera = PvaDetector(pva_camera.pv, paths, attributes=["Angle"], **options)
        return camera  # noqa: RET504 - named and connected by now

    return lambda **options: asyncio.run_coroutine_threadsafe(make(**options), run_engine.loop).result(BOUND)


@dataclass
class Flight:
    """A plan that is given images by a camera that it does not know, and a thread that sends them."""

    detector: PvaDetector
    num: int
    armed: threading.Event = field(default_factory=threading.Event)
    lost: int = -1
    duplicates: int = -1

    def plan(self):
        info = TriggerInfo(trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=self.num, exposure_timeout=BOUND)

        @bpp.stage_decorator([self.detector])
        @bpp.run_decorator(md={"num_points": self.num})
        def fly():
            yield from bps.prepare(self.detector, info, wait=True)
            yield from bps.declare_stream(self.detector, name="primary", collect=True)
            yield from bps.kickoff(self.detector, wait=True)
            self.armed.set()
            yield from bps.collect_while_completing(
                [self.detector], [self.detector], flush_period=0.05, stream_name="primary"
            )
            self.lost = yield from bps.rd(self.detector.frames_lost)
            self.duplicates = yield from bps.rd(self.detector.frames_duplicate)

        return fly()


def streamed(plan, job, angle="camera-Angle", **settings):
    recon = ReconSettings(**{"ranks": 2, "axis": COLUMNS / 2 - 0.5, "pixel_values": "line-integrals", **settings})
    return streaming_wrapper(plan, detector="camera", angle=angle, recon=recon, job=job)


def after(event, work):
    def run():
        assert event.wait(BOUND)
        work()

    return run


def test_images_are_binned_and_cut_before_they_are_sent_and_kept_whole(
    run_engine, documents, detector, pva_camera, pretend_job, script, in_thread
):
    camera = detector(patience=BOUND)
    pva_camera.start(taken(7))
    flown = Flight(camera, 12)
    in_thread(after(flown.armed, lambda: pva_camera.play((taken(8 + n) for n in range(12)), 100.0)))
    run_engine(streamed(flown.plan(), pretend_job, bin=2, rows=(0, 2), axis=(COLUMNS - 2) / 4))
    assert script.specs[0].detector_shape == (1, COLUMNS // 2)
    assert len(script.frames) == 12
    for _, _, angle, frame in script.frames:
        whole = pixels(round(math.degrees(angle) / 0.9))
        np.testing.assert_allclose(frame, whole.reshape(1, 2, COLUMNS // 2, 2).mean(axis=(1, 3)), rtol=1e-6)
    resource = next(doc for name, doc in documents if name == "stream_resource" and doc["data_key"] == "camera")
    with h5py.File(resource["uri"].removeprefix("file://localhost")) as file:
        assert file[resource["parameters"]["dataset"]].shape[-2:] == (ROWS, COLUMNS)


def images_of(script):
    """Reconstruct what a pretended job was sent."""
    frames = sorted((angle, frame) for _, _, angle, frame in script.frames)
    angles, stack = np.array([angle for angle, _ in frames]), np.stack([frame for _, frame in frames])
    return reconstruct(stack, angles, axis=COLUMNS / 2 - 0.5, iterations=5)


@pytest.mark.parametrize("num", [200, pytest.param(2000, marks=[pytest.mark.nightly, pytest.mark.timeout(180)])])
def test_every_image_that_came_is_used_once_and_those_that_did_not_are_counted(
    run_engine, detector, pva_camera, pretend_job, script, in_thread, num, tmp_path, caplog
):
    rng = np.random.default_rng(7)
    numbers = 8 + np.arange(num)
    lost = set(rng.choice(numbers, num // 100, replace=False).tolist()) | {int(numbers[-1])}
    twice = set(rng.choice(sorted(set(numbers.tolist()) - lost), num // 100, replace=False).tolist())
    sent = [number for number in numbers.tolist() for _ in range(1 + (number in twice))]
    camera = detector(patience=1.0)
    pva_camera.start(taken(7))
    flown = Flight(camera, num)
    in_thread(after(flown.armed, lambda: pva_camera.play((None if n in lost else taken(n) for n in sent), 100.0)))
    run_engine(streamed(flown.plan(), pretend_job))

    used = [n for n in numbers.tolist() if n not in lost]
    assert [round(math.degrees(angle) / 0.9) for _, _, angle, _ in script.frames] == used
    for _, _, angle, frame in script.frames:
        np.testing.assert_array_equal(frame, pixels(round(math.degrees(angle) / 0.9)))
    assert (flown.lost, flown.duplicates) == (len(lost), len(twice))
    assert f"{len(used)} images of {num}, {len(lost)} lost, {len(twice)} duplicates" in caplog.text
    whole = np.stack([pixels(n) for n in used])
    with h5py.File(tmp_path / "by-the-plugin.h5", "w") as file:
        file["data"] = whole
    with h5py.File(tmp_path / "by-the-plugin.h5") as file:
        through_hdf5 = reconstruct(
            file["data"][:], np.radians(np.array(used) * 0.9), axis=COLUMNS / 2 - 0.5, iterations=5
        )
    np.testing.assert_allclose(images_of(script), through_hdf5, atol=1e-5 * np.abs(through_hdf5).max())


def test_step_scan_uses_images_that_were_begun_after_the_trigger(
    run_engine, detector, pva_camera, documents, in_thread, tmp_path
):
    camera = detector()
    pva_camera.start(taken(0))
    over = threading.Event()

    def free_running():
        number = 1
        while not over.wait(0.005):
            pva_camera.post(taken(number))
            number += 1

    in_thread(free_running)
    try:
        run_engine(bp.count([camera], 5))
    finally:
        over.set()
    (resource,) = [doc for name, doc in documents if name == "stream_resource" and doc["data_key"] == "camera"]
    with h5py.File(resource["uri"].removeprefix("file://localhost")) as file:
        numbers = file["/entry/data/number"][:]
        assert len(numbers) == 5
        assert np.all(np.diff(numbers) >= 2)  # the one that was under way is not used
        for number, frame in zip(numbers, file["/entry/data/data"], strict=True):
            np.testing.assert_array_equal(frame, pixels(number))
    assert [doc["seq_num"] for name, doc in documents if name == "event"] == [1, 2, 3, 4, 5]


def test_ioc_that_dies_and_comes_back_loses_what_it_did_not_send_and_says_how_many(
    run_engine, detector, pva_camera, pretend_job, script, in_thread, caplog, back
):
    camera = detector()
    pva_camera.start(taken(7))
    flown = Flight(camera, 60)

    def play():
        pva_camera.play(map(taken, range(8, 28)), 100.0)
        pva_camera.die()
        pva_camera.start(taken(41))  # its camera was not switched off: it counts on
        assert back.wait(BOUND)
        pva_camera.play(map(taken, range(42, 68)), 100.0)

    in_thread(after(flown.armed, play))
    run_engine(streamed(flown.plan(), pretend_job))
    assert [round(math.degrees(angle) / 0.9) for _, _, angle, _ in script.frames] == [*range(8, 28), *range(41, 68)]
    assert flown.lost == 13
    assert "waiting for it to come back" in caplog.text
    assert "47 images of 60, 13 lost, 0 duplicates" in caplog.text


def test_ioc_that_is_away_between_two_exposures_is_waited_for(
    run_engine, detector, pva_camera, documents, in_thread, lost
):
    camera = detector()
    pva_camera.start(taken(0))
    over, away, numbers = threading.Event(), threading.Event(), itertools.count(1)

    def free_running():
        while not over.wait(0.005):
            if away.is_set():
                away.clear()
                pva_camera.die()
                over.wait(0.6)  # longer than an exposure may take
                pva_camera.start(taken(next(numbers)))
            pva_camera.post(taken(next(numbers)))

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(camera, TriggerInfo(exposure_timeout=0.5), wait=True)
        for exposure in range(4):
            if exposure == 2:
                away.set()
                assert lost.wait(BOUND)
            yield from bps.trigger_and_read([camera])

    in_thread(free_running)
    try:
        run_engine(plan())
    finally:
        over.set()
    assert [doc["seq_num"] for name, doc in documents if name == "event"] == [1, 2, 3, 4]


def test_ioc_that_stays_away_ends_the_scan_with_the_reason(run_engine, detector, pva_camera, monkeypatch, lost):
    monkeypatch.setattr("bluesky_streamrecon.beamline.pva.detector.BACK_SECONDS", 0.2)
    camera = detector()
    pva_camera.start(taken(0))

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(camera, TriggerInfo(), wait=True)
        pva_camera.die()
        assert lost.wait(BOUND)
        yield from bps.trigger(camera, wait=True)

    with pytest.raises(FailedStatus, match=r"not there for 0\.2 s; does its IOC run\?"):
        run_engine(plan())


def test_images_whose_ioc_counts_anew_are_kept_apart_and_have_no_angle(
    run_engine, detector, pva_camera, pretend_job, script, in_thread, caplog, tmp_path, back
):
    camera = detector(patience=0.5)
    pva_camera.start(taken(7))
    flown = Flight(camera, 40)

    def play():
        pva_camera.play(map(taken, range(8, 28)), 100.0)
        pva_camera.die()
        pva_camera.start(image(pixels(1), 1, taken=2e9))
        assert back.wait(BOUND)
        pva_camera.play((image(pixels(n), n, taken=2e9 + n) for n in range(2, 12)), 100.0)

    in_thread(after(flown.armed, play))
    run_engine(streamed(flown.plan(), pretend_job))
    assert [round(math.degrees(angle) / 0.9) for _, _, angle, _ in script.frames] == [*range(8, 28)]
    assert "its counter was set to 1 after 20 images of 20" in caplog.text
    (apart,) = tmp_path.glob("*-apart.h5")
    with h5py.File(apart) as file:
        np.testing.assert_array_equal(file["/entry/data/number"], np.arange(1, 12))


def test_pv_that_nobody_serves_is_refused_before_anything_is_armed(run_engine, detector, monkeypatch):
    monkeypatch.setattr("bluesky_streamrecon.beamline.pva.detector.CONNECT_SECONDS", 0.2)
    with pytest.raises(Exception, match=r"no answer in 0\.2 s; is its IOC running, its PVA plugin enabled"):
        run_engine(bp.count([detector()], 1))


@contextlib.contextmanager
def logged(text):
    """Return an event that is set when something is logged."""
    seen = threading.Event()

    class Seen(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                seen.set()

    handler = Seen()
    logging.getLogger("bluesky_streamrecon").addHandler(handler)
    try:
        yield seen
    finally:
        logging.getLogger("bluesky_streamrecon").removeHandler(handler)


@pytest.fixture
def lost():
    """Return an event that is set when a PV is lost."""
    with logged("waiting for it to come back") as seen:
        yield seen


@pytest.fixture
def back():
    """Return an event that is set when a PV was lost and has come back."""
    with logged("is back") as seen:
        yield seen


@pytest.fixture
def served_by_pvapy(free_port):
    """Have pvapy's simulated areaDetector send images of 32 x 64 pixels, and return its PV."""
    program = Path(sys.executable).with_name("pvapy-ad-sim-server")
    if not program.exists():
        pytest.skip("pvapy is not installed")
    pv = f"T{os.urandom(4).hex()}:Image"
    port = os.environ["EPICS_PVA_BROADCAST_PORT"]
    loopback = {"EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_BROADCAST_PORT": port}
    server = subprocess.Popen(
        [
            program,
            "-cn",
            pv,
            "-nx",
            "64",
            "-ny",
            "32",
            "-dt",
            "uint16",
            "-fps",
            "50",
            "-rt",
            "60",
            "-nf",
            "20",
            "-std",
            "4",
            "-dc",
        ],
        env={**os.environ, **loopback, "EPICS_PVA_SERVER_PORT": str(free_port())},
        stdout=subprocess.DEVNULL,
    )
    yield pv
    server.kill()
    server.wait(BOUND)


def test_images_of_pvapy_are_taken(run_engine, served_by_pvapy, tmp_path, monkeypatch):
    # It is slow to begin: asked to be quick, it may look for images before it has made them.
    monkeypatch.setattr("bluesky_streamrecon.beamline.pva.detector.CONNECT_SECONDS", BOUND)

    async def connect():
        async with init_devices():
            camera = PvaDetector(served_by_pvapy, StaticPathProvider(UUIDFilenameProvider(), tmp_path))
        return camera  # noqa: RET504 - named and connected by now

    run_engine(bp.count([asyncio.run_coroutine_threadsafe(connect(), run_engine.loop).result(BOUND)], 3))
    (path,) = tmp_path.glob("*.h5")
    with h5py.File(path) as file:
        assert file["/entry/data/data"].shape == (3, 32, 64)
        assert np.all(np.diff(file["/entry/data/number"]) >= 2)


@pytest.fixture
def fly(run_engine, detector, pva_camera, pretend_job, tmp_path, monkeypatch):
    """Fly a simulated stage; each pulse has the camera take an image, of which some are lost."""
    beamline = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)
    expose, taken_so_far = beamline.camera.frame, itertools.count(1)

    def plan(lost, **more):
        def frame(exposure):
            number, seen = next(taken_so_far), expose(exposure)
            if number not in lost:
                pva_camera.post(image(seen, number, taken=float(number)))
            return seen

        monkeypatch.setattr(beamline.camera, "frame", frame)
        pva_camera.start(image(np.zeros((4, 32), beamline.camera.dtype), 0, taken=0.5))
        around = {"trigger": beamline.trigger, "encoder": beamline.encoder, "job": pretend_job}
        corrected = {"flats": 0, "darks": 0, "pixel_values": "transmission"}
        return stream_tomo_fly_plan(
            [detector(patience=0.3), beamline.detector],
            beamline.stage,
            exposure=0.01,
            window=4,
            **around,
            **corrected,
            **more,
        )

    return plan


def test_flight_goes_on_without_the_images_that_are_lost_and_the_others_keep_their_angles(
    run_engine, fly, script, documents
):
    run_engine(fly(num=12, order="interlaced(2)", lost={3, 6, 12}))  # two of them at the end of a sweep
    planned = np.concatenate([np.arange(0, 180, 30), np.arange(15, 180, 30)])
    used = np.delete(planned, [2, 5, 11])
    np.testing.assert_allclose([math.degrees(angle) for _, _, angle, _ in script.frames], used, atol=0.5)
    assert next(doc for name, doc in documents if name == "stop")["exit_status"] == "success"


def test_flight_that_is_cut_short_may_have_lost_its_last_images(run_engine, fly, script, documents, monkeypatch):
    monkeypatch.setattr(flight, "STALL_SECONDS", 1.0)
    script.score = lambda projections: 0.99 if projections >= 5 else 0.5
    run_engine(fly(num=400, order="fixed", lost=range(8, 400), threshold=0.95, patience=1, flush_period=0.02))
    (stop,) = [doc for name, doc in documents if name == "stop"]
    assert stop["exit_status"] == "success", stop
    assert stop["reason"].startswith("quality: ")
    assert stop["num_events"]["primary"] == 7


def test_check_of_the_devices_takes_an_image_and_says_what_it_is(run_engine, detector, pva_camera, in_thread, tmp_path):
    stage = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True).stage
    camera = detector()
    pva_camera.start(taken(0))
    over, numbers = threading.Event(), itertools.count(1)

    def free_running():
        while not over.wait(0.005):
            pva_camera.post(taken(next(numbers)))

    in_thread(free_running)
    try:
        found = run_engine(check_devices_plan([camera], stage)).plan_result
    finally:
        over.set()
    (item,) = [each for each in found if each.name == "detector camera"]
    assert item.status == "OK", item
    assert item.hint.startswith(f"camera: {ROWS} x {COLUMNS} <f4, application/x-hdf5, read here as float32")
