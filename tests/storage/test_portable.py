"""Runs carried away as files, and recorded scans made runs."""

from __future__ import annotations

import shutil
import uuid
from itertools import chain, repeat
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from event_model import compose_run

from bluesky_streamrecon.errors import ConfigError, DataError, StorageError
from bluesky_streamrecon.evaluation.replay import recorded_run
from bluesky_streamrecon.storage import (
    chosen_layout,
    export_run,
    export_volume,
    import_scan,
    load_reconstruction,
    load_run,
    load_scores,
    read_dxfile,
    read_nxtomo,
    read_scan,
    reconstruction_documents,
    write_dxfile,
    write_nxtomo,
)
from bluesky_streamrecon.storage.run_streams import RunStreams
from bluesky_streamrecon.storage.volume_files import _write_ome_zarr

pytestmark = pytest.mark.timeout(180)  # two servers are started, and databroker is loaded

TOOTH = Path(__file__).parent.parent / "data" / "tooth.h5"
READINGS = [9.0, 8.5, 8.0, 7.5, 7.0]
LEDGER = {"0": {"sent": 9, "applied": 9}}


@pytest.fixture(scope="module")
def stored(storage, scan):
    """Store a run with decisions, and its reconstruction; give both uids."""
    folder = storage.detector_directory
    folder.mkdir(parents=True, exist_ok=True)
    recon = compose_run().start_doc["uid"]
    block = {"recon_uid": recon, "projections": 9, "angle": "rot", "start": 0, "stop": 180}
    block["recon"] = {"window": 3, "monitor": "i0"}
    run = compose_run(
        metadata={
            "detectors": ["cam"],
            "motors": ["rot"],
            "streamrecon": block,
            "sample": "a stone",
            "plan_name": "p",
            "energy": 25.0,
        }
    )
    uid = run.start_doc["uid"]
    path = folder / f"raw-{uid}.h5"
    with h5py.File(path, "w") as file:
        for name, frames in (("dark", scan.darks), ("flat", scan.flats), ("primary", scan.projections)):
            file[name] = frames
    storage.writer("start", dict(run.start_doc))
    angle = {"source": "x", "dtype": "number", "dtype_numpy": "<f8", "shape": [], "units": "deg"}
    score = {"source": "x", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
    for name, frames in (("dark", scan.darks), ("flat", scan.flats), ("primary", scan.projections)):
        image = {"source": "x", "dtype": "array", "dtype_numpy": "<u2", "shape": [1, 3, 8], "external": "STREAM:"}
        keys = {"cam": image, **({"rot": angle, "job-score": score} if name == "primary" else {})}
        if name != "dark":
            keys["i0"] = score
        size = {"source": "x", "dtype": "number", "shape": [], "units": "nm"}
        camera = {
            "data": {"cam-pixel_size": 650},
            "timestamps": {"cam-pixel_size": 5.0},
            "data_keys": {"cam-pixel_size": size},
        }
        bundle = run.compose_descriptor(name=name, data_keys=keys, configuration={"cam": camera})
        storage.writer("descriptor", dict(bundle.descriptor_doc))
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5", uri=f"file://localhost{path}", data_key="cam",
            parameters={"dataset": f"/{name}", "chunk_shape": [1, 3, 8], "swmr": False},
        )  # fmt: skip
        storage.writer("stream_resource", dict(resource.stream_resource_doc))
        count = len(frames)
        datum = resource.compose_stream_datum(
            indices={"start": 0, "stop": count}, seq_nums={"start": 1, "stop": count + 1},
            descriptor=bundle.descriptor_doc,
        )  # fmt: skip
        storage.writer("stream_datum", dict(datum))
        for number in range(count):
            data = {"rot": scan.angles_deg[number], "job-score": 0.1 * number} if name == "primary" else {}
            if name != "dark":
                data["i0"] = READINGS[number]
            storage.writer(
                "event", dict(bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 5.0), time=5.0))
            )
    text = {"source": "x", "dtype": "string", "dtype_numpy": "<U40", "shape": []}
    bundle = run.compose_descriptor(name="steering", data_keys={"verdict": text, "when": score})
    storage.writer("descriptor", dict(bundle.descriptor_doc))
    for verdict, when in (("continue", 1.5), ("größer", 2.5)):
        data = {"verdict": verdict, "when": when}
        storage.writer("event", dict(bundle.compose_event(data=data, timestamps=dict.fromkeys(data, when), time=when)))
    storage.writer("stop", dict(run.compose_stop(reason="quality: enough")))
    image = np.random.default_rng(1).random((3, 8, 8), dtype=np.float32)
    with h5py.File(folder / f"{recon}.h5", "w") as file:
        file["exchange/data"], file["exchange/volume"] = image, 2 * image
    rows = [{"image_number": n, "projections": n, "score": None if n == 1 else 0.3 * n} for n in (1, 2, 3)]
    made = reconstruction_documents(
        recon,
        uid,
        folder / f"{recon}.h5",
        image.shape,
        volume=True,
        scores=rows,
        metadata={"streamrecon": {"ledger": LEDGER, "recon": {"bin": 2}, "axis": 1.5}},
    )
    for name, doc in made:
        storage.writer(name, doc)
    assert storage.writer.flush(20)
    return uid, recon, image


