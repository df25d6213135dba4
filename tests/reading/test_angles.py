"""Units of angle, by one table for files, events and stored runs; and projections that are not of the scan."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.angle_units import angles_in_degrees, degrees_per_unit
from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.storage import read_dxfile, read_nxtomo, read_scan
from bluesky_streamrecon.storage.views import count_returning

from .recordings import record

TURN = {
    "Degrees": 360, "deg": 360, " ° ": 360, b"degree": 360, "RADIANS": 2 * np.pi, "rad": 2 * np.pi,
    "mrad": 2000 * np.pi,
    "µrad": 2e6 * np.pi, "turns": 1, "rev": 1, "gon": 400, "arcmin": 21_600, "arcsec": 1_296_000, "mdeg": 360_000,
}  # fmt: skip


@pytest.mark.parametrize("units", TURN)
def test_a_turn_is_360_degrees_in_every_unit(units):
    angles, problems = angles_in_degrees(np.array([0, TURN[units] / 4, TURN[units]]), units, "here")
    np.testing.assert_allclose(angles, [0, 90, 360], rtol=1e-12)
    assert problems == ()


@pytest.mark.parametrize("units", ["mm", "counts", "steps", "degrees/s", "radianz"])
def test_units_that_are_not_known_are_refused_and_never_taken_for_degrees(tmp_path, units):
    with pytest.raises(DataError, match=f"stage: got units '{units}', expected one of degrees, radians"):
        degrees_per_unit(units, "stage")
    made = record(tmp_path)
    with h5py.File(made.path, "r+") as file:
        file["exchange/theta"].attrs["units"] = units
    with pytest.raises(DataError, match=rf"scan\.h5: exchange/theta: got units '{units}'"):
        read_scan(made.path)
    assert len(read_scan(made.path, angle_units="degrees").frames.angles_deg) == 6


@pytest.mark.parametrize(("nxtomo", "read"), [(True, read_nxtomo), (False, read_dxfile)])
def test_range_without_units_that_is_hardly_in_degrees_is_refused_with_both_readings(tmp_path, nxtomo, read):
    made = record(tmp_path, nxtomo=nxtomo, number=(30, 1, 1))
    name = "e/sample/rotation_angle" if nxtomo else "exchange/theta"
    with h5py.File(made.path, "r+") as file:
        del file[name].attrs["units"]
        file[name][:] = np.deg2rad(file[name][:])
    with pytest.raises(DataError, match=rf"{name}: 30 views without units range over 3\.037: 3\.037 deg.* 174 deg"):
        read(made.path)
    np.testing.assert_allclose(read(made.path, angle_units="radians").angles_deg, made.degrees)
    np.testing.assert_allclose(read(made.path, angle_units="degrees").angles_deg, np.deg2rad(made.degrees))
    with pytest.raises(ConfigError, match="angle_units: got 'quarters'"):
        read(made.path, angle_units="quarters")


def test_units_that_are_stated_and_hardly_right_are_doubted_in_words():
    views = np.linspace(0, np.pi, 100)
    assert "range over 3.142 degrees as their units say, and over 180" in angles_in_degrees(views, "deg", "t")[1][0]
    assert "over 180 if they were degrees" in angles_in_degrees(np.linspace(0, 180, 100), "rad", "t")[1][0]


def test_few_views_over_few_degrees_need_no_units():
    assert angles_in_degrees(np.linspace(0, 5, 20), None, "t")[0][-1] == 5


GRID = np.arange(0, 180, 2.0)


@pytest.mark.parametrize(
    ("angles", "returning"),
    [
        (np.r_[GRID, 0.0], 1),
        (np.r_[GRID, 178.0, 90.0, 0.0], 3),
        (np.r_[np.arange(0, 361, 3.0), 270.0, 180.0, 90.0, 0.0], 4),
        (np.r_[-GRID, -91.1, -0.3], 2),
        (np.r_[np.random.default_rng(0).permutation(GRID), 0.0, 2.0], 2),
        (GRID, 0),
        (np.r_[GRID, 180.0], 0),
        (np.r_[GRID, GRID], 0),
        (np.r_[GRID, GRID[:6] + 1], 0),
        (np.repeat(GRID, 2), 0),
        (np.arange(0, 361, 2.0), 0),
        (np.r_[np.arange(0, 90, 1.0), 0.0], 0),
        (np.arange(200) * 111.246 % 180, 0),
    ],
)
def test_projections_that_return_after_the_full_range_are_counted_and_others_are_not(angles, returning):
    assert count_returning(angles) == returning


def test_nxtomo_leaves_out_and_counts_what_is_not_of_the_scan(tmp_path):
    made = record(tmp_path, nxtomo=True, number=(30, 2, 2), seed=3)
    detector, angle = "e/instrument/detector", "e/sample/rotation_angle"
    with h5py.File(made.path, "r+") as file:
        data, keys, degrees = (file[name][()] for name in (f"{detector}/data", f"{detector}/image_key", angle))
        order = np.lexsort((degrees, keys))
        more = data[:4] + 5  # an alignment frame, an invalid one, and two on the way back
        columns = {
            f"{detector}/data": np.concatenate([data[order], more]),
            f"{detector}/image_key": np.r_[keys[order], 0, 3, 0, 0],
            angle: np.r_[degrees[order], 33.0, 0.0, 90.0, 0.0],
        }
        # The scan first, the references last: returning projections follow the scan whatever lies between.
        for name, values in columns.items():
            attributes = dict(file[name].attrs)
            del file[name]
            file[name] = values
            file[name].attrs.update(attributes)
        control = columns[f"{detector}/image_key"].copy()
        control[-4] = -1
        file[f"{detector}/image_key_control"] = control
    scan = read_nxtomo(made.path)
    np.testing.assert_allclose(scan.angles_deg, np.sort(made.degrees))
    np.testing.assert_array_equal(scan.projections[:], made.projections[np.argsort(made.degrees)])
    told = "\n".join(scan.problems)
    assert "1 of 38 frames are marked invalid" in told
    assert "1 of 38 frames are taken for alignment" in told
    assert "the last 2 of 32 projections are at 90, 0 degrees" in told


@pytest.mark.parametrize(
    ("key", "control", "words"),
    [
        (7, None, "image_key of frame 1 is 7, expected 0"),
        (0, 2, "image_key of frame 1 is 0, but image_key_control is 2"),
        (-5, None, "image_key of frame 1 is -5"),
    ],
)
def test_image_keys_that_say_nothing_or_two_things_are_refused(tmp_path, key, control, words):
    made = record(tmp_path, nxtomo=True)
    with h5py.File(made.path, "r+") as file:
        detector = file["e/instrument/detector"]
        detector["image_key"][1] = key
        if control is not None:
            detector["image_key_control"] = detector["image_key"][()]
            detector["image_key_control"][1] = control
    with pytest.raises(DataError, match=rf"scan\.h5: {words}"):
        read_nxtomo(made.path)


def by_external_link(folder, made):
    with h5py.File(folder / "master.h5", "w") as file:
        file["1.1"] = h5py.ExternalLink("scan.h5", "/e")


def by_soft_link_to_an_external_one(folder, made):
    with h5py.File(folder / "master.h5", "w") as file:
        file["raw/tomo"] = h5py.ExternalLink("scan.h5", "/e")
        file["entry"] = h5py.SoftLink("/raw/tomo")
        file["loop"] = h5py.SoftLink("/")


def part_by_part(folder, made):
    with h5py.File(folder / "master.h5", "w") as file:
        for name in ("instrument", "sample"):
            file[f"scan/{name}"] = h5py.ExternalLink("scan.h5", f"/e/{name}")
        file["scan/definition"] = np.array([b"NXtomo "])


def by_class(folder, made):
    with h5py.File(made.path, "r+") as file:
        for old, new, kind in (("instrument/detector", "instrument/pco", "NXdetector"), ("instrument", "BM05",
                               "NXinstrument"), ("sample", "tooth", "NXsample")):  # fmt: skip
            file["e"].move(old, new)
            file["e"][new].attrs["NX_class"] = kind
    with h5py.File(folder / "master.h5", "w") as file:
        file["entry"] = h5py.ExternalLink("scan.h5", "/e")


@pytest.mark.parametrize("link", [by_external_link, by_soft_link_to_an_external_one, part_by_part, by_class])
def test_nxtomo_entry_is_found_wherever_links_and_classes_lead(tmp_path, link):
    made = record(tmp_path, nxtomo=True)
    link(tmp_path, made)
    scan = read_scan(tmp_path / "master.h5").frames
    np.testing.assert_array_equal(scan.projections[:], made.projections)
    np.testing.assert_allclose(scan.angles_deg, made.degrees)


def test_link_that_leads_nowhere_is_named(tmp_path):
    made = record(tmp_path, nxtomo=True)
    by_external_link(tmp_path, made)
    made.path.unlink()
    with pytest.raises(DataError, match=r"master\.h5: .*lead nowhere: /1\.1 to /e in the file scan\.h5"):
        read_nxtomo(tmp_path / "master.h5")
    with h5py.File(tmp_path / "dx.h5", "w") as file:
        file["exchange/data"] = h5py.ExternalLink("scan.h5", "/d")
    with pytest.raises(DataError, match=r"dx\.h5: .* /exchange/data is a link to /d in the file"):
        read_scan(tmp_path / "dx.h5")


def test_one_of_several_entries_is_read_and_the_others_are_named(tmp_path):
    made = record(tmp_path, nxtomo=True)
    with h5py.File(made.path, "r+") as file:
        file.copy("e", "f")
    assert "e is read; there are other NXtomo entries: f" in read_nxtomo(made.path).problems[0]
