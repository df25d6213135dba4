"""What makes a detector expose at angles while the stage turns: a position-compare unit, and a recorder of its angles.

The unit fires a pulse where the stage passes an angle; whoever listens on the line takes part in it. The angle that is
recorded for a pulse is the mean over the exposure, as the encoder had it, and not the angle that was asked for.
Angles are degrees, times seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    FlyableLogic,
    PathProvider,
    SignalDict,
    StandardDetector,
    StandardFlyable,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import Sweep
from bluesky_streamrecon.sim_devices.frame_file import DATASET, FrameFile
from bluesky_streamrecon.sim_devices.stage import Flight, RotaryStage

__all__ = ["AngleRecorder", "Gate", "PositionTrigger", "TriggerLine"]

Sleep = Callable[[float], Awaitable[None]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gate:
    """One pulse: an exposure begins.

    Parameters
    ----------
    opens : float
        When, by the stage's clock.
    position : float
        Where the stage was then.
    flight : Flight
        How it goes on.
    clock : callable
        The stage's.
    """

    opens: float
    position: float
    flight: Flight
    clock: Callable[[], float]

    def angle(self, width: float) -> float:
        """Return the mean angle of the stage over `width` seconds from now on, degrees."""
        if self.flight.instant:
            return self.position + self.flight.motion.velocity * width / 2
        return self.flight.position(self.opens + width / 2)

    def left(self, width: float) -> float:
        """Return how long an exposure of `width` seconds still takes."""
        return 0.0 if self.flight.instant else max(0.0, self.opens + width - self.clock())


class TriggerLine:
    """The cable from the position-compare unit to whoever takes part in its pulses."""

    def __init__(self) -> None:
        self._listeners: list[asyncio.Queue[Gate]] = []

    def fire(self, gate: Gate) -> None:
        """Send a pulse; who does not listen now has missed it."""
        for queue in self._listeners:
            queue.put_nowait(gate)

    async def idle(self) -> None:
        """Wait until all pulses so far have been dealt with."""
        await asyncio.gather(*(queue.join() for queue in self._listeners))

    async def serve(self, count: int, handle: Callable[[Gate], Awaitable[None]]) -> None:
        """Deal with the next `count` pulses one by one."""
        queue: asyncio.Queue[Gate] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            for _ in range(count):
                gate = await queue.get()
                try:
                    await handle(gate)
                finally:
                    queue.task_done()
        finally:
            self._listeners.remove(queue)
            while not queue.empty():
                queue.get_nowait()
                queue.task_done()


@dataclass
class _TriggerLogic(FlyableLogic[Sweep, Sweep]):
    """Fires where the stage passes the angles of a sweep."""

    stage: RotaryStage
    line: TriggerLine
    set_fired: Callable[[int], None]
    task: asyncio.Task[None] | None = None

    async def on_prepare(self, value: Sweep) -> Sweep:
        if value.num < 1 or value.step <= 0:
            raise ConfigError(f"position trigger: got {value}, expected at least one angle and a positive step")
        await self.stop()
        self.set_fired(0)
        return value

    async def on_kickoff(self, ctx: Sweep) -> Sweep:
        self.task = asyncio.create_task(self._fire(ctx))
        return ctx

    async def on_complete(self, ctx: Sweep) -> None:  # noqa: ARG002 - as all flyers
        task = self.task
        if task is not None:
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def stop(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.warning("%s", error)  # whoever waited for it has been told as well

    async def _fire(self, sweep: Sweep) -> None:
        for number, position in enumerate(sweep, 1):
            passed = await self.stage.passing(position)
            if passed is None:
                raise RuntimeError(
                    f"position trigger: {number - 1} of {sweep.num} pulses, the stage came to rest before "
                    f"{position:.4f} degrees"
                )
            when, flight = passed
            self.line.fire(Gate(when, position, flight, self.stage.clock))
            self.set_fired(number)
            if flight.instant:
                await self.line.idle()


class PositionTrigger(StandardFlyable[Sweep, Sweep]):
    """A simulated position-compare unit: prepared with a `Sweep`, it fires at each of its angles from kickoff on.

    It is complete when it has fired at all of them, or was stopped (unstaged); and fails if the stage comes to rest
    before.

    Parameters
    ----------
    stage : RotaryStage
        Whose encoder it looks at.
    line : TriggerLine
        Where its pulses go.
    name : str, optional
        Of the device.
    """

    def __init__(self, stage: RotaryStage, line: TriggerLine, name: str = "") -> None:
        self.fired, set_fired = soft_signal_r_and_setter(int, 0)
        self._logic = _TriggerLogic(
            stage, line, set_fired
        )  # which holds the stage: as an attribute it would be our child
        super().__init__(name=name)

    @cached_property
    def flyable_logic(self) -> FlyableLogic[Sweep, Sweep]:
        """How it fires."""
        return self._logic


class _AngleRecorder:
    """Writes the mean angle of each pulse to a file; the three logics of an `AngleRecorder` share one."""

    def __init__(self, line: TriggerLine, path_provider: PathProvider, sleep: Sleep) -> None:
        self.num, self.width = 0, 0.0
        self.task: asyncio.Task[None] | None = None
        self._line, self._path_provider, self._sleep = line, path_provider, sleep
        self._written, self._set_written = soft_signal_r_and_setter(int, 0)
        self._file: FrameFile | None = None

    async def open(self, datakey_name: str) -> StreamableDataProvider:
        info = self._path_provider(datakey_name)
        name = f"{info.filename}.h5"
        self._set_written(0)
        dtype = np.dtype("<f8")
        self._file = await asyncio.to_thread(FrameFile, Path(info.directory_path) / name, (), dtype)
        return StreamResourceDataProvider(
            uri=f"{info.directory_uri}{name}",
            resources=[
                StreamResourceInfo(
                    data_key=datakey_name,
                    shape=(),
                    chunk_shape=self._file.chunk,
                    dtype_numpy=dtype.str,
                    parameters={"dataset": DATASET},
                )
            ],
            mimetype="application/x-hdf5",
            collections_written_signal=self._written,
        )

    async def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await asyncio.to_thread(file.close)

    async def start(self) -> None:
        await self.cancel()
        width = self.width
        self.task = asyncio.create_task(self._line.serve(self.num, lambda gate: self._record(gate, width)))
        await asyncio.sleep(0)  # now it listens

    async def cancel(self) -> None:
        task, self.task = self.task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _record(self, gate: Gate, width: float) -> None:
        if left := gate.left(width):
            await self._sleep(left)
        if self._file is not None:
            self._set_written(await asyncio.to_thread(self._file.append, gate.angle(width)))


@dataclass
class _AngleTriggerLogic(DetectorTriggerLogic):
    recorder: _AngleRecorder

    def get_deadtime(self, config_values: SignalDict) -> float:  # noqa: ARG002 - it has none, whatever is set
        return 0.0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        self.recorder.num, self.recorder.width = num, livetime


@dataclass
class _AngleAcquireLogic(DetectorAcquireLogic):
    recorder: _AngleRecorder

    async def start_acquiring(self) -> None:
        await self.recorder.start()

    async def wait_for_idle(self) -> None:
        if self.recorder.task is not None:
            await self.recorder.task

    async def ensure_stopped(self) -> None:
        await self.recorder.cancel()


@dataclass
class _AngleDataLogic(DetectorDataLogic):
    recorder: _AngleRecorder

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        return await self.recorder.open(datakey_name)

    async def stop(self) -> None:
        await self.recorder.close()


class AngleRecorder(StandardDetector):
    """A simulated encoder recorder: a detector of angles, which writes the mean angle of each pulse to HDF5.

    Its exposure is the ``livetime`` that it is prepared with, and should be that of the camera.

    Parameters
    ----------
    line : TriggerLine
        Where pulses come from.
    path_provider : PathProvider
        Where files go; must give a new name each time.
    sleep : callable, optional
        How to wait for seconds.
    name : str, optional
        Of the device and its data key; degrees.
    """

    def __init__(
        self, line: TriggerLine, path_provider: PathProvider, *, sleep: Sleep = asyncio.sleep, name: str = ""
    ) -> None:
        recorder = _AngleRecorder(line, path_provider, sleep)
        self.add_detector_logics(_AngleTriggerLogic(recorder), _AngleAcquireLogic(recorder), _AngleDataLogic(recorder))
        super().__init__(name=name)
