"""Which run a person means, and what is said of the stored ones."""

from __future__ import annotations

import json

import bluesky.plans as bp
import pytest
from ophyd.sim import det

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.plans.engines import run_engine
from bluesky_streamrecon.storage import find_run, last_scan_id, list_runs, open_storage
from bluesky_streamrecon.storage.runs import find_raw_run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A catalogue with three scans, the second of which has a reconstruction; and all uids."""
    with run_engine() as RE, open_storage(directory=tmp_path_factory.mktemp("listing")) as storage:
        RE.md |= {"scan_id": 40, "sample_name": "foam"}
        RE.subscribe(storage.writer)
        plans = (
            bp.count([det], 2, md={"plan_name": "stream_tomo_fly_plan"}),
            bp.count([det], 3, md={"streamrecon": {"recon_uid": "none"}}),
            bp.count([det], 1, md={"raw_run_uid": "of the second"}),
            bp.count([det], 4),
        )
        uids = [RE(plan).run_start_uids[0] for plan in plans]
        assert storage.flush()
        yield storage.catalog, uids


def uid_of(run):
    return run.metadata["start"]["uid"]


def test_run_is_found_by_uid_its_beginning_and_scan_id(stored):
    catalog, uids = stored
    assert uid_of(find_run(catalog, uids[1])) == uids[1]
    assert uid_of(find_run(catalog, uids[1][:12])) == uids[1]
    assert uid_of(find_run(catalog, 42)) == uid_of(find_run(catalog, "42")) == uids[1]


@pytest.mark.parametrize(("back", "scan"), [("-1", 3), (-1, 3), ("-2", 1), ("-3", 0)])
def test_runs_counted_from_the_last_are_scans_not_reconstructions(stored, back, scan):
    catalog, uids = stored
    assert uid_of(find_run(catalog, back)) == uids[scan]


@pytest.mark.parametrize("run", ["ffffffff", "abc", "7", "1234567", "-4", "", "0"])
def test_run_that_is_not_there_is_refused_in_one_line(stored, run):
    with pytest.raises(StorageError) as refused:
        find_run(stored[0], run)
    assert str(refused.value).startswith(f"run {run}: ")
    assert "\n" not in str(refused.value)


def test_reconstruction_whose_scan_is_not_there_is_named_with_the_scan(stored):
    catalog, uids = stored
    with pytest.raises(StorageError, match=f"run {uids[2]}: is the reconstruction of of the second, which is not in"):
        find_raw_run(catalog, uids[2])


def test_list_has_the_newest_scans_first_and_how_they_ended(stored):
    catalog, uids = stored
    newest, second, _ = found = list_runs(catalog)
    assert [run["uid"] for run in found] == [uids[3], uids[1], uids[0]]
    assert newest["plan"] == "count"
    assert (newest["scan_id"], newest["sample"], newest["projections"]) == (44, "foam", 4)
    assert (newest["exit_status"], newest["recon_uid"], second["recon_uid"]) == ("success", None, "none")
    assert list_runs(catalog, 1) == [newest]


def test_numbers_go_on_after_the_last_scan(stored):
    assert last_scan_id(stored[0]) == 44


def test_commands_list_the_scans_and_the_last_and_take_minus_one_as_a_run(stored, program, tmp_path):
    catalog, uids = stored
    where = ("--uri", catalog.uri.partition("/api/v1")[0] + "/api/v1?api_key=" + str(catalog.context.api_key))
    listed = program("runs", *where, "--count", 2, "--json")
    assert listed.returncode == 0, listed.stderr
    assert [run["uid"] for run in json.loads(listed.stdout.splitlines()[-1])["runs"]] == [uids[3], uids[1]]
    table = program("runs", *where)
    assert uids[0][:8] in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert "…" not in table.stdout
    newest = program("last", *where)
    assert f"scan 44, run {uids[3]}, count" in newest.stdout
    assert "success" in newest.stdout
    refused = program("export", "-1", tmp_path / "a.nxs", *where)
    assert (refused.returncode, "has no 'motors'" in refused.stderr) == (1, True), refused.stderr
    assert program("replay", "-1", "--polcy", "x").returncode == 2
    assert "no such file" in program("replay", tmp_path / "scan.h5").stderr
