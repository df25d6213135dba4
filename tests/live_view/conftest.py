"""A beamline that is pretended, and the page's server in front of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import CHROMIUM, in_chromium
from pretended_beamline import BOUND, Beamline, pretended_beamline

from bluesky_streamrecon.live_view import Source, ViewServer, images


class Page:
    """Speaks HTTP as a browser does, without being one; HTTPS if it has a certificate to trust."""

    def __init__(self, url: str, certificate: Path | None = None) -> None:
        parts = urlsplit(url)
        self.port, self._path = parts.port, parts.path.rstrip("/")
        self._trusted = None if certificate is None else ssl.create_default_context(cafile=str(certificate))
        self.token = parse_qs(parts.query)["token"][0]
        self._open: list[http.client.HTTPConnection] = []

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        if self._trusted is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=BOUND)
        else:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=BOUND, context=self._trusted)
        self._open.append(connection)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, self._path + path, None if body is None else json.dumps(body), named)
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
def server(beamline, monkeypatch) -> Iterator[ViewServer]:
    monkeypatch.setattr(images, "SECONDS", 0.0)  # every image is kept
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
def browse() -> Iterator[Callable[..., Page]]:
    with contextlib.ExitStack() as opened:
        yield lambda *about: opened.enter_context(contextlib.closing(Page(*about)))


@pytest.fixture
def page(server, browse) -> Page:
    return browse(server.url)


@pytest.fixture
def window(server) -> Iterator[Any]:
    """The page in a real browser; nothing may be wrong in its console."""
    if CHROMIUM.args[0]:
        pytest.skip(CHROMIUM.kwargs["reason"])
    with in_chromium(server.url) as (page, _):
        yield page
