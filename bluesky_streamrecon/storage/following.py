"""The documents of runs that another process writes to a Tiled server, while it writes them and from their beginning.

The server is asked for what is stored, and what of it has been passed on is counted here: so nothing is missed and
nothing comes twice, whether a run has begun just now or an hour ago. Servers need not announce changes. Times are
seconds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.storage.catalog import find_catalog

__all__ = ["TiledDocuments"]

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
NEWEST = 20
"""Runs that are looked at: of so many, one may begin between two looks."""
RETRY_SECONDS = 5.0
SEQUENCE = "multipart/related"

Take = Callable[[str, dict[str, Any]], object]


class TiledDocuments:
    """Documents of the runs in a catalogue: those of the newest, if it has not ended, and of all that begin later.

    The runs come one after the other; one that begins meanwhile comes after the other, from its beginning.

    Parameters
    ----------
    uri : str
        Of the Tiled server, with its key where it needs one; of the server, its container ``raw`` or another one.
    wanted : callable
        Says by its start document whether a run is wanted.

    Raises
    ------
    StorageError
        If the server can not be reached, or does not let us in.
    """

    def __init__(self, uri: str, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        self._catalog = find_catalog(uri)
        self._wanted = wanted
        self._closed = threading.Event()
        self._warned = False

    def run(self, take: Take) -> None:
        """Call `take` with each document, until `close`."""
        try:
            for uid in self._runs():
                self._pass_on(uid, take)
        finally:
            self._catalog.context.close()

    def close(self) -> None:
        """End `run`, from any thread."""
        self._closed.set()

    def _runs(self) -> Iterator[str]:
        """Yield each wanted run once, in the order in which they began."""
        after: float | None = None
        while not self._closed.is_set():
            if (found := self._try(self._newest)) is not None:
                runs = [run for run in found if self._wanted(run["start"])]
                if after is None:  # of what was there, the newest run is followed, unless it is over
                    past = runs if runs and runs[-1].get("stop") else runs[:-1]
                    after = past[-1]["start"]["time"] if past else 0.0
                for run in runs:
                    if run["start"]["time"] > after:
                        after = run["start"]["time"]
                        yield run["start"]["uid"]
            self._closed.wait(LOOK_SECONDS)

    def _newest(self) -> list[dict[str, Any]]:
        held = len(self._catalog)
        found = [dict(run.metadata) for run in self._catalog.values()[max(0, held - NEWEST) : held]]
        return sorted((run for run in found if "start" in run), key=lambda run: run["start"]["time"])

    def _pass_on(self, uid: str, take: Take) -> None:
        streams: dict[str, _Stream] = {}
        begun = False
        while not self._closed.is_set():
            run = self._try(lambda: self._catalog[uid])
            if run is not None:
                metadata = dict(run.metadata)
                if not begun:
                    take("start", metadata["start"])
                    begun = True
                # What is there once the run is over is all of it.
                new = self._try(partial(_new_documents, run, uid, streams))
                for name, doc in new or ():
                    take(name, doc)
                if new is not None and metadata.get("stop"):
                    take("stop", metadata["stop"])
                    return
                if not self._warned and any(each.waits_for_events for each in streams.values()):
                    self._warned = True
                    logger.warning(
                        "run %s: its frames are stored as they come, its angles only in batches; TiledWriter(…, "
                        "batch_size=1) would store them as they come, too",
                        uid,
                    )
            self._closed.wait(LOOK_SECONDS)

    def _try(self, ask: Callable[[], Any]) -> Any:
        """Ask the server; None if it does not answer, or something is just being made: it is asked again."""
        import httpx

        try:
            return ask()
        except (httpx.HTTPError, OSError, KeyError) as error:
            logger.warning("Tiled at %s: %s: %s; asked again", self._catalog.uri, type(error).__name__, error)
            self._closed.wait(RETRY_SECONDS)
            return None


class _Stream:
    """How much of one stream has been passed on."""

    def __init__(self, descriptor: Mapping[str, Any]) -> None:
        self.descriptor = descriptor
        self.events = 0
        self.frames: dict[str, int] = {}  # by data key
        self._resources: set[str] = set()

    @property
    def waits_for_events(self) -> bool:
        """Frames are there, and not one event."""
        inside = any(not key.get("external") for key in self.descriptor["data_keys"].values())
        return inside and not self.events and max(self.frames.values(), default=0) > 1

    def documents(self, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what is new."""
        keys = self.descriptor["data_keys"]
        parts = dict(node.new_variation(include_data_sources=True).items())
        for key, part in parts.items():
            if key in keys and keys[key].get("external"):
                yield from self._external(key, part)
        tables = [part for key, part in parts.items() if key == "internal" or key.startswith("internal_")]
        arrays = {key: part for key, part in parts.items() if key in keys and not keys[key].get("external")}
        if tables or arrays:
            yield from self._internal(tables, arrays)

    def _internal(self, tables: list[Any], arrays: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        read = [table.read().iloc[self.events :].to_dict("records") for table in tables]
        stop = min([self.events + len(rows) for rows in read] + [array.shape[0] for array in arrays.values()])
        inside = {key: array[self.events : stop] for key, array in arrays.items() if stop > self.events}
        for place in range(stop - self.events):
            row = {key: value for rows in read for key, value in rows[place].items()}
            data = {key: value for key, value in row.items() if key in self.descriptor["data_keys"]}
            number = int(row.get("seq_num", self.events + 1))
            self.events += 1
            uid = self.descriptor["uid"]
            yield (
                "event",
                {
                    "uid": f"{uid}-{number}",
                    "descriptor": uid,
                    "seq_num": number,
                    "time": row.get("time", self.descriptor["time"]),
                    "data": data | {key: values[place] for key, values in inside.items()},
                    "timestamps": {key: row.get(f"ts_{key}") for key in data},
                },
            )

    def _external(self, key: str, part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        (source,) = part.data_sources()
        shape, one = part.shape, self.descriptor["data_keys"][key]["shape"]
        first, stop = self.frames.get(key, 0), shape[0] if len(shape) > len(one) else shape[0] // one[0]
        self.frames[key] = max(first, stop)
        if stop <= first:
            return
        files = sorted((each for each in source.assets if each.parameter), key=lambda each: each.num or 0)
        if source.mimetype.startswith(SEQUENCE):  # a file for each frame: its name is all that there is of a template
            if stop > len(files):
                raise StorageError(f"{part.uri}: got {len(files)} files for {stop} frames, expected a file for each")
            for place in range(first, stop):
                folder, name = _split(files[place].data_uri)
                yield from self._frames(key, place, place + 1, source.mimetype, folder, {"template": name}, str(place))
        elif len(files) == 1:
            yield from self._frames(key, first, stop, source.mimetype, files[0].data_uri, dict(source.parameters), "")
        else:
            raise StorageError(f"{part.uri}: got {len(files)} files of {source.mimetype}, expected one with all frames")

    def _frames(
        self, key: str, first: int, stop: int, mimetype: str, uri: str, parameters: dict[str, Any], part: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        descriptor = self.descriptor["uid"]
        resource = f"{descriptor}-{key}-{part}"
        if resource not in self._resources:
            self._resources.add(resource)
            named = {"uid": resource, "data_key": key, "run_start": self.descriptor["run_start"]}
            yield "stream_resource", named | {"mimetype": mimetype, "uri": uri, "parameters": parameters}
        yield (
            "stream_datum",
            {
                "uid": f"{resource}-{first}",
                "stream_resource": resource,
                "descriptor": descriptor,
                "indices": {"start": first, "stop": stop},
                "seq_nums": {"start": first + 1, "stop": stop + 1},
            },
        )


def _new_documents(run: Any, uid: str, streams: dict[str, _Stream]) -> list[tuple[str, dict[str, Any]]]:
    """Return the documents of a run that have not been passed on, in the order in which its streams began."""
    from bluesky_tiled_plugins.exporters import build_descriptor_docs

    documents: list[tuple[str, dict[str, Any]]] = []
    nodes = {name: run.base[name].base for name in run.base}
    for name in sorted(nodes, key=lambda name: nodes[name].metadata["time"]):
        if name not in streams:
            descriptor = build_descriptor_docs(dict(nodes[name].metadata), name, uid)[0]
            streams[name] = _Stream(descriptor)
            documents.append(("descriptor", descriptor))
        documents += streams[name].documents(nodes[name])
    return documents


def _split(uri: str) -> tuple[str, str]:
    """Return the directory of a file, as a URI, and its name, as a template that has no place for a number."""
    folder, _, name = uri.rpartition("/")
    return quote(unquote(folder), safe=":/"), str(PurePosixPath(unquote(name))).replace("%", "%%")
