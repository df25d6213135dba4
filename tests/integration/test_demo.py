"""The main job from the command line: real RunEngine, MPI, ZeroMQ, HDF5 and Tiled."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiled_tables import give_tables

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.demo import run_demo

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]

TOOTH = Path(__file__).parent.parent / "data" / "tooth.h5"


@pytest.fixture(scope="module")
def tooth(tmp_path_factory):
    out = tmp_path_factory.mktemp("tooth")
    give_tables(out / "catalogue")
    command = [sys.executable, "-m", "bluesky_streamrecon", "demo", "--out", str(out), "--json", "--data", str(TOOTH)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stderr
    return out, done, json.loads(done.stdout.splitlines()[-1])


def test_tooth_ends_by_quality_before_all_projections_are_taken(tooth):
    _, _, result = tooth
    assert result["exit_status"] == "success"
    assert result["projections_planned"] == 181
    assert 48 <= result["projections_used"] < 181
    assert result["score"] >= 0.95
    for word in (
        "predicted to improve the image by",
        "(tolerance 0.02)",
        "MS-SSIM 0.9",
        str(result["projections_used"]),
        "181",
    ):
        assert word in result["reason"]


def test_tooth_axis_is_found_within_a_pixel(tooth):
    assert abs(tooth[2]["axis"] - 295.65) < 1


def test_tooth_ledger_adds_up(tooth):
    ledger = tooth[2]["ledger"]
    assert ledger["balanced"]
    assert ledger["sent"] == ledger["acknowledged"] == ledger["applied"]
    assert ledger["dropped"] == ledger["duplicate"] == 0


def test_demo_leaves_a_picture_and_prints_the_table_of_the_run(tooth):
    _, done, result = tooth
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    lines = done.stderr.splitlines()
    (head,) = (number for number, line in enumerate(lines) if "predicted gain" in line)
    assert all(word in lines[head] for word in ("projections", "angle", "score", "lag"))
    taken = [int(line.split()[0]) for line in lines[head + 1 :] if " of 181 " in line[:14]]
    assert taken == sorted(taken)
    assert len(taken) > 5
    said = " ".join(line.strip() for line in lines[:head])
    assert "Steer: streamrecon steer status, finish 'why', hold." in said  # there is no prompt


def test_finished_volume_is_drawn_and_stored_beside_the_live_image(tooth):
    finished = tooth[2]["finished"]
    assert Path(finished["picture"]).read_bytes().startswith(b"\x89PNG")
    assert 0.9 < finished["similarity_to_live"] < 1
    with h5py.File(finished["file"]) as file:
        assert file["/exchange/volume"].shape == file["/exchange/data"].shape
        assert file["/exchange/volume"].attrs["similarity_to_live"] == finished["similarity_to_live"]


def test_runs_of_the_demo_are_read_back_by_tiled_and_databroker(tooth):
    from bluesky_streamrecon.storage import load_reconstruction, load_run, open_storage

    out, _, result = tooth
    with open_storage(directory=out / "catalogue", readable=[out]) as storage:
        scan = load_run(storage.catalog, result["run_uid"])
        volume = load_reconstruction(storage.catalog, result["recon_uid"])
        assert scan.projections.shape[1:] == (2, 640)
        assert len(scan.angles) == scan.projections.shape[0] >= result["projections_used"]
        assert volume.shape == (2, 640, 640)
        assert volume.max() > 0
        assert not np.array_equal(volume, load_reconstruction(storage.catalog, result["run_uid"], live=True))
        start = storage.databroker[result["recon_uid"]].start
        assert start["raw_run_uid"] == result["run_uid"]


def test_a_scan_that_never_reaches_the_threshold_takes_all_angles_and_says_so(program, tmp_path):
    small = ("--num", 20, "--rows", 4, "--columns", 64, "--window", 6, "--ranks", 1)
    done = program("demo", "--out", tmp_path, "--json", "--threshold", 1, *small)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["projections_used"] == result["projections_planned"] == 20
    assert result["exit_status"] == "success"
    assert "all 20 projections" in result["reason"]


def test_a_file_that_is_no_scan_is_refused_with_one_line(program, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"this is not HDF5")
    done = program("demo", "--out", tmp_path / "out", "--data", bad)
    assert done.returncode in (1, 2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "bad.h5" in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preparation": ("no-such-step",)}, "preparation step"),
        ({"preparation": ({"step": "wavelet-rings", "levels": 9},)}, "levels: got 9; expected"),
        ({"preparation": ({"step": "wavelet-rings", "levels": 6},)}, "expected at least 512"),
        ({"algorithm": "no-such-algorithm"}, "no-such-algorithm"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_written(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        run_demo(out=tmp_path / "out", simulated={"rows": 2, "columns": 64}, **settings)
    assert not (tmp_path / "out").exists()
