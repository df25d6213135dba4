"""The publisher and files: frames and angles that come late, and pixels at their true values or not at all."""

from __future__ import annotations

import math
import threading
import time

import h5py
import numpy as np
import pytest
from published_run import COLUMNS, ROWS, FlownRun, Run

from bluesky_streamrecon.beamline import Publisher
from bluesky_streamrecon.beamline.frames import FrameFile
from bluesky_streamrecon.beamline.serving import BeamlineEndpoint
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.wire import Item, RankEndpoint

BOUND = 20.0


def test_frame_that_is_late_is_waited_for(tmp_path):
    path = tmp_path / "late.h5"
    turns = []

    def wait(seconds):
        turns.append(seconds)
        with h5py.File(path, "a") as file:  # no SWMR: what was opened before does not see it
            data = (
                file.require_dataset("d", (1, 2, 2), dtype="<u2", maxshape=(None, 2, 2), exact=True)
                if len(turns) == 1
                else file["d"]
            )
            data.resize(len(turns), axis=0)
            data[-1] = len(turns)

    frames = FrameFile(f"file://localhost{path}", "application/x-hdf5", {"dataset": "/d"}, wait=wait)
    np.testing.assert_array_equal(frames.read(1, 2), [[[2, 2], [2, 2]]])
    assert len(turns) == 2
    frames.close()


def test_frames_are_read_from_a_directory_with_signs_that_uris_use(tmp_path):
    path = tmp_path / "Ångström's sample #3, wet?" / "1.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["d"] = np.ones((1, 2, 2), "<u2")
    frames = FrameFile(f"file://localhost{path}", "application/x-hdf5", {"dataset": "/d"})
    assert frames.read(0, 1).shape == (1, 2, 2)
    frames.close()


def test_frame_that_never_comes_is_an_error_that_says_where(tmp_path):
    now = [0.0]

    def wait(seconds):
        now[0] += seconds

    frames = FrameFile(
        f"file:///{tmp_path}/none.h5", "application/x-hdf5", {"dataset": "/d"}, clock=lambda: now[0], wait=wait
    )
    with pytest.raises(DataError, match=r"frames 0 to 0 of .*none\.h5:/d: the file can not be read"):
        frames.read(0, 1)
    with pytest.raises(DataError, match="is it on this computer"):
        FrameFile("http://elsewhere/none.h5", "application/x-hdf5", {"dataset": "/d"})


def test_frames_are_read_while_the_detector_writes(tmp_path):
    path = tmp_path / "growing.h5"
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset("d", shape=(0, 2, 2), maxshape=(None, 2, 2), chunks=(1, 2, 2), dtype="<u2")
        file.swmr_mode = True
        frames = FrameFile(f"file://localhost{path}", "application/x-hdf5", {"dataset": "/d"})
        for i in range(3):
            data.resize(i + 1, axis=0)
            data[i] = i
            data.flush()
            read = []
            thread = threading.Thread(target=lambda i=i, read=read: read.append(frames.read(i, i + 1)))
            thread.start()
            thread.join(20)
            np.testing.assert_array_equal(read[0], np.full((1, 2, 2), i))
        frames.close()


@pytest.mark.parametrize("angles_first", [True, False])
def test_angles_in_a_file_are_read_and_paired_with_their_frames(publisher, sink, tmp_path, angles_first):
    run = FlownRun(publisher, tmp_path)
    run.write(10.0, 20.5, 31.0)
    for first, count in ((0, 2), (2, 1)):
        steps = [lambda f=first, n=count: run.angle_datum(f, f + 1, n), lambda f=first, n=count: run.datum(f, f + 1, n)]
        for step in steps if angles_first else reversed(steps):
            step()
    assert [(frame.kind, frame.index) for frame in sink.items] == [
        ("projection", 1),
        ("projection", 2),
        ("projection", 3),
    ]
    assert [frame[0, 0] for frame in sink.frames()] == [0, 1, 2]
    assert sink.degrees() == pytest.approx([10.0, 20.5, 31.0])