@pytest.fixture(scope="module")
def exported(storage, stored, tmp_path_factory):
    """Files of the stored run, one of each layout, and what was said of them."""
    uid, recon, _ = stored
    folder = tmp_path_factory.mktemp("exported")
    nxs = export_run(storage.catalog, uid[:9], folder / "run.nxs")
    return nxs, export_run(storage.catalog, recon, folder / "run.h5")  # its reconstruction means the run


def columns(run, stream):
    return RunStreams(run)[stream].columns(lambda name: not name.startswith("ts_"))


def test_volume_that_is_not_finished_yet_is_not_read_and_is_there_when_it_is(storage):
    uid = str(uuid.uuid4())
    path, image = Path(storage.detector_directory) / f"{uid}.h5", np.ones((3, 8, 8), np.float32)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = image
        file.create_dataset("exchange/volume", shape=image.shape, dtype="<f4", fillvalue=np.nan)
    for name, doc in reconstruction_documents(uid, "raw", path, image.shape, volume=True):
        storage.writer(name, doc)
    assert storage.writer.flush(20)
    np.testing.assert_array_equal(load_reconstruction(storage.catalog, uid), image)
    finished = path.with_suffix(".part")
    shutil.copy(path, finished)
    with h5py.File(finished, "r+") as file:
        del file["exchange/volume"]
        file["exchange/volume"] = 2 * image
    finished.replace(path)
    np.testing.assert_array_equal(load_reconstruction(storage.catalog, uid), 2 * image)


def test_file_says_how_the_scan_was_taken_from_plan_devices_or_what_is_given(storage, stored, exported, tmp_path):
    nxs, _ = exported
    with h5py.File(nxs.file) as file:
        assert file["entry/instrument/beam/incident_energy"][()] == 25.0
        assert file["entry/instrument/detector/x_pixel_size"][()] == pytest.approx(0.65e-6)
        assert file["entry/instrument/detector/x_rotation_axis_pixel_position"][()] == 3.5 - 3.5  # of frames not binned
        assert file["entry/sample/name"][()] == b"a stone"
        assert file["entry/control/data"][:].tolist() == [0] * 4 + READINGS[:2] + READINGS
        assert "distance" not in file["entry/instrument/detector"]
    again = export_run(storage.catalog, stored[0], tmp_path / "a.nxs", known={"energy_kev": 30.0, "distance_mm": 50.0})
    with h5py.File(again.file) as file:
        assert file["entry/instrument/beam/incident_energy"][()] == 30.0
        assert file["entry/instrument/detector/distance"][()] == 0.05
    assert export_volume(storage.catalog, stored[0], tmp_path / "a.tif").pixel_size_um == pytest.approx(2 * 0.65)


