"""A beamline that is pretended, behind the real wire, and the page's server in front of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from bluesky_streamrecon.exit_hooks import GUARD
from bluesky_streamrecon.live_view import Source, ViewServer
from bluesky_streamrecon.wire import (
    Answer,
    Ask,
    BeamlineEndpoint,
    ControllerEndpoint,
    Judged,
    OperatorEndpoint,
    Order,
    Picture,
    RunStatus,
    ShowMe,
)

BOUND = 20.0


class Beamline:
    """Answers operators as `ReconJob` does, and shows pictures when they are wanted."""

    def __init__(self) -> None:
        self.status = RunStatus(state="running", run_uid="run-1", planned=12)
        self.judged: tuple[Judged, ...] = ()
        self.orders: list[Order] = []
        self.refuse = ""
        self._pictures: list[Picture] = []
        self._may = threading.Semaphore(0)
        self.endpoint = BeamlineEndpoint(on_event=self._hear, heartbeat_seconds=0.1)
        self._controller = ControllerEndpoint(self.endpoint.address, job_id=self.endpoint.job_id)
        self._thread = threading.Thread(target=self._draw)
        self._thread.start()

    def connect(self) -> OperatorEndpoint:
        return OperatorEndpoint(self.endpoint.address, job_id=self.endpoint.job_id)

    def show(self, number: int, grey: int = 100) -> None:
        self._pictures.append(
            Picture(
                run_uid=self.status.run_uid or "",
                image_number=number,
                projections=number,
                rows=(3, 5),
                size=4,
                full_size=8,
                low=0.0,
                high=1.0,
                pixels=bytes([grey]) * 32,
                made=1.0,
            )
        )
        self._may.release()

    def close(self) -> None:
        self._may.release()
        self._pictures.clear()
        self._controller.close(0)
        self.endpoint.close(0)
        self._thread.join(BOUND)

    def _hear(self, ask: Any, sender: Any) -> None:
        if not isinstance(ask, Ask):
            return
        ok, text = True, ""
        if ask.order is not None:
            ok, text = not self.refuse, self.refuse or f"{ask.action} done"
            if ok:
                self.orders.append(ask.order)
                held = {"hold": ask.order, "release": None}.get(ask.action, self.status.held)
                self.status = msgspec.structs.replace(self.status, held=held)
        judged = tuple(each for each in self.judged if each.image_number > ask.after)
        self.endpoint.answer(sender, Answer(number=ask.seq, ok=ok, text=text, status=self.status, judged=judged))

    def _draw(self) -> None:
        while True:
            self._may.acquire()
            if not self._pictures:
                return
            while not isinstance(event := self._controller.next(BOUND), ShowMe):
                if event is None:
                    return
            self._controller.send(self._pictures.pop(0))


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
    before = set(threading.enumerate())  # a job that goes from test to test has threads of its own
    made = Beamline()
    yield made
    made.close()
    started = set(threading.enumerate()) - before
    left = [each.name for each in started if each.name.startswith("streamrecon-") and each.name != GUARD]
    assert not left, f"still running after the test: {left}"


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
