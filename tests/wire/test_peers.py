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

from bluesky_streamrecon.beamline.serving import PeerJoined, QueuedFrame, RunFinished
from bluesky_streamrecon.beamline.serving.hub import Hub
from bluesky_streamrecon.errors import LocalProtocolError
from bluesky_streamrecon.wire import (
    CloseRun,
    LinkLost,
    LinkRestored,
    OpenRun,
    OpenRunSpec,
    Preview,
    Problem,
    Refused,
    Score,
    Shutdown,
    Status,
    VolumeDone,
)
from bluesky_streamrecon.wire.codec import decode, encode
from bluesky_streamrecon.wire.connector import Connector
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.messages import Hello

HOSTILE = int(os.environ.get("WIRE_HOSTILE", "20"))  # connections with garbage

Spec = Callable[..., OpenRunSpec]


def preview(number: int, pixels: Any = None, *, rows: tuple[int, ...] = (1,), final: bool = False) -> Preview:
    """Make a preview of image `number` of the first run."""
    pixels = np.zeros((len(rows), 8, 8), np.float32) if pixels is None else pixels
    about = {"run_uid": "run-1", "rank": 0, "image_number": number, "projections": number}
    return Preview(rows=rows, shape=(8, 8), pixels=pixels, final=final, **about)


