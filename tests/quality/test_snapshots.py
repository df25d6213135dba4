"""Snapshots: how the image grew can be seen afterwards, and a full disk stops nothing."""

from itertools import pairwise

import h5py
import numpy as np

from bluesky_streamrecon.quality.metrics import PreviewImage
from bluesky_streamrecon.quality.snapshots import Snapshots


class Run:
    recon_uid = "9123df61"

    def __init__(self, output):
        self.output = output


def image(projections):
    return PreviewImage(projections, projections, (3, 5), np.full((2, 4, 4), projections, np.float32))


def test_snapshots_grow_sparser_and_hold_what_was_offered(tmp_path):
    snapshots = Snapshots(Run(str(tmp_path)))
    for projections in range(1, 101):
        snapshots.offer(image(projections))
    with h5py.File(snapshots.path) as file:
        kept = list(file["projections"])
        assert kept[0] == 1
        assert 10 <= len(kept) <= 14
        assert all(b >= 1.4 * a for a, b in pairwise(kept))
        assert file["images"].shape == (len(kept), 2, 4, 4)
        assert [float(i[0, 0, 0]) for i in file["images"]] == kept
        assert list(file["rows"]) == [3, 5]


def test_a_controller_that_comes_back_adds_to_the_file(tmp_path):
    for _ in range(2):
        snapshots = Snapshots(Run(str(tmp_path)))
        snapshots.offer(image(7))
    with h5py.File(snapshots.path) as file:
        assert list(file["projections"]) == [7]


def test_without_a_place_for_it_nothing_is_written(tmp_path):
    Snapshots(Run(None)).offer(image(1))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_can_not_be_written_is_told_once_and_stops_nothing(tmp_path, caplog):
    snapshots = Snapshots(Run(str(tmp_path / "missing")))
    for projections in (1, 10, 100):
        snapshots.offer(image(projections))
    assert len([r for r in caplog.records if "can not be kept" in r.message]) == 1
