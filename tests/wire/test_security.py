"""Nobody gets in who is not let in, and secrets stay secret."""

from __future__ import annotations

import errno
import logging
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bluesky_streamrecon.beamline.serving import AllRanksReady, BeamlineEndpoint, PeerJoined, QueuedFrame, RunFinished
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.wire import (
    ClientSecurity,
    ControllerEndpoint,
    LinkRestored,
    OpenRun,
    OpenRunSpec,
    Preview,
    ServerSecurity,
    generate_keys,
    make_keys,
)
from bluesky_streamrecon.wire import security as key_files
from bluesky_streamrecon.wire.security import is_loopback, read_public_keys, read_secret_key


def test_key_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    public, secret = generate_keys(tmp_path / "keys", "beamline")
    assert (public.name, secret.name) == ("beamline.public", "beamline.secret")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_text()
    with pytest.raises(ConfigError, match="never overwritten"):
        generate_keys(tmp_path / "keys", "beamline")
    assert secret.read_text() == before
    secret.unlink()
    with pytest.raises(ConfigError, match=r"beamline\.public exists"):
        generate_keys(tmp_path / "keys", "beamline")
    assert not secret.exists()


@pytest.mark.parametrize("name", ["", "../escape", "a/b", ".hidden", "a b"])
def test_key_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="key name"):
        generate_keys(tmp_path, name)


def test_keys_that_do_not_fit_on_the_disk_leave_no_file_in_the_way(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(ConfigError, match="File too large"):
            generate_keys(tmp_path, "beamline")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    generate_keys(tmp_path, "beamline")


def test_public_key_that_can_not_be_written_takes_its_secret_one_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = key_files._write_new

    def full(path: Path, text: str, mode: int) -> None:
        if path.suffix == ".public":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text, mode)

    monkeypatch.setattr(key_files, "_write_new", full)
    with pytest.raises(ConfigError, match="No space left"):
        generate_keys(tmp_path, "beamline")
    assert list(tmp_path.iterdir()) == []


def test_keys_come_back_from_their_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        generate_keys(tmp_path, name)
    one = read_secret_key(tmp_path / "one.secret")
    server = ServerSecurity.from_files(tmp_path / "one.secret", tmp_path)
    client = ClientSecurity.from_files(tmp_path / "two.secret", tmp_path / "one.public")
    assert server.keys == one
    assert client.server == one.public
    assert server.allowed == {one.public, client.keys.public}


def test_secret_does_not_show(tmp_path: Path) -> None:
    keys = make_keys()
    server = ServerSecurity(keys, frozenset({keys.public}))
    for thing in (keys, server, ClientSecurity(keys, keys.public)):
        assert keys.secret not in repr(thing)
        assert keys.secret not in str(thing)


def test_secret_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    _, secret = generate_keys(tmp_path, "open")
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="got mode 640, expected 600"):
        read_secret_key(secret)


@pytest.mark.parametrize("text", ["", "short\n", "x" * 39, "ä" * 40])
def test_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.public"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        read_public_keys([path])
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        read_secret_key(path)


def test_missing_keys_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keygen"):
        read_secret_key(tmp_path / "none.secret")
    with pytest.raises(ConfigError, match="nobody could connect"):
        read_public_keys([tmp_path])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.8.0.1:*", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:5555", True),
        ("ipc://x", True),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://*:5555", False),
        ("tcp://[::]:5555", False),
        ("tcp://192.168.1.4:5555", False),
        ("tcp://eth0:5555", False),
        ("tcp://localhost.evil.org:5555", False),
    ],
)
def test_loopback_is_told_from_the_rest(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_door_to_the_network_needs_keys_or_a_clear_word(wires: Any) -> None:
    with pytest.raises(ConfigError, match="insecure=True"):
        wires.beamline(address="tcp://0.0.0.0:*")
    beamline = wires.beamline(address="tcp://0.0.0.0:*", insecure=True)
    with pytest.raises(ConfigError, match="insecure=True"):
        wires.controller(beamline, preview_bind="tcp://0.0.0.0:*")


@pytest.mark.parametrize("with_keys", [False, True])
def test_port_that_is_taken_is_told(wires: Any, with_keys: bool) -> None:
    beamline = wires.beamline()
    security = ServerSecurity(keys=make_keys(), allowed=frozenset()) if with_keys else None
    with pytest.raises(ConfigError, match="can not be bound"):
        wires.beamline(address=beamline.address, security=security)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "keys"
    for name in ("beamline", "rank", "controller", "stranger"):
        generate_keys(folder, name)
    allowed = [folder / "rank.public", folder / "controller.public"]
    return {
        "beamline": ServerSecurity.from_files(folder / "beamline.secret", allowed),
        "preview": ServerSecurity.from_files(folder / "controller.secret", [folder / "rank.public"]),
        **{
            name: ClientSecurity.from_files(folder / f"{name}.secret", folder / "beamline.public")
            for name in ("rank", "controller", "stranger")
        },
    }


def test_run_goes_through_with_keys_previews_too(
    wires: Any, keys: dict[str, Any], spec: Callable[..., OpenRunSpec]
) -> None:
    beamline: BeamlineEndpoint = wires.beamline(security=keys["beamline"])
    controller: ControllerEndpoint = wires.controller(
        beamline, security=keys["controller"], preview_security=keys["preview"]
    )
    wires.take(controller, LinkRestored)
    rank = wires.rank(beamline, security=keys["rank"])
    wires.seen.wait(AllRanksReady)
    beamline.open_run(spec())
    beamline.append(QueuedFrame("projection", 1, 0.5, wires.frame(1)))
    beamline.close_run()
    wires.take(rank, OpenRun)
    image = wires.frame(3, (8, 8), "<f4")[None]
    rank.send(Preview(run_uid="run-1", rank=0, image_number=1, projections=1, rows=(2,), shape=(8, 8), pixels=image))
    got = wires.take(controller, Preview, (OpenRun, object))
    assert (got.pixels == image).all()


def test_peers_without_the_right_keys_are_refused_and_have_no_effect(
    wires: Any, keys: dict[str, Any], spec: Callable[..., OpenRunSpec], caplog: pytest.LogCaptureFixture, told: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    beamline = wires.beamline(security=keys["beamline"])
    wrong_server = ClientSecurity(keys["rank"].keys, keys["stranger"].keys.public)
    intruders = [
        wires.rank(beamline, security=None),
        wires.rank(beamline, security=wrong_server),
        wires.rank(beamline, security=keys["stranger"]),
        wires.rank(beamline, security=keys["stranger"]),
    ]
    rank = wires.rank(beamline, security=keys["rank"])
    wires.seen.wait(AllRanksReady)
    beamline.open_run(spec())
    beamline.append(QueuedFrame("projection", 1, 0.5, wires.frame(1)))
    beamline.close_run()
    assert wires.follow(rank) == [1]
    wires.seen.wait(RunFinished)
    assert len(wires.seen.of(PeerJoined)) == 1
    assert beamline._hub.garbage.count == 0
    for intruder in intruders:
        assert intruder.next(0) is None
    told.wait("is not on the list")
    told.wait("handshake failed")
    refused = [r.message for r in caplog.records if "is not on the list" in r.message]
    assert len(refused) == 1, refused
    assert keys["stranger"].keys.public in refused[0]
    for name in ("beamline", "rank", "stranger"):
        assert keys[name].keys.secret not in caplog.text
