"""DXfile and NXtomo, in and out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.storage import (
    ScanDetails,
    TomoScan,
    dxfile,
    read_dxfile,
    read_nxtomo,
    write_dxfile,
    write_nxtomo,
)

TOOTH = Path(__file__).parents[1] / "data" / "tooth.h5"
FORMATS = [(read_dxfile, write_dxfile), (read_nxtomo, write_nxtomo)]
both = pytest.mark.parametrize(("read", "write"), FORMATS, ids=["dxfile", "nxtomo"])


def assert_same(one: TomoScan, other: TomoScan) -> None:
    np.testing.assert_array_equal(one.angles_deg, other.angles_deg)
    for name in ("projections", "flats", "darks"):
        a, b = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@both
def test_scan_comes_back_as_it_was_written(tmp_path, scan, read, write):
    write(tmp_path / "new" / "scan.h5", scan)
    assert_same(read(tmp_path / "new" / "scan.h5"), scan)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scan.h5"]


@both
def test_scan_without_flats_and_darks_comes_back(tmp_path, scan, read, write):
    bare = TomoScan(scan.projections, scan.flats[:0], scan.darks[:0], scan.angles_deg)
    write(tmp_path / "scan.h5", bare)
    assert_same(read(tmp_path / "scan.h5"), bare)


def test_recorded_scan_goes_from_one_format_to_the_other(tmp_path):
    tooth = read_dxfile(TOOTH)
    assert (tooth.projections.shape, tooth.flats.shape, tooth.darks.shape) == (
        (181, 2, 640),
        (10, 2, 640),
        (10, 2, 640),
    )
    write_nxtomo(tmp_path / "tooth.nxs", tooth, details=ScanDetails(sample="tooth", pixel_size_um=1.0))
    assert_same(read_nxtomo(tmp_path / "tooth.nxs"), tooth)


DETAILS = ScanDetails(
    title="a title", sample="a sample", pixel_size_um=2.0, energy_kev=25.0, distance_mm=50.0, exposure_s=0.1,
    started=1.7e9, ended=1.7e9 + 60, axis=4.25,
)  # fmt: skip


def test_dxfile_has_how_the_scan_was_taken(tmp_path, scan):
    write_dxfile(tmp_path / "scan.h5", scan, details=DETAILS)
    with h5py.File(tmp_path / "scan.h5") as file:
        about = {
            "instrument/detector/actual_pixel_size_x": (2.0, "um"), "instrument/detector/exposure_time": (0.1, "s"),
            "instrument/monochromator/energy": (25.0, "keV"), "instrument/setup/sample_detector_distance": (50.0, "mm"),
        }  # fmt: skip
        found = {name: file[f"measurement/{name}"] for name in about}
        assert {name: (each[()], each.attrs["units"]) for name, each in found.items()} == about
        assert file["measurement/sample/name"][()] == b"a sample"
        assert file["process/acquisition/end_date"][()] == b"2023-11-14T22:14:20+00:00"


def test_nxtomo_has_what_the_definition_asks_for(tmp_path, scan):
    write_nxtomo(tmp_path / "scan.nxs", scan, details=DETAILS)
    with h5py.File(tmp_path / "scan.nxs") as file:
        classes = {
            "entry": "NXentry",
            "entry/instrument": "NXinstrument",
            "entry/instrument/detector": "NXdetector",
            "entry/sample": "NXsample",
            "entry/data": "NXdata",
        }
        assert {name: file[name].attrs["NX_class"] for name in classes} == classes
        assert file["entry/definition"][()] == b"NXtomo"
        assert file["entry/sample/name"][()] == b"a sample"
        keys = file["entry/instrument/detector/image_key"][:]
        np.testing.assert_array_equal(keys, [2] * 4 + [1] * 2 + [0] * 5)
        assert file["entry/instrument/detector/data"].chunks == (1, 3, 8)
        assert file["entry/data/data"] == file["entry/instrument/detector/data"]
        assert file["entry/data/rotation_angle"] == file["entry/sample/rotation_angle"]
        assert file["entry/data"].attrs["signal"] == "data"
        detector = file["entry/instrument/detector"]
        about = {
            "x_pixel_size": 2e-6, "y_pixel_size": 2e-6, "distance": 0.05, "count_time": 0.1,
            "x_rotation_axis_pixel_position": 0.75,
        }  # fmt: skip
        assert {name: detector[name][()] for name in about} == pytest.approx(about)
        assert file["entry/instrument/beam/incident_energy"][()] == 25.0
        assert file["entry/start_time"][()] == b"2023-11-14T22:13:20+00:00"


def test_nxtomo_in_a_subentry_with_invalid_frames_is_read(tmp_path, scan):
    write_nxtomo(tmp_path / "scan.nxs", scan)
    with h5py.File(tmp_path / "scan.nxs", "r+") as file:
        file.create_group("entry1")["definition"] = "NXsas"
        file.move("entry", "entry1/tomo_entry")
        file["entry1/tomo_entry/instrument/detector/image_key"][6] = 3
    read = read_nxtomo(tmp_path / "scan.nxs")
    np.testing.assert_array_equal(read.angles_deg, scan.angles_deg[1:])
    np.testing.assert_array_equal(read.projections[:], scan.projections[1:])


def test_angles_in_radians_are_turned_into_degrees(tmp_path, scan):
    write_dxfile(tmp_path / "scan.h5", scan)
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        file["exchange/theta"][:] = np.deg2rad(scan.angles_deg)
        file["exchange/theta"].attrs["units"] = "radians"
    np.testing.assert_allclose(read_dxfile(tmp_path / "scan.h5").angles_deg, scan.angles_deg)


@both
def test_existing_file_is_never_overwritten(tmp_path, scan, read, write):
    (tmp_path / "scan.h5").write_text("precious")
    with pytest.raises(StorageError, match="exists already"):
        write(tmp_path / "scan.h5", scan)
    assert (tmp_path / "scan.h5").read_text() == "precious"


class Breaking:
    """Frames that can not all be read."""

    shape, dtype = (5, 3, 8), np.dtype("<u2")

    def __len__(self):
        return 5

    def __getitem__(self, key):
        raise OSError("disk gone")


@both
def test_failed_write_leaves_nothing_and_says_why(tmp_path, scan, read, write):
    with pytest.raises(StorageError, match="disk gone"):
        write(tmp_path / "scan.h5", TomoScan(Breaking(), scan.flats, scan.darks, scan.angles_deg))
    assert list(tmp_path.iterdir()) == []


@both
def test_scan_that_its_disk_has_no_room_for_is_refused(tmp_path, scan, read, write, monkeypatch):
    monkeypatch.setattr(dxfile.shutil, "disk_usage", lambda there: SimpleNamespace(free=100))
    with pytest.raises(StorageError, match=rf"0\.0 MB, and the disk of {tmp_path} has 0\.0 MB left"):
        write(tmp_path / "scan.h5", scan)
    assert list(tmp_path.iterdir()) == []


def test_files_that_lack_something_are_refused_with_what_they_have(tmp_path, scan):
    write_dxfile(tmp_path / "dx.h5", scan)
    write_nxtomo(tmp_path / "nx.h5", scan)
    with pytest.raises(DataError, match=r"no entry with the definition NXtomo.*\['exchange'"):
        read_nxtomo(tmp_path / "dx.h5")
    with pytest.raises(DataError, match=r"no dataset exchange/data; / has \['entry'\]"):
        read_dxfile(tmp_path / "nx.h5")
    with h5py.File(tmp_path / "dx.h5", "r+") as file:
        del file["exchange/theta"]
        file["exchange/theta"] = np.zeros(3)
    with pytest.raises(DataError, match=r"dx\.h5: got 3 angles in exchange/theta for 5 projections"):
        read_dxfile(tmp_path / "dx.h5")
    with h5py.File(tmp_path / "nx.h5", "r+") as file:
        del file["entry/instrument/detector/image_key"]
        file["entry/instrument/detector/image_key"] = np.zeros(7, int)
    with pytest.raises(DataError, match="11 frames, 7 image keys and 11 angles"):
        read_nxtomo(tmp_path / "nx.h5")
