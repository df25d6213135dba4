"""Position compare: pulses where the stage passes, and the angles that are recorded for them."""

from __future__ import annotations

import asyncio

import h5py
import numpy as np
import pytest
from ophyd_async.core import DetectorTrigger, FlyMotorInfo, TriggerInfo

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import Sweep
from bluesky_streamrecon.sim_devices import Faults, sim_beamline
from bluesky_streamrecon.sim_devices.motion import Flight, Motion

EDGES = {"trigger": DetectorTrigger.EXTERNAL_EDGE}


class SeenCamera:
    """Keeps the exposures that it is asked for."""

    def __init__(self, camera):
        self._camera = camera
        self.shape, self.dtype = camera.shape, camera.dtype
        self.angles = []

    def frame(self, exposure):
        self.angles.append(exposure.angle)
        return self._camera.frame(exposure)


@pytest.fixture
def beamline(tmp_path):
    made = sim_beamline(rows=2, columns=16, directory=tmp_path, exposure=0.02, velocity=90, acceleration_time=0.02)
    object.__setattr__(made.detector.scene, "camera", SeenCamera(made.camera))
    return made


async def flown(beamline, pulses, *, start, stop, velocity, livetime=0.02):
    """Fly once; give the documents' files as arrays."""
    writers = beamline.detector, beamline.encoder
    everyone = (*writers, beamline.trigger, beamline.stage)
    for device in everyone:
        await device.stage()
    info = TriggerInfo(**EDGES, livetime=livetime, number_of_events=len(pulses))
    for writer in writers:
        await writer.prepare(info)
    await beamline.trigger.prepare(pulses)
    move = FlyMotorInfo(start_position=start, end_position=stop, time_for_move=(stop - start) / velocity)
    await beamline.stage.prepare(move)
    for device in everyone:
        await device.kickoff()
    await beamline.trigger.complete()
    for writer in writers:
        await writer.complete()
    await beamline.stage.complete()
    files = []
    for writer in writers:
        docs = [doc async for doc in writer.collect_asset_docs()]
        resource = next(doc for name, doc in docs if name == "stream_resource")
        files.append((resource["uri"].removeprefix("file://localhost"), resource["parameters"]["dataset"]))
    for device in everyone:
        await device.unstage()
    return [h5py.File(path)[dataset][:] for path, dataset in files]


def test_angle_of_a_frame_is_where_it_was_exposed_and_not_where_it_was_planned(beamline):
    """At 50 degrees per second, a pulse at 10 degrees begins an exposure of 20 ms whose mean is 10.5 degrees."""
    frames, angles = asyncio.run(flown(beamline, Sweep(10.0, 5.0, 6), start=5, stop=40, velocity=50))
    np.testing.assert_allclose(angles, [10.5, 15.5, 20.5, 25.5, 30.5, 35.5], atol=1e-9)
    np.testing.assert_array_equal(beamline.detector.scene.camera.angles, angles)
    assert len(frames) == 6


def test_recorded_angles_follow_the_stage_where_it_speeds_up(beamline):
    """Pulses in the run-up are no reason to record anything but the truth."""
    _, angles = asyncio.run(flown(beamline, Sweep(-0.4, 0.2, 2), start=0, stop=30, velocity=50, livetime=0.004))
    assert np.all(angles > [-0.4, -0.2])
    assert np.all(angles < [-0.3, 0.0])
    assert angles != pytest.approx([-0.3, -0.1], abs=1e-3)


def test_sample_that_slips_is_seen_where_it_is_while_the_encoder_tells_where_the_stage_is(tmp_path):
    slipping = sim_beamline(rows=2, columns=16, directory=tmp_path, instant=True, faults=Faults(slips_from=1))
    object.__setattr__(slipping.detector.scene, "camera", SeenCamera(slipping.camera))
    _, angles = asyncio.run(flown(slipping, Sweep(10.0, 5.0, 3), start=5, stop=40, velocity=50))
    np.testing.assert_allclose(angles, [10.5, 15.5, 20.5])
    assert len(set(slipping.detector.scene.camera.angles)) == 1


def test_pulse_during_an_exposure_is_missed_and_said_so(beamline, caplog):
    async def fly():
        for device in (beamline.detector, beamline.encoder, beamline.trigger, beamline.stage):
            await device.stage()
        await beamline.detector.prepare(TriggerInfo(**EDGES, livetime=0.05, number_of_events=4))
        await beamline.trigger.prepare(Sweep(0.0, 1.0, 4))
        await beamline.stage.prepare(FlyMotorInfo(start_position=-1, end_position=5, time_for_move=6 / 40))
        for device in (beamline.detector, beamline.trigger, beamline.stage):
            await device.kickoff()
        await beamline.trigger.complete()
        await beamline.stage.complete()
        await beamline.detector._acquire_logic.wait_for_idle()
        count = await beamline.detector.get_index()
        await beamline.detector.unstage()
        return count

    assert asyncio.run(fly()) == 2
    assert "a pulse came" in caplog.text


def test_trigger_fails_when_the_stage_comes_to_rest_before_its_last_angle(beamline):
    with pytest.raises(RuntimeError, match="2 of 5 pulses, the stage came to rest before 20"):
        asyncio.run(flown(beamline, Sweep(0.0, 10.0, 5), start=-1, stop=15, velocity=80))


def test_stage_refuses_to_fly_beyond_its_limits_or_speed(tmp_path):
    stage = sim_beamline(directory=tmp_path, velocity=90, limits=(-10, 200)).stage

    async def prepare(start, stop, seconds):
        await stage.prepare(FlyMotorInfo(start_position=start, end_position=stop, time_for_move=seconds))

    with pytest.raises(ConfigError, match="expected -10"):
        asyncio.run(prepare(0, 200, 10))
    with pytest.raises(ConfigError, match="expected at most 90"):
        asyncio.run(prepare(0, 100, 1))


@pytest.mark.parametrize("sweep", [Sweep(0.0, 1.0, 0), Sweep(0.0, -1.0, 3)])
def test_trigger_refuses_what_is_no_sweep(beamline, sweep):
    async def prepare():
        await beamline.trigger.prepare(sweep)

    with pytest.raises(ConfigError, match="position trigger"):
        asyncio.run(prepare())


@pytest.mark.parametrize("motion", [Motion(0, 90, 45, 0.5), Motion(3, -1, 10, 1), Motion(0, 9, 3, 0)])
def test_a_position_is_passed_when_the_motion_is_there(motion):
    for part in (0.001, 0.02, 0.3, 0.5, 0.77, 0.999):
        position = motion.start + part * (motion.stop - motion.start)
        assert motion.position(motion.when(position)) == pytest.approx(position)
    assert motion.when(motion.stop + (motion.stop - motion.start)) is None


def test_a_flight_that_was_stopped_passes_nothing_more():
    flight = Flight(Motion(0, 100, 10, 0), started=5.0)
    assert flight.when(20) == pytest.approx(7.0)
    flight.stopped = 6.5
    assert flight.when(20) is None
    assert flight.position(100.0) == pytest.approx(15.0)