def test_volume_as_ome_zarr_validates_with_its_pyramid_and_the_size_of_its_pixels(storage, stored, tmp_path):
    from ome_zarr_models import open_ome_zarr

    uid, recon, image = stored
    done = export_volume(storage.catalog, uid, tmp_path / "stone.ome.zarr", pixel_size_um=1.5)
    assert (done.recon_uid, done.image, done.shape, done.levels) == (recon, "volume", (3, 8, 8), 1)
    levels = open_ome_zarr(zarr.open_group(done.file, mode="r")).ome_attributes.multiscales[0]
    assert [(axis.name, axis.unit) for axis in levels.axes] == [(axis, "micrometer") for axis in "zyx"]
    np.testing.assert_array_equal(zarr.open_array(f"{done.file}/0")[:], 2 * image)

    large = np.random.default_rng(2).random((70, 131, 64), dtype=np.float32)
    assert _write_ome_zarr(tmp_path / "large.zarr", large, None, "large", {}) == 3
    written = zarr.open_group(tmp_path / "large.zarr", mode="r")
    levels = open_ome_zarr(written).ome_attributes.multiscales[0]
    assert [written[each.path].shape for each in levels.datasets] == [(70, 131, 64), (35, 66, 64), (35, 33, 64)]
    scale, shift = levels.datasets[2].coordinateTransformations
    assert (scale.scale, shift.translation) == ([2, 4, 1], [0.5, 1.5, 0])
    halved = large[:, :130].reshape(35, 2, 65, 2, 64).mean(axis=(1, 3))
    np.testing.assert_allclose(written["1"][:, :65], halved, rtol=1e-5)
    np.testing.assert_allclose(written["1"][:, 65], large[:, 130].reshape(35, 2, 64).mean(axis=1), rtol=1e-5)


def test_volume_as_tiff_has_a_page_per_slice_and_the_size_of_its_pixels(storage, stored, tmp_path):
    uid, _, image = stored
    done = export_volume(storage.catalog, uid, tmp_path / "stone.tif", pixel_size_um=1.5, live=True)
    assert done.image == "image"
    with tifffile.TiffFile(done.file) as file:
        np.testing.assert_array_equal(file.asarray(), image)
        assert file.series[0].axes == "ZYX"
        assert (file.imagej_metadata["spacing"], file.imagej_metadata["unit"]) == (3.0, "micron")
    with pytest.raises(StorageError, match="exists already"):
        export_volume(storage.catalog, uid, done.file)
    with pytest.raises(ConfigError, match="got -1, expected micrometres above 0"):
        export_volume(storage.catalog, uid, tmp_path / "other.tif", pixel_size_um=-1)
    assert {each.name for each in tmp_path.iterdir()} == {"stone.tif"}


def test_run_that_is_exported_and_imported_is_the_same_run(storage, elsewhere, stored, exported, scan, tmp_path):
    uid, recon, image = stored
    done, _ = exported
    shutil.copy(done.file, tmp_path / "run.nxs")
    assert (done.run_uid, done.recon_uid, done.projections, done.rows, done.columns) == (uid, recon, 5, 3, 8)
    again = import_scan(elsewhere, tmp_path / "run.nxs")
    assert (again.run_uid, again.recon_uid, again.layout) == (uid, recon, done.layout)
    (tmp_path / "run.nxs").unlink()  # not needed any more
    loaded = load_run(elsewhere.catalog, uid)
    for ours, theirs in (
        (loaded.projections, scan.projections),
        (loaded.flats, scan.flats),
        (loaded.darks, scan.darks),
    ):
        np.testing.assert_array_equal(ours[:], theirs)
    np.testing.assert_array_equal(loaded.angles_deg, scan.angles_deg)
    np.testing.assert_array_equal(loaded.monitor, READINGS)
    np.testing.assert_array_equal(loaded.flat_monitor, READINGS[:2])
    np.testing.assert_array_equal(load_reconstruction(elsewhere.catalog, uid), 2 * image)
    np.testing.assert_array_equal(load_reconstruction(elsewhere.catalog, uid, live=True), image)
    scores = load_scores(elsewhere.catalog, uid)
    for key, column in load_scores(storage.catalog, uid).items():
        np.testing.assert_array_equal(scores[key], column)
    before, after = storage.catalog[uid], elsewhere.catalog[uid]
    assert after.metadata["start"] == before.metadata["start"]
    stops = [{key: run.metadata["stop"][key] for key in ("exit_status", "reason", "time")} for run in (before, after)]
    assert stops[0] == stops[1]
    for stream in ("primary", "steering"):
        old, new = columns(before, stream), columns(after, stream)
        assert old.keys() <= new.keys()
        for key in old:
            np.testing.assert_array_equal(new[key], old[key], err_msg=key)
    assert elsewhere.catalog[recon].metadata["start"]["streamrecon"]["ledger"] == LEDGER
    table = elsewhere.databroker[uid].table()
    assert list(table["rot"]) == list(scan.angles_deg)
    with pytest.raises(StorageError, match=f"run {uid} is in the catalogue already"):
        import_scan(elsewhere, done.file)


