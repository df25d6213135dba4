"""Where simulated detectors write what they see: an HDF5 file for each preparation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ophyd_async.core import (
    DetectorDataLogic,
    PathProvider,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from bluesky_streamrecon.hdf5.frame_writer import DATASET, FrameWriter

__all__ = ["FileDataLogic"]


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
