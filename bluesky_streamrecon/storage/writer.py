"""A callback that stores runs in a Tiled catalogue, beside the RunEngine rather than in its way.

Runs that the catalogue does not take are kept in files, and put there later.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.storage.plain import plain

__all__ = ["CatalogWriter", "NotSent", "Resubmitted", "resubmit"]

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # each look asks the server, which may be busy with storing the run
ANSWER_SECONDS = 5.0
"""A server in a process that is busy takes its time; one that is gone refuses at once."""

DONE = ".stored"
"""Suffix of a file whose run is in the catalogue."""

METADATA = frozenset({"start", "descriptor", "stop"})
"""Documents in which people put what they like."""


class CatalogWriter:
    """A callback that stores runs in the catalogue without holding up the RunEngine.

    Documents are handed to a thread. With the stop document the callback waits until the run is stored, so that it can
    be looked up after ``RE()``, but only while the server answers. Objects in the metadata that JSON has no place for
    are stored as their `repr`. A run that can not be stored all the same is written as JSON lines to
    `backup_directory`, from its first document on and as they come, which is reported in the log in one line; the scan
    goes on. `resubmit` stores it later.

    Parameters
    ----------
    catalog : CatalogOfBlueskyRuns or None
        Client that belongs to this writer alone; None: there is no catalogue, and every run goes to `backup_directory`.
    backup_directory : Path
        For runs that could not be stored; ``<uid>.jsonl``, one ``{"name": …, "doc": …}`` per line. Where it can not be
        written, a directory for temporary files takes its place.
    wait : float, optional
        Seconds that a stop document waits at most.
    batch_size : int, optional
        Events to collect before they are sent; 1 shows them in the catalogue while the run goes on, and is slower.
    """

    def __init__(self, catalog: Any, *, backup_directory: Path, wait: float = 10.0, batch_size: int = 10000) -> None:
        self._writer: Any = _refuse
        self._catalog = catalog
        if catalog is not None:
            from bluesky_tiled_plugins import TiledWriter

            self._writer = TiledWriter(catalog, batch_size=batch_size)
        self._backup = Path(backup_directory)
        self._wait = wait
        self._queue: queue.SimpleQueue[tuple[str, dict[str, Any]] | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._runs: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self._owner: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._kept_in: dict[str, Path | None] = {}  # files of those that are not over

    @property
    def failed(self) -> dict[str, str]:
        """Runs that could not be stored, by uid, and why."""
        return dict(self._failed)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        with self._lock:
            if self._closed:
                raise StorageError(f"catalogue writer: got a {name} document after it was closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="catalogue-writer", daemon=True)
                self._thread.start()
            self._queue.put((name, doc))
        if name == "stop":
            done, began = self._flushed(), time.monotonic()
            while not done.wait(min(LOOK_SECONDS, self._wait)):
                if time.monotonic() - began >= self._wait or not self._answers():
                    logger.warning("run %s is not in the catalogue yet; still trying", doc["run_start"])
                    break

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all documents so far have been dealt with; return whether that was within `timeout` seconds."""
        return self._flushed().wait(timeout)

    def _flushed(self) -> threading.Event:
        """Return what is set when all documents so far have been dealt with."""
        done = threading.Event()
        with self._lock:
            if self._thread is None:
                done.set()
            else:
                self._queue.put(done)
        return done

    def _answers(self) -> bool:
        """Ask the server for anything; Tiled's own client would try for most of a minute."""
        context = getattr(self._catalog, "context", None)
        if context is None:
            return True
        try:
            context.http_client.get(context.api_uri, timeout=ANSWER_SECONDS)
        except Exception:  # noqa: BLE001 - whatever it is
            return False
        return True

    def close(self) -> None:
        """Deal with the documents that are left, and end the thread; closing twice does nothing."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._take(*item)
            except Exception:
                logger.exception("a %s document belongs to no run that is known; it is not stored", item[0])

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        uid = self._run_of(name, doc)
        documents = self._runs.setdefault(uid, [])
        documents.append((name, doc))
        if uid in self._failed:
            self._append(uid, name, doc)
        else:
            try:
                if name == "start" and not self._answers():
                    raise StorageError("the server does not answer")
                self._writer(name, plain(doc) if name in METADATA else doc)
            except Exception as error:  # noqa: BLE001 (whatever it is, the scan goes on and the run is kept)
                self._failed[uid] = " ".join(f"{type(error).__name__}: {error}".split())
                self._keep(uid, name, documents)
        if uid in self._failed:
            documents.clear()
        if name == "stop":
            self._runs.pop(uid)
            self._kept_in.pop(uid, None)

    def _run_of(self, name: str, doc: dict[str, Any]) -> str:
        """Find the run that a document belongs to, by the documents it refers to."""
        parents = {"descriptor": "run_start", "stop": "run_start", "event": "descriptor", "event_page": "descriptor"}
        parents |= {"stream_resource": "run_start", "resource": "run_start", "stream_datum": "descriptor"}
        parents |= {"datum": "resource", "datum_page": "resource"}
        parent = str(doc[parents[name]]) if name in parents and doc.get(parents.get(name, "")) else str(doc.get("uid"))
        uid = self._owner.get(parent, parent)
        if name in {"start", "descriptor", "resource", "stream_resource"}:
            self._owner[str(doc["uid"])] = uid
        if name == "stop":
            self._owner = {key: run for key, run in self._owner.items() if run != uid}
        return uid

    def _keep(self, uid: str, failed: str, documents: list[tuple[str, dict[str, Any]]]) -> None:
        """Begin the file of a run that could not be stored, with what there is of it."""
        why = f"run {uid} can not be stored in the catalogue ({failed}: {self._failed[uid]})"
        file_name = re.sub(r"[^\w.-]", "_", uid)[:200] + ".jsonl"
        for folder in (self._backup, Path(tempfile.gettempdir()) / f"streamrecon-not-stored-{os.getuid()}"):
            path = folder / file_name
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(_line(*each) for each in documents))
            except OSError as error:
                logger.error("run %s: its documents could not be written to %s either (%s)", uid, path, error)
                with suppress(OSError):
                    path.unlink(missing_ok=True)  # `resubmit` would try to store what there is of it
            else:
                self._kept_in[uid] = path
                command = "streamrecon resubmit" if folder == self._backup else f"streamrecon resubmit {path}"
                logger.error("%s: its documents are in %s; `%s` stores them", why, path, command)
                return
        logger.error("%s, and its documents nowhere else", why)

    def _append(self, uid: str, name: str, doc: dict[str, Any]) -> None:
        path = self._kept_in.get(uid)
        if path is not None:
            try:
                with path.open("a") as file:
                    file.write(_line(name, doc))
            except OSError as error:
                self._kept_in[uid] = None
                logger.error("run %s: its documents end with the last that fitted into %s (%s)", uid, path, error)


def _line(name: str, doc: dict[str, Any]) -> str:
    return json.dumps({"name": name, "doc": plain(doc)}) + "\n"


def _refuse(name: str, doc: dict[str, Any]) -> None:  # noqa: ARG001
    """Take the place of a catalogue that is not there."""
    raise StorageError("there is no catalogue")


# ---------------------------------------------------------------------------------- what was kept, stored later


class NotSent(msgspec.Struct, frozen=True):
    """A run that is still only in its file, and why."""

    uid: str
    why: str


class Resubmitted(msgspec.Struct, frozen=True):
    """Which runs of files with documents were sent to the catalogue again.

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
            documents = _documents_in(path)
            uid = documents[0][1]["uid"]
            (sent if _store(catalog, uid, documents) else there).append(uid)
            if path.suffix != DONE:
                path.replace(path.with_suffix(DONE))
        except Exception as error:  # noqa: BLE001 - whatever a server or a file may be like
            refused.append(NotSent(uid, " ".join(f"{path}: {type(error).__name__}: {error}".split())))
    return Resubmitted(tuple(sent), tuple(there), tuple(refused))


def _documents_in(path: Path) -> list[tuple[str, dict[str, Any]]]:
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
