"""A reconstruction as a run of its own: the documents that put it into a catalogue beside its raw run.

The last live image and the finished volume stay in the HDF5 file that the job wrote; the documents point at them. The
streams ``image`` and ``volume`` have one event per slice, so that the data keys of these names read back as (rows, N,
N); the stream ``scores`` has one event per score that
the controller gave. Nothing here knows Tiled. Times are seconds since the epoch (UTC), lengths detector pixels.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.hdf5 import find_dataset, open_hdf5
from bluesky_streamrecon.hdf5.results import DATASET, VOLUME
from bluesky_streamrecon.run_record import RunRecord, newest_checks
from bluesky_streamrecon.storage.stored_run import Document, FramesInFile, StoredRun, StoredStream, run_documents

__all__ = ["ScoreRow", "compose_reconstruction", "reconstruction_documents"]

ScoreRow = Mapping[str, float | int | str | bool | None]
"""One row of the scores' table, for instance ``{"image_number": 3, "projections": 27, "score": 0.93}``."""


def reconstruction_documents(
    recon_uid: str,
    raw_run_uid: str,
    file: Path,
    shape: tuple[int, ...],
    *,
    dtype: str = "<f4",
    chunk: tuple[int, ...] | None = None,
    volume: bool = False,
    scores: Sequence[ScoreRow] = (),
    metadata: Mapping[str, Any] | None = None,
    reason: str = "",
) -> Iterator[Document]:
    """Return the documents of a finished reconstruction, a run of its own beside its raw run.

    Parameters
    ----------
    recon_uid : str
        Of this run; was assigned before the raw run started, whose start document names it.
    raw_run_uid : str
        Of the run that was reconstructed.
    file : Path
        HDF5 file with the image, in the dataset ``/exchange/data``.
    shape : (int, int, int)
        Of the image: rows, N, N.
    dtype : str, optional
        NumPy's name of the pixel type.
    chunk : (int, int, int), optional
        Of the dataset; a slice by default.
    volume : bool, optional
        The file has the finished volume, of the same shape and type, in the dataset ``/exchange/volume``; NaN until
        it is finished.
    scores : sequence of ScoreRow, optional
        Rows of the scores' table, all with the same keys; None where there is no number.
    metadata : mapping, optional
        More for the start document: settings, ledger, rotation axis.
    reason : str, optional
        Why it ended.

    Raises
    ------
    StorageError
        If shape or scores are not as described.
    """
    names = list(scores[0]) if scores else []
    if len(tuple(shape)) != 3 or min(shape) < 1:
        raise StorageError(f"reconstruction {recon_uid}: got shape {shape}, expected (rows, N, N)")
    if any(set(row) != set(names) for row in scores):
        raise StorageError(f"reconstruction {recon_uid}: the rows of its scores have different columns")
    if {"time", "seq_num"} & set(names):
        raise StorageError(f"reconstruction {recon_uid}: scores can not have columns 'time' and 'seq_num'")
    now = clock.time()
    start = {"uid": recon_uid, "time": now, "plan_name": "reconstruction", "purpose": "reconstruction"}
    start |= {"raw_run_uid": raw_run_uid, **(metadata or {})}
    datasets = {"image": DATASET, **({"volume": VOLUME} if volume else {})}
    streams = {name: _table({"row": np.arange(shape[0])}) for name in datasets}
    if scores:
        streams["scores"] = _table({name: _column(name, [row[name] for row in scores]) for name in names})
    images = {
        name: FramesInFile(
            data_key=name,
            file=file.resolve(),
            dataset=dataset,
            shape=shape,
            dtype=dtype,
            units="1/pixel",
            chunk=chunk,
        )
        for name, dataset in datasets.items()
    }
    return run_documents(StoredRun(start, {"reason": reason, "time": now}, streams), images)


def compose_reconstruction(record: RunRecord) -> Iterator[Document]:
    """Return the documents of a finished reconstruction; see `reconstruction_documents`.

    Parameters
    ----------
    record : RunRecord
        What became of the run.

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
        | {"region": " ".join(map(str, verdict.selection.region or ()))}
        | {"rows": " ".join(map(str, verdict.selection.rows))}
        for verdict in record.verdicts
    ]
    ledgers = {str(rank): msgspec.to_builtins(ledger) for rank, ledger in record.ledger.items()}
    return reconstruction_documents(
        record.recon_uid,
        record.run_uid,
        path,
        shape,
        dtype=dtype,
        chunk=chunk,
        volume=record.finishing,
        scores=scores,
        metadata={
            "streamrecon": {
                "recon": msgspec.to_builtins(record.spec.recon),
                "steering": msgspec.to_builtins(record.spec.steering),
                "found": record.spec.metadata.get("found", ""),
                "planned": record.spec.planned,
                "used": record.used,
                "axis": record.axis,
                "selection": msgspec.to_builtins(record.selection),
                "selected_by": msgspec.to_builtins(record.selected_by),
                "checks": [msgspec.structs.asdict(check) for check in newest_checks(record.verdicts)],
                "ledger": ledgers,
                "raw_exit_status": record.exit_status,
            }
        },
        reason=record.reason,
    )


_VERDICT_COLUMNS = ("image_number", "projections", "score", "verdict", "policy", "text")


def _table(columns: dict[str, NDArray[Any]]) -> StoredStream:
    keys = {}
    for name, values in columns.items():
        kind = {"U": "string", "b": "boolean", "i": "integer", "f": "number"}[values.dtype.kind]
        keys[name] = {"source": "reconstruction", "dtype": kind, "dtype_numpy": values.dtype.str, "shape": []}
    return StoredStream(data_keys=keys, columns=columns)


def _column(name: str, values: Sequence[Any]) -> NDArray[Any]:
    """Return values of one type; in the place of None stands NaN, or an empty text."""
    known = [value for value in values if value is not None]
    kinds = {np.asarray(value).dtype.kind for value in known}
    if kinds == {"U"}:
        return np.array(["" if value is None else value for value in values])
    if not kinds <= set("biuf"):
        raise StorageError(f"scores: column {name!r} mixes numbers and other things: {known[:3]}")
    if kinds and len(known) == len(values) and kinds <= set("biu"):
        return np.array(values, bool if kinds == {"b"} else np.int64)
    return np.array([math.nan if value is None else value for value in values], np.float64)
