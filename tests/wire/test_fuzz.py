"""Random and mutated frames raise only the protocol's own error, and the cores survive them.

``WIRE_FUZZ=1000000 pytest tests/wire/test_fuzz.py --timeout 0`` is the long way.
"""

from __future__ import annotations

import os
import random

import msgspec
import numpy as np

from bluesky_streamrecon.beamline.serving.hub import Hub
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import RemoteProtocolError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire import operator_messages as o
from bluesky_streamrecon.wire.codec import (
    PREAMBLE,
    decode,
    encode,
)
from bluesky_streamrecon.wire.connector import Connector
from bluesky_streamrecon.wire.link import Sent
from bluesky_streamrecon.wire.operator_messages import Cuts, ShowCuts
from bluesky_streamrecon.wire.previews import PreviewReceiver
from bluesky_streamrecon.wire.run_messages import Preview

ROUNDS = int(os.environ.get("WIRE_FUZZ", "4000"))

OPEN = m.OpenRun(
    run_uid="run",
    recon_uid="recon",
    planned=9,
    detector_shape=(4, 8),
    dtype="<u2",
    block=RowBlock(0, 4, 0, 0, 1),
    recon=ReconSettings(),
    steering=SteeringSettings(),
)
ITEM = m.Item(run_uid="run", seq=1, kind="flat", index=1, angle=0.0, rows=(0, 4), dtype="<u2", shape=(4, 8))
PREVIEW = Preview(run_uid="run", seq=1, rank=0, image_number=1, projections=3, rows=(0, 3), shape=(4, 4))
HELLO = m.Hello(job_id="job", role="rank", instance="i", rank=0, size=2)
WELCOME = m.Welcome(job_id="job", heartbeat_seconds=1.0)
CUT = Cut(corner=(1.0, -0.5, -0.5), down=(0.0, 3.0, 0.0), across=(0.0, 0.0, 4.0), shape=(3, 4))
OPEN_PREVIEWS = m.OpenChannel(channel="previews", stream="run")

ACK = m.Ack(channel="run", stream="run", applied=1, received=2, credit=3)

SEEDS: list[list[bytes]] = [
    encode(HELLO),
    encode(m.Ack(channel="run", stream="run", applied=1, received=2, credit=3)),
    encode(m.Score(seq=1, run_uid="run", image_number=1, projections=2, metrics={"a": 1.0})),
    encode(
        m.RunDone(
            seq=1,
            run_uid="run",
            rank=0,
            image_number=2,
            ack=m.Ack(channel="run", stream="run", applied=2, received=2, credit=9),
        )
    ),
    encode(m.VolumeDone(seq=1, run_uid="run", text="the disk is full")),
    encode(msgspec.structs.replace(HELLO, role="operator", rank=0, size=1)),
    encode(o.Ask(seq=1, order=o.Order(action="hold", who="anna", reason="why"))),
    encode(ShowCuts(viewer="page", number=3, cuts=(CUT,))),
    encode(
        Cuts(run_uid="run", image_number=1, projections=2, number=3, cuts=(CUT,), volume=(4, 8, 8), pixels=bytes(48))
    ),
    encode(o.Answer(seq=1, number=1)),
    encode(WELCOME),
    encode(OPEN),
    [*encode(ITEM), bytes(64)],
    encode(m.CloseRun(run_uid="run", seq=2, projections=0, flats=1, darks=0, exit_status="success")),
    encode(OPEN_PREVIEWS),
    encode(m.OpenChannel(channel="reports", stream="i")),
    encode(m.OpenChannel(channel="orders", stream="i")),
    [*encode(PREVIEW), bytes(128)],
    [*encode(msgspec.structs.replace(PREVIEW, projections=3, angles_used=(0.5,), columns=4)), bytes(128), bytes(32)],
    encode(m.ChangeRun(run_uid="run", seq=1, axis=511.5, planned=20)),
]


