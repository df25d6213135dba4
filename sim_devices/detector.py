"""Two detectors that see the same sample: one writes HDF5 files, one puts the frame into the event.

Both look at the stage, the table and the shutter at the moment of exposure. Exposure times are seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bluesky.protocols import Hints, Reading, Triggerable
from event_model import DataKey
from numpy.typing import NDArray
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
from bluesky_streamrecon.sim_devices.camera import Camera, Exposure, FrameKind, faulty_exposure
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.frame_file import DATASET, FrameFile
from bluesky_streamrecon.sim_devices.stage import RotaryStage, SamplePosition, SampleTable, Shutter, ShutterState
from bluesky_streamrecon.sim_devices.triggers import Gate, TriggerLine

__all__ = ["InlineTomoDetector", "Scene", "TomoDetector"]

Sleep = Callable[[float], Awaitable[None]]
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

    async def exposure(self, index: int, angle: float | None = None) -> Exposure:
        """Describe an exposure; `index` counts frames since the detector was staged.

        It is made where the stage is now, or at `angle` of the stage, degrees.
        """
        shutter, position = await asyncio.gather(self.shutter.position.get_value(), self.table.position.get_value())
        if shutter == ShutterState.CLOSED:
            kind = FrameKind.DARK
        elif position == SamplePosition.OUT:
            kind = FrameKind.FLAT
        else:
            kind = FrameKind.PROJECTION
        at = self.stage.sample_angle if angle is None else self.stage.sample_at(angle)
        return faulty_exposure(Exposure(kind, at, index), self.faults)


class _Recorder:
    """Exposes, and writes what it sees; the three logics of a `TomoDetector` share one."""

    def __init__(
        self,
        scene: Scene,
        path_provider: PathProvider,
        exposure_time: SignalRW[float],
        line: TriggerLine | None,
        *,
        instant: bool,
        sleep: Sleep,
    ):
        self.scene = scene
        self.exposure_time = exposure_time
        self.frames_written, self._set_frames_written = soft_signal_r_and_setter(int, 0)
        self.frames = 1
        self.deadtime = 0.0
        self.line = line
        self.by_line = False
        self._ready = -math.inf  # for another pulse, by the stage's clock
        self._path_provider = path_provider
        self._instant = instant
        self._sleep = sleep
        self._file: FrameFile | None = None
        self._taken = 0
        self._task: asyncio.Task[None] | None = None

    def open(self, datakey_name: str) -> StreamableDataProvider:
        """Begin a new file, and count its frames from 0."""
        info = self._path_provider(datakey_name)
        camera, name = self.scene.camera, f"{info.filename}.h5"
        self._file = FrameFile(Path(info.directory_path) / name, camera.shape, camera.dtype)
        self._set_frames_written(0)
        self._taken = 0
        return StreamResourceDataProvider(
            uri=f"{info.directory_uri}{name}",
            resources=[
                StreamResourceInfo(
                    data_key=datakey_name,
                    shape=camera.shape,
                    chunk_shape=(1, *camera.shape),
                    dtype_numpy=camera.dtype.str,
                    parameters={"dataset": DATASET},
                )
            ],
            mimetype="application/x-hdf5",
            collections_written_signal=self.frames_written,
        )

    async def close(self) -> None:
        """Close the file, if there is one."""
        file, self._file = self._file, None
        if file is not None:
            await asyncio.to_thread(file.close)

    async def start(self) -> None:
        """Begin the exposures asked for; wait for it if it is one, so that its failure is the trigger's."""
        if self.by_line and self.line is not None:
            await self.cancel()
            self._ready = -math.inf
            self._task = asyncio.create_task(self.line.serve(self.frames, self._expose))
            self._task.add_done_callback(_log_failure)
            await asyncio.sleep(0)  # now it listens
            return
        self._task = asyncio.create_task(self._acquire(self.frames))
        if self.frames == 1:
            await asyncio.shield(self._task)
        else:
            self._task.add_done_callback(_log_failure)

    async def wait(self) -> None:
        """Wait until the exposures are over."""
        if self._task is not None:
            await self._task

    async def cancel(self) -> None:
        """Abandon the exposures that are left."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _acquire(self, frames: int) -> None:
        exposure_time = 0.0 if self._instant else await self.exposure_time.get_value()
        deadtime = 0.0 if self._instant else self.deadtime
        for _ in range(frames):
            if exposure_time:
                await self._sleep(exposure_time / 2)
            exposure = await self.scene.exposure(self._taken)
            if exposure_time + deadtime:
                await self._sleep(exposure_time / 2 + deadtime)
            await self._write(exposure)

    async def _expose(self, gate: Gate) -> None:
        """Expose at a pulse; one that comes during an exposure is missed, as at a real detector."""
        width = await self.exposure_time.get_value()
        if gate.opens < self._ready and not gate.flight.instant:
            logger.error("a pulse came %.3g s before the exposure was over, and is lost", self._ready - gate.opens)
            return
        self._ready = gate.opens + width - JITTER
        exposure = await self.scene.exposure(self._taken, gate.angle(width))
        if left := gate.left(width):
            await self._sleep(left)
        await self._write(exposure)

    async def _write(self, exposure: Exposure) -> None:
        self._taken += 1
        if self._file is not None:
            self._set_frames_written(await asyncio.to_thread(_take, self.scene.camera, exposure, self._file))


def _take(camera: Camera, exposure: Exposure, file: FrameFile) -> int:
    return file.append(camera.frame(exposure))


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the detector stopped in the middle of a series: %s", error)


@dataclass
class _TriggerLogic(DetectorTriggerLogic):
    recorder: _Recorder

    def config_sigs(self) -> set[SignalR[Any]]:
        return {self.recorder.exposure_time}

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        if livetime:
            await self.recorder.exposure_time.set(livetime)
        self.recorder.frames, self.recorder.deadtime = num, deadtime
        self.recorder.by_line = False

    async def default_trigger_info(self) -> TriggerInfo:
        return TriggerInfo(livetime=await self.recorder.exposure_time.get_value())


class _LineTriggerLogic(_TriggerLogic):
    """Of a detector that has a trigger line."""

    def get_deadtime(self, config_values: SignalDict) -> float:  # noqa: ARG002 - it has none, whatever is set
        return 0.0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        await self.prepare_internal(num, livetime, 0.0)
        self.recorder.by_line = True


@dataclass
class _AcquireLogic(DetectorAcquireLogic):
    recorder: _Recorder

    async def start_acquiring(self) -> None:
        await self.recorder.start()

    async def wait_for_idle(self) -> None:
        await self.recorder.wait()

    async def ensure_stopped(self) -> None:
        await self.recorder.cancel()


@dataclass
class _DataLogic(DetectorDataLogic):
    recorder: _Recorder

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        return await asyncio.to_thread(self.recorder.open, datakey_name)

    async def stop(self) -> None:
        await self.recorder.close()


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
    exposure : float, optional
        Exposure time, seconds; a configuration signal, ``exposure_time``.
    line : TriggerLine, optional
        It also exposes at the pulses of this line (prepared for external edges).
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
        *,
        exposure: float = 0.05,
        line: TriggerLine | None = None,
        instant: bool = False,
        sleep: Sleep = asyncio.sleep,
        name: str = "",
    ) -> None:
        self.exposure_time = soft_signal_rw(float, _checked_exposure(exposure), units="s")
        recorder = _Recorder(scene, path_provider, self.exposure_time, line, instant=instant, sleep=sleep)
        self.frames_written = recorder.frames_written
        self.scene = scene
        triggers = _TriggerLogic(recorder) if line is None else _LineTriggerLogic(recorder)
        self.add_detector_logics(triggers, _AcquireLogic(recorder), _DataLogic(recorder))
        super().__init__(name=name)


class InlineTomoDetector(StandardReadable, Triggerable):
    """A simulated area detector that puts each frame into the event, as many classic devices do.

    Parameters
    ----------
    scene : Scene
        What it looks at.
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
        self._frame: NDArray[Any] | None = None
        self._taken_at = 0.0
        super().__init__(name=name)

    @property
    def hints(self) -> Hints:
        """Nothing to print or plot: a frame is neither."""
        return {"fields": []}

    @AsyncStatus.wrap
    async def stage(self) -> None:
        """Count frames from 0 again."""
        await super().stage()
        self._taken = 0
        self._frame = None

    @AsyncStatus.wrap
    async def trigger(self) -> None:
        """Take one frame."""
        exposure_time = 0.0 if self._instant else await self.exposure_time.get_value()
        if exposure_time:
            await self._sleep(exposure_time / 2)
        exposure = await self.scene.exposure(self._taken)
        if exposure_time:
            await self._sleep(exposure_time / 2)
        self._taken += 1
        self._frame = await asyncio.to_thread(self.scene.camera.frame, exposure)
        self._taken_at = time.time()

    async def describe(self) -> dict[str, DataKey]:
        """Return shape and type of the frame."""
        key: DataKey = {
            "source": f"sim://{self.name}",
            "dtype": "array",
            "dtype_numpy": self.scene.camera.dtype.str,
            "shape": list(self.scene.camera.shape),
        }
        return {self.name: key}

    async def read(self) -> dict[str, Reading[Any]]:
        """Return the frame that was triggered last."""
        if self._frame is None:
            raise RuntimeError(f"{self.name}: read before any frame was taken; trigger it first")
        return {self.name: {"value": self._frame, "timestamp": self._taken_at}}


def _checked_exposure(exposure: float) -> float:
    if not 0 <= exposure < 3600:
        raise ConfigError(f"exposure: got {exposure}, expected seconds, from 0 to less than an hour")
    return exposure
