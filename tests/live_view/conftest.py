"""A beamline that is pretended, and the page's server in front of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pretended_beamline import BOUND, Beamline, pretended_beamline

from bluesky_streamrecon.live_view import Source, ViewServer


class Page:
    """Speaks HTTP as a browser does, without being one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.port = parts.port
        self.token = parse_qs(parts.query)["token"][0]
        self._open: list[http.client.HTTPConnection] = []

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=BOUND)
        self._open.append(connection)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), named)
        return connection.getresponse()

    def order(self, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        answer = self.ask("POST", "/order", body, X_Streamrecon_Token=self.token, **headers)
        return answer.status, json.loads(answer.read())

    def changes(self) -> Iterator[dict[str, Any]]:
        answer = self.ask("GET", f"/events?token={self.token}")
        assert answer.status == 200
        while line := answer.readline():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def close(self) -> None:
        for connection in self._open:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.close()
            connection.close()


@pytest.fixture
def beamline() -> Iterator[Beamline]:
    with pretended_beamline() as made:
        yield made


@pytest.fixture
def server(beamline) -> Iterator[ViewServer]:
    source = Source(beamline.connect, "anna@here")
    made = ViewServer(source)
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join(BOUND)
    source.close()
    assert not thread.is_alive()


@pytest.fixture
def page(server) -> Iterator[Page]:
    made = Page(server.url)
    yield made
    made.close()
