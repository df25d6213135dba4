"""Detectors of one scene: of frames, of the beam, of the stage's angle; they write HDF5 files, or put it into events.

All look at the stage, the table and the shutter at the moment of exposure. Exposure times are seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.protocols import Hints, Reading, Triggerable
from event_model import DataKey
from ophyd_async.core import (
    AsyncStatus,
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    PathProvider,
    SignalDict,
    SignalR,
    SignalRW,
    StandardDetector,
    StandardReadable,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    TriggerInfo,
    soft_signal_r_and_setter,
    soft_signal_rw,
)
from ophyd_async.core import StandardReadableFormat as Format

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.hdf5.frame_writer import DATASET, FrameWriter
from bluesky_streamrecon.sim_devices.camera import Camera, Exposure, FrameKind, faulty_exposure
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.shutter import SamplePosition, SampleTable, Shutter, ShutterState
from bluesky_streamrecon.sim_devices.stage import RotaryStage, Sleep
from bluesky_streamrecon.sim_devices.triggers import Gate, TriggerLine

__all__ = ["BeamReadings", "InlineTomoDetector", "Scene", "StageAngles", "TomoDetector"]

FULL_READING = 1e7  # of a monitor, in the full beam
JITTER = 1e-6  # seconds by which a pulse may come too early
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """What a detector looks at.

    Parameters
    ----------
    camera : Camera
        Gives the pixels.
    stage : RotaryStage
        Turns the sample.
    table : SampleTable
        Takes the sample out of the beam.
    shutter : Shutter
        Lets the beam through.
    faults : Faults
        What has gone wrong.
    """

    camera: Camera
    stage: RotaryStage
    table: SampleTable
    shutter: Shutter
    faults: Faults
    _beam_time: list[int] = field(default_factory=lambda: [0, 0], repr=False)  # closings, projections since then

    async def exposure(self, index: int, angle: float | None = None) -> Exposure:
        """Describe an exposure; `index` counts frames since the detector was staged.

        It is made where the stage is now, or at `angle` of the stage, degrees.
        """
        shutter, position = await asyncio.gather(self.shutter.get_value(), self.table.get_value())
        if shutter == ShutterState.CLOSED:
            kind = FrameKind.DARK
        elif position == SamplePosition.OUT:
            kind = FrameKind.FLAT
        else:
            kind = FrameKind.PROJECTION
        at = self.stage.angle if angle is None else angle
        if self._beam_time[0] != self.shutter.closings or kind is FrameKind.PROJECTION:
            self._beam_time[:] = self.shutter.closings, index + 1 if kind is FrameKind.PROJECTION else 0
        return faulty_exposure(
            Exposure(kind, self.stage.sample_at(at), index, stage_angle=at), self.faults, self._beam_time[1]
        )

    async def exposed(self, index: int, seconds: float, sleep: Sleep) -> Exposure:
        """Expose for some seconds, and describe the exposure by what there was in its middle."""
        if not seconds:
            return await self.exposure(index)
        await sleep(seconds / 2)
        exposure = await self.exposure(index)
        await sleep(seconds / 2)
        return exposure


class BeamReadings:
    """A camera that makes a detector a monitor of the beam, before the shutter: its frames are numbers.

    It reads 10 million in the full beam, whatever the exposure time.
    """

    shape, dtype = (), np.dtype("<f8")

    def frame(self, exposure: Exposure) -> Any:
        """Return a number that follows the beam."""
        return FULL_READING * exposure.beam


class StageAngles(BeamReadings):
    """A camera that makes a detector an encoder: where the stage was on average, not where it was asked to be."""

    def frame(self, exposure: Exposure) -> Any:
        """Return the stage's angle, degrees."""
        return exposure.stage_angle