def test_both_layouts_carry_the_same_run(stored, exported):
    uid, recon, _ = stored
    one, other = (read_scan(done.file) for done in exported)
    assert (one.run.start["uid"], one.reconstruction.start["uid"]) == (uid, recon)
    for mine, theirs in ((one.run, other.run), (one.reconstruction, other.reconstruction)):
        assert (mine.start, mine.stop) == (theirs.start, theirs.stop)
        assert mine.streams.keys() == theirs.streams.keys()
        for stream in mine.streams:
            np.testing.assert_equal(mine.streams[stream].columns, theirs.streams[stream].columns)


def test_exported_frames_are_read_by_readers_of_the_layouts_alone(stored, exported, scan):
    uid, _, image = stored
    for done, read in zip(exported, (read_nxtomo, read_dxfile), strict=True):
        found = read(done.file)
        np.testing.assert_array_equal(found.projections[:], scan.projections)
        np.testing.assert_array_equal(found.angles_deg, scan.angles_deg)
        with h5py.File(done.file) as opened:
            np.testing.assert_array_equal(opened["streamrecon/reconstruction/image"][:], image)
            assert uid in opened["streamrecon/run/start"].asstr()[()]


def test_real_scan_is_imported_as_a_run_that_is_replayed_and_tabled(elsewhere):
    done = import_scan(elsewhere, TOOTH, sample="tooth")
    recorded = read_dxfile(TOOTH)
    assert (done.layout, done.projections, done.rows, done.columns) == ("dxchange", 181, 2, 640)
    run = load_run(elsewhere.catalog, done.run_uid)
    np.testing.assert_array_equal(run.angles_deg, recorded.angles_deg)
    np.testing.assert_array_equal(run.projections[:], recorded.projections[:])
    np.testing.assert_array_equal(run.flats[:], recorded.flats[:])
    start = elsewhere.catalog[done.run_uid].metadata["start"]
    assert (start["plan_name"], start["sample"], start["imported_from"]) == ("import", "tooth", "tooth.h5")
    with recorded_run(done.run_uid, uri=elsewhere.uri) as past:
        assert (past.planned, past.span) == (181, (0.0, 180.0))
    table = elsewhere.databroker[done.run_uid].table()
    np.testing.assert_allclose(table["stage"], recorded.angles_deg)


def test_any_scan_of_either_layout_is_a_new_run_each_time(elsewhere, scan, tmp_path):
    write_nxtomo(tmp_path / "x.nxs", scan)
    write_dxfile(tmp_path / "x.h5", scan)
    done = [import_scan(elsewhere, tmp_path / name) for name in ("x.nxs", "x.h5", "x.h5")]
    assert len({each.run_uid for each in done}) == 3
    assert {each.recon_uid for each in done} == {None}
    for each in done[:2]:
        loaded = load_run(elsewhere.catalog, each.run_uid)
        np.testing.assert_array_equal(loaded.projections[:], scan.projections)
        np.testing.assert_array_equal(loaded.darks[:], scan.darks)


