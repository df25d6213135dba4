"""The endpoints over real sockets on loopback."""

from __future__ import annotations

import gc
import queue
import statistics
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bluesky_streamrecon.beamline.serving import Acked, AllRanksReady, PeerJoined, PeerLost, QueuedFrame, RunFinished
from bluesky_streamrecon.errors import ConfigError, LocalProtocolError
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import (
    AbandonRun,
    ChangeRun,
    CloseRun,
    Item,
    LinkRestored,
    OpenRun,
    OpenRunSpec,
    Problem,
    RunDone,
    Status,
)

Spec = Callable[..., OpenRunSpec]


class LateFrame(QueuedFrame):
    """A projection that is read when it may."""

    def __init__(self, index: int, angle: float, result: Any) -> None:
        super().__init__("projection", index, angle, in_file=True)
        self.result = result
        self.allowed = threading.Event()
        self.asked = threading.Event()

    def read(self) -> np.ndarray:
        self.asked.set()
        assert self.allowed.wait(20)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_each_rank_gets_its_rows_of_every_item(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    ranks = [wires.rank(beamline, rank, 2) for rank in range(2)]
    assert wires.seen.wait(AllRanksReady).size == 2
    beamline.open_run(spec(metadata={"sample": "tooth"}))
    beamline.append(QueuedFrame("flat", 1, 0.0, wires.frame(0)))
    beamline.append(QueuedFrame("dark", 1, 0.0, wires.frame(0)))
    for index in range(1, 6):
        beamline.append(QueuedFrame("projection", index, 0.1 * index, wires.frame(index)))
    beamline.close_run("success", "all taken")
    for rank in ranks:
        assert wires.follow(rank) == [1, 2, 3, 4, 5, 6, 7]
    finished = wires.seen.wait(RunFinished)
    assert [(done.rank, done.ack.applied, done.image_number) for done in finished.results] == [(0, 8, 7), (1, 8, 7)]
    ledger = beamline.ledger()
    assert sorted(ledger) == [0, 1]
    for entry in ledger.values():
        assert entry.balanced
        assert entry.done
        assert entry.items == 7
    assert wires.seen.of(Acked)[-1].projections == 5


def test_closing_mark_carries_the_totals(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    beamline.append(QueuedFrame("flat", 1, 0.0, wires.frame(0)))
    wires.fill(beamline, 1, 2)
    beamline.close_run("success", "quality")
    opened = wires.take(rank, OpenRun)
    assert (opened.rows, opened.planned, opened.recon_uid) == ((0, 6), 10, "recon-of-run-1")
    for _ in range(3):
        wires.take(rank, Item)
    close = wires.take(rank, CloseRun)
    assert (close.seq, close.projections, close.flats, close.darks) == (4, 2, 1, 0)
    assert (close.exit_status, close.reason) == ("success", "quality")


def test_job_that_starts_after_the_scan_gets_everything(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    beamline.open_run(spec())
    wires.fill(beamline, 1, 8)
    beamline.close_run()
    assert beamline.ledger() == {}
    ranks = [wires.rank(beamline, rank, 3) for rank in range(3)]
    for rank in ranks:
        assert wires.follow(rank) == list(range(1, 9))
    wires.seen.wait(RunFinished)


def test_rank_that_dies_and_comes_back_gets_everything_again(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    ranks = [wires.rank(beamline, rank, 2) for rank in range(2)]
    beamline.open_run(spec())
    wires.fill(beamline, 1, 4)
    wires.take(ranks[1], OpenRun)
    for seq in (1, 2, 3):
        assert wires.take(ranks[1], Item).seq == seq
    ranks[1].applied(3)
    wires.seen.wait(Acked, lambda e: e.rank == 1 and e.applied == 3)
    ranks[1].close(0)
    wires.seen.wait(PeerLost, lambda e: e.peer.rank == 1)
    again = wires.rank(beamline, 1, 2)
    wires.seen.wait(PeerJoined, lambda e: e.peer.rank == 1, count=2)
    wires.fill(beamline, 5, 6)
    beamline.close_run()
    assert wires.follow(ranks[0]) == [1, 2, 3, 4, 5, 6]
    assert wires.follow(again) == [1, 2, 3, 4, 5, 6]
    wires.seen.wait(RunFinished)
    ledger = beamline.ledger()
    assert (ledger[0].restarts, ledger[1].restarts) == (0, 1)
    assert ledger[1].resent >= 3
    assert all(entry.balanced for entry in ledger.values())


@pytest.mark.parametrize(("images", "redo"), [(3, 4), (1, 0)])
def test_rank_that_comes_back_is_told_what_to_make_again_unless_it_had_left_out_images(
    wires: Any, spec: Spec, images: int, redo: int
) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 4)
    assert wires.take(rank, OpenRun).redo == 0
    rank.send(Status(run_uid="run-1", rank=0, state="reconstructing", projections=3, image_number=images))
    wires.seen.wait(Status)
    rank.close(0)
    wires.seen.wait(PeerLost)
    assert wires.take(wires.rank(beamline), OpenRun).redo == redo


def test_rank_with_a_checkpoint_goes_on_after_it(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    beamline.open_run(spec())
    wires.fill(beamline, 1, 6)
    beamline.close_run()
    rank = wires.rank(beamline, resume=("run-1", 4))
    assert wires.follow(rank) == [5, 6]
    wires.seen.wait(RunFinished)


def test_controller_is_told_that_a_run_gets_longer_now_and_when_it_comes_back(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    beamline.change_run(ChangeRun(run_uid="run-1", planned=12))  # no run is open: nothing happens
    rank, controller = wires.rank(beamline), wires.controller(beamline)
    beamline.open_run(spec())
    assert wires.take(controller, OpenRun).planned == 10
    wires.fill(beamline, 1, 2)
    for uid, planned in (("run-1", 16), ("another", 17), ("run-1", 18)):
        beamline.change_run(ChangeRun(run_uid=uid, planned=planned))
    assert [wires.take(controller, ChangeRun).planned for _ in range(2)] == [16, 18]
    controller.close(0)
    wires.seen.wait(PeerLost, lambda e: e.peer.role == "controller")
    again = wires.controller(beamline)
    assert wires.take(again, OpenRun).planned == 10
    assert [wires.take(again, ChangeRun).planned for _ in range(2)] == [16, 18]
    beamline.close_run()
    wires.take(again, CloseRun)
    assert wires.take(rank, OpenRun).planned == 10  # what was begun with decides when the axis is looked for
    assert [wires.take(rank, Item).seq for _ in range(2)] == [1, 2]


def test_rank_that_is_started_again_begins_with_the_rows_that_count_by_now(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank, controller = wires.rank(beamline), wires.controller(beamline)
    beamline.open_run(spec(preview_rows=(1,)))
    wires.fill(beamline, 1, 2)
    assert [wires.take(each, OpenRun).preview_rows for each in (rank, controller)] == [(1,)] * 2
    for selection, begins_with in ((Selection(rows=(0,)), (0,)), (WHOLE_VIEW, (1,))):
        beamline.change_run(ChangeRun(run_uid="run-1", selection=selection))
        rank.close(0)
        wires.seen.wait(PeerLost, lambda e: e.peer.role == "rank")
        rank = wires.rank(beamline, resume=("run-1", 2))
        assert wires.take(rank, OpenRun).preview_rows == begins_with
        assert wires.take(controller, ChangeRun).selection == selection


def test_correction_of_the_axis_reaches_every_rank_in_its_place_and_again_after_a_restart(
    wires: Any, spec: Spec
) -> None:
    beamline = wires.beamline()
    beamline.change_run(ChangeRun(run_uid="run-1", axis=1.5))  # no run is open: nothing happens
    ranks, controller = [wires.rank(beamline, rank, 2) for rank in range(2)], wires.controller(beamline)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 2)
    beamline.change_run(ChangeRun(run_uid="run-1", axis=4.25))
    wires.fill(beamline, 3, 4)

    def follow(rank: Any) -> list[int | float]:
        seen: list[int | float] = []
        while len(seen) < 5:
            event = rank.next(10)
            seen += [event.seq] if isinstance(event, Item) else [event.axis] if isinstance(event, ChangeRun) else []
        rank.applied(5)
        return seen

    assert [follow(rank) for rank in ranks] == [[1, 2, 4.25, 4, 5]] * 2
    wires.seen.wait(Acked, lambda e: e.applied == 5 and e.projections == 4, count=2)
    ranks[1].close(0)
    wires.seen.wait(PeerLost, lambda e: e.peer.role == "rank")
    assert follow(wires.rank(beamline, 1, 2)) == [1, 2, 4.25, 4, 5]
    wires.seen.wait(Acked, lambda e: e.applied == 5 and e.projections == 4, count=3)
    assert {entry.items for entry in beamline.ledger().values()} == {4}
    beamline.close_run()
    assert wires.take(controller, OpenRun).run_uid == "run-1"
    assert wires.take(controller, ChangeRun).axis == 4.25
    wires.take(controller, CloseRun)


def test_same_job_serves_one_run_after_another(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    for number in (1, 2, 3):
        beamline.open_run(spec(f"run-{number}"))
        wires.fill(beamline, 1, number)
        beamline.close_run()
        assert wires.follow(rank) == list(range(1, number + 1))
        wires.seen.wait(RunFinished, lambda e, uid=f"run-{number}": e.run_uid == uid)


def test_slow_rank_does_not_hold_up_the_other(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    slow, quick = wires.rank(beamline, 0, 2, credit=4), wires.rank(beamline, 1, 2)
    beamline.open_run(spec(recon=ReconSettings(window=2)))
    wires.fill(beamline, 1, 50)
    beamline.close_run()
    assert wires.follow(quick) == list(range(1, 51))
    wires.seen.wait(Acked, lambda e: e.rank == 1 and e.applied == 50)
    assert slow.pending() <= 4
    assert beamline.ledger()[0].sent <= 4
    assert wires.follow(slow) == list(range(1, 51))


def test_file_that_makes_wait_holds_up_neither_scan_nor_heartbeats(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline(peer_timeout=0.5)
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    frames = [LateFrame(index, 0.0, wires.frame(index)) for index in (1, 2)]
    for frame in frames:
        beamline.append(frame)
    assert frames[0].asked.wait(20)
    wires.take(rank, OpenRun)
    until, count = time.monotonic() + 1.2, 0
    while time.monotonic() < until:
        count += 1
        rank.send(Status(run_uid="run-1", rank=0, state="waiting", image_number=count))
        assert wires.seen.wait(Status, count=count).image_number == count
    assert not wires.seen.of(PeerLost)
    for frame in frames:
        frame.allowed.set()
    beamline.close_run()
    for seq in (1, 2):
        np.testing.assert_array_equal(wires.take(rank, Item).pixels, wires.frame(seq))
        rank.applied(seq)
    wires.take(rank, CloseRun)


def test_frame_that_can_not_be_read_is_told_to_all_and_the_run_goes_on(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    ranks = [wires.rank(beamline, rank, 2) for rank in range(2)]
    beamline.open_run(spec())
    broken = LateFrame(3, 0.3, OSError("the file was moved"))
    broken.allowed.set()
    wires.fill(beamline, 1, 2)
    beamline.append(broken)
    wires.fill(beamline, 4, 5)
    beamline.close_run()
    for rank in ranks:
        assert wires.follow(rank, skip=(Problem,)) == [1, 2, 4, 5]
    assert "the file was moved" in wires.seen.wait(Problem).text
    wires.seen.wait(RunFinished)
    assert [problem.where for problem in wires.seen.of(Problem)] == ["streaming"]
    for entry in beamline.ledger().values():
        assert not entry.balanced
        assert (entry.items, entry.sent, entry.applied, entry.dropped) == (5, 4, 4, 1)
        assert "the file was moved" in entry.explain()


def test_inline_frames_above_the_memory_limit_reach_a_late_job(wires: Any, spec: Spec) -> None:
    limit = 4 * 6 * 8 * 2
    beamline = wires.beamline(memory_limit=limit)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 60)
    beamline.close_run()
    rank = wires.rank(beamline)
    assert wires.follow(rank) == list(range(1, 61))
    wires.seen.wait(RunFinished)
    assert beamline.ledger()[0].spilled >= 50
    assert beamline.ledger()[0].balanced


def test_run_that_is_over_keeps_no_pixels(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    gone: queue.Queue[int] = queue.Queue()
    for index in (1, 2, 3):
        pixels = wires.frame(index)
        weakref.finalize(pixels, gone.put, index)
        beamline.append(QueuedFrame("projection", index, 0.1 * index, pixels))
    del pixels
    beamline.close_run()
    assert wires.follow(rank) == [1, 2, 3]
    wires.seen.wait(RunFinished)
    assert {gone.get(timeout=20) for _ in range(3)} == {1, 2, 3}  # the socket has copies of its own for a moment
    assert beamline.memory() == 0


def test_append_takes_far_less_than_a_millisecond(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    wires.rank(beamline, 0, 2)
    wires.seen.wait(PeerJoined)
    beamline.open_run(spec(detector_shape=(2048, 2048)))
    pixels = np.zeros((2048, 2048), "<u2")
    taken = []
    for index in range(1, 101):
        before = time.perf_counter()
        beamline.append(QueuedFrame("projection", index, 0.0, pixels))
        taken.append(time.perf_counter() - before)
    assert statistics.median(taken) < 1e-3


def test_job_of_another_size_may_take_over_when_the_first_is_gone(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    first = wires.rank(beamline)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 4)
    wires.take(first, OpenRun)
    first.close(0)
    wires.seen.wait(PeerLost)
    ranks = [wires.rank(beamline, rank, 2) for rank in range(2)]
    beamline.close_run()
    for rank in ranks:
        assert wires.follow(rank) == [1, 2, 3, 4]
    assert len(wires.seen.wait(RunFinished).results) == 2


def test_abandoned_run_ends_at_the_ranks_and_the_next_one_begins(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 3)
    wires.take(rank, OpenRun)
    wires.take(rank, Item)
    beamline.abandon_run("the user gave up")
    gone = wires.take(rank, AbandonRun, (Item,))
    assert (gone.run_uid, gone.reason) == ("run-1", "the user gave up")
    rank.applied(1)
    rank.send(RunDone(run_uid="run-1", rank=0, image_number=0))
    beamline.open_run(spec("run-2"))
    wires.fill(beamline, 1, 2)
    beamline.close_run()
    assert wires.follow(rank) == [1, 2]
    assert wires.seen.wait(RunFinished).run_uid == "run-2"


def test_run_opened_before_the_last_is_finished_abandons_it(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    beamline.close_run()
    wires.take(rank, OpenRun)
    beamline.open_run(spec("run-2"))
    assert wires.take(rank, AbandonRun, (CloseRun,)).run_uid == "run-1"
    assert wires.take(rank, OpenRun).run_uid == "run-2"


def test_what_the_user_does_wrong_is_told_at_once(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    with pytest.raises(LocalProtocolError, match="no run is open"):
        beamline.append(QueuedFrame("projection", 1, 0.0, wires.frame(1)))
    with pytest.raises(LocalProtocolError, match="no run is open"):
        beamline.close_run()
    for bad, said in (
        ({"dtype": "<c8"}, "got dtype '<c8', expected one of"),
        ({"dtype": "what"}, "got dtype 'what'"),
        ({"metadata": {"a": "x" * 5000}}, None),
        ({"detector_shape": (60_000, 60_000)}, None),
    ):
        with pytest.raises(LocalProtocolError, match=said):
            beamline.open_run(spec(**bad))
    beamline.open_run(spec())
    with pytest.raises(LocalProtocolError, match="opened while"):
        beamline.open_run(spec("run-2"))
    with pytest.raises(LocalProtocolError, match="expected projection 1"):
        beamline.append(QueuedFrame("projection", 2, 0.0, wires.frame(1)))
    with pytest.raises(LocalProtocolError, match="detector ROI"):
        beamline.append(QueuedFrame("projection", 1, 0.0, wires.frame(1, (6, 9))))
    with pytest.raises(LocalProtocolError, match="finite"):
        beamline.append(QueuedFrame("projection", 1, float("nan"), wires.frame(1)))
    rank = wires.rank(beamline)
    wires.take(rank, OpenRun)
    with pytest.raises(LocalProtocolError, match="item 1 of run"):
        rank.applied(1)
    with pytest.raises(LocalProtocolError, match="before its end"):
        rank.send(RunDone(run_uid="run-1", rank=0, image_number=0))
    with pytest.raises(ConfigError, match="rank"):
        wires.rank(beamline, 2, 2)
    with pytest.raises(ConfigError, match="can not be connected"):
        type(rank)("nonsense", job_id="x", rank=0, size=1)


def test_listener_that_raises_does_not_stop_the_stream(
    wires: Any, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(event: object, sender: object) -> None:
        wires.seen(event)
        raise RuntimeError("listener broken")

    beamline = type(wires.beamline())(on_event=listener)
    try:
        rank = wires.rank(beamline)
        beamline.open_run(spec())
        wires.fill(beamline, 1, 2)
        beamline.close_run()
        assert wires.follow(rank) == [1, 2]
        wires.seen.wait(RunFinished)
    finally:
        beamline.close()
    assert "on_event raised for RunFinished" in caplog.text


def test_closing_leaves_no_file_descriptors(wires: Any, spec: Spec) -> None:
    def once() -> None:
        beamline = wires.beamline(memory_limit=0)
        rank, controller = wires.rank(beamline), wires.controller(beamline)
        beamline.open_run(spec(detector_shape=(256, 512)))
        for index in (1, 2, 3):
            beamline.append(QueuedFrame("projection", index, 0.0, wires.frame(index, (256, 512))))
        beamline.close_run()
        wires.follow(rank)
        wires.take(controller, CloseRun, (LinkRestored, OpenRun))
        for endpoint in (rank, controller, beamline):
            endpoint.close()
            endpoint.close()

    def count() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    once()  # pyzmq keeps a context of its own from the first uncopied message on
    before, rounds = count(), 10
    for _ in range(rounds):
        once()
    assert count() < before + rounds  # what else is in this process may open some, once