def test_no_document_opens_a_file_and_what_is_written_later_arrives_with_its_angles(tmp_path, problems, monkeypatch):
    """Through a real endpoint to a rank: the files do not exist before the whole run was published."""
    opened = []
    read = FrameFile.read
    monkeypatch.setattr(
        FrameFile, "read", lambda *args: (opened.append(threading.current_thread().name), read(*args))[1]
    )
    beamline = BeamlineEndpoint(on_event=lambda event, sender: None)
    rank = RankEndpoint(beamline.address, job_id=beamline.job_id, rank=0, size=1)
    try:
        publisher = Publisher(beamline, on_problem=problems.append)
        began = time.monotonic()
        run = FlownRun(publisher, tmp_path)
        run.datum(0, 1, 3)
        run.angle_datum(0, 1, 3)
        run.stop()
        assert time.monotonic() - began < 2.0, "a file that is not there is waited for 5 s"
        run.write(10.0, 20.5, 31.0)
        items = []
        while len(items) < 3:
            event = rank.next(BOUND)
            assert event is not None
            if isinstance(event, Item):
                items.append(event)
                rank.applied(event.seq)
        assert [math.degrees(item.angle) for item in items] == pytest.approx([10.0, 20.5, 31.0])
        assert [item.pixels[0, 0] for item in items] == [0, 1, 2]
    finally:
        rank.close(0.0)
        beamline.close(0.0)
    assert opened
    assert all(name.startswith("streamrecon-frames-") for name in opened)
    assert problems == []


def test_angle_that_never_comes_costs_its_frame_and_not_the_run(publisher, sink, problems, tmp_path):
    run = FlownRun(publisher, tmp_path)
    run.write(10.0, 20.0)
    run.datum(0, 1, 3)
    run.angle_datum(0, 1, 3)
    for _, file in publisher._run.files.values():
        file._patience = 0.05
    run.datum(3, 4, 1)
    run.stop()
    assert sink.closed == [("success", "")]
    assert "events [4] had a frame and no angle" in problems[0]
    for frame, fits in zip(sink.items, (True, True, False), strict=True):
        if fits:
            frame.read()
        else:
            with pytest.raises(DataError, match="has 2 frames after"):
                frame.read()


def test_flown_angles_without_units_that_were_hardly_degrees_are_told_once_they_were_read(
    publisher, sink, problems, tmp_path
):
    run = FlownRun(publisher, tmp_path)
    run.write(*np.linspace(0.0, 3.1, 30))
    run.datum(0, 1, 30)
    run.angle_datum(0, 1, 30)
    publisher.end("success", "")
    assert problems == []
    sink.frames()
    publisher.check_angles()
    publisher.check_angles()
    assert len(problems) == 1
    assert "30 views without units range over 3.1" in problems[0]


@pytest.mark.parametrize(("sign", "zero"), [(1, 0.0), (1, 400.0), (-1, 0.0), (-1, 30.0)])
def test_flown_angles_that_run_the_other_way_are_told_and_another_zero_is_not(
    publisher, sink, problems, tmp_path, sign, zero
):
    planned = [0.0, 90.0, 45.0, 135.0, 22.5]
    run = FlownRun(
        publisher,
        tmp_path,
        block={"recon_uid": "r", "projections": 5, "detector": "det", "angle": "rot", "angles": planned},
    )
    run.write(*(zero + sign * np.array(planned)))
    run.datum(0, 1, 5)
    run.angle_datum(0, 1, 5)
    publisher.end("success", "")
    sink.frames()
    publisher.check_angles()
    publisher.check_angles()
    at = f"planned at 0 and 135 degrees, and recorded at {zero:.4g} and {zero - 135:.4g}: they run the other way"
    assert [at in problem for problem in problems] == [True] * (sign < 0)


def test_angle_in_a_file_for_frames_in_events_is_refused(publisher, problems):
    run = Run(publisher)
    angle = {"source": "y", "dtype": "number", "shape": [1], "external": "STREAM:", "object_name": "rot"}
    run.describe(angle=False, keys={"rot": angle})
    assert "expected both in files" in problems[0]


