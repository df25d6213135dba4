"""A Tiled server of its own process, as a facility has one, that can be killed; and a client that watches images."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from bluesky_streamrecon.storage.embedded import _API_KEY as KEY

__all__ = ["KEY", "WATCHING", "Server", "Watcher"]

# Tiled's client (0.2.20) uses websockets in a way that is deprecated, and its thread may end with an error when it is
# told to end.
WATCHING = [
    pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception in thread tiled-subscription:pytest.PytestUnhandledThreadExceptionWarning"
    ),
]

BOUND = 40.0
SERVER = f"""
import gc, sys
thresholds = gc.get_threshold()
gc.set_threshold(0)  # while all of Tiled is imported
sys.path.append({str(Path(__file__).parent)!r})
from tiled_tables import tables_once
tables_once()
from tiled.server import SimpleTiledServer
server = SimpleTiledServer(sys.argv[1], api_key=sys.argv[4], port=int(sys.argv[2]), readable_storage=[sys.argv[3]])
gc.freeze()
gc.set_threshold(*thresholds)
print("ready", flush=True)
sys.stdin.read()
server.close()
"""


class Server:
    """A facility's Tiled server, which reads the files below `readable`; a process that can be killed."""

    def __init__(self, directory: Path, readable: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}/api/v1?api_key={KEY}"
        self._command = [sys.executable, "-c", SERVER, str(directory), str(port), str(readable), KEY]
        self.start()

    def start(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=BOUND)

    def close(self) -> None:
        if self._process.returncode is None:
            self.kill()


class Watcher:
    """Subscribes to the live images of a server, of each run that appears."""

    def __init__(self, client: Any) -> None:
        self._images: queue.Queue[tuple[tuple[int, ...] | None, NDArray[Any]]] = queue.Queue()
        self.ended = threading.Event()
        live = client["live"] if "live" in client else client.create_container("live")
        self._subscriptions = [live.subscribe()]
        self._subscriptions[0].child_created.add_callback(self._watch)
        self._subscriptions[0].start_in_thread()

    def _watch(self, created: Any) -> None:  # Tiled keeps callbacks weakly, so they are methods of what lives on
        subscription = created.child().subscribe()
        self._subscriptions.append(subscription)
        subscription.new_data.add_callback(self._take)
        subscription.stream_closed.add_callback(self._end)
        subscription.start_in_thread(1)

    def _take(self, update: Any) -> None:
        self._images.put((update.offset, update.data()))

    def _end(self, _: Any) -> None:
        self.ended.set()

    def next(self) -> tuple[int, NDArray[Any]]:
        """Return the place of the next image, and its slices."""
        offset, values = self._images.get(timeout=BOUND)
        return (offset or (0,))[0], values

    def close(self) -> None:
        for each in self._subscriptions:
            each.disconnect()
