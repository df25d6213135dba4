"""A callback that stores runs in a Tiled catalogue, beside the RunEngine rather than in its way."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.storage.plain import plain

__all__ = ["CatalogWriter"]

logger = logging.getLogger(__name__)

METADATA = frozenset({"start", "descriptor", "stop"})
"""Documents in which people put what they like."""


class CatalogWriter:
    """A callback that stores runs in the catalogue without holding up the RunEngine.

    Documents are handed to a thread. With the stop document the callback waits a while until the run is stored, so that
    it can be looked up after ``RE()``. Objects in the metadata that JSON has no place for are stored as their `repr`. A
    run that can not be stored all the same is written as JSON lines to `backup_directory` with all of its documents,
    which is reported in the log; the scan goes on.

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
        if name == "stop" and not self.flush(self._wait):
            logger.warning("run %s is not in the catalogue yet after %g s; still trying", doc["run_start"], self._wait)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all documents so far have been dealt with; return whether that was within `timeout` seconds."""
        with self._lock:
            if self._thread is None:
                return True
            done = threading.Event()
            self._queue.put(done)
        return done.wait(timeout)

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
        for uid in self._runs.keys() & self._failed.keys():  # closed before their stop documents
            self._keep(uid, self._runs[uid])

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        uid = self._run_of(name, doc)
        self._runs.setdefault(uid, []).append((name, doc))
        if uid not in self._failed:
            try:
                self._writer(name, plain(doc) if name in METADATA else doc)
            except Exception as error:  # noqa: BLE001 (whatever it is, the scan goes on and the run is kept)
                self._failed[uid] = f"{type(error).__name__}: {error}"
                logger.error("run %s can not be stored in the catalogue (%s: %s)", uid, name, self._failed[uid])
        if name == "stop":
            documents = self._runs.pop(uid)
            if uid in self._failed:
                self._keep(uid, documents)

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

    def _keep(self, uid: str, documents: list[tuple[str, dict[str, Any]]]) -> None:
        file_name = re.sub(r"[^\w.-]", "_", uid)[:200] + ".jsonl"
        for folder in (self._backup, Path(tempfile.gettempdir()) / "streamrecon-not-stored"):
            path = folder / file_name
            unfinished = path.with_suffix(".part")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with unfinished.open("w") as file:
                    for name, doc in documents:
                        file.write(json.dumps({"name": name, "doc": plain(doc)}) + "\n")
                unfinished.replace(path)
            except OSError as error:
                logger.error("run %s: its documents could not be written to %s either (%s)", uid, path, error)
                with contextlib.suppress(OSError):
                    unfinished.unlink(missing_ok=True)
            else:
                logger.error("run %s: its documents are in %s", uid, path)
                return


def _refuse(name: str, doc: dict[str, Any]) -> None:  # noqa: ARG001
    """Take the place of a catalogue that is not there."""
    raise StorageError("there is no catalogue")
