"""A reconstruction as a run of its own: the documents that put it into a catalogue beside its raw run.

The image stays in the HDF5 file that the job wrote; the documents point at it. The stream ``image`` has one event per
slice, so that the data key ``image`` reads back as (rows, N, N); the stream ``scores`` has one event per score that
the controller gave. Nothing here knows Tiled. Times are seconds since the epoch (UTC), lengths detector pixels.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from event_model import ComposeDescriptorBundle, DataKey, compose_run

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.hdf5 import find_dataset, open_hdf5
from bluesky_streamrecon.wire.messages import OpenRunSpec, Score
from bluesky_streamrecon.wire.run import Ledger

__all__ = ["FinishedReconstruction", "ReconstructionRun", "ScoreRow", "compose_reconstruction"]

DATASET = "/exchange/data"

ScoreRow = Mapping[str, float | int | str | bool | None]
"""One row of the scores' table, for instance ``{"image_number": 3, "projections": 27, "score": 0.93}``."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionRun:
    """All that is told about a finished reconstruction.

    Parameters
    ----------
    recon_uid : str
        Of this run; was assigned before the raw run started, whose start document names it.
    raw_run_uid : str
        Of the run that was reconstructed.
    file : Path
        HDF5 file with the image.
    shape : (int, int, int)
        Of the image: rows, N, N.
    dataset : str, optional
        Where in the file.
    dtype : str, optional
        NumPy's name of the pixel type.
    chunk : (int, int, int), optional
        Of the dataset; a slice by default.
    first_row : int, optional
        Detector row of the first slice.
    scores : sequence of ScoreRow, optional
        Rows of the scores' table, all with the same keys; None where there is no number.
    metadata : mapping, optional
        More for the start document: settings, ledger, rotation axis.
    time : float, optional
        When the reconstruction began; now by default.
    exit_status : str, optional
        ``"success"``, ``"abort"`` or ``"fail"``.
    reason : str, optional
        Why it ended.

    Raises
    ------
    StorageError
        If shape or scores are not as described.
    """

    recon_uid: str
    raw_run_uid: str
    file: Path
    shape: tuple[int, int, int]
    dataset: str = DATASET
    dtype: str = "<f4"
    chunk: tuple[int, int, int] | None = None
    first_row: int = 0
    scores: Sequence[ScoreRow] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    time: float | None = None
    exit_status: Literal["success", "abort", "fail"] = "success"
    reason: str = ""

    def __post_init__(self) -> None:
        if len(tuple(self.shape)) != 3 or min(self.shape) < 1:
            raise StorageError(f"reconstruction {self.recon_uid}: got shape {self.shape}, expected (rows, N, N)")
        if self.scores and any(set(row) != set(self.scores[0]) for row in self.scores):
            raise StorageError(f"reconstruction {self.recon_uid}: the rows of its scores have different columns")
        if {"time", "seq_num"} & set(self.scores[0] if self.scores else ()):
            raise StorageError(f"reconstruction {self.recon_uid}: scores can not have columns 'time' and 'seq_num'")

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the run's documents, valid by event-model, in order: ``for name, doc in run.documents()``."""
        began = clock.time() if self.time is None else self.time
        run = compose_run(
            uid=self.recon_uid,
            time=began,
            metadata={
                "plan_name": "reconstruction",
                "purpose": "reconstruction",
                "raw_run_uid": self.raw_run_uid,
                **self.metadata,
            },
        )
        yield "start", _plain(run.start_doc)
        yield from self._image(run)
        if self.scores:
            yield from self._scores(run)
        yield "stop", _plain(run.compose_stop(exit_status=self.exit_status, reason=self.reason))

    def _image(self, run: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        rows, *slice_shape = self.shape
        uri = f"file://localhost{self.file.resolve().as_posix()}"
        image: DataKey = {
            "source": uri,
            "dtype": "array",
            "dtype_numpy": self.dtype,
            "shape": list(slice_shape),
            "external": "STREAM:",
            "units": "1/pixel",
        }
        row: DataKey = {"source": "reconstruction", "dtype": "integer", "dtype_numpy": "<i8", "shape": []}
        descriptor: ComposeDescriptorBundle = run.compose_descriptor(
            name="image", data_keys={"image": image, "row": row}
        )
        yield "descriptor", _plain(descriptor.descriptor_doc)
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=uri,
            data_key="image",
            parameters={"dataset": self.dataset, "chunk_shape": list(self.chunk or (1, *slice_shape)), "swmr": False},
        )
        yield "stream_resource", _plain(resource.stream_resource_doc)
        yield (
            "stream_datum",
            _plain(
                resource.compose_stream_datum(
                    indices={"start": 0, "stop": rows},
                    seq_nums={"start": 1, "stop": rows + 1},
                    descriptor=descriptor.descriptor_doc,
                )
            ),
        )
        for index in range(rows):
            now = clock.time()
            data = {"row": self.first_row + index}
            yield "event", _plain(descriptor.compose_event(data=data, timestamps={"row": now}, time=now))

    def _scores(self, run: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        keys = {name: _data_key(name, [row[name] for row in self.scores]) for name in self.scores[0]}
        descriptor = run.compose_descriptor(name="scores", data_keys=keys)
        yield "descriptor", _plain(descriptor.descriptor_doc)
        for score in self.scores:
            now = clock.time()
            data = {name: _value(score[name], keys[name]) for name in keys}
            yield "event", _plain(descriptor.compose_event(data=data, timestamps=dict.fromkeys(keys, now), time=now))


class FinishedReconstruction(Protocol):
    """What `compose_reconstruction` needs to know; the beamline's ``RunRecord`` is one."""

    @property
    def run_uid(self) -> str:
        """Of the raw run."""
        ...

    @property
    def recon_uid(self) -> str:
        """Of the reconstruction's run."""
        ...

    @property
    def exit_status(self) -> str:
        """Of the raw run."""
        ...

    @property
    def reason(self) -> str:
        """Why it ended."""
        ...

    @property
    def result(self) -> str | None:
        """File with the image."""
        ...

    @property
    def used(self) -> int:
        """Projections in the image."""
        ...

    @property
    def axis(self) -> float | None:
        """Detector column of the rotation axis."""
        ...

    @property
    def verdicts(self) -> Sequence[Score]:
        """Every judgement, in order."""
        ...

    @property
    def ledger(self) -> Mapping[int, Ledger]:
        """Per rank, what became of the run's items."""
        ...

    @property
    def spec(self) -> OpenRunSpec:
        """What the job was asked to do."""
        ...


def compose_reconstruction(record: FinishedReconstruction) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make the documents of a finished reconstruction; see `ReconstructionRun`.

    Parameters
    ----------
    record : FinishedReconstruction
        What became of the run.

    Yields
    ------
    name, document : str, dict
        Documents of the run ``record.recon_uid``, in order.

    Raises
    ------
    StorageError
        If there is no file with an image.
    DataError
        If the file is not what a job writes.
    """
    if record.result is None:
        raise StorageError(f"reconstruction {record.recon_uid}: the job left no file; look at the job's log")
    path = Path(record.result)
    with open_hdf5(path) as file:
        data = find_dataset(file, DATASET)
        shape, dtype, chunk = data.shape, data.dtype.str, data.chunks
    if len(shape) != 3:
        raise DataError(f"{path}: {DATASET} has shape {shape}, expected (rows, N, N)")
    metrics = sorted({name for verdict in record.verdicts for name in verdict.metrics} - set(_VERDICT_COLUMNS))
    scores = [
        {name: getattr(verdict, name) for name in _VERDICT_COLUMNS}
        | {name: verdict.metrics.get(name) for name in metrics}
        for verdict in record.verdicts
    ]
    ledgers = {str(rank): msgspec.to_builtins(ledger) for rank, ledger in record.ledger.items()}
    return ReconstructionRun(
        recon_uid=record.recon_uid,
        raw_run_uid=record.run_uid,
        file=path,
        shape=shape,
        dtype=dtype,
        chunk=chunk,
        scores=scores,
        metadata={
            "streamrecon": {
                "recon": msgspec.to_builtins(record.spec.recon),
                "steering": msgspec.to_builtins(record.spec.steering),
                "planned": record.spec.planned,
                "used": record.used,
                "axis": record.axis,
                "ledger": ledgers,
                "raw_exit_status": record.exit_status,
            }
        },
        reason=record.reason,
    ).documents()


_VERDICT_COLUMNS = ("image_number", "projections", "score", "verdict", "policy", "text")


def _data_key(name: str, values: Sequence[Any]) -> DataKey:
    known = [value for value in values if value is not None]
    key: DataKey = {"source": "reconstruction", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
    if known and all(isinstance(value, str) for value in known):
        return key | {"dtype": "string", "dtype_numpy": f"<U{max(1, *map(len, known))}"}
    if known and all(isinstance(value, bool | np.bool_) for value in known):
        return key | {"dtype": "boolean", "dtype_numpy": "|b1"}
    if not all(isinstance(value, int | float | np.integer | np.floating) for value in known):
        raise StorageError(f"scores: column {name!r} mixes numbers and other things: {known[:3]}")
    if len(known) == len(values) and all(isinstance(value, int | np.integer) for value in known):
        return key | {"dtype": "integer", "dtype_numpy": "<i8"}
    return key


def _value(value: Any, key: DataKey) -> Any:
    match key["dtype"]:
        case "number":
            return math.nan if value is None else float(value)
        case "integer":
            return int(value)
        case "boolean":
            return bool(value)
        case _:
            return "" if value is None else str(value)


def _plain(document: Any) -> dict[str, Any]:
    return dict(document)
