"""Frames are checked before they are believed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from bluesky_streamrecon.cuts import MOST_CUT_PIXELS, Cut
from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.projection_sets import ProjectionSet
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import Judged, Order, RunStatus
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire import operator_messages as o
from bluesky_streamrecon.wire.codec import (
    PREAMBLE,
    UnknownVersionError,
    decode,
    encode,
)
from bluesky_streamrecon.wire.fields import PIXEL_TYPES
from bluesky_streamrecon.wire.operator_messages import MOST_JUDGED, Cuts, ShowCuts
from bluesky_streamrecon.wire.run_messages import Preview

HELLO = m.Hello(job_id="job", role="rank", instance="i", rank=1, size=2, host="h", pid=7, software="s")
OPEN = m.OpenRun(
    run_uid="run",
    recon_uid="recon",
    planned=180,
    detector_shape=(4, 8),
    dtype="<u2",
    block=RowBlock(0, 2, 0, 0, 1),
    recon=ReconSettings(window=None, options={"delta": 0.1}),
    steering=SteeringSettings(),
    preview_rows=(0, 3),
    metadata={"sample": "tooth"},
)
ITEM = m.Item(run_uid="run", seq=1, kind="flat", index=1, angle=0.0, rows=(0, 2), dtype="<u2", shape=(2, 8))
PREVIEW = Preview(run_uid="run", seq=1, rank=0, image_number=1, projections=3, rows=(0, 3), shape=(4, 4))

CUT = Cut(corner=(1.0, -0.5, -0.5), down=(0.0, 3.0, 0.0), across=(0.0, 0.0, 4.0), shape=(3, 4))
CUTS = Cuts(run_uid="run", image_number=3, projections=5, number=7, cuts=(CUT, CUT), volume=(4, 8, 8), pixels=bytes(96))

UP = [
    HELLO,
    msgspec.structs.replace(HELLO, role="operator", rank=0, size=1),
    o.Ask(
        seq=1, run_uid="run", order=o.Order(action="extend", who="anna", place="prompt", reason="why", count=3, uid="u")
    ),
    m.OpenChannel(channel="reports", stream="i", first=3),
    m.Ack(channel="run", stream="run", applied=1, received=2, credit=3, duplicate=1),
    m.Heartbeat(time=1.5),
    m.Status(run_uid="run", rank=0, state="busy"),
    m.Score(seq=1, run_uid="run", image_number=1, projections=2, score=0.5, metrics={"x": 1.0}, axis=3.5),
    o.Ask(seq=2, order=o.Order(action="axis", who="anna", axis=3.5)),
    o.Ask(seq=3, order=o.Order(action="region", who="anna", selection=Selection((0, 4, 40, 60), (3, 7)))),
    m.RunDone(
        seq=2,
        run_uid="run",
        rank=0,
        image_number=5,
        ack=m.Ack(channel="run", stream="run", applied=5, received=5, credit=9),
        axis=3.5,
        counts={"bad": 1},
    ),
    m.VolumeDone(seq=3, run_uid="run", rank=0, similarity=0.99, result="/data/recon_run.h5"),
    m.Problem(fault="local", where="here", text="broken"),
]
DOWN = [
    m.Welcome(job_id="job", heartbeat_seconds=1.0),
    m.ChangeRun(run_uid="run", seq=1, planned=20),
    m.ChangeRun(run_uid="run", seq=3, axis=511.5),
    m.ChangeRun(run_uid="run", seq=4, allowed=15),
    m.ChangeRun(run_uid="run", seq=5, selection=Selection((0, 4, 40, 60), (3, 7))),
    m.ChangeRun(run_uid="run", seq=6, selection=WHOLE_VIEW),
    OPEN,
    m.ItemGone(run_uid="run", seq=1, kind="dark", index=1, angle=0.0, why="disk"),
    m.CloseRun(run_uid="run", seq=4, projections=1, flats=1, darks=1, exit_status="success"),
    m.AbandonRun(run_uid="run"),
    m.PreviewAt(address=None),
    m.Heartbeat(),
    m.Shutdown(reason="bye"),
    ShowCuts(viewer="page", number=3, cuts=(CUT,)),
    CUTS,
    o.Answer(
        number=1,
        status=RunStatus(state="running", run_uid="run", held=Order(action="hold", who="anna"), ledger={"sent": 1}),
        judged=(Judged(image_number=1, projections=2, score=0.5),),
    ),
    m.Problem(fault="remote", where="there", text="yours"),
]


@pytest.mark.parametrize("message", UP, ids=lambda m: type(m).__name__)
def test_messages_up_come_back_as_they_were(message: msgspec.Struct) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", DOWN, ids=lambda m: type(m).__name__)
def test_messages_down_come_back_as_they_were(message: msgspec.Struct) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": bytes(92)},
        {"cuts": ()},
        {"cuts": (CUT,) * 5},
        {"cuts": (msgspec.structs.replace(CUT, shape=(0, 24)),)},
        {"cuts": (msgspec.structs.replace(CUT, shape=(MOST_CUT_PIXELS, 2)),)},
        {"cuts": (msgspec.structs.replace(CUT, layers=MOST_CUT_PIXELS),)},
        {"cuts": (msgspec.structs.replace(CUT, through=(0.0, float("nan"), 0.0)),) * 2},
        {"cuts": (msgspec.structs.replace(CUT, corner=(float("nan"), 0.0, 0.0)),) * 2},
        {"cuts": (msgspec.structs.replace(CUT, down=(float("inf"), 0.0, 0.0)),) * 2},
        {"volume": (0, 8, 8)},
    ],
)
def test_cuts_that_nobody_can_make_or_that_are_not_what_they_say_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"cuts|volume"):
        decode(encode(msgspec.structs.replace(CUTS, **wrong)))
    if "cuts" in wrong:
        with pytest.raises(RemoteProtocolError, match="cuts"):
            decode(encode(ShowCuts(number=1, cuts=wrong["cuts"])))


@pytest.mark.parametrize("axis", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "message",
    [m.ChangeRun(run_uid="run", seq=3, axis=1.0), m.Score(run_uid="run", image_number=1, projections=2)],
    ids=lambda message: type(message).__name__,
)
def test_axis_that_is_no_place_on_a_detector_is_refused(message: msgspec.Struct, axis: float) -> None:
    with pytest.raises(RemoteProtocolError, match=r"float.*\$\.axis"):
        decode(encode(msgspec.structs.replace(message, axis=axis)))


def test_largest_cuts_and_answer_fit_into_a_header() -> None:
    edge = (1e6 / 3, -1e6 / 3, 1e6 / 7)
    shape = (MOST_CUT_PIXELS // 16, 4)
    cut = Cut(corner=edge, down=edge, across=edge, through=edge, shape=shape, space="projection")
    big = Cuts(
        run_uid="r" * 128,
        image_number=2**53,
        projections=2**53,
        viewer="v" * 256,
        number=2**53,
        cuts=(cut,) * 4,
        volume=(65_535,) * 3,
        made=1e300,
        angle=1e300,
        pixels=bytes(4 * MOST_CUT_PIXELS),
    )
    assert decode(encode(big)) == big
    judged = Judged(
        image_number=2**53, projections=2**53, score=0.1, gain=0.1, gain_low=0.1, gain_high=0.1, gain_at=2**53
    )
    status = RunStatus(text="t" * 4096, problem="p" * 4096)
    told = o.Answer(number=1, text="t" * 4096, status=status, judged=(judged,) * MOST_JUDGED)
    assert decode(encode(told)) == told


@pytest.mark.parametrize("dtype", PIXEL_TYPES)
def test_pixels_are_a_read_only_view_of_what_came(dtype: str) -> None:
    pixels = np.arange(16).reshape(2, 8).astype(dtype)
    raw = pixels.tobytes()
    message = decode([*encode(msgspec.structs.replace(ITEM, dtype=dtype)), raw])
    got = message.pixels
    assert (message.dtype, got.dtype.str) == (dtype, np.dtype(dtype).str)
    np.testing.assert_array_equal(got, pixels)
    assert np.shares_memory(got, np.frombuffer(raw, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1


def test_preview_pixels_have_rows_and_a_square() -> None:
    pixels = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    message = decode(encode(msgspec.structs.replace(PREVIEW, pixels=pixels)))
    np.testing.assert_array_equal(message.pixels, pixels)
    assert msgspec.structs.replace(message, pixels=None) == PREVIEW


WITH_LINES = msgspec.structs.replace(
    PREVIEW, projections=9, lines_first=6, angles_used=(0.1, 0.2, 0.3), columns=5, axis=2.1
)


def test_line_integrals_come_as_a_third_frame() -> None:
    pixels = np.zeros((2, 4, 4), np.float32)
    lines = np.arange(30, dtype=np.float32).reshape(3, 2, 5)
    message = decode(encode(msgspec.structs.replace(WITH_LINES, pixels=pixels, lines=lines)))
    np.testing.assert_array_equal(message.lines, lines)
    assert msgspec.structs.replace(message, pixels=None, lines=None) == WITH_LINES


def test_line_integrals_are_those_of_the_newest_projections() -> None:
    views = ProjectionSet(np.zeros((2, 2, 5), np.float32), np.array([0.1, 0.2]), np.array([1, 3]))
    message = msgspec.structs.replace(PREVIEW, projections=9).with_views(views)
    assert (message.lines_first, message.lines_counts, message.columns) == (5, (1, 3), 5)
    again = message.views
    assert again is not None
    np.testing.assert_array_equal(again.counts, views.counts)
    assert PREVIEW.with_views(None) == PREVIEW
    assert PREVIEW.views is None


@pytest.mark.parametrize(
    ("change", "nbytes", "said"),
    [
        ({}, 119, "lines of preview .*: got 119 bytes, expected 120"),
        ({}, None, "preview .*: got 2 frames, expected 3"),
        ({"columns": 0}, 120, "got 3 frames, expected 2"),
        ({"lines_first": 7}, 120, "projections 8 to 10, expected none after 9"),
        ({"lines_counts": (1, 1)}, 120, "got 2 counts of 3 views"),
        ({"lines_counts": (1, 1, 2)}, 120, "projections 7 to 10, expected none after 9"),
        ({"angles_used": (0.1, float("nan"), 0.3)}, 120, r"float.*\$\.angles_used"),
        ({"axis": float("inf")}, 120, r"float.*\$\.axis"),
    ],
)
def test_line_integrals_that_do_not_fit_their_header_are_refused(change, nbytes, said) -> None:
    header = encode(msgspec.structs.replace(WITH_LINES, **change))
    frames = [*header, bytes(2 * 4 * 4 * 4)] + ([] if nbytes is None else [bytes(nbytes)])
    with pytest.raises(RemoteProtocolError, match=said):
        decode(frames)


def test_other_version_is_refused_naming_both() -> None:
    frame = bytearray(encode(HELLO)[0])
    frame[3] = 9
    with pytest.raises(UnknownVersionError, match="got 9, expected 3") as caught:
        decode([frame])
    assert caught.value.version == 9


def bare(**fields: Any) -> bytes:
    return PREAMBLE + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"SR"],
        [PREAMBLE],
        [b"GET / HTTP/1.1\r\n"],
        [*encode(HELLO), b"more"],
        [encode(HELLO)[0][:-1]],
        [PREAMBLE + b"\x91" * 5000],
        [PREAMBLE + b"\xdd\xff\xff\xff\xff"],
        [PREAMBLE + b"\xdb\xff\xff\xff\xff"],
        [PREAMBLE + bytes(2**20)],
        [bare(type="unheard-of")],
        [bare(type="hello", job_id="job", role="admin", instance="i")],
        [bare(type="hello", job_id="", role="rank", instance="i")],
        [bare(type="hello", job_id="job", role="rank", instance="i", rank=2, size=2)],
        [bare(type="hello", job_id="job", role="rank", instance="i", rank=-1)],
        [bare(type="hello", job_id="j" * 1000, role="rank", instance="i")],
        [bare(type="ack", run_uid="run", applied=-1, received=0, credit=0)],
        [bare(type="ack", run_uid="run", applied=2**63, received=0, credit=0)],
    ],
    ids=lambda frames: repr(frames)[:40],
)
def test_what_is_not_a_message_up_raises_only_the_protocols_error(frames: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(frames)


@pytest.mark.parametrize(
    ("change", "payload", "told"),
    [
        ({}, None, "got 1 frames, expected 2"),
        ({}, b"", "got 0 bytes, expected 32"),
        ({}, bytes(31), "got 31 bytes"),
        ({}, bytes(33), "got 33 bytes"),
        ({"shape": (65536, 65536), "rows": (0, 65536), "dtype": "<f8"}, bytes(8), "at most"),
        ({"shape": (3, 8)}, bytes(48), "for rows"),
        ({"rows": (2, 0)}, bytes(32), "for rows"),
        ({"dtype": "|O"}, bytes(128), "dtype"),
        ({"dtype": ">u2"}, bytes(32), "dtype"),
        ({"shape": (0, 8), "rows": (1, 1)}, b"", "shape"),
        ({"angle": float("nan")}, bytes(32), "angle"),
        ({"angle": float("inf")}, bytes(32), "angle"),
        ({"seq": 0}, bytes(32), "seq"),
        ({"index": 0}, bytes(32), "index"),
        ({"kind": "ghost"}, bytes(32), "kind"),
    ],
)
def test_item_that_does_not_add_up_is_refused(change: dict[str, Any], payload: bytes | None, told: str) -> None:
    frames = encode(msgspec.structs.replace(ITEM, **change)) + ([] if payload is None else [payload])
    with pytest.raises(RemoteProtocolError, match=told):
        decode(frames)


@pytest.mark.parametrize(
    "change",
    [
        {"block": RowBlock(0, 5, 0, 0, 1)},
        {"block": RowBlock(2, 2, 0, 0, 1)},
        {"block": RowBlock(-1, 2, 0, 0, 1)},
        {"block": RowBlock(0, 2, 0, 1, 1)},
        {"preview_rows": (4,)},
        {"detector_shape": (0, 8)},
        {"detector_shape": (4, 100_000)},
        {"dtype": "<c8"},
    ],
)
def test_run_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(encode(msgspec.structs.replace(OPEN, **change)))


def test_settings_that_can_not_work_are_refused_on_decoding() -> None:
    fields = msgspec.to_builtins(OPEN)
    fields["recon"]["window"] = -3
    with pytest.raises(RemoteProtocolError, match="window"):
        decode([bare(**fields)])


@pytest.mark.parametrize(
    "change", [{"rows": ()}, {"rows": (1,)}, {"shape": (4, 5)}, {"shape": (0, 4)}, {"shape": (4, 65536)}]
)
def test_preview_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode([*encode(msgspec.structs.replace(PREVIEW, **change)), bytes(128)])


def test_header_that_nobody_would_take_is_not_made() -> None:
    with pytest.raises(LocalProtocolError, match="header has"):
        encode(msgspec.structs.replace(OPEN, metadata={str(n): "x" * 4096 for n in range(100)}))
