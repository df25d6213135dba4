"""A run with frames that is written to a catalogue, read back and taken out again, to see that all of it works."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.storage.stored_run import FramesInFile, StoredRun, StoredStream, run_documents

__all__ = ["try_catalog"]

SHAPE = (2, 3, 4)


def try_catalog(catalog: Any, folder: str | Path) -> str:
    """Write a run with frames, read them back through the server, and remove both.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    folder : str or Path
        For the file with the frames: one that the server must be able to read.

    Returns
    -------
    str
        What was left behind, in words; empty: nothing.

    Raises
    ------
    StorageError
        If the server does not take the run, or does not give back the frames.
    """
    from bluesky_tiled_plugins import TiledWriter

    uid, folder = f"check-{uuid.uuid4()}", Path(folder)
    path = folder / f"{uid}.h5"
    pixels = np.arange(np.prod(SHAPE), dtype="<u2").reshape(SHAPE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["frames"] = pixels
    except OSError as error:
        raise StorageError(f"{folder}: no file can be written there: {error}") from error
    frames = FramesInFile(data_key="image", file=path, dataset="frames", shape=SHAPE, dtype="<u2", units="counts")
    run = StoredRun({"uid": uid, "time": time.time(), "plan_name": "check"}, {}, {"primary": StoredStream()})
    written = False
    try:
        writer = TiledWriter(catalog)
        try:
            for name, doc in run_documents(run, {"primary": frames}):
                writer(name, doc)
                written = True
        except Exception as error:
            raise StorageError(f"it does not take a run with frames ({_short(error)}); may the key write?") from error
        try:
            read = np.asarray(catalog[uid]["primary"]["image"].read())
        except Exception as error:
            raise StorageError(
                f"it took a run with frames and can not read them ({_short(error)}); does its computer see {folder} "
                "under this path, and is that among the directories that it may read (readable_storage)?"
            ) from error
        if not np.array_equal(read, pixels):
            raise StorageError(f"frames of {path} were read back as others: got {read.tolist()}")
    finally:
        left = _taken_out(catalog, uid) if written else ""
        path.unlink(missing_ok=True)
    return left


def _taken_out(catalog: Any, uid: str) -> str:
    try:
        catalog.delete_contents(uid, recursive=True, external_only=False)
    except Exception as error:  # noqa: BLE001 - not every key may delete
        return f"run {uid} is left there: it can not be removed ({_short(error)})"
    return ""


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
