"""A process that watches a live view as several browsers would, and tells how old each picture was on arrival."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import parse_qs, urlsplit

__all__ = ["Viewer", "main"]

TIMEOUT_S = 30.0


class Viewer:
    """One page: hears of changes and fetches the slices of each new picture.

    Parameters
    ----------
    url : str
        Of the page, with its token.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._token = parse_qs(parts.query)["token"][0]
        self.delays: list[float] = []
        self.ready = threading.Event()
        self._began = time.time()
        self._ending = False
        self._connection = HTTPConnection(self._host, timeout=TIMEOUT_S)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def close(self) -> list[float]:
        """Watch no more; give the delays, seconds."""
        self._ending = True
        self._thread.join()
        return self.delays

    def _watch(self) -> None:
        with contextlib.closing(self._connection), contextlib.suppress(OSError, HTTPException):
            self._connection.request("GET", f"/events?token={self._token}")
            answer = self._connection.getresponse()
            seen = None
            while not self._ending and (line := answer.readline()):
                self.ready.set()
                told = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                picture = told.get("picture")
                if picture and (picture["run"], picture["image"]) != seen:
                    seen = (picture["run"], picture["image"])
                    for index in range(len(picture["rows"])):
                        self._fetch(f"/picture/{picture['image']}/{index}.png?token={self._token}")
                    if picture["made"] > self._began:  # else it was there before us
                        self.delays.append(time.time() - picture["made"])

    def _fetch(self, path: str) -> bytes:
        with contextlib.closing(HTTPConnection(self._host, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", path)
            return connection.getresponse().read()


def main() -> None:
    """Watch a page with so many viewers until standard input ends; print when they do, and their delays as JSON."""
    os.nice(10)  # browsers are other people's computers
    url, number = sys.argv[1], int(sys.argv[2])
    viewers = [Viewer(url) for _ in range(number)]
    print(all(viewer.ready.wait(TIMEOUT_S) for viewer in viewers), flush=True)
    sys.stdin.read()
    print(json.dumps([viewer.close() for viewer in viewers]))


if __name__ == "__main__":
    main()
