"""The small parts of the job: neighbours, steps, checkpoints, the result's file, the watch."""

from __future__ import annotations

import errno
import os
import signal

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.partition import partition_rows
from bluesky_streamrecon.recon.checkpoint import Checkpoint, CheckpointStore
from bluesky_streamrecon.recon.communicator import Communicator, neighbours
from bluesky_streamrecon.recon.output import write_result
from bluesky_streamrecon.recon.parent_watch import Interrupted, ShutdownMonitor
from bluesky_streamrecon.recon.stepping import step_size


@pytest.mark.parametrize(("rows", "ranks", "share"), [(6, 3, 1), (7, 7, 2), (4, 11, 1), (5, 5, 5), (1, 1, 1)])
def test_every_slice_that_is_waited_for_is_sent(rows, ranks, share):
    blocks = partition_rows(rows, ranks, share=share)
    near = [neighbours(blocks, rank) for rank in range(ranks)]
    for rank, mine in enumerate(near):
        for source, wanted in ((mine.above, -1), (mine.below, +1)):
            exists = any(block.group == blocks[rank].group + wanted for block in blocks)
            assert (source is not None) == exists
        assert mine.above is None or rank in near[mine.above].need_last
        assert mine.below is None or rank in near[mine.below].need_first
    assert sum(len(one.need_first) for one in near) == sum(one.below is not None for one in near)
    assert sum(len(one.need_last) for one in near) == sum(one.above is not None for one in near)


@pytest.mark.parametrize("closed_at", [0, 1, 7, 24, 25, 100])
@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("window", [8, None])
def test_each_projection_is_used_whatever_the_backlog(closed_at, step, window):
    rng = np.random.default_rng(closed_at * step)
    arrived = applied = 0
    while applied < closed_at:
        arrived = min(closed_at, arrived + int(rng.integers(0, 30)))
        closed = arrived == closed_at
        while take := step_size(arrived - applied, step=step, window=window, coalesce=True, closed=closed):
            assert take <= (window or 24)
            assert take % step == 0 or (closed and take < step)
            applied += take


def test_without_coalescing_no_step_is_longer():
    assert step_size(1000, step=3, window=24, coalesce=False, closed=True) == 3


def checkpoint(seq=10):
    return Checkpoint(
        run_uid="run-1",
        seq=seq,
        image_number=4,
        projections=8,
        lost=1,
        arrays={
            "dark": np.full((2, 5), np.nan, np.float32),
            "dead": np.zeros((2, 5), bool),
            "flats": np.asarray(3),
        },
    )


def test_checkpoint_comes_back_as_it_was(tmp_path):
    CheckpointStore(tmp_path, "job", 0, 1).save(checkpoint())
    found = CheckpointStore(tmp_path, "job", 0, 1).newest_common(Communicator())
    assert (found.run_uid, found.seq, found.image_number, found.projections, found.lost) == ("run-1", 10, 4, 8, 1)
    assert found.arrays.keys() == checkpoint().arrays.keys()
    for name, array in checkpoint().arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, "job", 0, 1)
    for seq in (10, 20, 30):
        store.save(checkpoint(seq))
    assert len(list(tmp_path.iterdir())) == 2
    store.clear()
    assert not list(tmp_path.iterdir())


class OtherRankHas(Communicator):
    """Another rank whose newest checkpoint is an older one."""

    def __init__(self, seq):
        super().__init__()
        self._answers = [seq]

    def minimum(self, values):
        return (min(values[0], self._answers.pop()),) if self._answers else tuple(values)


@pytest.mark.parametrize(("seq", "expected"), [(20, 20), (10, None), (0, None)])
def test_job_goes_on_from_the_newest_checkpoint_that_all_ranks_have(tmp_path, seq, expected):
    store = CheckpointStore(tmp_path, "job", 0, 2)
    for saved in (10, 20, 30):
        store.save(checkpoint(saved))
    found = store.newest_common(OtherRankHas(seq))
    assert (None if found is None else found.seq) == expected


def test_damaged_checkpoint_is_as_good_as_none(tmp_path):
    CheckpointStore(tmp_path, "job", 0, 1).save(checkpoint())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    assert CheckpointStore(tmp_path, "job", 0, 1).newest_common(Communicator()) is None


def test_checkpoints_of_another_job_or_size_are_not_seen(tmp_path):
    CheckpointStore(tmp_path, "job", 0, 1).save(checkpoint())
    assert CheckpointStore(tmp_path, "job", 0, 2).newest_common(Communicator()) is None
    assert CheckpointStore(tmp_path, "other", 0, 1).newest_common(Communicator()) is None


def write(path, images, *, shape, datasets, attributes):
    return write_result(
        path,
        Communicator(),
        partition_rows(shape[0], 1)[0],
        images,
        shape=shape,
        datasets=datasets,
        attributes=attributes,
    )


def test_result_is_never_seen_half_written(tmp_path):
    path = tmp_path / "deep" / "recon.h5"
    image = np.arange(20 * 12, dtype=np.float32).reshape(20, 3, 4)

    def images(rows):
        assert not path.exists()
        return image[list(rows)]

    write(path, images, shape=(20, 3, 4), datasets={"theta": (np.array([0, 90]), "degrees")}, attributes={"axis": 1.5})
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["/exchange/data"][:], image)
        np.testing.assert_array_equal(file["/exchange/theta"][:], [0, 90])
        assert (file["/exchange/theta"].attrs["units"], file.attrs["axis"]) == ("degrees", 1.5)


def test_result_that_can_not_be_written_says_where_and_what_to_look_at(tmp_path):
    (tmp_path / "file").touch()
    good, problem = write(
        tmp_path / "file" / "recon.h5", lambda rows: None, shape=(1, 3, 3), datasets={}, attributes={}
    )
    assert not good
    assert "file/recon.h5" in problem
    assert "writable" in problem


def test_result_that_a_full_disk_cuts_short_leaves_its_room(tmp_path):
    def images(rows):
        assert list(tmp_path.iterdir())
        raise OSError(errno.ENOSPC, "No space left on device")

    good, problem = write(tmp_path / "recon.h5", images, shape=(1, 3, 3), datasets={}, attributes={})
    assert not good
    assert "the disk not full?" in problem
    assert list(tmp_path.iterdir()) == []


def test_silence_longer_than_the_limit_ends_the_job():
    silent = 1.0
    watch = ShutdownMonitor(lambda: silent, 10.0)
    watch.check()
    silent = 11.0
    with pytest.raises(Interrupted, match="not been heard of for 11 s"):
        watch.check()


def test_signal_ends_the_job_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    watch = ShutdownMonitor(lambda: 0.0, 10.0)
    with watch.signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            watch.check()
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
