"""Documents of a RunEngine in another process, from Bluesky's 0MQ proxy.

Bluesky sends documents pickled. Reading a pickle can run any code; here it makes plain values and NumPy arrays, and
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import pickle
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

from bluesky_streamrecon.errors import ConfigError, StreamReconError

__all__ = ["RemoteDocuments", "read_document"]

CONNECT_SECONDS = 5.0

PLAIN = {
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "complex"),
    ("builtins", "bytearray"),
    ("collections", "OrderedDict"),
    ("collections", "deque"),
    ("datetime", "datetime"),
    ("datetime", "date"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
NUMPY = re.compile(r"numpy\._?core\.(multiarray|numeric)\.(_reconstruct|_frombuffer|scalar)")
"""What NumPy's arrays and numbers are made by."""


class _Unread:
    """Stands for an object of a class that documents have no need of; none of its code is run."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take whatever it was made of."""

    def __setstate__(self, _: Any) -> None:
        """Take whatever it was."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Take an item."""

    def append(self, _: Any) -> None:
        """Take an item."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN or NUMPY.fullmatch(f"{module}.{name}"):
            return super().find_class(module, name)
        return _Unread


def read_document(data: bytes) -> Any:
    """Return a pickled document; objects that are neither plain nor NumPy's are left unread.

    Examples
    --------
    >>> read_document(pickle.dumps({"shape": (2, 3), "what": print}))["shape"]
    (2, 3)
    """
    return _Unpickler(io.BytesIO(data)).load()


class RemoteDocuments:
    """Documents that a RunEngine sends through ``bluesky-0MQ-proxy``, from now on.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` to which the proxy publishes.

    Raises
    ------
    ConfigError
        If it is not an address.
    StreamReconError
        If nothing listens there.
    """

    def __init__(self, address: str) -> None:
        from bluesky.callbacks.zmq import RemoteDispatcher

        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"--zmq: got {address!r}, expected HOST:PORT, as in localhost:5568")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise StreamReconError(
                f"documents at {address}: no answer ({error}); is bluesky-0MQ-proxy running there, and is this its "
                "second port, to which it publishes?"
            ) from error
        self._dispatcher = RemoteDispatcher(address, deserializer=read_document)

    def run(self, take: Callable[[str, Mapping[str, Any]], object]) -> None:
        """Call `take` with each document, until `close`."""
        self._dispatcher.subscribe(take)
        with contextlib.suppress(asyncio.CancelledError):
            self._dispatcher.start()

    def close(self) -> None:
        """End `run`, from any thread."""
        loop = self._dispatcher.loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
