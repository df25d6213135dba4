"""People's programs are answered, and never in the way of the run."""

from __future__ import annotations

import json
import os
from collections import deque
from concurrent.futures import wait
from typing import Any

import msgspec
import pytest

from bluesky_streamrecon import job_registration as a
from bluesky_streamrecon.beamline.serving import PeerJoined
from bluesky_streamrecon.beamline.serving.cut_wishes import CutWishes
from bluesky_streamrecon.beamline.serving.hub import ASKS_AT_ONCE, MOST_OPERATORS, Hub
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import JobError, SteeringError
from bluesky_streamrecon.wire import (
    Answer,
    Ask,
    ClientSecurity,
    Cuts,
    OpenRun,
    OperatorEndpoint,
    Order,
    RunStatus,
    ServerSecurity,
    ShowCuts,
    make_keys,
)
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.codec import encode
from bluesky_streamrecon.wire.connector import Connector
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.listener import Peer

STATUS = Ask()
CUT = Cut(corner=(1.0, -0.5, -0.5), down=(0.0, 3.0, 0.0), across=(0.0, 0.0, 4.0), shape=(3, 4))
CUTS = Cuts(run_uid="run", image_number=3, projections=4, number=1, cuts=(CUT,), volume=(4, 8, 8), pixels=bytes(48))


@pytest.fixture
def operator(wires):
    def make(beamline, **options):
        return wires._keep(OperatorEndpoint(beamline.address, **{"job_id": beamline.job_id, **options}))

    return make


@pytest.fixture
def answering(wires):
    """Yield a beamline that answers every question with what it was."""

    def make(**options):
        beamline = None

        def hear(event, sender):
            wires.seen(event)
            if isinstance(event, Ask) and beamline is not None:
                reason = "" if event.order is None else event.order.reason
                status = RunStatus(state="running", run_uid="run", taken=event.after)
                beamline.answer(sender, Answer(number=event.seq, ok=reason != "refuse", text=reason, status=status))

        from bluesky_streamrecon.beamline.serving import BeamlineEndpoint

        beamline = wires._keep(BeamlineEndpoint(on_event=hear, heartbeat_seconds=0.1, peer_timeout=5.0, **options))
        return beamline

    return make


def test_question_is_answered_and_a_refusal_is_an_error(answering, operator, wires):
    beamline = answering()
    asking = operator(beamline)
    assert asking.ask(Ask(after=7)).status.taken == 7
    assert asking.ask(Ask(order=Order(action="finish", reason="good", who="anna"))).text == "good"
    with pytest.raises(SteeringError, match="refuse"):
        asking.ask(Ask(order=Order(action="hold", reason="refuse", who="anna")))
    orders = [ask.order for ask in wires.seen.of(Ask)[1:]]
    assert all(order.uid for order in orders)
    assert beamline._hub.operators == 1
    assert beamline.peers() == ()
    assert not wires.seen.of(PeerJoined)


def test_operator_of_another_job_is_refused_and_one_without_a_beamline_told_so(answering, operator):
    beamline = answering()
    with pytest.raises(JobError, match="job id: got 'other'"):
        operator(beamline, job_id="other").ask(STATUS)
    beamline.close(0)
    with pytest.raises(JobError, match="nobody is there"):
        operator(beamline).ask(STATUS, timeout=0.2)


def test_operator_needs_a_key_on_the_list_where_there_are_keys(answering, operator):
    server, friend, stranger = make_keys(), make_keys(), make_keys()
    beamline = answering(security=ServerSecurity(keys=server, allowed=(friend.public,)))
    welcome = operator(beamline, security=ClientSecurity(keys=friend, server=server.public))
    assert welcome.ask(STATUS).ok
    own = operator(beamline, security=ClientSecurity(keys=server, server=server.public))
    assert own.ask(STATUS).ok  # who has the beamline's own keys is the beamline
    with pytest.raises(JobError, match="no answer"):
        operator(beamline, security=ClientSecurity(keys=stranger, server=server.public)).ask(STATUS, timeout=0.3)
    with pytest.raises(JobError, match="no answer"):
        operator(beamline).ask(STATUS, timeout=0.3)