# ---------------------------------------------------------------------------------- true values, or none


@pytest.mark.parametrize(
    ("announced", "values", "taken_as"),
    [
        ("|u1", np.full((2, 2), 8249, "<u2"), "<u2"),
        ("<u2", np.array([[1, -7], [2, 3]], "<i2"), "<i4"),
        ("|u1", np.array([[1.5, np.nan], [2, 3]], "<f4"), "<f4"),
        ("<u2", np.array([[1, 2], [3, 70000]], ">u4"), "<u4"),
    ],
)
def test_frames_in_events_that_do_not_fit_the_announced_type_are_taken_as_they_are_and_told(
    publisher, sink, problems, announced, values, taken_as
):
    run = Run(publisher)
    run.describe(shape=(2, 2), dtype=announced)
    run.event(1, 0.0, det=values)
    assert sink.specs[0].dtype == taken_as
    np.testing.assert_array_equal(sink.frames()[0], values)
    assert f"{announced} was announced" in problems[0]


def test_frame_that_does_not_fit_a_run_that_is_open_is_refused_and_never_wrapped(publisher, sink):
    run = Run(publisher)
    run.describe("flat", angle=False, shape=(2, 2), dtype="|u1")
    run.event(1, stream="flat", det=np.full((2, 2), 200, "u1"))
    run.describe(shape=(2, 2), dtype="|u1")
    run.event(1, 0.0, det=np.full((2, 2), 8249, "<u2"))
    with pytest.raises(DataError, match=r"event 1 of stream 'primary', image 'det': got 8249 at \(0, 0\), uint16"):
        sink.items[-1].read()


@pytest.mark.parametrize(
    ("announced", "written", "fits"),
    [("|u1", np.uint16(8249), False), ("<u2", np.float64("nan"), False), ("<f4", np.float64(0.1), True),
     ("|u1", np.uint32(9), True)],
)  # fmt: skip
def test_frames_in_a_file_of_another_type_than_announced_are_exact_or_refused_with_the_file(
    publisher, sink, tmp_path, announced, written, fits
):
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["d"] = np.full((1, ROWS, COLUMNS), written)
    run = Run(publisher, tmp_path)
    run.describe(dtype=announced)
    run.resource()
    run.datum(0, 1)
    run.event(1, 0.0)
    if fits:
        np.testing.assert_allclose(sink.frames()[0], written)
    else:
        with pytest.raises(DataError, match=rf"frames\.h5:/d: frame 0: got {written}"):
            sink.frames()


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 3), (2, 2, 3), (4,)])
def test_frame_of_another_shape_than_announced_is_refused_and_never_averaged(publisher, sink, shape):
    run = Run(publisher)
    run.describe(shape=(2, 2))
    run.event(1, 0.0, det=np.ones(shape, "<u2"))
    with pytest.raises(DataError, match=r"expected \(2, 2\) as announced"):
        sink.frames()


@pytest.mark.parametrize(
    ("shape", "words"), [((8, 9, 3), "frames in colour"), ((5, 8, 9), "5 frames per event"), ((2, 2, 8, 9), "4 frames")]
)
def test_colour_and_unnamed_stacks_are_refused_at_the_descriptor(publisher, sink, problems, shape, words):
    run = Run(publisher)
    run.describe(shape=shape)
    assert words in problems[0]
    assert sink.specs == []


def test_flats_of_a_narrower_type_share_the_run_and_keep_their_values(publisher, sink, tmp_path, problems):
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["d"] = np.full((2, ROWS, COLUMNS), 7, "u1")
    run = Run(publisher, tmp_path)
    run.describe("flat", angle=False, dtype="<f4")
    run.describe(dtype="|u1")
    run.resource()
    run.datum(0, 1)
    run.event(1, 0.0)
    assert sink.specs[0].dtype == sink.frames()[0].dtype.str == "<f4"
    assert problems == []


