"""``streamrecon bench``: the fields that scripts rely on, from tiny cases, and nothing left running.

What measures with processes or for seconds is for the night: `pytest -m nightly`.
"""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from bluesky_streamrecon.cli._bench import app
from bluesky_streamrecon.errors import StreamReconError
from bluesky_streamrecon.evaluation.report import Report

COMMANDS = (
    "kernels",
    "peers",
    "pipeline",
    "view",
    "publisher",
    "wire",
    "memory",
)
pytestmark = pytest.mark.timeout(150)


def bench(*arguments):
    done = CliRunner().invoke(app, [str(word) for word in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1]) if "--json" in arguments else done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    assert f"Example: streamrecon bench {command}" in " ".join(bench(command, "--help").replace("│", "").split())


@pytest.mark.parametrize("command", ["kernels", "peers", "memory"])
def test_gpu_that_is_missing_is_one_line(command, monkeypatch, capfd, no_orphans):
    monkeypatch.setenv("NUMBA_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    with pytest.raises(StreamReconError) as error:
        bench(command, "--columns", 32, "--backend", "cuda")
    said = f"{capfd.readouterr().err}{error.value}"  # by the process beside, or by the command
    assert said.startswith("there is no NVIDIA driver here")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("kernels", "--backend", "gpu"),
        ("peers", "--backend", "auto"),
        ("memory", "--backend", "auto"),
        ("kernels", "--repeats", "2"),
        ("kernels", "--threads", "0"),
        ("peers", "--window", "0"),
        ("pipeline", "--exposure", "0"),
        ("view", "--viewers", "0"),
        ("view", "--exposure", "11"),
    ],
)
def test_what_can_not_be_measured_is_refused(command, option, value):
    done = CliRunner().invoke(app, [command, option, value])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


@pytest.mark.parametrize(
    "columns", [("--columns", 16, 24), ("--columns", 16, "--columns", 24), ("--columns=16", "--columns", 24)]
)
def test_kernels_take_lists(columns, monkeypatch):
    taken = []

    def measure(**settings):
        taken.append(settings["columns"])
        return Report({})

    monkeypatch.setattr("bluesky_streamrecon.evaluation.bench.kernels.measure_kernels", measure)
    bench("kernels", *columns, "--window", 3, "--json")
    assert taken == [[16, 24]]


def test_kernels_print_the_contracts_fields():
    case = ("--columns", 16, 24, "--window", 3, "--slices", 2, "--algorithm", "mlem", "--repeats", 3)
    result = bench("kernels", *case, "--json")
    assert result["probe_gfma"] > 0
    assert [row["columns"] for row in result["rows"]] == [16, 24]
    wanted = {"algorithm", "columns", "window", "slices", "threads", "gups", "spread", "gups_per_gfma"}
    assert all(wanted <= set(row) for row in result["rows"])
    assert all(row["window"] == 3 and row["slices"] == 2 and row["gups"] > 0 for row in result["rows"])


def test_kernels_print_a_table_for_people():
    text = bench("kernels", "--columns", 16, "--window", 3, "--slices", 2, "--algorithm", "sirt", "--repeats", 3)
    for word in ("probe_gfma", "sirt", "gups"):
        assert word in text


@pytest.mark.nightly
def test_peers_print_the_contracts_fields_with_ours_among_them():
    pytest.importorskip("astra")
    result = bench("peers", "--columns", 32, "--window", 6, "--json")
    assert [row["code"] for row in result["rows"]] == ["streamrecon", "streamrecon", "astra", "astra"]
    for row in result["rows"]:
        assert {"code", "version", "columns", "threads", "gups"} <= set(row)
        assert row["threads"] == 1
        assert row["gups"] > 0
    assert result["rows"][0]["ratio"] == 1
    assert all(row["ratio"] > 0 for row in result["rows"][1:])


@pytest.mark.nightly
def test_memory_is_near_what_is_documented():
    (row,) = bench("memory", "--columns", 256, "--window", 24, "--algorithm", "mlem", "--json")["rows"]
    assert {"algorithm", "bytes_per_voxel", "bytes_per_thread"} <= set(row)
    # Margins are a fifth of so small an image.
    assert 0.95 * row["documented_per_voxel"] < row["bytes_per_voxel"] < 1.3 * row["documented_per_voxel"]
    assert row["bytes_per_thread"] < 1.5 * row["documented_per_thread"]