@pytest.mark.parametrize("dtype", [">u2", "<f2"])
def test_frames_of_any_type_are_imported_so_that_tiled_and_we_read_them(elsewhere, tmp_path, dtype):
    frames = np.arange(1, 31).reshape(5, 2, 3).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["exchange/data"], file["exchange/theta"] = frames, np.arange(5) * 36.0
        file["exchange/data_white"] = (frames[:1] + 60).astype("<f8")
    done = import_scan(elsewhere, tmp_path / "x.h5")
    scan = load_run(elsewhere.catalog, done.run_uid)
    np.testing.assert_array_equal(scan.projections[:], frames)
    np.testing.assert_array_equal(scan.flats[:], frames[:1] + 60.0)
    served = elsewhere.catalog[done.run_uid]["primary"]["detector"]
    np.testing.assert_array_equal(np.asarray(served[:]).reshape(frames.shape), frames)
    export_run(elsewhere.catalog, done.run_uid, tmp_path / "again.nxs")
    np.testing.assert_array_equal(read_nxtomo(tmp_path / "again.nxs").projections[:], frames)


def test_doubts_about_a_file_are_told_and_stay_with_the_run(elsewhere, scan, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["exchange/theta"] = scan.angles_deg
        data = file.create_dataset("exchange/data", shape=(5, 3, 8), dtype="<u2", chunks=(1, 3, 8))
        data[:3] = scan.projections[:3]
    done = import_scan(elsewhere, tmp_path / "x.h5")
    assert (done.projections, len(done.problems)) == (3, 1)
    assert load_run(elsewhere.catalog, done.run_uid).problems == done.problems


def test_scan_without_flats_and_darks_is_imported_without_their_streams(elsewhere, scan, tmp_path):
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["exchange/data"], file["exchange/theta"] = scan.projections, scan.angles_deg
    done = import_scan(elsewhere, tmp_path / "bare.h5")
    assert (done.flats, done.darks) == (0, 0)
    assert set(elsewhere.catalog[done.run_uid]) == {"primary"}


def test_export_never_overwrites_and_leaves_nothing_behind_when_it_fails(storage, stored, tmp_path, monkeypatch):
    uid, *_ = stored
    (tmp_path / "there.nxs").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        export_run(storage.catalog, uid, tmp_path / "there.nxs")
    assert (tmp_path / "there.nxs").read_text() == "mine"

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("bluesky_streamrecon.storage.portable._write_run", fail)
    with pytest.raises(StorageError, match="disk full"):
        export_run(storage.catalog, uid, tmp_path / "new.nxs")
    assert [path.name for path in tmp_path.iterdir()] == ["there.nxs"]


def test_run_that_does_not_exist_can_not_be_exported(storage, tmp_path):
    with pytest.raises(StorageError, match="run 00000000: not in the catalogue"):
        export_run(storage.catalog, "00000000", tmp_path / "x.nxs")


def test_run_whose_reconstruction_has_no_image_is_exported_without_it(storage, stored, tmp_path, monkeypatch):
    raw, *_ = stored
    monkeypatch.setattr("bluesky_streamrecon.storage.portable.find_reconstruction", lambda catalog, uid: catalog[raw])
    assert export_run(storage.catalog, raw, tmp_path / "run.nxs").recon_uid is None


def test_last_run_is_exported_with_its_own_reconstruction_whatever_is_stored_meanwhile(
    storage, stored, tmp_path, monkeypatch
):
    uid, recon, _ = stored
    later = compose_run()
    storage.writer("start", dict(later.start_doc))
    storage.writer("stop", dict(later.compose_stop()))
    assert storage.writer.flush(20)
    newest = chain([uid], repeat(later.start_doc["uid"]))
    monkeypatch.setattr("bluesky_streamrecon.storage.listing._scans", lambda catalog: iter([catalog[next(newest)]]))
    made = export_run(storage.catalog, "-1", tmp_path / "run.nxs")
    assert (made.run_uid, made.recon_uid) == (uid, recon)


def test_layout_follows_from_the_suffix_or_the_name():
    assert chosen_layout(Path("a.NXS")) == "nxtomo"
    assert chosen_layout(Path("a.hdf5")) == "dxchange"
    assert chosen_layout(Path("a.h5"), "nxtomo") == "nxtomo"
    with pytest.raises(ConfigError, match=r"got suffix '\.mat', expected one that names the layout"):
        chosen_layout(Path("a.mat"))
    with pytest.raises(ConfigError, match="layout: got 'zarr', expected one of nxtomo, dxchange"):
        chosen_layout(Path("a.h5"), "zarr")


def other_hdf5(path, _):
    with h5py.File(path, "w") as file:
        file["entry/temperature"] = [1.0, 2.0]


def text(path, _):
    path.write_text("angle, counts")


def no_angles(path, scan):
    with h5py.File(path, "w") as file:
        file["exchange/data"] = scan.projections


def nothing_taken(path, scan):
    with h5py.File(path, "w") as file:
        file["exchange/data"], file["exchange/theta"] = scan.projections[:0], scan.angles_deg[:0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_hdf5, r"not a recorded scan: expected an NXtomo entry, or the dataset exchange/data .* \['entry'\]"),
        (text, "not a readable HDF5 file"),
        (no_angles, "no dataset exchange/theta"),
        (nothing_taken, "got no projections"),
    ],
)
def test_what_is_no_scan_is_refused_and_nothing_is_stored(elsewhere, scan, tmp_path, make, words):
    make(tmp_path / "x.h5", scan)
    known = len(elsewhere.catalog)
    with pytest.raises(DataError, match=words):
        import_scan(elsewhere, tmp_path / "x.h5")
    assert len(elsewhere.catalog) == known
    with pytest.raises(StorageError, match="no such file"):
        import_scan(elsewhere, tmp_path / "missing.h5")


