"""The program as scripts see it: exit codes, one clear line on stderr, JSON on the last line of stdout."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires

import pytest


def test_process_exits_with_the_code_and_prints_what_scripts_read():
    command = [sys.executable, "-m", "bluesky_streamrecon", "orders", "--num"]
    fine, wrong = (
        subprocess.run([*command, num, "--json"], capture_output=True, text=True, timeout=50, check=False)
        for num in ("180", "many")
    )
    assert (fine.returncode, fine.stderr) == (0, "")
    assert json.loads(fine.stdout.splitlines()[-1])["orders"]
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Traceback" not in wrong.stderr


def test_help_names_every_command_with_an_example(program):
    top = program("--help")
    assert top.returncode == 0
    for command in ("demo", "orders", "job", "control", "keygen", "export", "import", "runs", "last", "profile"):
        assert command in top.stdout
        if command != "profile":
            assert "Example" in program(command, "--help").stdout


def test_orders_prints_the_contracts_fields_on_the_last_line(program):
    done = program("orders", "--num", 180, "--velocity", 90, "--exposure", 0.1, "--json")
    assert done.returncode == 0
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["orders"]}
    assert rows["optimized-interleaved"]["travel"] == 2159
    assert set(rows["fixed"]) == {"name", "worst_gap_ratio", "travel", "seconds"}


def test_orders_draws_its_picture(program, tmp_path):
    picture = tmp_path / "orders.png"
    done = program("orders", "--num", 30, "--out", picture)
    assert done.returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments",
    [("orders", "--order", "spiral"), ("orders", "--num", "many"), ("orders", "--span", 9, 1), ("nonsense",)],
)
def test_wrong_usage_exits_with_2_and_no_traceback(program, arguments):
    done = program(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_steering_without_a_job_says_where_it_looked(program, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = program("steer", "status")
    assert done.returncode == 1
    assert f"no job of yours runs on this computer (looked in {tmp_path}" in done.stderr
    assert program("steer", "extend", 0).returncode == 2
    assert program("steer", "finish").returncode == 2
    assert program("steer", "status", "--address", "tcp://127.0.0.1:1").returncode == 2


def test_a_failure_exits_with_1_and_one_line(program, tmp_path):
    done = program("orders", "--order", "fixed", "--out", tmp_path / "no" / "such" / "folder.png")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "folder.png" in done.stderr


def test_export_and_import_refuse_what_can_not_work_before_a_catalogue_is_made(program, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    wrong = program("export", "3f2a91", tmp_path / "x.mat")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "expected one that names the layout" in wrong.stderr
    assert program("export", "3f2a91", tmp_path / "x.nxs", "--live").returncode == 2
    assert program("export", "3f2a91", tmp_path / "x.ome.zarr", "--energy", "25").returncode == 2
    assert program("import", "x.h5", "--uri", "http://127.0.0.1:1/api/v1").returncode == 2
    (tmp_path / "x.h5").write_text("no scan")
    failed = program("import", tmp_path / "x.h5")
    assert failed.returncode == 1
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "not a readable HDF5 file" in failed.stderr
    assert not (tmp_path / "home").exists()


def test_debug_shows_where_it_failed(program, tmp_path):
    done = program("--log-level", "debug", "orders", "--order", "fixed", "--out", tmp_path / "no" / "folder.png")
    assert "Traceback" in done.stderr


def test_import_is_light():
    heavy = ("numba", "bluesky", "zmq", "numpy", "p4p", "epics", "aioca", "redis")
    code = f"import sys, bluesky_streamrecon; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_base_installation_has_neither_epics_nor_redis():
    base = [each for each in requires("bluesky-streamrecon") or () if "extra ==" not in each]
    assert any(each.startswith("ophyd-async") for each in base)
    assert not [each for each in base if re.match(r"p4p|pyepics|aioca|caproto|pvapy|redis|bluesky-queueserver", each)]
    assert not [each for each in base if re.match(r"ophyd-async\[.*(ca|pva)", each)]
