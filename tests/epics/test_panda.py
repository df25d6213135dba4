"""Flights that a PandABox triggers and records, with ophyd-async's mock of one: there is no simulator in packages.

The mock's position compare looks at the simulated stage by the counts that it was set to, and its captures are those of
the simulated line of pulses. Real timing, wiring and files of a PandABox are not shown by this.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from bluesky.utils import FailedStatus
from ophyd_async.core import (
    StaticPathProvider,
    UUIDFilenameProvider,
    callback_on_mock_put,
    init_devices,
    set_mock_value,
    soft_signal_rw,
)
from ophyd_async.fastcs.panda import (
    DatasetTable,
    HDFPanda,
    PandaBitMux,
    PandaHdf5DatasetType,
    PandaPcompDirection,
    PosOutScaleOffset,
)

from bluesky_streamrecon.beamline.panda import PandaTrigger
from bluesky_streamrecon.ordering import Sweep
from bluesky_streamrecon.plans import stream_tomo_fly_plan
from bluesky_streamrecon.sim_devices import sim_beamline

pytestmark = pytest.mark.epics

BOUND = 20.0
OFFSET = 3.0
NAMES = ("counter", "angle")


class MockPanda:
    """Does what a PandABox does that is wired to the simulated beamline."""

    def __init__(self, panda, position, beamline, scale):
        self.panda, self.scale, self.sim = panda, scale, beamline.trigger
        self.line = beamline.trigger._logic.line
        self.tasks = {}
        self.file = None
        self.captured = 0
        self.trigger = PandaTrigger(panda.pcomp[1], position, name="pcomp")
        set_mock_value(panda.data.directory_exists, True)
        kinds = [PandaHdf5DatasetType.FLOAT_64] * len(NAMES)
        set_mock_value(panda.data.datasets, DatasetTable(name=list(NAMES), dtype=kinds))
        callback_on_mock_put(panda.data.capture, self._capture)
        callback_on_mock_put(panda.pcap.arm, self._arm)
        callback_on_mock_put(panda.pcomp[1].enable, self._enable)

    async def _capture(self, on):
        if self.file is not None:
            self.file.close()
            self.file = None
        if on:
            directory = await self.panda.data.hdf_directory.get_value()
            path = Path(directory) / await self.panda.data.hdf_file_name.get_value()
            self.file = h5py.File(path, "w", libver="latest")
            for name in NAMES:
                self.file.create_dataset(name, (0,), "<f8", maxshape=(None,), chunks=(1024,))
            self.file.swmr_mode = True
            self.captured = 0
            set_mock_value(self.panda.data.num_captured, 0)

    async def _arm(self, on):
        await self._end("capture")
        if on:
            self.tasks["capture"] = asyncio.create_task(self.line.serve(10**6, self._record))
            await asyncio.sleep(0)
        set_mock_value(self.panda.pcap.active, bool(on))

    async def _record(self, gate):
        self.captured += 1
        for name, value in zip(NAMES, (self.captured, gate.angle(0.01)), strict=True):
            self.file[name].resize(self.captured, 0)
            self.file[name][-1] = value
            self.file[name].flush()
        set_mock_value(self.panda.data.num_captured, self.captured)

    async def _enable(self, to):
        pcomp = self.panda.pcomp[1]
        await self._end("compare")
        if to == PandaBitMux.ONE:
            start, step, pulses, direction = [
                await signal.get_value() for signal in (pcomp.start, pcomp.step, pcomp.pulses, pcomp.dir)
            ]
            assert direction == (PandaPcompDirection.POSITIVE if self.scale > 0 else PandaPcompDirection.NEGATIVE)
            sweep = Sweep(start * self.scale + OFFSET, step * abs(self.scale), pulses)
            self.tasks["compare"] = asyncio.create_task(self._compare(sweep))
            set_mock_value(pcomp.active, True)
        else:
            set_mock_value(pcomp.active, False)

    async def _compare(self, sweep):
        await self.sim.prepare(sweep)
        await self.sim.kickoff()
        await self.sim.complete()
        set_mock_value(self.panda.pcomp[1].active, False)

    async def _end(self, which):
        task = self.tasks.pop(which, None)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def beamline(run_engine, tmp_path):
    return sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True)


@pytest.fixture
def panda_of(run_engine, beamline, tmp_path):
    """Make a mock of a PandABox whose counts have a scale."""
    loop = run_engine.loop

    async def make(scale):
        async with init_devices(mock=True):
            panda = HDFPanda("PANDA:", StaticPathProvider(UUIDFilenameProvider(), tmp_path))
        position = PosOutScaleOffset("INENC1.VAL", soft_signal_rw(float, scale), soft_signal_rw(float, OFFSET))
        await asyncio.gather(position.scale.connect(), position.offset.connect())
        return MockPanda(panda, position, beamline, scale)

    return lambda scale: asyncio.run_coroutine_threadsafe(make(scale), loop).result(BOUND)


def flight(beamline, panda, job, **more):
    wanted = {"num": 12, "order": "interlaced(2)", "exposure": 0.01, "window": 4, "flats": 0, "darks": 0}
    wanted |= {"pixel_values": "transmission", "job": job, "trigger": panda.trigger, "encoder": panda.panda}
    return stream_tomo_fly_plan([beamline.detector], beamline.stage, **{**wanted, **more})


@pytest.mark.parametrize("scale", [0.001, -0.0005])
def test_sweep_becomes_position_compare_and_its_file_is_the_encoder(
    run_engine, beamline, panda_of, pretend_job, script, documents, scale
):
    run_engine(flight(beamline, panda_of(scale), pretend_job, angle="angle"))
    planned = [*range(0, 180, 30), *range(15, 180, 30)]
    angles = [math.degrees(angle) for _, _, angle, _ in script.frames]
    np.testing.assert_allclose(angles, planned, atol=abs(scale))
    assert next(doc for name, doc in documents if name == "stop")["exit_status"] == "success"


def test_encoder_that_records_several_numbers_is_asked_which_is_the_angle(
    run_engine, beamline, panda_of, pretend_job, documents
):
    run_engine(flight(beamline, panda_of(0.001), pretend_job))
    (stop,) = [doc for name, doc in documents if name == "stop"]
    assert "angle 'panda' records several numbers, 'counter', 'angle'; expected the data key" in stop["reason"], stop


def test_sweep_whose_steps_are_not_whole_counts_is_refused_before_anything_turns(
    run_engine, beamline, panda_of, pretend_job, script
):
    with pytest.raises(FailedStatus, match=r"a step of 30 degrees is 42\.8571 counts.*; choose num so that"):
        run_engine(flight(beamline, panda_of(0.7), pretend_job, num=200, order="fixed", stop=6000.0, angle="angle"))
    assert not script.frames