def test_stage_without_units_is_refused_where_the_plan_covers_a_range_that_is_hardly_degrees(publisher, problems):
    block = {"recon_uid": "r", "projections": 180, "detector": "det", "angle": "rot", "start": 0, "stop": 3.14159}
    Run(publisher, block=block).describe(shape=(2, 2), units=None)
    assert "3.142 degrees if they are degrees, 180 degrees if they are radians; set the units" in problems[0]


def test_angles_without_units_that_were_hardly_degrees_are_told_at_the_end(publisher, problems):
    run = Run(publisher)
    run.describe(shape=(2, 2), units="")
    for seq in range(1, 31):
        run.event(seq, 0.1 * seq, det=np.ones((2, 2), "<u2"))
    run.stop()
    assert "30 views without units range over 2.9" in problems[0]


def kept_back(path, at, act):
    """Make a file that can not be opened, of which `act` changes something at the n-th look."""
    path.write_bytes(b"not yet")
    now, looks = [0.0], [0]

    def wait(seconds):
        now[0] += 1.0
        looks[0] += 1
        if looks[0] == at:
            act(frames)

    parameters = {"dataset": "/d"}
    frames = FrameFile(f"file://{path}", "application/x-hdf5", parameters, clock=lambda: now[0], wait=wait)
    return frames, now


def test_file_that_its_detector_keeps_to_itself_is_read_when_it_is_closed(tmp_path, caplog):
    path = tmp_path / "frames.h5"

    def close(_):
        with h5py.File(path, "w") as file:
            file["d"] = np.arange(6, dtype="<u2").reshape(1, 2, 3)

    frames, now = kept_back(path, 40, close)
    np.testing.assert_array_equal(frames.read(0, 1)[0], [[0, 1, 2], [3, 4, 5]])
    assert now[0] == 40.0  # patience is 5
    assert [record.getMessage().count("read when the detector closes it") for record in caplog.records] == [1]


def test_file_that_is_not_readable_after_the_run_is_given_up_for_all_frames_at_once(tmp_path):
    frames, now = kept_back(tmp_path / "frames.h5", 40, lambda frames: frames.run_ended())
    for number in range(3):
        with pytest.raises(DataError, match="does it write in SWMR mode"):
            frames.read(number, number + 1)
    assert now[0] == 45.0


def test_frames_that_were_never_written_are_given_up_all_at_once_when_the_run_has_ended(tmp_path):
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file["d"] = np.zeros((1, 2, 3), "<u2")
    now = [0.0]

    def wait(seconds):
        now[0] += 1.0

    frames = FrameFile(f"file://{path}", "application/x-hdf5", {"dataset": "/d"}, clock=lambda: now[0], wait=wait)
    with pytest.raises(DataError, match=r"frames 1 to 1 of .*the file has 1 frames after 5 s"):
        frames.read(1, 2)  # as it may yet come
    assert now[0] == 5.0
    frames.run_ended()
    for number in range(2, 1000):
        with pytest.raises(DataError, match="has 1 frames"):
            frames.read(number, number + 1)
    assert now[0] == 10.0


@pytest.mark.parametrize(("zero", "stop"), [(0.0, 120), (181.0, 120), (33.0, 180), (33.0, 120)])
def test_flown_angles_beside_the_range_are_told_where_it_is_less_than_a_half_turn(
    publisher, sink, problems, tmp_path, zero, stop
):
    planned = [0.0, 60.0, 30.0, 90.0, 15.0]
    block = {"recon_uid": "r", "projections": 5, "detector": "det", "angle": "rot", "angles": planned}
    run = FlownRun(publisher, tmp_path, block={**block, "start": 0, "stop": stop})
    run.write(*(zero + np.array(planned)))
    run.datum(0, 1, 5)
    run.angle_datum(0, 1, 5)
    publisher.end("success", "")
    sink.frames()
    publisher.check_angles()
    told = ["recorded 33 degrees beside where they were planned, and a scan of 120 degrees"] * (
        zero == 33 and stop == 120
    )
    assert len(problems) == len(told)
    assert all(text in problem for text, problem in zip(told, problems, strict=True))
