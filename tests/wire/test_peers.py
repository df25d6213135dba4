"""Who may join, what they say, and what becomes of those who talk nonsense."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from bluesky_streamrecon.errors import LocalProtocolError
from bluesky_streamrecon.wire import (
    FinalizeReceived,
    LinkLost,
    LinkRestored,
    OpenRunSpec,
    PeerJoined,
    PreviewMoved,
    PreviewReceived,
    ProblemReported,
    Refused,
    RunClosed,
    RunFinished,
    RunOpened,
    ScoreReceived,
    ShutdownRequested,
    StatusReceived,
)
from bluesky_streamrecon.wire.codec import decode_down, encode
from bluesky_streamrecon.wire.hub import Hub
from bluesky_streamrecon.wire.members import Member
from bluesky_streamrecon.wire.messages import Hello, Problem

HOSTILE = int(os.environ.get("WIRE_HOSTILE", "20"))  # connections with garbage

Spec = Callable[..., OpenRunSpec]


def resident() -> int:
    """Give the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
        previews.send(image_number=number, projections=number, rows=(1, 4), pixels=pixels)
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


def test_other_end_can_be_written_from_the_reference_page(wires: Any, spec: Spec) -> None:
    """Speaks the protocol with plain msgpack maps, as docs/reference/protocol.md lays it out."""
    beamline = wires.beamline()
    beamline.open_run(spec())
    beamline.append("projection", 1, 0.5, wires.frame(1))
    beamline.close_run()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(beamline.address)

        def say(**fields: Any) -> None:
            dealer.send(b"SRW\x01" + msgspec.msgpack.encode(fields))

        def hear(kind: str) -> tuple[dict[str, Any], list[bytes]]:
            while True:
                assert dealer.poll(20_000)
                header, *rest = dealer.recv_multipart()
                assert header[:4] == b"SRW\x01"
                fields = msgspec.msgpack.decode(header[4:])
                if fields["type"] == kind:
                    return fields, rest

        say(type="hello", version=1, job_id=beamline.job_id, role="rank", instance="cpp", rank=0, size=1)
        assert hear("welcome")[0]["job_id"] == beamline.job_id
        assert hear("open-run")[0]["block"] == {"first": 0, "stop": 6, "group": 0, "member": 0, "members": 1}
        say(type="ack", run_uid="run-1", applied=0, received=0, credit=10)
        item, (pixels,) = hear("item")
        assert (item["seq"], item["kind"], item["angle"], item["shape"]) == (1, "projection", 0.5, [6, 8])
        np.testing.assert_array_equal(np.frombuffer(pixels, item["dtype"]).reshape(6, 8), wires.frame(1))
        assert hear("close-run")[0]["seq"] == 2
        say(type="ack", run_uid="run-1", applied=2, received=2, credit=10)
        done = {"type": "run-done", "run_uid": "run-1", "rank": 0, "applied": 1, "image_number": 1, "received": 2}
        say(type="report", number=1, body=done)
        assert hear("noted")[0]["number"] == 1
    wires.seen.wait(RunFinished)
    assert beamline.ledger()[0].balanced


def test_garbage_on_the_port_changes_nothing(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    wires.fill(beamline, 1, 3)
    before = resident()
    host, port = beamline.address.removeprefix("tcp://").split(":")
    for batch in range(0, HOSTILE, 50):
        with zmq.Context() as context:
            for number in range(batch, min(batch + 50, HOSTILE)):
                with context.socket(zmq.DEALER) as dealer:
                    dealer.linger = 1000
                    dealer.connect(beamline.address)
                    dealer.send_multipart([b"SRW\x01" + os.urandom(40)] * (number % 5 + 1))
                    dealer.send_multipart([b"", b"x" * 1000])
    for number in range(HOSTILE):
        with socket.create_connection((host, int(port)), timeout=20) as raw:
            raw.sendall(os.urandom(number % 20 * 20))
    wires.fill(beamline, 4, 5)
    beamline.close_run()
    assert wires.follow(rank) == [1, 2, 3, 4, 5]
    wires.seen.wait(RunFinished)
    assert beamline.ledger()[0].balanced
    assert len(beamline.peers()) == 1
    assert resident() - before < 50 * 2**20


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


def test_rank_of_another_size_is_refused_at_the_third_try_while_ranks_are_linked() -> None:
    hub = Hub(job_id="job", session="s")
    hub.receive(b"1", [encode(Hello(job_id="job", role="rank", instance="a", rank=0, size=2))], 0.0)
    hub.outbox.clear()
    member = Member(Hello(job_id="job", role="rank", instance="b", rank=1, size=3))
    for _ in range(3):
        assert not member.events
        member.connected(0.0)
        hub.receive(b"2", [encode(member.outbox.popleft())], 0.0)
        member.receive([encode(hub.outbox.popleft().message)], 0.0)
    refused = member.events.popleft()
    assert isinstance(refused, Refused)
    assert "got a rank of 3, expected 2" in refused.text


def test_hello_that_waited_to_be_sent_tells_a_wrong_clock_only_until_the_next_heartbeat() -> None:
    wall = [1000.0]
    hub = Hub(job_id="job", session="s", wall=lambda: wall[0])
    hello = Hello(job_id="job", role="rank", instance="a", rank=0, size=1)
    member = Member(hello, wall=lambda: wall[0])
    member.connected(0.0)
    wall[0] += 3.0  # until the beamline listens
    hub.receive(b"1", [encode(member.outbox.popleft())], 3.0)
    assert hub.peers()[0].ahead == -3.0
    member.receive([encode(hub.outbox.popleft().message)], 3.0)
    member.outbox.clear()
    member.flush(4.0, again=True)
    hub.receive(b"1", [encode(member.outbox.popleft())], 4.0)
    assert hub.peers()[0].ahead == 0.0


def test_process_that_forgets_to_close_still_ends() -> None:
    script = (
        "from bluesky_streamrecon.wire import *\n"
        "beamline = BeamlineEndpoint(on_event=print)\n"
        "rank = RankEndpoint(beamline.address, job_id=beamline.job_id, rank=0, size=1)\n"
        "controller = ControllerEndpoint(beamline.address, job_id=beamline.job_id)\n"
        "previews = PreviewSender(job_id=beamline.job_id, rank=0)\n"
        "rank.next(5)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=40)
