"""A real embedded Tiled server: runs in, runs out, through Tiled and through databroker."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import threading
import uuid

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import StorageError
from bluesky_streamrecon.exit_hooks import GUARD
from bluesky_streamrecon.plans.engines import run_engine as own_run_engine
from bluesky_streamrecon.settings import data_directory
from bluesky_streamrecon.sim_devices import Exposure, FrameKind, sim_beamline
from bluesky_streamrecon.storage import (
    CatalogWriter,
    load_reconstruction,
    load_run,
    load_scores,
    open_catalog,
    open_storage,
    reconstruction_documents,
)

BOUND = 20.0
ANGLES = [0.0, 90.0, 45.0, 22.5]


def tomogram(beamline, md=None):
    """Two flats, two darks, and a projection per angle; each stream in a file of its own."""

    def take(name, number):
        @bpp.stage_decorator([beamline.detector])
        def inner():
            for _ in range(number):
                yield from bps.trigger_and_read([beamline.detector], name=name)

        yield from inner()

    @bpp.run_decorator(md={"detectors": ["detector"], "motors": ["stage"], **(md or {})})
    @bpp.stage_decorator([beamline.stage])
    def plan():
        yield from bps.mv(beamline.table, "out", beamline.shutter, "open")
        yield from take("flat", 2)
        yield from bps.mv(beamline.shutter, "closed")
        yield from take("dark", 2)
        yield from bps.mv(beamline.table, "in", beamline.shutter, "open")
        yield from bps.stage(beamline.detector, wait=True)
        for angle in ANGLES:
            yield from bps.mv(beamline.stage, angle)
            yield from bps.trigger_and_read([beamline.detector, beamline.stage])
        yield from bps.unstage(beamline.detector, wait=True)

    yield from plan()


@pytest.fixture
def beamline(storage):
    return sim_beamline(rows=3, columns=48, directory=storage.detector_directory, instant=True)


@pytest.fixture(scope="module", params=[False, True], ids=["files", "inline"])
def taken(request, storage):
    """A stored tomogram: the beamline that took it, and its uid."""
    taker = sim_beamline(rows=3, columns=48, directory=storage.detector_directory, instant=True, inline=request.param)
    with own_run_engine(context_managers=[]) as engine:
        engine.subscribe(storage.writer)
        (uid,) = engine(tomogram(taker)).run_start_uids
    return taker, uid


def test_raw_run_is_read_back_as_a_scan(storage, taken):
    beamline, uid = taken
    scan = load_run(storage.catalog, uid)
    np.testing.assert_array_equal(scan.angles_deg, ANGLES)
    for frames, kind in (
        (scan.projections, FrameKind.PROJECTION),
        (scan.flats, FrameKind.FLAT),
        (scan.darks, FrameKind.DARK),
    ):
        angles = ANGLES if kind is FrameKind.PROJECTION else [0.0, 0.0]
        expected = np.stack([beamline.camera.frame(Exposure(kind, a, i)) for i, a in enumerate(angles)])
        assert (frames.shape, frames.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(frames[:], expected)
        np.testing.assert_array_equal(frames[1], expected[1])
        np.testing.assert_array_equal(frames[-1, 1:], expected[-1, 1:])
        np.testing.assert_array_equal(frames[1:2, :, 5:9], expected[1:2, :, 5:9])
        assert frames[2:2].shape == (0, 3, 48)
    assert storage.writer.failed == {}


def test_stored_run_knows_where_its_own_detector_saturates(run_engine, storage, beamline):
    def configured(name, doc):
        if name == "descriptor":
            for device, key, bits in (("recon", "a-bit_depth", 8), ("detector", "detector-driver-bit_depth", 12)):
                about = doc["configuration"].setdefault(device, {"data": {}, "timestamps": {}, "data_keys": {}})
                about["data"][key], about["timestamps"][key] = bits, 0.0
                about["data_keys"][key] = {"dtype": "integer", "shape": [], "source": "test"}
        storage.writer(name, doc)

    run_engine.subscribe(configured)
    (uid,) = run_engine(tomogram(beamline)).run_start_uids
    assert storage.writer.flush(BOUND)
    assert load_run(storage.catalog, uid).saturation == 4095.0


def test_same_run_is_read_by_databroker(storage, taken):
    beamline, uid = taken
    header = storage.databroker[uid]
    assert header.start["uid"] == uid
    assert header.stop["exit_status"] == "success"
    np.testing.assert_array_equal(header.table(fields=["stage"])["stage"], ANGLES)
    frames = [np.squeeze(frame) for frame in header.data("detector")]
    expected = [beamline.camera.frame(Exposure(FrameKind.PROJECTION, a, i)) for i, a in enumerate(ANGLES)]
    np.testing.assert_array_equal(frames, expected)
    assert {name for name, _ in header.documents()} >= {"start", "descriptor", "event", "stop"}
    assert "v3" in repr(storage.catalog[uid])  # databroker has a client of its own, so ours is as it was


def test_reconstruction_is_a_run_that_names_its_raw_run(run_engine, storage, beamline):
    run_engine.subscribe(storage.writer)
    recon_uid = str(uuid.uuid4())
    (uid,) = run_engine(tomogram(beamline, {"streamrecon": {"recon_uid": recon_uid}})).run_start_uids
    image = np.random.default_rng(1).random((3, 16, 16)).astype(np.float32)
    path = storage.detector_directory / f"recon_{recon_uid}.h5"
    with h5py.File(path, "w") as file:
        file["/exchange/data"] = image
    scores = [{"image_number": 1, "score": None}, {"image_number": 2, "score": 0.75}]
    run = reconstruction_documents(recon_uid, uid, path, image.shape, scores=scores)
    for name, doc in run:
        storage.writer(name, doc)
    assert storage.writer.failed == {}
    for name in (recon_uid, uid, recon_uid[:8]):
        np.testing.assert_array_equal(load_reconstruction(storage.catalog, name), image)
    client = storage.catalog[recon_uid]
    assert client.metadata["start"]["raw_run_uid"] == uid
    assert client["image"]["image"].shape == (3, 16, 16)
    np.testing.assert_array_equal(client["image"]["image"][1], image[1])
    np.testing.assert_array_equal(client["image"].read()["row"], [0, 1, 2])
    np.testing.assert_array_equal(load_scores(storage.catalog, uid)["score"], [np.nan, 0.75])
    np.testing.assert_array_equal(list(storage.databroker[recon_uid].data("image", stream_name="image")), image)


def test_run_that_was_broken_off_is_read_as_far_as_it_went(run_engine, storage):
    beamline = sim_beamline(rows=3, columns=48, directory=storage.detector_directory, instant=True)
    run_engine.subscribe(storage.writer)
    uids = []

    def broken():
        uids.append((yield from bps.open_run({"detectors": ["detector"], "motors": ["stage"]})))
        yield from bps.stage(beamline.detector, wait=True)
        for angle in ANGLES[:2]:
            yield from bps.mv(beamline.stage, angle)
            yield from bps.trigger_and_read([beamline.detector, beamline.stage])
        raise RuntimeError("beam lost")

    with pytest.raises(RuntimeError, match="beam lost"):
        run_engine(broken())
    scan = load_run(storage.catalog, uids[0])
    assert scan.projections.shape == (2, 3, 48)
    assert len(scan.flats) == 0
    assert storage.catalog[uids[0]].metadata["stop"]["exit_status"] == "fail"


def test_what_is_not_there_is_said(run_engine, storage):
    with pytest.raises(StorageError, match="not in the catalogue"):
        load_run(storage.catalog, str(uuid.uuid4()))
    beamline = sim_beamline(rows=3, columns=48, directory=storage.detector_directory, instant=True)
    run_engine.subscribe(storage.writer)
    (uid,) = run_engine(bp.count([beamline.detector])).run_start_uids
    with pytest.raises(StorageError, match="neither a reconstruction nor a run that names one"):
        load_reconstruction(storage.catalog, uid)


def test_server_that_is_not_there_is_said_without_the_key():
    with pytest.raises(
        StorageError, match=r"Tiled at http://127\.0\.0\.1:9/api/v1: no answer \(.*refused.*\); is the server up"
    ) as caught:
        open_catalog("http://127.0.0.1:9/api/v1?api_key=secret")
    assert "secret" not in str(caught.value)


def test_run_that_the_catalogue_refuses_is_kept_and_said(run_engine, documents, storage, tmp_path, caplog):
    beamline = sim_beamline(rows=3, columns=48, directory=storage.detector_directory, instant=True, inline=True)
    (uid,) = run_engine(bp.list_scan([beamline.detector], beamline.stage, [0, 1])).run_start_uids
    catalog = open_catalog(storage.uri)
    writer = CatalogWriter(catalog, backup_directory=tmp_path / "kept")
    for _ in range(2):  # the second time, the catalogue has it already
        for name, doc in documents:
            writer(name, doc)
    writer.close()
    catalog.context.close()
    assert list(writer.failed) == [uid]
    assert f"run {uid} can not be stored" in caplog.text
    kept = [json.loads(line) for line in (tmp_path / "kept" / f"{uid}.jsonl").read_text().splitlines()]
    assert [entry["name"] for entry in kept] == ["start", "descriptor", "event", "event", "stop"]
    np.testing.assert_array_equal(kept[2]["doc"]["data"]["detector"], documents[2][1]["data"]["detector"])


def test_writer_waits_for_a_stop_only_so_long(storage, tmp_path, caplog):
    going_on, entered = threading.Event(), threading.Event()

    class Slow:
        def include_data_sources(self):
            return self

        def create_container(self, **arguments):
            entered.set()
            assert going_on.wait(BOUND)
            raise RuntimeError("too late")

    writer = CatalogWriter(Slow(), backup_directory=tmp_path, wait=0.0)
    recon_uid = str(uuid.uuid4())
    for name, doc in reconstruction_documents(recon_uid, "raw", tmp_path / "r.h5", (1, 2, 2)):
        writer(name, doc)
    assert "still trying" in caplog.text
    assert entered.wait(BOUND)
    going_on.set()
    assert writer.flush(BOUND)
    writer.close()
    writer.close()
    assert list(writer.failed) == [recon_uid]
    with pytest.raises(StorageError, match="after it was closed"):
        writer("start", {"uid": "x"})


def test_catalogue_is_there_again_after_a_restart_that_starts_no_program_and_leaves_no_thread(tmp_path, monkeypatch):
    before = set(threading.enumerate())
    run = reconstruction_documents("one-run", "raw", tmp_path / "r.h5", (1, 2, 2))
    with open_storage(directory=tmp_path / "catalogue") as storage:
        for name, doc in run:
            storage.writer(name, doc)
    assert (tmp_path / "catalogue" / "server").read_text() == ""
    monkeypatch.setattr("subprocess.run", None)  # with which Tiled would look for the tables
    with open_storage(directory=tmp_path / "catalogue") as storage:
        assert list(storage.catalog) == ["one-run"]
        storage.close()
    left = {thread for thread in threading.enumerate() if thread.name != GUARD} - before
    for thread in left:
        thread.join(10)  # the server's last worker may be on its way out
    assert not any(thread.is_alive() for thread in left)


def test_catalogue_that_is_being_served_is_joined(run_engine, storage):
    server_file = storage.directory / "server"
    assert server_file.stat().st_mode & 0o077 == 0
    with open_storage(directory=storage.directory) as joined:
        assert joined.uri == storage.uri
        beamline = sim_beamline(rows=3, columns=48, directory=joined.detector_directory, instant=True)
        run_engine.subscribe(joined.writer)
        (uid,) = run_engine(tomogram(beamline)).run_start_uids
    assert load_run(storage.catalog, uid).projections.shape == (4, 3, 48)


def test_what_detector_and_job_write_below_the_data_directory_is_read_without_naming_it(
    run_engine, tmp_path, monkeypatch
):
    monkeypatch.setenv("STREAMRECON_DATA", str(tmp_path / "data"))
    with open_storage() as storage:  # as the installed profile opens it
        assert storage.directory == data_directory() == tmp_path / "data"
        beamline = sim_beamline(rows=3, columns=48, directory=data_directory() / "detector", instant=True)
        run_engine.subscribe(storage.writer)
        (uid,) = run_engine(tomogram(beamline)).run_start_uids
        path = data_directory() / "reconstructions" / "recon.h5"
        image = np.random.default_rng(1).random((3, 16, 16)).astype(np.float32)
        with h5py.File(path, "w") as file:
            file["/exchange/data"] = image
        recon_uid = str(uuid.uuid4())
        for name, doc in reconstruction_documents(recon_uid, uid, path, image.shape):
            storage.writer(name, doc)
        assert load_run(storage.catalog, uid).projections[:].shape == (4, 3, 48)
        np.testing.assert_array_equal(load_reconstruction(storage.catalog, recon_uid), image)


def test_file_that_the_server_may_not_read_is_told_with_what_to_do(run_engine, storage, tmp_path, monkeypatch):
    monkeypatch.setattr("tiled.client.utils.should_retry", lambda error: False)  # it would for half a minute
    beamline = sim_beamline(rows=3, columns=48, directory=tmp_path / "elsewhere", instant=True)
    run_engine.subscribe(storage.writer)
    (uid,) = run_engine(tomogram(beamline)).run_start_uids
    (tmp_path / "elsewhere").rename(tmp_path / "on another computer")  # else it is read here, without the server
    scan = load_run(storage.catalog, uid)
    frames = scan.projections
    assert "not on this computer" in scan.problems[0]
    with pytest.raises(
        StorageError, match=rf"run {uid}, primary: Tiled at http://.* did not send the data.*--readable"
    ):
        frames[:]


def test_server_that_can_not_start_is_said_in_one_line(tmp_path, monkeypatch):
    def fail(*_args, **_settings):
        raise RuntimeError(
            "Creating tables.\nTraceback\nOSError: x\nOperationalError: database or disk is full\n(see y)"
        )

    monkeypatch.setattr("tiled.server.SimpleTiledServer", fail)
    with pytest.raises(StorageError) as caught:
        open_storage(directory=tmp_path)
    assert str(caught.value) == (
        f"Tiled server for {tmp_path}: did not start (OperationalError: database or disk is full)"
    )


def test_server_with_a_full_disk_does_not_flood_the_prompt(tmp_path, capsys):
    class FullDisk(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    with open_storage(directory=tmp_path):
        handlers = [each for name in logging.root.manager.loggerDict for each in logging.getLogger(name).handlers]
        logs = [h for h in handlers if isinstance(h, logging.FileHandler) and str(tmp_path) in h.baseFilename]
        for handler in logs:
            stream = handler.setStream(FullDisk())
            handler.emit(logging.makeLogRecord({"msg": "a request", "correlation_id": "", "expanded_msg": ""}))
            handler.setStream(stream)
    assert logs
    said = capsys.readouterr().err  # servers of other tests may end meanwhile, and say so
    assert "Logging error" not in said
    assert "No space left" not in said


@pytest.mark.parametrize("odd", ["50 %", "which?", "sample #"])
def test_directory_that_tiled_can_not_serve_is_refused(tmp_path, odd):
    with pytest.raises(StorageError, match=f"its path has '[{odd[-1]}]'"):
        open_storage(directory=tmp_path / odd)
    assert not (tmp_path / odd).exists()


def test_catalogue_whose_server_is_starting_is_said(tmp_path):
    with (tmp_path / "server").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="not ready yet"):
            open_storage(directory=tmp_path)
