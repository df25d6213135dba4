"""Volumes that the job is finishing: what becomes of each, in whatever order the job reports."""

import pytest

from bluesky_streamrecon.beamline.volumes import Volumes
from bluesky_streamrecon.run_record import RunRecord
from bluesky_streamrecon.wire.messages import OpenRunSpec, RunDone, Status, VolumeDone


def record(uid="run"):
    spec = OpenRunSpec(run_uid=uid, recon_uid=f"of-{uid}", planned=9, detector_shape=(2, 4), dtype="<u2")
    results = (RunDone(run_uid=uid, rank=0, image_number=3, result="/data/recon.h5", finishing=True),)
    return RunRecord(
        spec=spec, exit_status="success", reason="", taken=9, used=9, score=None, verdicts=(), image_number=3,
        results=results, ledger={}, ranks=1, seconds=None, seconds_to_first_image=None, problems=(), lost=False,
    )  # fmt: skip


@pytest.fixture
def volumes():
    return Volumes()


def share(percent, rank=0):
    return Status(run_uid="run", rank=rank, state="finishing", text=f"{percent} %")


DONE = VolumeDone(run_uid="run", similarity=0.99, result="/data/recon.h5")


def test_progress_is_that_of_the_slowest_rank_and_ends_with_the_file(volumes):
    volumes.add(record(), 1.0)
    for status in (share(50), share(100, rank=1), share(9, rank=2)):
        assert volumes.take(status, 2.0) is None
    assert volumes.text == "of run is being finished: 9 %"
    done = volumes.take(DONE, 3.0)
    assert (done.volume, done.similarity, volumes.heard_at) == ("/data/recon.h5", 0.99, 3.0)
    assert volumes.text.endswith("MS-SSIM of the live image to it 0.9900")
    assert "run" not in volumes


def test_volume_that_is_there_before_the_record_is_not_lost(volumes):
    assert volumes.take(DONE, 1.0) is None
    assert volumes.add(record(), 2.0).volume == "/data/recon.h5"
    assert not volumes


def test_early_volume_of_another_run_is_left_aside(volumes):
    volumes.take(DONE, 1.0)
    assert volumes.add(record("other"), 2.0) is None
    assert volumes.take(DONE, 3.0) is None
    assert "other" in volumes


def test_volume_that_never_comes_is_a_problem_of_its_run(volumes):
    volumes.add(record(), 1.0)
    (gone,) = volumes.give_up("the job was closed")
    assert gone.problems == ("volume: not finished: the job was closed",)
    volumes.add(record(), 1.0)
    failed = volumes.take(VolumeDone(run_uid="run", text="the disk is full"), 2.0)
    assert failed.problems == ("volume: not finished: the disk is full",)
    assert failed.volume is None
    assert not volumes