def talk(hub: Hub, connector: Connector, link: bytes, now: float) -> None:
    """Bring what the connector has to say to the hub, and what that answers back."""

    def up(message: Any) -> Sent:
        hub.receive(link, encode(message), now)
        return Sent.DONE

    def down(to: bytes, message: Any) -> Sent:
        if to == link:
            connector.receive(b"", encode(message), now)
        return Sent.DONE

    connector.pump(up, now)
    hub.pump(down, now)


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_scores_of_the_open_run_arrive_and_of_others_do_not(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    controller = wires.controller(beamline)
    beamline.open_run(spec())
    run = wires.take(controller, OpenRun)
    assert (run.run_uid, run.rows) == ("run-1", (0, 6))
    controller.send(Score(run_uid="another-run", image_number=1, projections=1, score=1.0, verdict="enough"))
    enough = Score(run_uid="run-1", image_number=3, projections=5, score=0.96, verdict="enough")
    controller.send(enough)
    assert wires.seen.wait(Score) == msgspec.structs.replace(enough, seq=2)
    beamline.close_run("success", "quality")
    assert wires.take(controller, CloseRun).reason == "quality"
    controller.send(Score(run_uid="run-1", image_number=4, projections=5, score=0.97))
    assert wires.seen.wait(Score, count=2).image_number == 4


def test_previews_reach_a_controller_that_comes_back(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    first = wires.controller(beamline)
    wires.take(first, LinkRestored)
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    wires.take(rank, OpenRun)
    for number in (1, 2, 3):
        rank.send(preview(number, np.full((2, 8, 8), number, np.float32), rows=(1, 4)))
    for number in (1, 2, 3):
        event = wires.take(first, Preview, (OpenRun, LinkRestored))
        assert (event.image_number, event.rows) == (number, (1, 4))
        assert np.all(event.pixels == number)
    first.close(0)
    second = wires.controller(beamline)
    for number in (1, 2, 3):
        assert wires.take(second, Preview, (OpenRun, LinkRestored)).image_number == number
    rank.send(preview(4, final=True))
    assert wires.take(second, Preview, (OpenRun,)).final
    assert rank.previews_dropped == 0


def test_previews_without_a_controller_make_nobody_wait(wires: Any) -> None:
    rank = wires.rank(wires.beamline())
    for number in range(1, 68):
        rank.send(preview(number))
    assert rank.previews_dropped == 3
    for wrong in (np.zeros((1, 8, 7), np.float32), np.zeros((2, 8, 8), np.float32), np.zeros((1, 8, 8))):
        with pytest.raises(LocalProtocolError, match=r"expected <f4 \(1, 8, 8\)"):
            rank.send(msgspec.structs.replace(preview(6), pixels=wrong))


def test_peer_of_another_job_is_refused_with_a_reason_that_its_log_has(wires: Any, told: Any) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline, job_id="another")
    assert "job id: got 'another'" in wires.take(rank, Refused).text
    told.wait("refused by the beamline: job id: got 'another'")
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
    frame = bytearray(encode(Hello(job_id=beamline.job_id, role="rank", instance="i"))[0])
    frame[3] = 200
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(beamline.address)
        dealer.send(bytes(frame))
        assert dealer.poll(20_000)
        answer = decode(dealer.recv_multipart())
    assert isinstance(answer, Problem)
    assert "got 200, expected 3" in answer.text
    assert beamline.peers() == ()


def test_other_end_can_be_written_from_the_reference_page(wires: Any, spec: Spec) -> None:
    """Speaks the protocol with plain msgpack maps, as docs/reference/protocol.md lays it out."""
    beamline = wires.beamline()
    beamline.open_run(spec())
    beamline.append(QueuedFrame("projection", 1, 0.5, wires.frame(1)))
    beamline.close_run()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(beamline.address)

        def say(**fields: Any) -> None:
            dealer.send(b"SRW\x03" + msgspec.msgpack.encode(fields))

        def hear(kind: str) -> tuple[dict[str, Any], list[bytes]]:
            while True:
                assert dealer.poll(20_000)
                header, *rest = dealer.recv_multipart()
                assert header[:4] == b"SRW\x03"
                fields = msgspec.msgpack.decode(header[4:])
                if fields["type"] == kind:
                    return fields, rest

        say(type="hello", version=2, job_id=beamline.job_id, role="rank", instance="cpp", rank=0, size=1)
        assert hear("welcome")[0]["job_id"] == beamline.job_id
        assert hear("open-run")[0]["block"] == {"first": 0, "stop": 6, "group": 0, "member": 0, "members": 1}
        have = {"type": "ack", "channel": "run", "stream": "run-1", "credit": 10}
        say(**have, applied=0, received=0)
        item, (pixels,) = hear("item")
        assert (item["seq"], item["kind"], item["angle"], item["shape"]) == (1, "projection", 0.5, [6, 8])
        np.testing.assert_array_equal(np.frombuffer(pixels, item["dtype"]).reshape(6, 8), wires.frame(1))
        assert hear("close-run")[0]["seq"] == 2
        say(**have, applied=2, received=2)
        say(type="open-channel", channel="reports", stream="cpp")
        assert hear("ack")[0]["received"] == 0
        say(type="run-done", seq=1, run_uid="run-1", rank=0, applied=1, image_number=1, received=2)
        assert hear("ack")[0]["received"] == 1
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
                    dealer.send_multipart([b"SRW\x03" + os.urandom(40)] * (number % 5 + 1))
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
    assert wires.take(rank, Shutdown).reason == "going home"
    late = wires.controller(beamline)
    assert wires.take(late, Shutdown).reason == "going home"


def test_status_and_problems_come_up(wires: Any, spec: Spec) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    beamline.open_run(spec())
    wires.take(rank, OpenRun)
    sent = Status(run_uid="run-1", rank=0, state="updating", projections=4, image_number=2, step_seconds=0.5)
    rank.send(sent)
    assert wires.seen.wait(Status) == sent
    rank.send(Problem(fault="local", where="engine", text="out of memory", run_uid="run-1"))
    problem = wires.seen.wait(Problem)
    assert (problem.where, problem.text, problem.run_uid) == ("engine", "out of memory", "run-1")


def test_problem_reported_just_before_the_end_still_arrives(wires: Any) -> None:
    beamline = wires.beamline()
    rank = wires.rank(beamline)
    wires.take(rank, LinkRestored)
    rank.send(Problem(fault="local", where="job", text="last words"))
    rank.close(20.0)
    assert wires.seen.wait(Problem).text == "last words"


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
    hub = Hub(job_id="job")
    hub.receive(b"1", encode(Hello(job_id="job", role="rank", instance="a", rank=0, size=2)), 0.0)
    connector = Connector(Hello(job_id="job", role="rank", instance="b", rank=1, size=3), greeting_seconds=1.0)
    for now in (0.0, 2.0, 4.0):
        assert not connector.events
        connector.tick(now)
        connector.connected(now)
        talk(hub, connector, b"2", now)
    refused = connector.events.popleft()
    assert isinstance(refused, Refused)
    assert "got a rank of 3, expected 2" in refused.text


def test_clock_of_a_peer_is_known_from_its_heartbeats_not_from_a_hello_that_waited_to_be_sent() -> None:
    wall = [1000.0]
    hub = Hub(job_id="job", wall=lambda: wall[0])
    hello = Hello(job_id="job", role="rank", instance="a", rank=0, size=1)
    connector = Connector(hello, wall=lambda: wall[0])
    connector.connected(0.0)
    wall[0] += 3.0  # until the beamline listens
    talk(hub, connector, b"1", 3.0)
    assert hub.peers()[0].ahead is None
    connector.tick(4.0)
    talk(hub, connector, b"1", 4.0)
    assert hub.peers()[0].ahead == 0.0


def test_process_that_forgets_to_close_still_ends() -> None:
    script = (
        "from bluesky_streamrecon.beamline.serving import BeamlineEndpoint\n"
        "from bluesky_streamrecon.wire import *\n"
        "beamline = BeamlineEndpoint(on_event=print)\n"
        "rank = RankEndpoint(beamline.address, job_id=beamline.job_id, rank=0, size=1)\n"
        "controller = ControllerEndpoint(beamline.address, job_id=beamline.job_id)\n"
        "rank.next(5)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=40)


def test_message_that_the_other_end_may_not_send_is_told_to_it_and_changes_nothing(told: Any) -> None:
    hub = Hub(job_id="job")
    hub.receive(b"1", encode(Hello(job_id="job", role="rank", instance="a")), 0.0)
    hub.events.clear()
    ours, controllers = Shutdown(), Score(run_uid="run", image_number=1, projections=1)
    for message in (ours, controllers, VolumeDone(run_uid="run")):  # the last is on no channel
        hub.receive(b"1", encode(message), 0.0)
    assert hub.garbage.count == 3
    assert not hub.events
    sent: list[Any] = []
    hub.pump(lambda _, message: sent.append(message) or Sent.DONE, 0.0)  # type: ignore[func-returns-value]
    texts = [message.text for message in sent if isinstance(message, Problem)]
    assert "Shutdown is not for a rank to send" in texts[0]
    assert "Score is not for a rank to send" in texts[1]
    assert "the channel 'reports' was not opened" in texts[2]
    connector = Connector(Hello(job_id="job", role="rank", instance="a"))
    connector.connected(0.0)
    talk(hub, connector, b"2", 0.0)
    connector.receive(b"", encode(Hello(job_id="job", role="rank", instance="b")), 0.0)
    assert connector.garbage.count == 1
    connector.receive(b"", encode(Problem(fault="local", where="streaming", text="disk full")), 0.0)
    told.wait("reports a problem in streaming (run None): disk full")


def test_link_without_room_holds_up_nobody_else_and_loses_nothing() -> None:
    hub = Hub(job_id="job")
    for link, rank in ((b"1", 0), (b"2", 1)):
        hub.receive(link, encode(Hello(job_id="job", role="rank", instance=f"i{rank}", rank=rank, size=2)), 0.0)
    sent: dict[bytes, list[str]] = {b"1": [], b"2": []}
    full = {b"1"}

    def send(link: bytes, message: Any) -> Sent:
        if link in full:
            return Sent.FULL
        sent[link].append(type(message).__name__)
        return Sent.DONE

    hub.shutdown("going home")
    hub.pump(send, 0.0)
    assert sent == {b"1": [], b"2": ["Welcome", "Shutdown"]}
    full.clear()
    hub.pump(send, 0.0)
    assert sent[b"1"] == ["Welcome", "Shutdown"]