class FileDataLogic(DetectorDataLogic):
    """Streams values of one shape and type from an HDF5 file, a new one each time it is prepared.

    Parameters
    ----------
    path_provider : PathProvider
        Where files go; must give a new name each time.
    shape : tuple of int
        Of a value.
    dtype : dtype
        Of its numbers.
    """

    def __init__(self, path_provider: PathProvider, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.written, self._set_written = soft_signal_r_and_setter(int, 0)
        self.taken = 0
        self._path_provider, self._shape, self._dtype = path_provider, shape, dtype
        self._file: FrameWriter | None = None

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Begin a new file, and count its values from 0."""
        info = self._path_provider(datakey_name)
        name = f"{info.filename}.h5"
        path = Path(info.directory_path) / name
        self._file = await asyncio.to_thread(FrameWriter, path, self._shape, self._dtype)
        self.taken = 0
        self._set_written(0)
        resource = StreamResourceInfo(
            data_key=datakey_name,
            shape=self._shape,
            chunk_shape=self._file.chunk,
            dtype_numpy=self._dtype.str,
            parameters={"dataset": DATASET},
        )
        return StreamResourceDataProvider(
            uri=f"{info.directory_uri}{name}",
            resources=[resource],
            mimetype="application/x-hdf5",
            collections_written_signal=self.written,
        )

    async def write(self, make: Callable[[], Any]) -> None:
        """Write what `make` returns, in a thread."""
        self.taken += 1
        if (file := self._file) is not None:
            self._set_written(await asyncio.to_thread(lambda: file.append(make())))

    async def stop(self) -> None:
        """Close the file, if there is one."""
        file, self._file = self._file, None
        if file is not None:
            await asyncio.to_thread(file.close)


@dataclass
class _AcquireLogic(DetectorAcquireLogic):
    """Exposes at the pulses of a line, or by itself."""

    scene: Scene
    data: FileDataLogic
    line: TriggerLine
    sleep: Sleep
    exposure_time: SignalRW[float]
    instant: bool
    frames: int = 1
    deadtime: float = 0.0
    by_line: bool = False
    ready: float = -math.inf  # for another pulse, by the stage's clock
    task: asyncio.Task[None] | None = None

    async def start_acquiring(self) -> None:
        """Begin the exposures asked for; wait for it if it is one, so that its failure is the trigger's."""
        self.ready = -math.inf
        if self.by_line:
            await self.ensure_stopped()
        self.task = asyncio.create_task(self.line.serve(self.frames, self._expose) if self.by_line else self._take())
        if self.by_line or self.frames > 1:
            self.task.add_done_callback(_log_failure)
            await asyncio.sleep(0)  # now it listens
        else:
            await asyncio.shield(self.task)

    async def wait_for_idle(self) -> None:
        """Wait until the exposures are over."""
        if self.task is not None:
            await self.task

    async def ensure_stopped(self) -> None:
        """Abandon the exposures that are left."""
        task, self.task = self.task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _take(self) -> None:
        exposure_time = 0.0 if self.instant else await self.exposure_time.get_value()
        for _ in range(self.frames):
            exposure = await self.scene.exposed(self.data.taken, exposure_time, self.sleep)
            if self.deadtime and not self.instant:
                await self.sleep(self.deadtime)
            await self.data.write(partial(self.scene.camera.frame, exposure))

    async def _expose(self, gate: Gate) -> None:
        """Expose at a pulse; one that comes during an exposure is missed, as at a real detector."""
        width = await self.exposure_time.get_value()
        if gate.opens < self.ready and not gate.flight.instant:
            logger.error("a pulse came %.3g s before the exposure was over, and is lost", self.ready - gate.opens)
            return
        self.ready = gate.opens + width - JITTER
        exposure = await self.scene.exposure(self.data.taken, gate.angle(width))
        if left := gate.left(width):
            await self.sleep(left)
        await self.data.write(partial(self.scene.camera.frame, exposure))


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the detector stopped in the middle of a series: %s", error)


@dataclass
class _TriggerLogic(DetectorTriggerLogic):
    acquire: _AcquireLogic

    def config_sigs(self) -> set[SignalR[Any]]:
        return {self.acquire.exposure_time}

    def get_deadtime(self, config_values: SignalDict) -> float:  # noqa: ARG002 - it has none, whatever is set
        return 0.0

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        if livetime:
            await self.acquire.exposure_time.set(livetime)
        self.acquire.frames, self.acquire.deadtime, self.acquire.by_line = num, deadtime, False

    async def prepare_edge(self, num: int, livetime: float) -> None:
        await self.prepare_internal(num, livetime, 0.0)
        self.acquire.by_line = True

    async def default_trigger_info(self) -> TriggerInfo:
        return TriggerInfo(livetime=await self.acquire.exposure_time.get_value())


class TomoDetector(StandardDetector):
    """A simulated area detector that writes frames to HDF5 and emits stream_resource and stream_datum.

    Each staging opens a new file; a frame can be read from it, by this or another process, as soon as its
    stream_datum has been emitted. Frames are counted from 0 in each file.

    Parameters
    ----------
    scene : Scene
        What it looks at.
    path_provider : PathProvider
        Where files go; must give a new name each time.
    line : TriggerLine
        It also exposes at the pulses of this line (prepared for external edges).
    exposure : float, optional
        Exposure time, seconds; a configuration signal, ``exposure_time``.
    instant : bool, optional
        Take no time to expose.
    sleep : callable, optional
        How to wait for seconds.
    name : str, optional
        Of the device and its data key.
    """

    def __init__(
        self,
        scene: Scene,
        path_provider: PathProvider,
        line: TriggerLine,
        *,
        exposure: float = 0.05,
        instant: bool = False,
        sleep: Sleep = asyncio.sleep,
        name: str = "",
    ) -> None:
        self.exposure_time = soft_signal_rw(float, _checked_exposure(exposure), units="s")
        self.scene = scene
        data = FileDataLogic(path_provider, scene.camera.shape, scene.camera.dtype)
        acquire = _AcquireLogic(scene, data, line, sleep, self.exposure_time, instant)
        self.add_detector_logics(_TriggerLogic(acquire), acquire, data)
        super().__init__(name=name)


class InlineTomoDetector(StandardReadable, Triggerable):
    """A simulated area detector that puts each frame into the event, as many classic devices do.

    Parameters
    ----------
    scene, exposure, instant, sleep, name
        As for `TomoDetector`.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        exposure: float = 0.05,
        instant: bool = False,
        sleep: Sleep = asyncio.sleep,
        name: str = "",
    ) -> None:
        with self.add_children_as_readables(Format.CONFIG_SIGNAL):
            self.exposure_time = soft_signal_rw(float, _checked_exposure(exposure), units="s")
        self.scene = scene
        self._instant = instant
        self._sleep = sleep
        self._taken = 0
        self._seen: Any = None
        self._taken_at = 0.0
        super().__init__(name=name)

    @property
    def hints(self) -> Hints:
        """Nothing to print or plot: a frame is neither."""
        return {"fields": []}

    @AsyncStatus.wrap
    async def stage(self) -> None:
        """Count exposures from 0 again."""
        await super().stage()
        self._taken = 0
        self._seen = None

    @AsyncStatus.wrap
    async def trigger(self) -> None:
        """Expose once."""
        exposure_time = 0.0 if self._instant else await self.exposure_time.get_value()
        exposure = await self.scene.exposed(self._taken, exposure_time, self._sleep)
        self._taken += 1
        self._seen = await asyncio.to_thread(self.scene.camera.frame, exposure)
        self._taken_at = time.time()

    async def describe(self) -> dict[str, DataKey]:
        """Return what it sees."""
        shape, dtype = self.scene.camera.shape, self.scene.camera.dtype
        key = DataKey(
            source=f"sim://{self.name}",
            dtype="array" if shape else "number",
            dtype_numpy=dtype.str,
            shape=list(shape),
        )
        return {self.name: key}

    async def read(self) -> dict[str, Reading[Any]]:
        """Return what was seen last."""
        if self._seen is None:
            raise RuntimeError(f"{self.name}: read before any frame was taken; trigger it first")
        return {self.name: {"value": self._seen, "timestamp": self._taken_at}}


def _checked_exposure(exposure: float) -> float:
    if not 0 <= exposure < 3600:
        raise ConfigError(f"exposure: got {exposure}, expected seconds, from 0 to less than an hour")
    return exposure