@pytest.mark.mpi
@pytest.mark.nightly
def test_pipeline_makes_every_image_and_prints_the_contracts_fields(no_orphans):
    case = ("--rows", 4, "--columns", 48, "--window", 4, "--step", 2, "--ranks", 2, "--threads", 1, "--num", 17)
    result = bench("pipeline", *case, "--json")
    wanted = (
        "projections_per_second",
        "kernel_projections_per_second",
        "kernel_share",
        "latency_median",
        "latency_p99",
    )
    for name in wanted:
        assert result[name] > 0
    assert result["latency_median"] <= result["latency_p99"]
    assert result["processor_share"] is None or 0 <= result["processor_share"] < 1
    assert result["images"] == 7  # after 4, 6, ..., 16 projections
    assert 0 <= result["scores"] <= 7  # a controller that is behind judges only the last one
    assert 0 < result["image_latency_median"] <= result["image_latency_p99"]


@pytest.mark.nightly
def test_publisher_prints_the_contracts_fields(no_orphans):
    result = bench("publisher", "--rows", 32, "--columns", 16, "--num", 12, "--json")
    assert result["frame_bytes"] == 32 * 16 * 2
    assert 0 < result["median_ms"] <= result["p99_ms"]
    assert [row["detector"] for row in result["rows"]] == ["frames in events", "frames in a file"]
    assert all(row["projections"] == 12 for row in result["rows"])


@pytest.mark.nightly
def test_wire_prints_the_contracts_fields(no_orphans):
    result = bench("wire", "--rows", 33, "--columns", 64, "--num", 10, "--json")
    for name in ("share_of_bare", "share_of_bare_curve", "gigabytes_per_second"):
        assert result[name] > 0
    assert (result["receivers"], result["frames"], result["frame_bytes"]) == (2, 10, 33 * 64 * 2)


@pytest.mark.mpi
@pytest.mark.nightly
@pytest.mark.parametrize(
    "arguments",
    [
        (
            "pipeline",
            "--rows",
            "4",
            "--columns",
            "64",
            "--window",
            "4",
            "--step",
            "1",
            "--num",
            "12",
            "--repeats",
            "10000",
        ),
        ("wire", "--rows", "64", "--columns", "64", "--repeats", "100000"),
    ],
)
def test_nothing_is_left_running_after_ctrl_c(arguments, no_orphans):
    program = subprocess.Popen(
        [sys.executable, "-m", "bluesky_streamrecon", "bench", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    kill = threading.Timer(100, program.kill)
    kill.start()
    try:
        heard = next((line for line in program.stderr if "turn 2" in line), None)
        assert heard is not None
        program.send_signal(signal.SIGINT)
        rest = []
        for line in program.stderr:
            rest.append(line)
            if line.startswith("Exception ignored in"):  # Python has lost it in a finalizer: people press it again
                program.send_signal(signal.SIGINT)
        assert program.wait(60) in (1, 130)
        lost = sum(line.startswith("Exception ignored in") for line in rest)
        assert sum("Traceback" in line for line in rest) == lost
    finally:
        kill.cancel()
        program.kill()
        program.stderr.close()
        program.wait()


def test_a_missing_peer_is_wrong_usage_with_one_clear_line():
    code = (
        "import sys; sys.modules['astra'] = None; from bluesky_streamrecon.cli import main; "
        "sys.argv = ['streamrecon', 'bench', 'peers', '--columns', '16']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install 'bluesky-streamrecon[bench]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.mpi
@pytest.mark.nightly
def test_every_decision_of_a_full_window_is_timed_at_the_detectors_pace_by_the_policy_that_is_named(no_orphans):
    case = ("--rows", 2, "--columns", 48, "--window", 24, "--step", 1, "--num", 50)
    result = bench("pipeline", *case, "--exposure", 0.01, "--policy", "predicted-gain", "--json")
    assert (result["images"], result["policy"]) == (27, "predicted-gain")
    assert 0 < result["latency_median"] <= result["latency_p99"]
    assert 0 < result["update_seconds"] < result["latency_median"]


@pytest.mark.mpi
@pytest.mark.nightly
@pytest.mark.timeout(400)  # page and viewers give way to all else on this computer
def test_view_prints_the_contracts_fields(no_orphans, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    case = ("--rows", 4, "--columns", 64, "--num", 60, "--exposure", 0.04)
    result = bench("view", "--viewers", 3, *case, "--json")
    assert [(row["viewers"], row["faulty"]) for row in result["rows"]] == [(0, 0), (3, 0), (3, 2)]
    for row in result["rows"][1:]:
        assert row["pictures"] >= 2
        assert 0 < row["median_delay"] <= row["p99_delay"]
        assert row["rate_ratio"] > 0
        assert row["processor_ratio"] > 0
    assert {"median_delay", "viewers", "rate_ratio", "side", "pictures_per_second"} <= set(result)
