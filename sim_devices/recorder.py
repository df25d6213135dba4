"""What the simulated detectors that write files have in common: a file for each preparation, exposures at pulses.

They are the three parts of an ophyd-async detector: triggers, acquisition, data. Times are seconds.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    PathProvider,
    SignalDict,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from bluesky_streamrecon.hdf5.frame_writer import DATASET, FrameWriter
from bluesky_streamrecon.sim_devices.pulses import Gate, TriggerLine

__all__ = ["EdgeAcquireLogic", "EdgeTriggerLogic", "FileDataLogic", "Sleep"]

Sleep = Callable[[float], Awaitable[None]]
logger = logging.getLogger(__name__)


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
class EdgeAcquireLogic(DetectorAcquireLogic):
    """Exposes at the pulses of a line, for `livetime` seconds each."""

    data: FileDataLogic
    line: TriggerLine
    sleep: Sleep
    frames: int = 1
    livetime: float = 0.0
    task: asyncio.Task[None] | None = None

    @abstractmethod
    async def expose(self, gate: Gate) -> None:
        """Write what there is at a pulse."""

    async def start_acquiring(self) -> None:
        """Begin to expose at the next pulses."""
        await self.ensure_stopped()
        self.begin(self.line.serve(self.frames, self.expose))
        await asyncio.sleep(0)  # now it listens

    def begin(self, series: Coroutine[Any, Any, None]) -> None:
        """Run a series of exposures, and log if it fails."""
        self.task = asyncio.create_task(series)
        self.task.add_done_callback(_log_failure)

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


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the detector stopped in the middle of a series: %s", error)


@dataclass
class EdgeTriggerLogic(DetectorTriggerLogic):
    """An exposure for each pulse."""

    acquire: EdgeAcquireLogic

    def get_deadtime(self, config_values: SignalDict) -> float:  # noqa: ARG002 - it has none, whatever is set
        """Return 0 seconds."""
        return 0.0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """Take `num` exposures of `livetime` seconds."""
        self.acquire.frames, self.acquire.livetime = num, livetime
