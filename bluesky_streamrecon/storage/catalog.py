"""The Tiled catalogue: a server in this process or somewhere else, and the clients to read and write it.

Runs live in a container named ``raw`` whose spec makes Tiled's and databroker's clients treat it as a catalogue of
Bluesky runs (``catalog[uid]``, ``catalog[-1]``, search by scan_id).
"""

from __future__ import annotations

import fcntl
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.exit_hooks import close_at_end
from bluesky_streamrecon.settings import data_directory
from bluesky_streamrecon.storage.proxies import proxy_for, reaches_loopback
from bluesky_streamrecon.storage.writer import CatalogWriter

__all__ = ["EmbeddedTiled", "Storage", "open_catalog", "open_live_images", "open_storage"]

CONTAINER = "raw"
LIVE = "live"

STREAMED_BYTES = 2**28
"""Memory for what was written of late, which the embedded server keeps for its subscribers."""

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0

# Tiled keeps the key of a server in a place that all servers of a process share, so they share the key as well.
_API_KEY = secrets.token_hex(32)


class CatalogInUseError(StorageError):
    """Another process serves this catalogue."""


class EmbeddedTiled:
    """A Tiled server in a thread of this process, on loopback, behind a key of its own.

    One process at a time serves a catalogue: its database is not made for two. The address, with the key, stands in the
    file ``server`` for the same user's other processes.

    Parameters
    ----------
    directory : str or Path
        Where the catalogue lives; made if missing, found again the next time.
    readable : sequence of Path, optional
        Directories whose files the server may read: the detectors' and the reconstructions'.
    port : int, optional
        TCP port; a free one by default.

    Raises
    ------
    StorageError
        If the server does not start, or another process serves this catalogue.
    """

    def __init__(self, directory: str | Path, *, readable: Sequence[str | Path] = (), port: int = 0) -> None:
        try:
            from bluesky_tiled_plugins.exporters import json_seq_exporter
            from tiled.media_type_registration import default_serialization_registry
            from tiled.server import SimpleTiledServer
        except ImportError as error:
            raise StorageError(
                f"Tiled server: can not be imported ({error}); `pip install 'tiled[server]'` installs what is missing"
            ) from error

        # Without it the server can not give a run as documents, which databroker asks for.
        default_serialization_registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)
        self.directory = Path(directory).resolve()
        folders = [Path(folder).resolve() for folder in readable]
        try:
            for folder in (self.directory, *folders):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / "server").open("a")
        except OSError as error:
            raise StorageError(f"catalogue {self.directory}: can not be made ({error})") from error
        try:
            self._take_lock()
            self._server: Any = SimpleTiledServer(self.directory, api_key=_API_KEY, readable_storage=folders, port=port)
            _give_each_request_a_connection(self._server.storage)
            _bound_memory_of_streams(self._server.catalog.context.streaming_cache)
        except StorageError:
            self._lock.close()
            raise
        except Exception as error:
            self._lock.close()
            raise StorageError(f"Tiled server for {self.directory}: did not start ({_why(error)})") from error
        self.uri: str = self._server.uri
        self._lock.write(self.uri)
        self._lock.flush()
        close_at_end(self)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CatalogInUseError(f"catalogue {self.directory}: another process serves it") from error
        self._lock.truncate(0)
        (self.directory / "server").chmod(0o600)

    def close(self) -> None:
        """Stop the server; closing twice does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            _close_logs(self.directory)
            self._lock.truncate(0)
            self._lock.close()

    def __enter__(self) -> EmbeddedTiled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _give_each_request_a_connection(storage: Any) -> None:
    """Let tables be read while rows are appended: Tiled has one connection to DuckDB for all threads.

    There, the end of a reading rolls back what another thread has appended and not committed, and those rows are lost
    although the server has answered that they are stored (seen with Tiled 0.2.20).
    """
    from sqlalchemy.pool import NullPool

    storage.__dict__["_connection_pool"] = NullPool(storage._adbc_connection.adbc_clone)


def _bound_memory_of_streams(cache: Any) -> None:
    """Count bytes: Tiled keeps the last 1000 writes of an hour, which may be images (seen with Tiled 0.2.20)."""
    store = cache.client
    known = store._data_cache
    store._data_cache = type(known)(
        STREAMED_BYTES, known.ttl, getsizeof=lambda item: min(1000 + len(item.get("payload", b"")), STREAMED_BYTES)
    )


def _why(error: Exception) -> str:
    """Return the last line that names an error: Tiled quotes the whole output of its set-up, tracebacks included."""
    named = re.findall(r"^(?:\w+\.)*\w*Error: .*", str(error), re.MULTILINE)
    return str(named[-1]) if named else f"{type(error).__name__}: {error}"


def _close_logs(directory: Path) -> None:
    """Close the server's log files: uvicorn leaves them to the next one's set-up, after which they may open again."""
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == directory:
                logger.removeHandler(handler)
                handler.close()


class Storage:
    """A catalogue and what reads and writes it; made by `open_storage`.

    Parameters
    ----------
    uri : str
        Of the Tiled server.
    directory : Path
        For what the catalogue itself does not hold: ``not_stored``, runs that it would not take.
    detector_directory : Path
        Where detectors may write files that the embedded server can read.
    server : EmbeddedTiled, optional
        Closed with the rest.
    """

    def __init__(
        self, uri: str, directory: Path, detector_directory: Path, *, server: EmbeddedTiled | None = None
    ) -> None:
        self.uri = uri
        self.directory = directory
        self.detector_directory = detector_directory
        self._server = server
        self._clients: list[Any] = []
        self._closed = False
        self.catalog = self._open()

    @cached_property
    def writer(self) -> CatalogWriter:
        """Callback that stores runs: ``RE.subscribe(storage.writer)``; one for all who have runs to store."""
        return CatalogWriter(self._open(), backup_directory=self.directory / "not_stored")

    @cached_property
    def databroker(self) -> Any:
        """The catalogue through databroker 2: ``storage.databroker[uid].table()``."""
        from databroker import Broker

        return Broker(self._open())

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until the documents that `writer` was given are stored; return whether they are."""
        return "writer" not in self.__dict__ or self.writer.flush(timeout)

    def close(self) -> None:
        """Store what is still on its way, and stop an embedded server; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        if "writer" in self.__dict__:
            self.writer.close()
        for client in self._clients:
            client.context.close()
        if self._server is not None:
            self._server.close()

    def _open(self) -> Any:
        # A client for each: databroker changes how the one it is given presents runs.
        client = open_catalog(self.uri)
        self._clients.append(client)
        return client

    def __enter__(self) -> Storage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_storage(
    uri: str | None = None, *, directory: str | Path | None = None, readable: Sequence[str | Path] = ()
) -> Storage:
    """Open a catalogue: that of a Tiled server somewhere, or one in a directory, served by this process.

    If another process of this user serves the directory's catalogue already, that one is used; it has to live on.

    Parameters
    ----------
    uri : str, optional
        Of a Tiled server, with its key where it needs one; a server in this process by default.
    directory : str or Path, optional
        Of the embedded server's catalogue, and of the files of detectors (in ``detector``) and reconstructions (in
        ``reconstructions``), which the server may read; by default `bluesky_streamrecon.settings.data_directory`.
    readable : sequence of Path, optional
        More directories that the embedded server may read.

    Returns
    -------
    Storage
        To be closed, or used in a ``with`` statement.

    Raises
    ------
    StorageError
        If the catalogue can not be opened.

    Examples
    --------
    ::

        with open_storage(directory="catalogue", readable=["frames"]) as storage:
            RE.subscribe(storage.writer)
            (uid,) = RE(stream_tomo_plan())
            run = storage.catalog[uid]
    """
    folder = data_directory() if directory is None else Path(directory).resolve()
    frames = folder / "detector"
    if uri is not None:
        return Storage(uri, folder, frames)
    try:
        server = EmbeddedTiled(folder, readable=[frames, folder / "reconstructions", *readable])
    except CatalogInUseError as error:
        address = (folder / "server").read_text().strip()
        if not address:
            raise StorageError(f"{error}, and is not ready yet; try again in a few seconds") from error
        return Storage(address, folder, frames)
    try:
        return Storage(server.uri, folder, frames, server=server)
    except BaseException:
        server.close()
        raise


def open_catalog(uri: str, *, container: str = CONTAINER) -> Any:
    """Connect to a catalogue of runs on a Tiled server, making the container if it is missing.

    Parameters
    ----------
    uri : str
        Of the server, with its key where it needs one: ``http://host:8000/api/v1?api_key=…``.
    container : str, optional
        Name of the container.

    Returns
    -------
    bluesky_tiled_plugins.CatalogOfBlueskyRuns
        ``catalog[uid]`` is a run.

    Raises
    ------
    StorageError
        If the server can not be reached or does not let us in.
    """
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns
    from tiled.structures.core import Spec

    def find(root: Any) -> Any:
        if container not in root:
            root.create_container(container, specs=[Spec("CatalogOfBlueskyRuns", version="3.0")])
        return _own_clients(root)[container]

    catalog = _found(uri, find)
    if not isinstance(catalog, CatalogOfBlueskyRuns):
        catalog.context.close()
        raise StorageError(
            f"Tiled at {uri.partition('?')[0]}: {container!r} is {type(catalog).__name__}, not a catalogue of Bluesky "
            "runs"
        )
    return catalog


def open_live_images(uri: str) -> Any:
    """Connect to the container with the images of runs that are being taken, making it if it is missing.

    Parameters
    ----------
    uri : str
        Of the server, with its key where it needs one.

    Returns
    -------
    tiled.client.container.Container
        ``container[uid]`` is the array of a run's images.

    Raises
    ------
    StorageError
        If the server can not be reached or does not let us in.
    """
    return _found(uri, lambda root: root[LIVE] if LIVE in root else root.create_container(LIVE))


def find_catalog(uri: str, *, container: str = CONTAINER) -> Any:
    """Connect to a catalogue to read it; nothing is made.

    Parameters
    ----------
    uri : str
        Of the server, or of a container on it, with its key where it needs one.
    container : str, optional
        Its runs are meant if it is there, else those of what `uri` names.

    Returns
    -------
    tiled.client.container.Container
        Whose items are runs.

    Raises
    ------
    StorageError
        If the server can not be reached or does not let us in.
    """
    return _found(uri, lambda root: root.get(container, root))


def _found(uri: str, find: Callable[[Any], Any]) -> Any:
    """Return what is found below what an address names; nothing stays open if that fails."""
    root = _connect(uri)
    try:
        return find(root)
    except Exception as error:
        root.context.close()
        raise _no_catalogue(uri.partition("?")[0], error) from error


def _connect(uri: str) -> Any:
    """Return the client of what an address names."""
    from tiled.client import from_uri

    where, _, query = uri.partition("?")
    direct = reaches_loopback(where)
    _probe(where, trust_env=not direct)
    try:
        # The key goes in a header: addresses are logged.
        return from_uri(where, api_key=parse_qs(query).get("api_key", [None])[0], trust_env=not direct)
    except Exception as error:
        raise _no_catalogue(where, error) from error


def _own_clients(root: Any) -> Any:
    """Return a client with its own table of clients: databroker writes into the one that is otherwise everyone's."""
    from tiled.utils import OneShotCachedMap

    known = root.structure_clients
    own = OneShotCachedMap({name: lambda name=name: known[name] for name in known})
    return root.new_variation(structure_clients=own)


