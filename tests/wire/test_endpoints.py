"""The endpoints over real sockets on loopback."""

from __future__ import annotations

import gc
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from bluesky_streamrecon.config import ReconSettings
from bluesky_streamrecon.errors import ConfigError, LocalProtocolError
from bluesky_streamrecon.wire import (
    Acked,
    AllRanksReady,
    FinalizeReceived,
    ItemReceived,
    LinkLost,
    LinkRestored,
    OpenRunSpec,
    PeerJoined,
    PeerLost,
    PreviewMoved,
    PreviewReceived,
    ProblemReported,
    Refused,
    RunAbandoned,
    RunClosed,
    RunFinished,
    RunOpened,
    ScoreReceived,
    ShutdownRequested,
    StatusReceived,
    StreamFailed,
)
from bluesky_streamrecon.wire.codec import decode_down, encode
from bluesky_streamrecon.wire.messages import Hello, Problem

HOSTILE = int(os.environ.get("WIRE_HOSTILE", "20"))  # connections with garbage

Spec = Callable[..., OpenRunSpec]


class Source:
    """A frame that is read when it may."""

    in_file = True

    def __init__(self, result: Any) -> None:
        self.result = result
        self.allowed = threading.Event()
        self.asked = threading.Event()

    def read(self) -> np.ndarray:
        self.asked.set()
        assert self.allowed.wait(20)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def resident() -> int:
    """Give the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fill(wires: Any, beamline: Any, first: int, last: int) -> None:
    for index in range(first, last + 1):
        beamline.append("projection", index, 0.1 * index, wires.frame(index))


def test_each_rank_gets_its_rows_of_every_item(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    ranks = [wires.rank(beamline, rank, 2) for rank in range(2)]
    assert wires.seen.wait(AllRanksReady).size == 2
    beamline.open_run(spec(metadata={"sample": "tooth"}))
    assert beamline.append("flat", 1, 0.0, wires.frame(0)) == 1
    assert beamline.append("dark", 1, 0.0, wires.frame(0)) == 2
    for index in range(1, 6):
        assert beamline.append("projection", index, 0.1 * index, wires.frame(index)) == index + 2
    beamline.close_run("success", "all taken")
    for rank in ranks:
        assert wires.follow(rank) == [1, 2, 3, 4, 5, 6, 7]
    finished = wires.seen.wait(RunFinished)
    assert [(done.rank, done.applied, done.image_number) for done in finished.results] == [(0, 7, 7), (1, 7, 7)]
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
    beamline.append("flat", 1, 0.0, wires.frame(0))
    fill(wires, beamline, 1, 2)
    beamline.close_run("success", "quality")
    opened = wires.take(rank, RunOpened).run
    assert (opened.rows, opened.planned, opened.recon_uid) == ((0, 6), 10, "recon-of-run-1")
    for _ in range(3):
        wires.take(rank, ItemReceived)
    close = wires.take(rank, RunClosed).close
    assert (close.seq, close.projections, close.flats, close.darks) == (4, 2, 1, 0)
    assert (close.exit_status, close.reason) == ("success", "quality")


def test_job_that_starts_after_the_scan_gets_everything(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    beamline.open_run(spec())
    fill(wires, beamline, 1, 8)
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
    fill(wires, beamline, 1, 4)
    wires.take(ranks[1], RunOpened)
    for seq in (1, 2, 3):
        assert wires.take(ranks[1], ItemReceived).item.seq == seq
    ranks[1].applied(3)
    wires.seen.wait(Acked, lambda e: e.rank == 1 and e.applied == 3)
    ranks[1].close(0)
    wires.seen.wait(PeerLost, lambda e: e.peer.rank == 1)
    again = wires.rank(beamline, 1, 2)
    wires.seen.wait(PeerJoined, lambda e: e.peer.rank == 1, count=2)
    fill(wires, beamline, 5, 6)
    beamline.close_run()
    assert wires.follow(ranks[0]) == [1, 2, 3, 4, 5, 6]
    assert wires.follow(again) == [1, 2, 3, 4, 5, 6]
    wires.seen.wait(RunFinished)
    ledger = beamline.ledger()
    assert (ledger[0].restarts, ledger[1].restarts) == (0, 1)
    assert ledger[1].resent >= 3
    assert all(entry.balanced for entry in ledger.values())


def test_rank_with_a_checkpoint_goes_on_after_it(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    beamline.open_run(spec())
    fill(wires, beamline, 1, 6)
    beamline.close_run()
    rank = wires.rank(beamline, resume=("run-1", 4))
    assert wires.follow(rank) == [5, 6]
    wires.seen.wait(RunFinished)


def test_same_job_serves_one_run_after_another(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    for number in (1, 2, 3):
        beamline.open_run(spec(f"run-{number}"))
        fill(wires, beamline, 1, number)
        beamline.close_run()
        assert wires.follow(rank) == list(range(1, number + 1))
        wires.seen.wait(RunFinished, lambda e, uid=f"run-{number}": e.run_uid == uid)


def test_slow_rank_does_not_hold_up_the_other(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    slow, quick = wires.rank(beamline, 0, 2, credit=4), wires.rank(beamline, 1, 2)
    beamline.open_run(spec(recon=ReconSettings(window=2)))
    fill(wires, beamline, 1, 50)
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
    sources = [Source(wires.frame(index)) for index in (1, 2)]
    for index, source in enumerate(sources, 1):
        beamline.append("projection", index, 0.0, source)
    assert sources[0].asked.wait(20)
    wires.take(rank, RunOpened)
    until, count = time.monotonic() + 1.2, 0
    while time.monotonic() < until:
        count += 1
        rank.status("waiting", image_number=count)
        assert wires.seen.wait(StatusReceived, count=count).status.image_number == count
    assert not wires.seen.of(PeerLost)
    for source in sources:
        source.allowed.set()
    beamline.close_run()
    for seq in (1, 2):
        np.testing.assert_array_equal(wires.take(rank, ItemReceived).pixels, wires.frame(seq))
        rank.applied(seq)
    wires.take(rank, RunClosed)


def test_frame_that_can_not_be_read_is_told_to_all_and_the_run_goes_on(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    ranks = [wires.rank(beamline, rank, 2) for rank in range(2)]
    beamline.open_run(spec())
    broken = Source(OSError("the file was moved"))
    broken.allowed.set()
    fill(wires, beamline, 1, 2)
    beamline.append("projection", 3, 0.3, broken)
    fill(wires, beamline, 4, 5)
    beamline.close_run()
    for rank in ranks:
        assert wires.follow(rank, skip=(ProblemReported,)) == [1, 2, 4, 5]
    assert "the file was moved" in wires.seen.wait(StreamFailed).text
    wires.seen.wait(RunFinished)
    assert len(wires.seen.of(StreamFailed)) == 1
    for entry in beamline.ledger().values():
        assert not entry.balanced
        assert (entry.items, entry.sent, entry.applied, entry.dropped) == (5, 4, 4, 1)
        assert "the file was moved" in entry.explain()


def test_inline_frames_above_the_memory_limit_reach_a_late_job(wires: Any, spec: Spec) -> None:
    limit = 4 * 6 * 8 * 2
    beamline = wires.beamline(memory_limit=limit)
    beamline.open_run(spec())
    fill(wires, beamline, 1, 60)
    beamline.close_run()
    rank = wires.rank(beamline)
    assert wires.follow(rank) == list(range(1, 61))
    wires.seen.wait(RunFinished)
    assert beamline.ledger()[0].spilled >= 50
    assert beamline.ledger()[0].balanced


def test_append_takes_far_less_than_a_millisecond(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    wires.rank(beamline, 0, 2)
    wires.seen.wait(PeerJoined)
    beamline.open_run(spec(detector_shape=(2048, 2048)))
    pixels = np.zeros((2048, 2048), "<u2")
    taken = []
    for index in range(1, 101):
        before = time.perf_counter()
        beamline.append("projection", index, 0.0, pixels)
        taken.append(time.perf_counter() - before)
    assert statistics.median(taken) < 1e-3


def test_score_and_finalize_of_the_open_run_arrive_and_of_others_do_not(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    controller = wires.controller(beamline)
    beamline.open_run(spec())
    run = wires.take(controller, RunOpened).run
    assert (run.run_uid, run.rows) == ("run-1", (0, 6))
    controller.finalize("another-run", reason="not ours")
    controller.score("another-run", image_number=1, projections=1, score=1.0)
    controller.score("run-1", image_number=3, projections=5, score=0.96, metrics={"ms_ssim": 0.96}, verdict="enough")
    controller.finalize("run-1", reason="good enough", score=0.96, threshold=0.95, projections=5, image_number=3)
    assert wires.seen.wait(FinalizeReceived).finalize.reason == "good enough"
    assert [e.score.image_number for e in wires.seen.of(ScoreReceived)] == [3]
    assert len(wires.seen.of(FinalizeReceived)) == 1
    beamline.close_run("success", "quality")
    assert wires.take(controller, RunClosed).close.reason == "quality"
    controller.finalize("run-1", reason="too late")
    controller.score("run-1", image_number=4, projections=5, score=0.97)
    wires.seen.wait(ScoreReceived, count=2)
    assert len(wires.seen.of(FinalizeReceived)) == 1


def test_previews_reach_a_controller_that_comes_back(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    first = wires.controller(beamline)
    wires.take(first, LinkRestored)
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    run = wires.take(rank, RunOpened).run
    assert run.preview_address == first.preview_address
    previews = wires.previews(beamline)
    previews.begin("run-1")
    previews.connect(run.preview_address, run.preview_key)
    for number in (1, 2, 3):
        pixels = np.full((2, 8, 8), number, np.float32)
        previews.send(image_number=number, projections=number, rows=(1, 4), pixels=pixels, angles_used=(0.1,))
    for number in (1, 2, 3):
        event = wires.take(first, PreviewReceived, (RunOpened, LinkRestored))
        assert (event.preview.image_number, event.preview.rows) == (number, (1, 4))
        assert np.all(event.pixels == number)
    assert previews.flush(20.0)
    first.close(0)
    second = wires.controller(beamline)
    moved = wires.take(rank, PreviewMoved)
    assert moved.address == second.preview_address
    previews.connect(moved.address, moved.key)
    for number in (1, 2, 3):
        assert wires.take(second, PreviewReceived, (RunOpened, LinkRestored)).preview.image_number == number
    previews.send(image_number=4, projections=4, rows=(1,), pixels=np.zeros((1, 8, 8), np.float32), final=True)
    assert wires.take(second, PreviewReceived, (RunOpened,)).preview.final
    assert previews.flush(20.0)
    assert previews.dropped == 0


def test_previews_without_a_controller_make_nobody_wait(wires: Any) -> None:
    beamline = wires.beamline()
    previews = wires.previews(beamline, retain=2)
    with pytest.raises(LocalProtocolError, match="begin"):
        previews.send(image_number=1, projections=1, rows=(1,), pixels=np.zeros((1, 8, 8), np.float32))
    previews.begin("run-1")
    for number in range(1, 6):
        pixels = np.zeros((1, 8, 8), np.float32)
        assert previews.send(image_number=number, projections=1, rows=(1,), pixels=pixels) == number
    assert not previews.flush(20.0)
    with pytest.raises(LocalProtocolError, match="square"):
        previews.send(image_number=1, projections=1, rows=(1,), pixels=np.zeros((1, 8, 7), np.float32))
    with pytest.raises(LocalProtocolError, match="float32"):
        previews.send(image_number=1, projections=1, rows=(1, 2), pixels=np.zeros((1, 8, 8), np.float32))


def test_peer_of_another_job_is_refused_with_a_reason(wires: Any) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline, job_id="another")
    assert "job id: got 'another'" in wires.take(rank, Refused).text
    assert not wires.seen.of(PeerJoined)


def test_rank_of_another_size_is_refused_while_ranks_are_linked(wires: Any) -> None:
    beamline = wires.beamline()
    wires.rank(beamline, 0, 2)
    wires.seen.wait(PeerJoined)
    assert "got a rank of 3, expected 2" in wires.take(wires.rank(beamline, 1, 3), Refused).text


def test_job_of_another_size_may_take_over_when_the_first_is_gone(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    first = wires.rank(beamline)
    beamline.open_run(spec())
    fill(wires, beamline, 1, 4)
    wires.take(first, RunOpened)
    first.close(0)
    wires.seen.wait(PeerLost)
    ranks = [wires.rank(beamline, rank, 2) for rank in range(2)]
    beamline.close_run()
    for rank in ranks:
        assert wires.follow(rank) == [1, 2, 3, 4]
    assert len(wires.seen.wait(RunFinished).results) == 2


def test_newer_process_takes_the_place_of_an_older_one(wires: Any) -> None:
    beamline = wires.beamline()
    old = wires.rank(beamline)
    wires.take(old, LinkRestored)
    new = wires.rank(beamline)
    wires.take(new, LinkRestored)
    assert "newer process" in wires.take(old, Refused).text


def test_unknown_version_is_refused_naming_both(wires: Any) -> None:
    beamline = wires.beamline()
    frame = bytearray(encode(Hello(job_id=beamline.job_id, role="rank", instance="i")))
    frame[3] = 200
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(beamline.address)
        dealer.send(bytes(frame))
        assert dealer.poll(20_000)
        answer, _ = decode_down(dealer.recv_multipart())
    assert isinstance(answer, Problem)
    assert "got 200, expected 1" in answer.text
    assert beamline.peers() == ()


def test_garbage_on_the_port_changes_nothing(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    fill(wires, beamline, 1, 3)
    before = resident()
    host, port = beamline.address.removeprefix("tcp://").split(":")
    with zmq.Context() as context:
        for number in range(HOSTILE):
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 1000
                dealer.connect(beamline.address)
                dealer.send_multipart([b"SRW\x01" + os.urandom(40)] * (number % 5 + 1))
                dealer.send_multipart([b"", b"x" * 1000])
    for number in range(HOSTILE):
        with socket.create_connection((host, int(port)), timeout=20) as raw:
            raw.sendall(os.urandom(number % 20 * 20))
    fill(wires, beamline, 4, 5)
    beamline.close_run()
    assert wires.follow(rank) == [1, 2, 3, 4, 5]
    wires.seen.wait(RunFinished)
    assert beamline.ledger()[0].balanced
    assert len(beamline.peers()) == 1
    assert resident() - before < 50 * 2**20


def test_abandoned_run_ends_at_the_ranks_and_the_next_one_begins(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    fill(wires, beamline, 1, 3)
    wires.take(rank, RunOpened)
    wires.take(rank, ItemReceived)
    beamline.abandon_run("the user gave up")
    gone = wires.take(rank, RunAbandoned, (ItemReceived,))
    assert (gone.run_uid, gone.reason) == ("run-1", "the user gave up")
    rank.applied(1)
    rank.done(image_number=0)
    beamline.open_run(spec("run-2"))
    fill(wires, beamline, 1, 2)
    beamline.close_run()
    assert wires.follow(rank) == [1, 2]
    assert wires.seen.wait(RunFinished).run_uid == "run-2"


def test_run_opened_before_the_last_is_finished_abandons_it(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    beamline.close_run()
    wires.take(rank, RunOpened)
    beamline.open_run(spec("run-2"))
    assert wires.take(rank, RunAbandoned, (RunClosed,)).run_uid == "run-1"
    assert wires.take(rank, RunOpened).run.run_uid == "run-2"


def test_shutdown_reaches_who_is_there_and_who_comes_later(wires: Any) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    wires.take(rank, LinkRestored)
    beamline.shutdown_peers("going home")
    assert wires.take(rank, ShutdownRequested).reason == "going home"
    late = wires.controller(beamline)
    assert wires.take(late, ShutdownRequested).reason == "going home"


def test_status_and_problems_come_up(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    wires.take(rank, RunOpened)
    rank.status("updating", projections=4, image_number=2, lag=1, step_seconds=0.5)
    status = wires.seen.wait(StatusReceived).status
    assert (status.state, status.projections, status.lag) == ("updating", 4, 1)
    rank.problem("engine", "out of memory")
    problem = wires.seen.wait(ProblemReported)
    assert (problem.problem.where, problem.problem.text, problem.problem.run_uid) == (
        "engine",
        "out of memory",
        "run-1",
    )
    assert problem.peer is not None
    assert problem.peer.role == "rank"


def test_problem_reported_just_before_the_end_still_arrives(wires: Any) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    wires.take(rank, LinkRestored)
    rank.problem("job", "last words")
    rank.close(20.0)
    assert wires.seen.wait(ProblemReported).problem.text == "last words"


def test_what_the_user_does_wrong_is_told_at_once(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    with pytest.raises(LocalProtocolError, match="no run is open"):
        beamline.append("projection", 1, 0.0, wires.frame(1))
    with pytest.raises(LocalProtocolError, match="no run is open"):
        beamline.close_run()
    for bad in (
        {"dtype": "<c8"},
        {"dtype": "what"},
        {"metadata": {"a": "x" * 5000}},
        {"detector_shape": (60_000, 60_000)},
    ):
        with pytest.raises(LocalProtocolError):
            beamline.open_run(spec(**bad))
    beamline.open_run(spec())
    with pytest.raises(LocalProtocolError, match="opened while"):
        beamline.open_run(spec("run-2"))
    with pytest.raises(LocalProtocolError, match="expected projection 1"):
        beamline.append("projection", 2, 0.0, wires.frame(1))
    with pytest.raises(LocalProtocolError, match="detector ROI"):
        beamline.append("projection", 1, 0.0, wires.frame(1, (6, 9)))
    with pytest.raises(LocalProtocolError, match="finite"):
        beamline.append("projection", 1, float("nan"), wires.frame(1))
    with pytest.raises(LocalProtocolError, match="FrameSource"):
        beamline.append("projection", 1, 0.0, [[1, 2]])
    rank = wires.rank(beamline)
    wires.take(rank, RunOpened)
    with pytest.raises(LocalProtocolError, match="item 1 of run"):
        rank.applied(1)
    with pytest.raises(LocalProtocolError, match="before its end"):
        rank.done(image_number=0)
    with pytest.raises(ConfigError, match="rank"):
        wires.rank(beamline, 2, 2)
    with pytest.raises(ConfigError, match="can not be connected"):
        type(rank)("nonsense", job_id="x", rank=0, size=1)


def test_listener_that_raises_does_not_stop_the_stream(
    wires: Any, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(event: object) -> None:
        wires.seen(event)
        raise RuntimeError("listener broken")

    beamline = type(wires.beamline())(on_event=listener)
    try:
        rank = wires.rank(beamline)
        beamline.open_run(spec())
        fill(wires, beamline, 1, 2)
        beamline.close_run()
        assert wires.follow(rank) == [1, 2]
        wires.seen.wait(RunFinished)
    finally:
        beamline.close()
    assert "on_event raised for RunFinished" in caplog.text


def test_rank_says_when_the_beamline_is_gone_and_when_it_is_back(wires: Any) -> None:
    first = wires.beamline(job_id="job", peer_timeout=0.5)
    rank = wires.rank(first)
    wires.take(rank, LinkRestored)
    address = first.address
    first.close(0)
    assert "nothing heard" in wires.take(rank, LinkLost).reason
    assert rank.unlinked_seconds() > 0.4
    wires.beamline(address=address, job_id="job")
    wires.take(rank, LinkRestored)


def test_closing_leaves_no_file_descriptors(wires: Any, spec: Spec) -> None:
    def once() -> None:
        beamline = wires.beamline(memory_limit=0)
        rank, controller = wires.rank(beamline), wires.controller(beamline)
        beamline.open_run(spec(detector_shape=(256, 512)))
        for index in (1, 2, 3):
            beamline.append("projection", index, 0.0, wires.frame(index, (256, 512)))
        beamline.close_run()
        wires.follow(rank)
        wires.take(controller, RunClosed, (LinkRestored, RunOpened))
        for endpoint in (rank, controller, beamline):
            endpoint.close()
            endpoint.close()

    def count() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    once()  # pyzmq keeps a context of its own from the first uncopied message on
    before = count()
    for _ in range(3):
        once()
    assert count() <= before
