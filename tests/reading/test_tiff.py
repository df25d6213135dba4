"""TIFF stacks with a table of angles."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.storage import read_scan

ANGLES = np.linspace(0, 180, 12)


@pytest.fixture
def described(tmp_path):
    """Write twelve projections, a file each, flats in one file, and what says so; give the frames and the TOML file."""
    rng = np.random.default_rng(3)
    frames, flats = rng.integers(1, 4000, (12, 4, 16), np.uint16), rng.integers(4000, 4100, (3, 4, 16), np.uint16)
    (tmp_path / "raw").mkdir()
    for number, frame in enumerate(frames):
        tifffile.imwrite(tmp_path / "raw" / f"stone_{number}.tif", frame)  # 10 comes before 2 in the alphabet
    tifffile.imwrite(tmp_path / "flats.tif", flats, photometric="minisblack")
    (tmp_path / "angles.csv").write_text("time, theta\n" + "".join(f"{n}.5, {a}\n" for n, a in enumerate(ANGLES)))
    path = tmp_path / "stone.toml"
    path.write_text('projections = "raw/stone_*.tif"\nflats = "flats.tif"\nangles = "angles.csv"\n')
    return frames, flats, path


def test_stack_is_read_in_the_order_of_its_numbers(described):
    frames, flats, path = described
    scan = read_scan(path)
    assert (scan.layout, len(scan.frames.darks), scan.frames.problems) == ("tiff", 0, ())
    np.testing.assert_array_equal(scan.frames.projections[:], frames)
    np.testing.assert_array_equal(scan.frames.projections[3:5, 1:2, ::4], frames[3:5, 1:2, ::4])
    np.testing.assert_array_equal(scan.frames.flats[1], flats[1])
    np.testing.assert_allclose(scan.frames.angles_deg, ANGLES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "angles.csv").write_text("0\n1\n"), "got 2 angles, expected one for each of 12"),
        (
            lambda folder: (folder / "angles.csv").write_text("a,b\n1,2\n"),
            r"got columns \['a', 'b'\], expected angle or",
        ),
        (lambda folder: (folder / "angles.csv").write_text("theta\n1\nx\n"), "not a number in each line"),
        (lambda folder: (folder / "flats.tif").unlink(), "flats = 'flats.tif': there is no such file"),
        (lambda folder: (folder / "raw" / "stone_0.tif").write_text("no"), "can not be read as TIFF"),
        (
            lambda folder: (folder / "stone.toml").write_text('angles = "x"'),
            "expected texts for projections and angles",
        ),
        (lambda folder: (folder / "stone.toml").write_text("angles ="), "not a TOML file"),
    ],
)
def test_what_can_not_be_read_says_which_file_and_what_was_expected(described, change, message):
    path = described[2]
    change(path.parent)
    with pytest.raises(DataError, match=message):
        read_scan(path)


def test_page_of_another_shape_and_a_file_that_is_not_there_are_errors(described):
    path = described[2]
    tifffile.imwrite(path.parent / "raw" / "stone_7.tif", np.zeros((4, 15), np.uint16))
    with pytest.raises(DataError, match=r"stone_7.tif: page 0: got \(4, 15\) pixels"):
        read_scan(path).frames.projections[:]
    with pytest.raises(StorageError, match=r"no.toml: can not be read"):
        read_scan(path.with_name("no.toml"))
