"""The page behind a proxy that speaks TLS, with a real one."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from pretended_beamline import BOUND

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.live_view import Source, ViewServer

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "show-the-page-elsewhere.md"
needs_nginx = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("openssl")), reason="nginx or openssl is not installed here"
)


@pytest.fixture
def proxied(beamline, browse, tmp_path):
    """Run nginx with the how-to's own lines in front of the page, and give the page as it is seen through it."""
    certificate, key, listening = tmp_path / "hutch.crt", tmp_path / "hutch.key", socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]  # nginx takes the socket over, so that whoever comes before it is ready waits
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    source = Source(beamline.connect, "anna@here")
    server = ViewServer(source, public_url=f"https://localhost:{port}/view")
    (lines,) = re.findall(r"```nginx\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    for theirs, ours in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("hutch.example", "localhost"),
        ("/etc/ssl/", f"{tmp_path}/"),
        ("127.0.0.1:8051", f"127.0.0.1:{server.port}"),
    ):
        assert theirs in lines
        lines = lines.replace(theirs, ours)
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} {lines} }}\n"
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    nginx = subprocess.Popen(
        ["nginx", "-p", tmp_path, "-e", tmp_path / "log", "-c", configuration],
        env=os.environ | {"NGINX": f"{listening.fileno()};"},
        pass_fds=[listening.fileno()],
        stderr=subprocess.PIPE,
    )
    listening.close()
    try:
        yield browse(server.url, certificate)
    finally:
        nginx.terminate()
        nginx.communicate(timeout=BOUND)
        server.stop()
        thread.join(BOUND)
        source.close()
        assert not thread.is_alive()


@needs_nginx
def test_page_behind_nginx_shows_the_run_and_takes_orders_from_itself_alone(proxied, beamline):
    assert proxied.ask("GET", "/").status == 403
    assert proxied.ask("GET", f"/?token={proxied.token}").status == 200
    assert next(proxied.changes())["run"] == "run-1"
    order = {"action": "hold", "run": "run-1"}
    for elsewhere in ("https://evil.example", f"http://localhost:{proxied.port}"):
        answer = proxied.ask("POST", "/order", order, X_Streamrecon_Token=proxied.token, Origin=elsewhere)
        assert answer.status == 403
    assert beamline.orders == []
    assert proxied.order(order, Origin=f"https://localhost:{proxied.port}") == (200, {"ok": True, "text": "hold done"})


@pytest.mark.parametrize("address", ["http://hutch.example/", "hutch.example", "https://hutch.example/?token=x"])
def test_public_address_without_tls_is_refused(address):
    with pytest.raises(ConfigError, match="expected one with TLS"):
        ViewServer(None, public_url=address)