def hub_with(operators: int = 0) -> Hub:
    hub = Hub(job_id="job")
    for i in range(operators):
        hub.receive(b"%d" % i, encode(m.Hello(job_id="job", role="operator", instance=f"i{i}")), 0.0)
        hub.receive(b"%d" % i, encode(m.OpenChannel(channel="orders", stream=f"i{i}")), 0.0)
    answers(hub, b"")
    return hub


def answers(hub: Hub, link: bytes) -> list[Any]:
    """Return the plain messages that this link is sent now."""
    sent: list[Any] = []

    def send(to: bytes, message: Any) -> Sent:
        if to == link and not isinstance(message, m.Ack | m.OpenChannel):
            sent.append(message)
        return Sent.DONE

    hub.pump(send, 0.0)
    return sent


def test_more_operators_than_there_is_room_for_are_refused():
    hub = hub_with(MOST_OPERATORS)
    hub.receive(b"late", encode(m.Hello(job_id="job", role="operator", instance="late")), 0.0)
    (refusal,) = answers(hub, b"late")
    assert isinstance(refusal, m.Problem)
    assert "at most 16" in refusal.text
    hub.receive(b"0", encode(STATUS), 0.0)  # has not numbered it, and is told so
    hub.pump(lambda to, _: Sent.NOBODY if to == b"0" else Sent.DONE, 0.0)
    hub.receive(b"late", encode(m.Hello(job_id="job", role="operator", instance="late")), 0.0)
    assert isinstance(answers(hub, b"late")[0], m.Welcome)


def test_operator_that_asks_without_end_is_answered_at_a_limited_pace():
    hub = hub_with(1)
    hub.tick(0.0)
    for number in range(1, 1001):
        hub.receive(b"0", encode(Ask(seq=number)), 0.0)
    assert len(hub.events) == ASKS_AT_ONCE
    hub.tick(1.0)
    for number in range(ASKS_AT_ONCE + 1, 1001):
        hub.receive(b"0", encode(Ask(seq=number)), 1.0)
    assert len(hub.events) == ASKS_AT_ONCE + 20


