"""A Tiled server of its own process that is killed in mid-scan: nothing waits for it, and nothing is lost."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import bluesky.plans as bp
import numpy as np
import pytest
from tiled_server import KEY, Server

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.storage import load_run, open_catalog, open_storage, resubmit
from bluesky_streamrecon.storage.plain import plain
from bluesky_streamrecon.storage.trial_run import try_catalog
from bluesky_streamrecon.storage.writer import CatalogWriter

BOUND = 40.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    served = Server(tmp_path / "served", tmp_path / "frames")
    yield served
    served.close()


@pytest.mark.timeout(240)
def test_server_that_is_killed_in_mid_scan_holds_nothing_up_and_is_given_its_runs_when_it_is_back(
    server, run_engine, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 2)  # of its client, in the writer's thread
    beamline = sim_beamline(rows=3, columns=16, directory=tmp_path / "frames", instant=True)
    devices = ([beamline.detector], beamline.stage, [0, 1, 2, 3])
    with open_storage(server.uri, directory=tmp_path / "data") as storage:
        run_engine.subscribe(storage.writer)
        killed = []

        def kill(name, doc):
            if doc["seq_num"] == 2 and not killed:
                assert storage.flush(BOUND)
                server.kill()
                killed.append(time.monotonic())

        run_engine.subscribe(kill, "event")
        (cut,) = run_engine(bp.list_scan(*devices)).run_start_uids
        (after,) = run_engine(bp.list_scan(*devices)).run_start_uids
        # Both together, beside what the scans themselves take: it was ten seconds for each.
        assert time.monotonic() - killed[0] < 10
        assert storage.flush(BOUND)
        assert set(storage.writer.failed) == {cut, after}
        said = [each.message for each in caplog.records if each.levelno == logging.ERROR]
        assert len(said) == 2
        assert all("\n" not in line and "its documents are in" in line and "resubmit" in line for line in said)
        files = {uid: tmp_path / "data" / "not_stored" / f"{uid}.jsonl" for uid in (cut, after)}
        assert all(path.read_text().count('"name": "stop"') == 1 for path in files.values())
        server.start()
        assert resubmit(storage.catalog, files.values()).sent == (cut, after)
        for uid in (cut, after):
            assert storage.catalog[uid].metadata["stop"]["exit_status"] == "success"
            stored = storage.catalog[uid]["primary"]
            assert list(stored["stage"].read()) == [0, 1, 2, 3]
            assert stored["detector"].read().shape == (4, 1, 3, 16)


def test_key_that_is_wrong_is_reported_without_it(storage, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # Tiled's client leaves its socket open
    with pytest.raises(StorageError, match="and the key right") as caught:
        open_catalog(storage.uri.replace(KEY, "wrong-one"))
    assert "wrong-one" not in str(caught.value)
    del caught
    gc.collect()


def test_run_that_is_there_in_part_is_replaced_and_the_frames_are_left_alone(run_engine, documents, storage, tmp_path):
    from bluesky_tiled_plugins import TiledWriter

    beamline = sim_beamline(rows=3, columns=16, directory=storage.detector_directory, instant=True)
    (uid,) = run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 1, 2, 3])).run_start_uids
    writer = TiledWriter(storage.catalog, batch_size=1)
    for name, doc in documents[: len(documents) // 2]:
        writer(name, doc)
    path = tmp_path / f"{uid}.jsonl"
    path.write_text("".join(json.dumps({"name": name, "doc": plain(doc)}) + "\n" for name, doc in documents))
    assert not storage.catalog[uid].metadata.get("stop")
    assert resubmit(storage.catalog, [path]).sent == (uid,)
    run = storage.catalog[uid]
    assert run.metadata["stop"]["num_events"] == {"primary": 4}
    assert run["primary"]["detector"].read().shape == (4, 1, 3, 16)
    assert list(run["primary"]["stage"].read()) == [0, 1, 2, 3]
    assert resubmit(storage.catalog, [path.with_suffix(".stored")]).already_there == (uid,)


def test_run_whose_process_was_killed_says_where_its_frames_and_angles_are(run_engine, documents, storage):
    from bluesky_tiled_plugins import TiledWriter

    beamline = sim_beamline(rows=3, columns=16, directory=storage.detector_directory, instant=True)
    (uid,) = run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 1, 2, 3])).run_start_uids
    writer = TiledWriter(storage.catalog, batch_size=10000)
    for name, doc in documents[:-1]:
        writer(name, doc)
    with pytest.raises(DataError, match=r"has no .*no stop document: .* was killed .* in the detector's files"):
        load_run(storage.catalog, uid)


@pytest.fixture
def kept_run(run_engine, documents, storage, tmp_path) -> tuple[str, Path]:
    """A run that is nowhere but in its file."""
    beamline = sim_beamline(rows=3, columns=16, directory=storage.detector_directory, instant=True)
    (uid,) = run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 1, 2, 3])).run_start_uids
    with contextlib.closing(CatalogWriter(None, backup_directory=tmp_path / "not_stored")) as writer:
        for each in documents:
            writer(*each)
    return uid, tmp_path / "not_stored" / f"{uid}.jsonl"


def test_command_stores_the_runs_that_are_kept_in_files(program, storage, kept_run, tmp_path):
    uid, path = kept_run
    done = program("resubmit", path, "--uri", storage.uri)
    assert (done.returncode, done.stdout) == (0, "1 stored, 0 already there, 0 refused\n"), done.stderr
    assert not path.exists()
    assert storage.catalog[uid]["primary"]["detector"].read().shape == (4, 1, 3, 16)
    done = program("resubmit", path.with_suffix(".stored"), tmp_path / "none.jsonl", "--uri", storage.uri)
    assert (done.returncode, done.stdout) == (1, "0 stored, 1 already there, 1 refused\n")
    assert "none.jsonl: FileNotFoundError" in done.stderr


def test_run_whose_file_was_cut_short_is_stored_as_aborted_with_what_there_is(program, storage, kept_run):
    uid, path = kept_run
    lines = path.read_text().splitlines(keepends=True)
    events = [number for number, line in enumerate(lines) if '"name": "event"' in line]
    path.write_text("".join(lines[: events[3]]) + lines[events[3]][:40])
    done = program("resubmit", path, "--uri", storage.uri)
    assert (done.returncode, done.stdout) == (0, "1 stored, 0 already there, 0 refused\n"), done.stderr
    stored = storage.catalog[uid]
    assert stored.metadata["stop"]["exit_status"] == "abort"
    assert "these are the documents that there are" in stored.metadata["stop"]["reason"]
    assert list(stored["primary"]["stage"].read()) == [0, 1, 2]
    assert stored["primary"]["detector"].read().shape == (4, 1, 3, 16)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no start document"),
        ("not json\n{}\n", "line 1: Expecting value"),
        ('{"name": "stop", "doc": {}}\n', "no start document"),
        (None, "No such file"),
    ],
)
def test_file_that_is_no_run_is_refused_by_name_and_left_as_it_is(storage, tmp_path, text, why):
    path = tmp_path / "what.jsonl"
    if text is not None:
        path.write_text(text)
    ((refused),) = resubmit(storage.catalog, [path]).refused
    assert refused.uid == "what"
    assert why in refused.why
    assert str(path) in refused.why
    assert path.exists() == (text is not None)


def test_trial_run_is_written_read_back_and_removed(storage):
    before = len(storage.catalog)
    assert try_catalog(storage.catalog, storage.detector_directory) == ""
    assert len(storage.catalog) == before
    assert not list(storage.detector_directory.glob("check-*"))


def test_server_that_can_not_read_frames_fails_the_trial(storage, tmp_path, monkeypatch):
    monkeypatch.setattr("tiled.client.utils.should_retry", lambda error: False)  # it would for half a minute
    with pytest.raises(StorageError, match=r"can not read them .*readable_storage") as caught:
        try_catalog(storage.catalog, tmp_path / "elsewhere")
    assert str(tmp_path / "elsewhere") in str(caught.value)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_directory_that_can_not_be_written_fails_the_trial(storage, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="no file can be written there"):
        try_catalog(storage.catalog, tmp_path / "file")


def test_rows_are_not_lost_while_the_table_is_read(storage, in_thread):
    """Tiled's one connection to DuckDB for all threads loses what is appended while another thread reads."""
    import threading

    import pyarrow as pa

    key = str(uuid4())  # what is no uid is looked up as the beginning of one
    table = storage.catalog.create_appendable_table(schema=pa.schema([("a", pa.int64())]), key=key)
    table.append_partition(0, pa.table({"a": [0]}))
    over, reading = threading.Event(), threading.Event()

    def read() -> None:
        catalog = open_catalog(storage.uri)
        try:
            while not over.is_set():
                catalog[key].read_partition(0)
                reading.set()
        finally:
            catalog.context.close()

    readers = [in_thread(read) for _ in range(2)]
    assert reading.wait(BOUND)
    for number in range(1, 20):
        table.append_partition(0, pa.table({"a": [number]}))
    over.set()
    for reader in readers:
        reader.join(BOUND)
    assert sorted(np.asarray(table.read_partition(0)["a"])) == list(range(20))
    storage.catalog.delete_contents(key, external_only=False)
