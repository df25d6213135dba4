"""A Tiled server in a thread of this process, which is that of the RunEngine where a person works at the prompt."""

from __future__ import annotations

import fcntl
import logging
import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.exit_hooks import close_at_end

__all__ = ["CatalogInUseError", "EmbeddedTiled"]

STREAMED_BYTES = 2**28
"""Memory for what was written of late, which the server keeps for its subscribers."""

# Tiled keeps the key of a server in a place that all servers of a process share, so they share the key as well.
_API_KEY = secrets.token_hex(32)


class CatalogInUseError(StorageError):
    """Another process serves this catalogue."""


class EmbeddedTiled(AbstractContextManager["EmbeddedTiled"]):
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
        if odd := sorted(set("%?#") & set(str(self.directory))):
            raise StorageError(
                f"catalogue {self.directory}: its path has {odd[0]!r}, which Tiled can not take; "
                "expected another directory for data"
            )
        folders = [Path(folder).resolve() for folder in readable]
        try:
            for folder in (self.directory, *folders):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / "server").open("a")
        except OSError as error:
            raise StorageError(f"catalogue {self.directory}: can not be made ({error})") from error
        try:
            self._take_lock()
            with _tables_made_once(self.directory / "catalog.db"):
                self._server: Any = SimpleTiledServer(
                    self.directory, api_key=_API_KEY, readable_storage=folders, port=port
                )
            _give_each_request_a_connection(self._server.storage)
            _bound_memory_of_streams(self._server.catalog.context.streaming_cache)
            _lose_lines_of_full_disk(self.directory)
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

    def __exit__(self, *_: object) -> None:
        self.close()


def _give_each_request_a_connection(storage: Any) -> None:
    """Let tables be read while rows are appended: Tiled has one connection to DuckDB for all threads.

    There, the end of a reading rolls back what another thread has appended and not committed, and those rows are lost
    although the server has answered that they are stored (seen with Tiled 0.2.20).
    """
    from sqlalchemy.pool import NullPool

    storage.__dict__["_connection_pool"] = NullPool(storage._adbc_connection.adbc_clone)


@contextmanager
def _tables_made_once(database: Path) -> Iterator[None]:
    """Spare a start where the tables are there: to look for them, Tiled starts a program that imports all of it anew.

    That is half of the seconds until the catalogue is open (seen with Tiled 0.2.20).
    """
    import tiled.catalog
    from tiled.catalog.core import REQUIRED_REVISION

    if _revision(database) != REQUIRED_REVISION:
        yield
        return
    opened = tiled.catalog.from_uri
    tiled.catalog.from_uri = lambda uri, **settings: opened(uri, **(settings | {"init_if_not_exists": False}))
    try:
        yield
    finally:
        tiled.catalog.from_uri = opened


def _revision(database: Path) -> str | None:
    """Return the revision of a catalogue's tables, None where there are none."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("select version_num from alembic_version").fetchone()
    except (sqlite3.Error, TypeError, ValueError):
        return None
    return str(found)


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


def _logs(directory: Path) -> Iterator[tuple[logging.Logger, logging.FileHandler]]:
    """Yield the server's log files, and what writes to each."""
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == directory:
                yield logger, handler


def _lose_lines_of_full_disk(directory: Path) -> None:
    """Let a line of the server's log be lost where it can not be written; each would be a traceback at the prompt."""
    for _, handler in _logs(directory):
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # noqa: ARG005


def _close_logs(directory: Path) -> None:
    """Close the server's log files: uvicorn leaves them to the next one's set-up, after which they may open again."""
    for logger, handler in _logs(directory):
        logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()