def _no_catalogue(where: str, error: Exception) -> StorageError:
    return StorageError(
        f"Tiled at {where}{_through(where)}: no catalogue ({error}); is the address that of a Tiled server, and the "
        "key right?"
    )


def _probe(where: str, *, trust_env: bool) -> None:
    """Ask once whether a server answers; Tiled's client would try for most of a minute.

    Parameters
    ----------
    where : str
        Address without key.
    trust_env : bool
        Go through the proxies that the environment names.
    """
    import httpx

    if urlsplit(where).hostname is None:
        raise StorageError(f"Tiled at {where}: expected an address such as http://host:8000/api/v1?api_key=…")
    try:
        answer = httpx.get(where, trust_env=trust_env, timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS))
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:  # the last two: unusable proxies
        why = str(error) or type(error).__name__
        proxy = proxy_for(where)
        ask = "is the server up?" if proxy is None else "is the proxy up? To go without it, add the host to no_proxy"
        raise StorageError(f"Tiled at {where}{_through(where)}: no answer ({why}); {ask}") from error
    if proxy_for(where) is not None and answer.status_code in (407, 502, 503, 504):
        raise StorageError(
            f"Tiled at {where}{_through(where)}: the proxy answers {answer.status_code} {answer.reason_phrase}; is the "
            "server up, and may the proxy be used for it? To go without it, add the host to no_proxy"
        )


def _through(where: str) -> str:
    """Return by which proxy an address is reached, in words; nothing if directly."""
    proxy = proxy_for(where)
    return "" if proxy is None else f", through the proxy {proxy} (named by the environment)"
