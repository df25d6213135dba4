"""Runs that the catalogue did not take, put there later from the files that `CatalogWriter` keeps of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.storage.plain import plain

__all__ = ["NotSent", "Resubmitted", "resubmit"]

DONE = ".stored"
"""Suffix of a file whose run is in the catalogue."""


class NotSent(msgspec.Struct, frozen=True):
    """A run that is still only in its file, and why."""

    uid: str
    why: str


class Resubmitted(msgspec.Struct, frozen=True):
    """What became of the files' runs.

    Parameters
    ----------
    sent, already_there : tuple of str
        Uids of runs that were stored now, and that were stored before.
    refused : tuple of NotSent
        The others.
    """

    sent: tuple[str, ...]
    already_there: tuple[str, ...]
    refused: tuple[NotSent, ...]


def resubmit(catalog: Any, files: Iterable[str | Path]) -> Resubmitted:
    """Store runs from files of JSON lines; as often as you like.

    A run that is in the catalogue without its end, because the server died in the middle of it, is taken out and stored
    anew; the detector's files are left alone. A run whose file ends before it does, because its process died, is ended
    as aborted. The file of a run that is stored is renamed to ``….stored``.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns
        From `open_catalog`.
    files : iterable of path
        Each of one run.

    Returns
    -------
    Resubmitted
        What became of them; one that fails does not keep the others.
    """
    sent: list[str] = []
    there: list[str] = []
    refused: list[NotSent] = []
    for path in map(Path, files):
        uid = path.name.partition(".")[0]
        try:
            documents = _read(path)
            uid = documents[0][1]["uid"]
            (sent if _store(catalog, uid, documents) else there).append(uid)
            if path.suffix != DONE:
                path.replace(path.with_suffix(DONE))
        except Exception as error:  # noqa: BLE001 - whatever a server or a file may be like
            refused.append(NotSent(uid, " ".join(f"{path}: {type(error).__name__}: {error}".split())))
    return Resubmitted(tuple(sent), tuple(there), tuple(refused))


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = path.read_text().splitlines()
    documents = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            documents.append((str(entry["name"]), dict(entry["doc"])))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and documents:  # cut short: its process died
                break
            raise StorageError(f'line {number}: {error}; expected {{"name": …, "doc": …}}') from error
    if not documents or documents[0][0] != "start" or "uid" not in documents[0][1]:
        raise StorageError("the first line is no start document; is it a file of a run that was not stored?")
    return documents


def _store(catalog: Any, uid: str, documents: list[tuple[str, dict[str, Any]]]) -> bool:
    """Store a run; return False if it is there already."""
    from bluesky_tiled_plugins import TiledWriter

    if uid in catalog:
        if catalog[uid].metadata.get("stop"):
            return False
        catalog.delete_contents(uid, recursive=True, external_only=False)
    if documents[-1][0] != "stop":
        reason = "the process that took the run ended before it: these are the documents that there are"
        stop = {"uid": str(uuid4()), "time": time.time(), "run_start": uid, "exit_status": "abort", "reason": reason}
        documents = [*documents, ("stop", stop)]
    writer = TiledWriter(catalog)
    for name, doc in documents:
        writer(name, plain(doc))
    if not catalog[uid].metadata.get("stop"):
        raise StorageError(f"run {uid}: the server took all documents, and has no end of it")
    return True
