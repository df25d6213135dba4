"""The program as scripts see it: exit codes, one clear line on stderr, JSON on the last line of stdout."""

import json
import os
import subprocess
import sys

import pytest


def streamrecon(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "bluesky_streamrecon", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        **options,
    )


def test_help_names_every_command_with_an_example():
    top = streamrecon("--help")
    assert top.returncode == 0
    for command in ("demo", "orders", "job", "control", "keygen", "export", "import", "profile"):
        assert command in top.stdout
        if command != "profile":
            assert "Example" in streamrecon(command, "--help").stdout


def test_orders_prints_the_contracts_fields_on_the_last_line():
    done = streamrecon("orders", "--num", 180, "--velocity", 90, "--exposure", 0.1, "--json")
    assert done.returncode == 0
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["orders"]}
    assert rows["optimized-interleaved"]["travel"] == 2159
    assert set(rows["fixed"]) == {"name", "worst_gap_ratio", "travel", "seconds"}


def test_orders_draws_its_picture(tmp_path):
    picture = tmp_path / "orders.png"
    done = streamrecon("orders", "--num", 30, "--out", picture)
    assert done.returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments",
    [("orders", "--order", "spiral"), ("orders", "--num", "many"), ("orders", "--span", 9, 1), ("nonsense",)],
)
def test_wrong_usage_exits_with_2_and_no_traceback(arguments):
    done = streamrecon(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_steering_without_a_job_says_where_it_looked(tmp_path):
    done = streamrecon("steer", "status", env=os.environ | {"XDG_STATE_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert f"no job of yours runs on this computer (looked in {tmp_path}" in done.stderr
    assert streamrecon("steer", "extend", 0).returncode == 2
    assert streamrecon("steer", "finish").returncode == 2
    assert streamrecon("steer", "status", "--address", "tcp://127.0.0.1:1").returncode == 2


def test_a_failure_exits_with_1_and_one_line(tmp_path):
    done = streamrecon("orders", "--num", 3, "--out", tmp_path / "no" / "such" / "folder.png")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "folder.png" in done.stderr


def test_export_and_import_refuse_what_can_not_work_before_a_catalogue_is_made(tmp_path):
    home = os.environ | {"XDG_DATA_HOME": str(tmp_path / "home")}
    wrong = streamrecon("export", "3f2a91", tmp_path / "x.tif", env=home)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "expected one that tells the layout" in wrong.stderr
    assert streamrecon("import", "x.h5", "--uri", "http://127.0.0.1:1/api/v1", env=home).returncode == 2
    (tmp_path / "x.h5").write_text("no scan")
    failed = streamrecon("import", tmp_path / "x.h5", env=home)
    assert failed.returncode == 1
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "not a readable HDF5 file" in failed.stderr
    assert not (tmp_path / "home").exists()


def test_debug_shows_where_it_failed(tmp_path):
    done = streamrecon("--log-level", "debug", "orders", "--num", 3, "--out", tmp_path / "no" / "folder.png")
    assert "Traceback" in done.stderr


def test_import_is_light():
    code = (
        "import sys, bluesky_streamrecon; print([m for m in ('numba', 'bluesky', 'zmq', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