@pytest.mark.parametrize(
    "message",
    [
        m.OpenChannel(channel="reports", stream="i0"),
        m.Score(seq=1, run_uid="run", image_number=1, projections=1, verdict="enough"),
        m.Status(run_uid="run", rank=0, state="busy"),
        CUTS,
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_only_ranks_and_the_controller_may_say_is_ignored_from_an_operator(message):
    hub = hub_with(1)
    hub.receive(b"0", encode(message), 0.0)
    assert hub.events == deque()
    assert {type(x) for x in answers(hub, b"0")} <= {m.Problem}


def test_order_that_is_on_its_way_when_the_link_breaks_is_done_once_and_answered_once() -> None:
    hub, now = Hub(job_id="job"), 0.0
    connector = Connector(m.Hello(job_id="job", role="operator", instance="i"), channel="orders")
    connector.reports.send(Ask(order=Order(action="finish", who="anna", reason="good")))
    asked: list[Any] = []
    up: list[Any] = []
    down: list[Any] = []

    def turn(link: bytes, *, lost: bool) -> None:
        connector.tick(now)
        if connector.state.value == "down":
            connector.connected(now)
        connector.pump(lambda message: up.append(message) or Sent.DONE, now)  # type: ignore[func-returns-value]
        while up:
            hub.receive(link, encode(up.pop(0)), now)
        while hub.events:
            ask, sender = hub.events.popleft()
            asked.append(ask)
            hub.answer(sender, Answer(number=ask.seq, text="done"))
        hub.pump(lambda _, message: down.append(message) or Sent.DONE, now)  # type: ignore[func-returns-value]
        while down:
            message = down.pop(0)
            if not (lost and (isinstance(message, Answer) or (isinstance(message, m.Ack) and message.received))):
                connector.receive(b"", encode(message), now)

    for _ in range(4):
        turn(b"first", lost=True)
    connector.lose("so the test wants it")
    for _ in range(12):
        turn(b"second", lost=False)
        now += 0.5
    answered = [event for event in connector.events if isinstance(event, Answer)]
    assert [(answer.number, answer.text) for answer in answered] == [(1, "done")]
    assert [ask.seq for ask in asked] == [1]
    assert connector.reports.settled


def test_silent_operator_is_forgotten():
    hub = hub_with(2)
    hub.receive(b"1", encode(m.Heartbeat()), 9.0)
    hub.tick(11.0)
    assert hub.operators == 1


def test_wishes_are_served_in_turn_the_same_ones_together_sent_again_until_answered_and_forgotten_with_their_viewer():
    wishes, (anna, ben) = CutWishes(), (Peer(m.Hello(job_id="job", role="operator", instance=i)) for i in "ab")
    assert wishes.wish(0.0) is None  # nobody watches
    for number in (1, 2):
        wishes.want(anna, ShowCuts(viewer="left", number=number, cuts=(CUT,)))
    wishes.want(ben, ShowCuts(number=1, cuts=(CUT, CUT)))
    first = wishes.wish(0.0)
    assert wishes.wish(0.5) is None  # one at a time
    again = wishes.wish(1.5)  # it or its answer was lost, or an image takes as long
    assert (again.cuts, first.number, again.number) == (first.cuts, 1, 2)  # ranks answer no number twice
    wishes.show(msgspec.structs.replace(CUTS, number=7))
    assert not anna.outbox
    wishes.show(CUTS)
    assert [(cuts.viewer, cuts.number) for cuts in anna.outbox] == [("left", 2)]
    second = wishes.wish(1.5)
    assert second.number == 3
    wishes.show(msgspec.structs.replace(CUTS, number=2))  # the second answer to the first wish
    assert not ben.outbox
    wishes.show(msgspec.structs.replace(CUTS, number=3))
    assert [(cuts.viewer, cuts.number) for cuts in ben.outbox] == [("", 1)]
    assert wishes.wish(5.0) is None
    wishes.want(anna, ShowCuts(viewer="left", number=3, cuts=(CUT,)))
    wishes.leave(anna)
    for viewer in ("left", "right"):
        wishes.want(ben, ShowCuts(viewer=viewer, number=2, cuts=(CUT,)))
    assert wishes.wish(5.0).number == 4
    wishes.want(ben, ShowCuts(viewer="late", number=3, cuts=(CUT,)))
    ben.outbox.clear()
    wishes.show(msgspec.structs.replace(CUTS, number=4))  # perhaps of an image before the one that the last one saw
    assert [cuts.viewer for cuts in ben.outbox] == ["left", "right"]
    wishes.want(ben, ShowCuts(number=2, cuts=(CUT,)))
    assert all(wishes.wish(now) is not None for now in (60.0, 600.0))  # however long it takes


def test_wish_whose_answer_and_whose_link_were_lost_is_wished_again_and_fulfilled(wires, spec, operator):
    beamline = wires.beamline()
    rank, watching = wires.rank(beamline), operator(beamline)
    beamline.open_run(spec())
    wires.take(rank, OpenRun)
    shown = watching.show_cuts([CUT], viewer="page")
    first = wires.take(rank, ShowCuts)  # and its answer is lost
    assert wires.take(rank, ShowCuts).number == first.number + 1
    with watching.lock:
        watching._connector.lose("so the test wants it")
    while not wait([shown], timeout=2.0).done:  # what the beamline sends to the old link is lost
        rank.send(msgspec.structs.replace(CUTS, number=wires.take(rank, ShowCuts).number))
    assert shown.result().viewer == "page"


def test_job_is_announced_to_its_user_alone_and_forgotten_when_its_process_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(JobError, match="no job of yours runs"):
        a.find_job()
    path = a.register_job("tcp://127.0.0.1:5", "job-one")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert a.find_job().address == "tcp://127.0.0.1:5"
    second = a.register_job("tcp://127.0.0.1:6", "job-two")
    with pytest.raises(JobError, match="2 jobs run"):
        a.find_job()
    assert a.find_job("job-t").job_id == "job-two"
    a.unregister_job(second)
    told = json.loads(path.read_text())
    stale = path.with_name("stale.json")
    stale.write_text(json.dumps({**told, "started": told["started"] + 1}))  # another process has that number now
    path.with_name("garbage.json").write_text("{")
    assert [each.pid for each in a.registered_jobs()] == [os.getpid()]
    assert not stale.exists()
    a.unregister_job(path)
    assert a.registered_jobs() == ()