def mutated(fate: random.Random) -> list[bytes]:
    """Make frames that are random, or almost right."""
    kind = fate.randrange(4)
    if kind == 0:
        return [fate.randbytes(fate.randrange(64)) for _ in range(fate.randrange(4))]
    if kind == 1:
        return [PREAMBLE + fate.randbytes(fate.randrange(200)), *([bytes(64)] if fate.random() < 0.3 else [])]
    frames = [bytearray(frame) for frame in fate.choice(SEEDS)]
    for _ in range(fate.randrange(1, 4)):
        frame = frames[0] if fate.random() < 0.8 else fate.choice(frames)
        where = fate.randrange(max(1, len(frame)))
        what = fate.randrange(5)
        if what == 0 and frame:
            frame[where] = fate.randrange(256)
        elif what == 1:
            del frame[where:]
        elif what == 2:
            frame[where:where] = fate.randbytes(fate.randrange(8))
        elif what == 3 and frame:
            frame[where] ^= 1 << fate.randrange(8)
        else:
            frames.append(bytearray(fate.randbytes(fate.randrange(70))))
    return [bytes(frame) for frame in frames]


def test_decoder_raises_only_the_protocols_error() -> None:
    fate = random.Random(0)
    good = 0
    for _ in range(ROUNDS):
        frames = mutated(fate)
        try:
            decode(frames)
            good += 1
        except RemoteProtocolError:
            pass
    assert good < ROUNDS


def test_hub_survives_and_does_not_grow() -> None:
    hub = Hub(job_id="job")
    fate = random.Random(1)
    for number in range(ROUNDS):
        hub.receive(b"link-%d" % (number % 50), mutated(fate), float(number) / 1000)
        hub.tick(float(number) / 1000)
        hub.pump(lambda _link, _message: Sent.DONE, float(number) / 1000)
        hub.events.clear()
    assert hub.garbage.count > 0
    assert len(hub.peers()) <= 4
    assert len(hub._peers) <= 64


def test_member_survives_garbage_and_still_takes_the_next_item() -> None:
    connector = Connector(HELLO)
    connector.connected(0.0)
    connector.receive(b"", encode(WELCOME), 0.0)
    connector.receive(b"", encode(OPEN), 0.0)
    fate = random.Random(2)
    for _ in range(ROUNDS):
        connector.receive(b"", [b"\x00" + frame for frame in mutated(fate)], 0.0)
    connector.events.clear()
    connector.receive(b"", [*encode(ITEM), np.zeros((4, 8), "<u2").tobytes()], 0.0)
    assert [type(event).__name__ for event in connector.events] == ["Item"]
    assert connector.garbage.count == ROUNDS


def test_member_survives_a_beamline_that_talks_nonsense() -> None:
    fate = random.Random(3)
    connector = Connector(HELLO)
    for number in range(ROUNDS):
        if number % 500 == 0:
            connector = Connector(HELLO)
            connector.connected(0.0)
            connector.receive(b"", encode(WELCOME), 0.0)
        connector.receive(b"", mutated(fate), 0.0)
        if connector.state.value != "refused":
            connector.tick(0.0)
        if connector.state.value == "down":
            connector.connected(0.0)
            connector.receive(b"", encode(WELCOME), 0.0)
        connector.pump(lambda _message: Sent.DONE, 0.0)
        connector.events.clear()


def test_preview_side_survives_and_does_not_grow() -> None:
    into = PreviewReceiver(job_id="job", credit=4)
    fate = random.Random(4)
    for number in range(ROUNDS):
        into.receive(b"link-%d" % (number % 50), mutated(fate), 0.0)
        into.pump(lambda _link, _message: Sent.DONE, 0.0)
        into.events.clear()
    assert into.garbage.count > 0


def test_unknown_fields_of_a_later_version_are_passed_over() -> None:
    fields = msgspec.to_builtins(ACK) | {"colour": "blue"}
    message = decode([PREAMBLE + msgspec.msgpack.encode(fields)])
    assert message == ACK
