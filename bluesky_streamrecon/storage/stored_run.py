"""A run as a value, without its frames, and the documents that put it into a catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from event_model import compose_run
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError

__all__ = ["Document", "FramesInFile", "StoredRun", "StoredStream", "run_documents"]

Document = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StoredStream:
    """One stream of a run, without its frames.

    Parameters
    ----------
    data_keys, configuration, hints : dict
        As in its descriptor; `data_keys` of the columns only.
    columns : dict of ndarray
        By data key, and ``time``: all of one length.
    """

    data_keys: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run, without its frames.

    Parameters
    ----------
    start, stop : dict
        Its documents; `stop` is empty where the run has none.
    streams : dict of StoredStream
        By name.
    """

    start: dict[str, Any]
    stop: dict[str, Any]
    streams: dict[str, StoredStream]


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesInFile:
    """Frames of one stream, in a dataset of an HDF5 file.

    Parameters
    ----------
    data_key : str
        That they have in the stream.
    file, dataset : Path, str
        Where they are.
    shape : tuple of int
        Of all of them.
    dtype, units : str
        NumPy's name of their type, and what a value is.
    chunk : tuple of int, optional
        Of the dataset; a frame by default.
    """

    data_key: str
    file: Path
    dataset: str
    shape: tuple[int, ...]
    dtype: str
    units: str
    chunk: tuple[int, ...] | None = None


def run_documents(run: StoredRun, frames: Mapping[str, FramesInFile]) -> Iterator[Document]:
    """Return a run's documents, valid by event-model, in order: ``for name, doc in run_documents(run, frames)``.

    Parameters
    ----------
    run : StoredRun
        The run; its uid and times stay.
    frames : mapping of str to FramesInFile
        Frames of its streams, by stream.

    Raises
    ------
    DataError
        If the columns and frames of a stream are not as many of each.
    """
    start = run.start
    metadata = {key: value for key, value in start.items() if key not in ("uid", "time")}
    bundle = compose_run(uid=start["uid"], time=start["time"], metadata=metadata)
    yield "start", dict(bundle.start_doc)
    for name, stored in run.streams.items():
        if stored.data_keys or name in frames:
            yield from _stream(bundle, name, stored, frames.get(name))
    stop = {"exit_status": "success", "reason": "", "time": start["time"]} | run.stop
    known = {key: stop[key] for key in ("exit_status", "reason", "time")}
    yield "stop", dict(bundle.compose_stop(**known))


def _stream(bundle: Any, name: str, stored: StoredStream, frames: FramesInFile | None) -> Iterator[Document]:
    """Return descriptor, file and events of one stream."""
    data_keys = dict(stored.data_keys)
    lengths = {len(stored.columns[key]) for key in data_keys} | ({frames.shape[0]} if frames else set())
    if len(lengths) != 1:
        raise DataError(f"stream {name!r}: its columns have {sorted(lengths)} values, expected as many of each")
    (count,) = lengths
    if frames is not None:
        uri = f"file://localhost{frames.file.as_posix()}"
        data_keys[frames.data_key] = {
            "source": uri,
            "dtype": "array",
            "dtype_numpy": frames.dtype,
            "shape": list(frames.shape[1:]),
            "external": "STREAM:",
            "units": frames.units,
        }
    descriptor = bundle.compose_descriptor(
        name=name,
        data_keys=data_keys,
        configuration=stored.configuration,
        hints={device: hint for device, hint in stored.hints.items() if set(hint.get("fields", ())) <= set(data_keys)},
    )
    yield "descriptor", dict(descriptor.descriptor_doc)
    if frames is not None:
        chunk = list(frames.chunk or (1, *frames.shape[1:]))
        resource = bundle.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=uri,
            data_key=frames.data_key,
            parameters={"dataset": frames.dataset, "chunk_shape": chunk, "swmr": False},
        )
        yield "stream_resource", dict(resource.stream_resource_doc)
        datum = resource.compose_stream_datum(
            indices={"start": 0, "stop": count},
            seq_nums={"start": 1, "stop": count + 1},
            descriptor=descriptor.descriptor_doc,
        )
        yield "stream_datum", dict(datum)
    times = stored.columns.get("time", np.full(count, bundle.start_doc["time"]))
    columns = {key: stored.columns[key].tolist() for key in stored.data_keys}
    for number in range(count):
        when = float(times[number])
        data = {key: columns[key][number] for key in columns}
        yield "event", dict(descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, when), time=when))