def change(**what):
    def changed(group):
        for name, value in what.items():
            if name == "version":
                group.attrs["version"] = value
            else:
                del group[name.replace("__", "/")]
                if value is not None:
                    group[name.replace("__", "/")] = value

    return changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (change(version=99), "has version 99, expected 1"),
        (change(run__start="no json"), "can not be read"),
        (change(run__start="[1]"), "can not be read"),
        (change(run__streams=None), "can not be read"),
        (
            change(run__streams__primary__columns__time=[1.0], **{"run__streams__primary__columns__job-score": [1.0]}),
            "its columns",
        ),
    ],
)
def test_file_of_ours_that_was_changed_by_hand_is_refused_and_nothing_is_stored(
    elsewhere, stored, exported, tmp_path, changed, words
):
    shutil.copy(exported[0].file, tmp_path / "x.nxs")
    with h5py.File(tmp_path / "x.nxs", "a") as file:
        for name, uid in (("run", stored[0]), ("reconstruction", stored[1])):
            start = file[f"streamrecon/{name}/start"].asstr()[()]
            del file[f"streamrecon/{name}/start"]
            file[f"streamrecon/{name}/start"] = start.replace(uid, str(uuid.uuid4()))  # not known there
        changed(file["streamrecon"])
    known, files = len(elsewhere.catalog), sorted(elsewhere.detector_directory.glob("*"))
    with pytest.raises(DataError, match=words):
        import_scan(elsewhere, tmp_path / "x.nxs")
    assert len(elsewhere.catalog) == known
    assert sorted(elsewhere.detector_directory.glob("*")) == files


def test_frames_stay_in_the_file_until_they_are_wanted(tmp_path):
    shutil.copy(TOOTH, tmp_path / "tooth.h5")
    scan = read_scan(tmp_path / "tooth.h5")
    assert not isinstance(scan.frames.projections, np.ndarray)
    assert scan.run is None
