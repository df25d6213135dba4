"""A process that watches a live view as a browser does: it receives changes, and fetches the cuts of each new image.

It imports little, for a benchmark starts many. Times are seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np

from bluesky_streamrecon.cuts import Cut

__all__ = ["ANSWER_SECONDS", "SIDES", "watch", "watch_page"]

ANSWER_SECONDS = 30.0

SIDES = (512, 320, 320, 320)
"""Pixels of the cuts that a page asks for, at most: a row, large, two upright ones and an oblique one."""


def watch_page(url: str, ready: Callable[[], object], ending: threading.Event) -> Iterator[float]:
    """Watch a live view as one page does: receive changes, and fetch the cuts of each new image.

    Parameters
    ----------
    url : str
        Of the page, with its token.
    ready : callable
        Called when it watches.
    ending : Event
        Set elsewhere when it is to end.

    Yields
    ------
    float
        How old each image was when its cuts had arrived.
    """
    parts = urlsplit(url)
    token = parse_qs(parts.query)["token"][0]
    began, newest = time.time(), ""
    cuts = [Cut(corner=(0, 0, 0), down=(0, 1, 0), across=(0, 0, 1), shape=(1, 1))]  # which tells how large it is

    def request(method: str, path: str, body: bytes | None = None) -> HTTPResponse:
        connection = held.enter_context(contextlib.closing(HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS)))
        connection.request(method, path, body, {"X-Streamrecon-Token": token})
        return connection.getresponse()

    def fetch() -> dict[str, Any]:
        answer = request("POST", "/cuts", msgspec.json.encode({"viewer": f"bench {os.getpid()}", "cuts": cuts}))
        answer.read()
        return dict(json.loads(answer.headers.get("X-Streamrecon-Cuts", "{}")))

    with contextlib.suppress(OSError, HTTPException), contextlib.ExitStack() as held:
        changes = request("GET", "/events")
        ready()
        while not ending.is_set() and (line := changes.readline()):
            state = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if not state.get("newest") or state["newest"] == newest or not (about := fetch()):
                continue
            newest = state["newest"]
            if len(cuts) == 1:
                cuts = list(_page_cuts(*about["volume"]))
            elif about["made"] > began:  # else it was there before us
                yield time.time() - about["made"]


def _page_cuts(rows: int, height: int, width: int) -> Iterator[Cut]:
    """Yield the cuts of a page that has just been opened: through the middle, a square as large as the volume."""
    side = max(rows, height, width)
    middle = np.array([rows - 1, height - 1, width - 1]) / 2
    edges = (((0, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 0)), ((0.8, 0.6, 0), (-0.3, 0.4, 0.87)))
    for (down, across), pixels in zip(edges, SIDES, strict=True):
        corner = middle - side * (np.array(down) + across) / 2
        made = [tuple((side * np.array(edge)).tolist()) for edge in (down, across)]
        most = min(pixels, side)
        yield Cut(corner=tuple(corner.tolist()), down=made[0], across=made[1], shape=(most, most))


def watch(ending: threading.Event, url: str, fault: str) -> list[float]:
    """Watch a page, print an empty string when it does, and return how old each image was.

    With the name of a signal as `fault`, the process sends itself that one at its first picture.
    """
    os.nice(10)  # browsers are other people's computers
    delays: list[float] = []
    for delay in watch_page(url, lambda: print(json.dumps(""), flush=True), ending):
        if fault:
            os.kill(os.getpid(), signal.Signals[fault])
        delays.append(delay)
    return delays
