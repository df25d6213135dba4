"""The Tiled catalogue, on a server in this process or somewhere else: the clients to read and write it.

Runs live in a container named ``raw`` whose spec makes Tiled's and databroker's clients treat it as a catalogue of
Bluesky runs (``catalog[uid]``, ``catalog[-1]``, search by scan_id).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.settings import data_directory
from bluesky_streamrecon.storage.embedded import CatalogInUseError, EmbeddedTiled
from bluesky_streamrecon.storage.proxies import proxy_for, reaches_loopback
from bluesky_streamrecon.storage.writer import CatalogWriter

__all__ = ["Storage", "open_catalog", "open_live_images", "open_storage"]

CONTAINER = "raw"
LIVE = "live"

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0


class Storage(AbstractContextManager["Storage"]):
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

    def __exit__(self, *_: object) -> None:
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


def open_catalog(uri: str) -> Any:
    """Connect to a catalogue of runs on a Tiled server, making the container if it is missing.

    Parameters
    ----------
    uri : str
        Of the server, with its key where it needs one: ``http://host:8000/api/v1?api_key=…``.

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
        if CONTAINER not in root:
            root.create_container(CONTAINER, specs=[Spec("CatalogOfBlueskyRuns", version="3.0")])
        return _own_clients(root)[CONTAINER]

    catalog = _found(uri, find)
    if not isinstance(catalog, CatalogOfBlueskyRuns):
        catalog.context.close()
        raise StorageError(
            f"Tiled at {uri.partition('?')[0]}: {CONTAINER!r} is {type(catalog).__name__}, not a catalogue of Bluesky "
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
    from tiled.client import from_uri

    where, _, query = uri.partition("?")
    direct = reaches_loopback(where)
    _probe(where, trust_env=not direct)
    root = None
    try:
        # The key goes in a header: addresses are logged.
        root = from_uri(where, api_key=parse_qs(query).get("api_key", [None])[0], trust_env=not direct)
        return find(root)
    except Exception as error:
        if root is not None:
            root.context.close()
        raise StorageError(
            f"Tiled at {where}{_through(where)}: no catalogue ({error}); is the address that of a Tiled server, and "
            "the key right?"
        ) from error


def _own_clients(root: Any) -> Any:
    """Return a client with its own table of clients: databroker writes into the one that is otherwise everyone's."""
    from tiled.utils import OneShotCachedMap

    known = root.structure_clients
    own = OneShotCachedMap({name: lambda name=name: known[name] for name in known})
    return root.new_variation(structure_clients=own)


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
