"""Scans, in memory and in files."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError, StorageError
from bluesky_streamrecon.hdf5 import ChosenFrames
from bluesky_streamrecon.hdf5.frames import FrameStack
from bluesky_streamrecon.storage import LazyFrames, TomoScan


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as f:
        f["a/data"] = np.arange(6 * 2 * 3, dtype=np.uint16).reshape(6, 2, 3)
        f["a/flat"] = np.zeros(4)
    return path


def test_lazy_frames_slice_like_the_array_they_stand_for(file):
    whole = np.arange(36, dtype=np.uint16).reshape(6, 2, 3)
    for index in (None, np.array([0, 2, 3, 5])):
        frames = LazyFrames(file, "a/data") if index is None else ChosenFrames(LazyFrames(file, "a/data"), index)
        expected = whole if index is None else whole[index]
        assert (frames.shape, frames.dtype, len(frames)) == (expected.shape, expected.dtype, len(expected))
        for key in (0, -1, slice(None), slice(1, 3), slice(None, None, 2), slice(3, 1), slice(None, None, -1)):
            np.testing.assert_array_equal(frames[key], expected[key])
        np.testing.assert_array_equal(frames[1:3, 1], expected[1:3, 1])
        np.testing.assert_array_equal(frames[2, :, 1:], expected[2, :, 1:])
        np.testing.assert_array_equal(np.asarray(frames), expected)


def test_scan_in_another_order_keeps_angles_and_readings_with_their_frames(scan):
    order = [3, 0, 2]
    scan = replace(scan, monitor=np.arange(5.0), flat_monitor=np.ones(len(scan.flats)))
    found = scan.in_order(order)
    np.testing.assert_array_equal(found.projections[:], np.asarray(scan.projections)[order])
    np.testing.assert_array_equal(found.angles_deg, scan.angles_deg[order])
    np.testing.assert_array_equal(found.monitor, order)


def test_frames_that_can_only_be_sliced_are_refused_in_another_order_and_never_others_instead():
    class Sliced(FrameStack):
        def _read(self, numbers, rest):
            return np.arange(6)[self._sliced(numbers), None, None] * np.ones((1, 2, 3), np.int64)

    frames = Sliced((6, 2, 3), np.dtype(np.int64), "frames")
    assert ChosenFrames(frames, np.array([4, 2, 0]))[:][:, 0, 0].tolist() == [4, 2, 0]
    with pytest.raises(DataError, match=r"\[4 2 1\]: expected them equally far apart"):
        ChosenFrames(frames, np.array([4, 2, 1]))[:]


def test_lazy_frames_leave_no_file_open(file):
    frames = LazyFrames(file, "a/data")
    frames[0]
    with h5py.File(file, "r+") as f:
        f["a/data"][0] = 7
    assert frames[0].max() == 7


def test_what_is_no_stack_of_frames_is_refused_with_what_there_is(file, tmp_path):
    with pytest.raises(DataError, match=r"no dataset a/nothing; /a has \['data', 'flat'\]"):
        LazyFrames(file, "a/nothing")
    with pytest.raises(DataError, match=r"a/flat is \(4,\)"):
        LazyFrames(file, "a/flat")
    with pytest.raises(StorageError, match="no such file"):
        LazyFrames(tmp_path / "none.h5", "a")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        LazyFrames(tmp_path / "text.h5", "a")


def test_scan_that_does_not_fit_together_is_refused(scan):
    with pytest.raises(DataError, match="same rows and columns"):
        TomoScan(scan.projections, scan.flats[:, :, :4], scan.darks, scan.angles_deg)
    with pytest.raises(DataError, match="angles for 5 projections"):
        TomoScan(scan.projections, scan.flats, scan.darks, scan.angles_deg[:4])
    with pytest.raises(DataError, match="projection 1 is nan"):
        TomoScan(scan.projections, scan.flats, scan.darks, np.array([0, np.nan, 1, 2, 3]))


def test_angles_are_given_in_radians_for_reconstruction(scan):
    np.testing.assert_allclose(scan.angles, np.deg2rad(scan.angles_deg))
