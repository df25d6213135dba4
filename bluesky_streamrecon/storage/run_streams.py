"""The streams of a stored run, asked for once: Tiled's client asks its server anew at each look-up of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunStreams", "StreamContents"]


class StreamContents(Mapping[str, Any]):
    """What one stream holds, as it was when it was first asked for.

    Parameters
    ----------
    stream : BlueskyEventStream
        Client of a stream.
    """

    def __init__(self, stream: Any) -> None:
        self.metadata: dict[str, Any] = dict(stream.metadata)
        self._stream = stream

    @cached_property
    def _parts(self) -> dict[str, Any]:
        return dict(self._stream.base.new_variation(include_data_sources=True).items())

    @cached_property
    def _holders(self) -> dict[str, str]:
        """Which part holds each key: an array is its own, a column is one of a table's."""
        found: dict[str, str] = {}
        for name, part in self._parts.items():
            found |= dict.fromkeys(getattr(part, "columns", [name]), name)
        return found

    def __getitem__(self, key: str) -> Any:
        """Return the client of an array."""
        part = self._parts[self._holders[key]]
        return part[key] if hasattr(part, "columns") else part

    def __contains__(self, key: object) -> bool:
        return key in self._holders

    def __iter__(self) -> Iterator[str]:
        return iter(self._holders)

    def __len__(self) -> int:
        return len(self._holders)

    def columns(self, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
        """Return the columns of its tables whose names are wanted; each table is read at once."""
        found: dict[str, NDArray[Any]] = {}
        for part in self._parts.values():
            names = [name for name in getattr(part, "columns", ()) if wanted(name)]
            if names:
                frame = part.read(names)
                found |= {name: np.asarray(frame[name]) for name in names}
        return found

    def column(self, key: str) -> NDArray[Any] | None:
        """Return a column of a table, None if the key is an array's."""
        return self.columns(lambda name: name == key).get(key)


class RunStreams(Mapping[str, StreamContents]):
    """The streams of a stored run, by name, as they were when this was made.

    Parameters
    ----------
    run : BlueskyRun
        Client of a run, from `find_run`.
    """

    def __init__(self, run: Any) -> None:
        self.metadata = run.metadata
        self._streams = {name: StreamContents(stream) for name, stream in run.base.items()}

    def __getitem__(self, name: str) -> StreamContents:
        return self._streams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)
