"""A proxy of the environment: never for what is on this computer, always for what is not."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from bluesky_streamrecon.diagnosis import ConfigFile, _tiled
from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.storage import open_catalog, open_storage, reconstruction_documents
from bluesky_streamrecon.storage.proxies import proxy_for, reaches_loopback
from bluesky_streamrecon.storage.runs import _fetching

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Proxy(ThreadingHTTPServer):
    """Forwards requests for any host to one server, and keeps the hosts that it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.target: str | None = None  # None: it can not reach anything
        super().__init__(("127.0.0.1", 0), _Forward)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(parts.hostname or self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.server.target is None or self.command == "CONNECT":
            self.send_response(502, "Bad Gateway")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=20)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "proxy-connection")}
        connection.request(self.command, f"{parts.path}?{parts.query}", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_CONNECT = _forward

    def log_message(self, *arguments) -> None:
        """Quiet."""


@pytest.fixture
def proxy():
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(autouse=True)
def _no_proxy_of_this_computer(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def stored(storage) -> bool:
    uid = str(uuid.uuid4())
    for name, doc in reconstruction_documents(uid, "raw", Path("/nowhere.h5"), (1, 2, 2)):
        storage.writer(name, doc)
    return uid in storage.catalog and storage.databroker[uid].start["uid"] == uid


@pytest.mark.parametrize(
    ("case", "no_proxy", "address"),
    [
        (str.lower, None, None),
        (str.upper, "example.org", None),
        (str.lower, "", "socks5://127.0.0.1:1"),  # needs a package that is not installed
    ],
    ids=["lower", "upper", "unusable"],
)
def test_embedded_server_is_never_reached_through_a_proxy(proxy, storage, monkeypatch, case, no_proxy, address):
    for name in NAMES[:3]:
        monkeypatch.setenv(case(name), address or proxy.url)
    if no_proxy is not None:
        monkeypatch.setenv("no_proxy", no_proxy)
    with open_storage(directory=storage.directory) as joined:  # as another process of the same user does
        assert joined.uri == storage.uri
        assert "no such run" not in joined.catalog  # asked, and answered
        assert case is str.upper or address or stored(joined)
    assert proxy.asked == []


def test_check_finds_an_embedded_server_that_starts_whatever_the_proxy(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    assert _tiled(ConfigFile()).startswith("an embedded server starts in ")
    assert proxy.asked == []


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_facility_server_is_reached_through_the_proxy(proxy, storage, tmp_path, monkeypatch, name):
    proxy.target = urlsplit(storage.uri).netloc
    monkeypatch.setenv(name, proxy.url.replace("//", "//user:word@"))
    uri = storage.uri.replace(proxy.target, "tiled.facility.invalid")
    with open_storage(uri, directory=tmp_path) as facility:
        assert "no such run" not in facility.catalog  # asked, and answered
        assert name == "ALL_PROXY" or stored(facility)
    assert set(proxy.asked) == {"tiled.facility.invalid"}
    if name == "ALL_PROXY":
        return
    said = _tiled(ConfigFile(storage=type(ConfigFile().storage)(uri=uri, directory=storage.directory)))
    where = "http://tiled.facility.invalid/api/v1"
    assert said == f"{where} takes a run with frames and reads them back through the proxy {proxy.url}"


def test_host_in_no_proxy_is_reached_directly(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", ".facility.invalid")
    with pytest.raises(StorageError, match=r"http://tiled\.facility\.invalid/api/v1: no answer .*is the server up"):
        open_catalog("http://tiled.facility.invalid/api/v1")
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("refuses", r"the proxy answers 502 Bad Gateway; is the server up, and may the proxy be used for it\?"),
        ("is down", r"no answer \(.*refused\); is the proxy up\? To go without it, add the host to no_proxy"),
        ("socks", r"no answer \(.*SOCKS.*\); is the proxy up\? To go without it, add the host to no_proxy"),
    ],
)
def test_proxy_that_is_at_fault_is_named_without_its_password(proxy, monkeypatch, kind, said):
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    address = {"refuses": proxy.url, "is down": f"http://127.0.0.1:{closed}", "socks": "socks5://127.0.0.1:1"}[kind]
    monkeypatch.setenv("http_proxy", address.replace("//", "//user:word@"))
    began = time.monotonic()
    with pytest.raises(StorageError) as caught:
        open_catalog("http://tiled.facility.invalid/api/v1?api_key=secret")
    assert time.monotonic() - began < 20
    through = re.escape(f"Tiled at http://tiled.facility.invalid/api/v1, through the proxy {address} ")
    assert re.match(rf"{through}\(named by the environment\): {said}", str(caught.value))
    assert "word" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.1.1", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("tiled.localhost", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("0.0.0.0", True),
        ("10.0.0.7", False),
        ("localhost.facility.org", False),
        ("127.0.0.1.facility.org", False),
    ],
)
def test_loopback_is_told_by_its_address_alone(monkeypatch, host, loopback):
    monkeypatch.setenv("all_proxy", "proxy:3128")
    assert reaches_loopback(f"http://{host}:8000/api/v1") is loopback
    assert proxy_for(f"http://{host}:8000/api/v1") == (None if loopback else "http://proxy:3128")


@pytest.mark.parametrize(
    ("host", "whose"),
    [("127.0.0.1:8000", "--readable DIR, or open_storage"), ("tiled.facility.org", "a setting of that server")],
)
def test_file_that_a_server_does_not_send_is_told_with_what_can_be_done_there(host, whose):
    request = httpx.Request("GET", f"http://{host}/api/v1/array/block/x")
    with pytest.raises(StorageError) as caught, _fetching("run u, primary"):
        httpx.Response(500, request=request).raise_for_status()
    assert f"Tiled at http://{host} did not send the data (HTTP status 500)" in str(caught.value)
    assert f"that the server may read ({whose}" in str(caught.value)
