"""``streamrecon check`` and ``streamrecon config show``, with everything real."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from bluesky_streamrecon import diagnosis
from bluesky_streamrecon.diagnosis import CheckItem, check_setup
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.wire import generate_keys

pytestmark = pytest.mark.usefixtures("no_orphans")


@pytest.fixture(autouse=True)
def _no_file_of_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("STREAMRECON_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("STREAMRECON_DATA", str(tmp_path / "data"))


@pytest.fixture
def configured(tmp_path):
    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def no_server(monkeypatch):
    monkeypatch.setattr(diagnosis, "_tiled", lambda configuration: "not tried")


def checked(path, patience=30.0):
    return {item.name: item for item in check_setup(path, patience=patience)}


@pytest.mark.mpi
def test_setup_that_works_is_ok_in_every_item_and_keys_are_used(program, configured, tmp_path):
    for name in ("beamline", "cluster"):
        generate_keys(tmp_path, name)
    path = configured(
        '[job]\nkey = "beamline.secret"\nallowed = ["cluster.public"]\n'
        'job_key = "cluster.secret"\nserver_key = "beamline.public"\n'
    )
    done = program("check", "--config", path, "--timeout", "50", "--json")
    items = {item["name"]: item for item in json.loads(done.stdout.splitlines()[-1])["items"]}
    assert {name.replace(" ", "_"): item["status"] for name, item in items.items()} == dict.fromkeys(
        [
            "packages",
            "configuration",
            "keys",
            "disk",
            "gpu",
            "mpi",
            "port",
            "job",
            "versions",
            "clocks",
            "round_trip",
            "rate",
            "tiled",
        ],
        "OK",
    )
    assert done.returncode == 0
    assert set(items["mpi"]) == {"name", "status", "hint"}
    assert "mode 600" in items["keys"]["hint"]
    assert " ms " in items["round trip"]["hint"]
    assert "MB/s" in items["rate"]["hint"]


@pytest.mark.mpi
def test_mpi_of_another_kind_is_found_out(configured, no_server, tmp_path):
    program = tmp_path / "mpiexec"
    program.write_text('#!/bin/bash\nshift 2\nMPI= "$@" & "$@" & wait\n')
    program.chmod(0o755)
    items = checked(configured(f'[job]\nmpiexec = "{program}"\n'))
    assert items["mpi"].status == "ERROR"
    assert "got ranks in worlds of 1, 1, expected 2 in one" in items["mpi"].hint
    assert "job" not in items


def test_job_that_never_comes_is_a_timeout_that_says_how_to_start_it(configured, no_server):
    items = checked(configured('[job]\nlauncher = "none"\njob_id = "far-away"\n'), patience=0.2)
    assert items["job"].status == "TIMEOUT"
    assert "no process; missing: " in items["job"].hint
    assert "start the job with --job-id far-away" in items["job"].hint
    assert "mpi" not in items


@pytest.mark.parametrize(
    ("backend", "status", "said"),
    [
        ("auto", "OK", "none here, so runs compute on the CPU: there is no NVIDIA driver here"),
        ("cuda", "ERROR", "there is no NVIDIA driver here"),
        ("cpu", "OK", "not asked for"),
    ],
)
def test_gpu_that_is_missing_is_an_error_only_where_it_is_asked_for(
    configured, no_server, monkeypatch, backend, status, said
):
    monkeypatch.setenv("NUMBA_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    text = f"[job]\nmpiexec = '/nowhere/mpiexec'\n[recon]\nbackend = '{backend}'\n"  # no job: it takes seconds
    item = checked(configured(text), patience=0.2)["gpu"]
    assert item.status == status
    assert item.hint.startswith(said)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ('address = "tcp://0.0.0.0:*"', "keys", "other machines can reach it and there are no keys"),
        ('key = "loose.secret"\nallowed = ["loose.public"]\n', "keys", "got mode 644, expected 600"),
        ('address = "tcp://127.0.0.1:{taken}"', "port", "can not be bound"),
        ("rank = 2", "configuration", "known fields"),
    ],
)
def test_what_is_wrong_is_an_error_with_what_to_do(configured, no_server, tmp_path, text, name, said):
    _, secret = generate_keys(tmp_path, "loose")
    secret.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = text.replace("{taken}", str(other.getsockname()[1]))
        items = checked(configured(f'[job]\nlauncher = "none"\n{text}\n'), patience=0.1)
    assert items[name].status == "ERROR"
    assert said in items[name].hint


def test_keys_that_do_not_belong_together_are_found_out(configured, no_server, tmp_path):
    for name in ("beamline", "cluster", "other"):
        generate_keys(tmp_path, name)
    good = '[job]\nkey = "beamline.secret"\nallowed = ["cluster.public"]\nranks = 1\nmpiexec = "/none"\n'
    stranger = checked(configured(good + 'job_key = "other.secret"\nserver_key = "beamline.public"\n'))
    assert "its public key is not among `allowed`" in stranger["keys"].hint
    mixed = checked(configured(good + 'job_key = "cluster.secret"\nserver_key = "other.public"\n'))
    assert "not the public half of" in mixed["keys"].hint


def test_versions_and_clocks_that_differ_are_told(monkeypatch):
    from bluesky_streamrecon.wire.events import PeerInfo

    peer = {
        "job_id": "job",
        "role": "rank",
        "rank": 0,
        "size": 1,
        "host": "far",
        "pid": 1,
        "instance": "i",
        "linked": True,
    }

    class Link:
        class endpoint:
            @staticmethod
            def peers():
                return (PeerInfo(**peer, software="bluesky-streamrecon 0.0.1", ahead=-90.0),)

    probe = diagnosis._JobProbe(diagnosis.ConfigFile(), 1.0)
    probe._link = Link
    with pytest.raises(Exception, match=r"there bluesky-streamrecon 0\.0\.1; install the same version"):
        probe.versions()
    with pytest.raises(Exception, match=r"the clock of far differs by -90\.0 s"):
        probe.clocks()


def test_clocks_are_compared_when_every_process_has_sent_a_heartbeat(monkeypatch):
    peers = [SimpleNamespace(host="near", ahead=-0.002), SimpleNamespace(host="far", ahead=None)]

    def heard_so_far():
        now = tuple(SimpleNamespace(**vars(peer)) for peer in peers)
        peers[1].ahead = 0.001  # as the heartbeat says
        return now

    probe = diagnosis._JobProbe(diagnosis.ConfigFile(), 1.0)
    probe._link = SimpleNamespace(endpoint=SimpleNamespace(peers=heard_so_far))
    assert probe.clocks().startswith("largest difference -2 ms (near), ")
    monkeypatch.setattr(diagnosis, "HEARTBEATS_SECONDS", 0.0)
    probe._link.endpoint.peers = lambda: (SimpleNamespace(host="silent", ahead=None),)
    with pytest.raises(Exception, match="no heartbeat"):
        probe.clocks()


def test_check_that_breaks_is_a_finding():
    def broken():
        raise ZeroDivisionError("oh")

    def refused():
        raise ConfigError("not so")

    assert diagnosis._tried("a", broken) == CheckItem("a", "ERROR", "ZeroDivisionError: oh")
    assert diagnosis._tried("b", refused) == CheckItem("b", "ERROR", "not so")


def test_show_gives_every_setting_and_its_origin(program, configured):
    path = configured("[recon]\nwindow = 30\n")
    done = program("config", "show", "--config", path, "--json")
    shown = json.loads(done.stdout.splitlines()[-1])
    rows = {row["name"]: row for row in shown["settings"]}
    assert rows["recon.window"] == {"name": "recon.window", "value": 30, "origin": str(path)}
    assert rows["job.ranks"]["origin"] == "default"
    assert "recon.window" in program("config", "show", "--config", path).stdout


def test_wrong_file_exits_with_2_and_one_line(program, configured):
    done = program("config", "show", "--config", configured("[nonsense]\n"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
