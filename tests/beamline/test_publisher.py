"""The publisher, fed with documents: what it pairs, what it ignores, and how it fails."""

from __future__ import annotations

import math
import threading
import time

import h5py
import msgspec
import numpy as np
import pytest
from event_model import compose_run

from bluesky_streamrecon.beamline import Publisher
from bluesky_streamrecon.beamline.frames import FrameFile
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.wire import BeamlineEndpoint, Item, RankEndpoint
from bluesky_streamrecon.wire.fields import Name, Text

ROWS, COLUMNS = 3, 5
BOUND = 20.0


class Kept:
    """A sink that keeps everything."""

    def __init__(self):
        self.specs, self.items, self.closed = [], [], []
        self.fails = None

    def open_run(self, spec):
        self.specs.append(spec)

    def append(self, kind, index, angle, source):
        if self.fails:
            raise self.fails
        self.items.append((kind, index, angle, source))
        return len(self.items)

    def close_run(self, exit_status="success", reason=""):
        self.closed.append((exit_status, reason))

    def frames(self):
        return [np.asarray(s) if isinstance(s, np.ndarray) else s.read() for *_, s in self.items]

    def degrees(self):
        return [math.degrees(angle() if callable(angle) else angle) for _, _, angle, _ in self.items]


def configuration(data):
    """What a descriptor says of a device's configuration."""
    keys = {key: {"source": "z", "dtype": "number", "shape": []} for key in data}
    return {"data": data, "timestamps": dict.fromkeys(data, 0.0), "data_keys": keys}


class Run:
    """Documents of a run as a detector with a file, or frames in events, would have them."""

    def __init__(self, publisher, tmp_path=None, *, block=None, metadata=None, hints=True):
        self.publisher = publisher
        self.path = tmp_path / "frames.h5" if tmp_path else None
        block = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot"} if block is None else block
        self.run = compose_run(metadata={"streamrecon": block, **(metadata or {})} if block else metadata)
        self.hints = hints
        self.streams = {}
        publisher("start", self.run.start_doc)

    @property
    def uid(self):
        return self.run.start_doc["uid"]

    def describe(
        self,
        stream="primary",
        *,
        keys=None,
        angle=True,
        units="deg",
        shape=(1, ROWS, COLUMNS),
        dtype="<u2",
        configured=None,
    ):
        image = {"source": "x", "dtype": "array", "shape": list(shape)}
        if dtype:
            image["dtype_numpy"] = dtype
        if self.path:
            image["external"] = "STREAM:"
        data_keys = {"det": {**image, "object_name": "det"}}
        if angle:
            data_keys["rot"] = {"source": "y", "dtype": "number", "shape": [], "units": units, "object_name": "rot"}
        data_keys |= keys or {}
        objects = {}
        for key, value in data_keys.items():
            objects.setdefault(value["object_name"], []).append(key)
        bundle = self.run.compose_descriptor(
            name=stream,
            data_keys=data_keys,
            object_keys=objects,
            hints={"rot": {"fields": ["rot"]}} if self.hints else {},
            configuration={"det": configuration(configured)} if configured else {},
        )
        self.streams[stream] = bundle
        self.publisher("descriptor", bundle.descriptor_doc)
        return bundle

    def resource(self, stream="primary", data_key="det", **changes):
        self.files = self.run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{self.path}",
            data_key=data_key,
            parameters={"dataset": "/d", "chunk_shape": [1, ROWS, COLUMNS]},
        )
        doc = {**self.files.stream_resource_doc, **changes}
        self.publisher("stream_resource", doc)

    def datum(self, index, seq, count=1, stream="primary"):
        doc = self.files.compose_stream_datum(
            indices={"start": index, "stop": index + count},
            seq_nums={"start": seq, "stop": seq + count},
            descriptor=self.streams[stream].descriptor_doc,
        )
        self.publisher("stream_datum", doc)

    def event(self, seq, angle=None, stream="primary", **data):
        values = {**({} if angle is None else {"rot": angle}), **data}
        doc = {"descriptor": self.streams[stream].descriptor_doc["uid"], "seq_num": seq, "data": values}
        self.publisher("event", doc)

    def stop(self, exit_status="success", reason=""):
        self.publisher("stop", {"run_start": self.uid, "exit_status": exit_status, "reason": reason, "uid": "s"})


@pytest.fixture
def sink():
    return Kept()


@pytest.fixture
def problems():
    return []


@pytest.fixture
def publisher(sink, problems):
    return Publisher(sink, on_problem=problems.append)


@pytest.fixture
def written(tmp_path):
    frames = np.arange(12 * ROWS * COLUMNS, dtype="<u2").reshape(12, ROWS, COLUMNS)
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["d"] = frames
    return frames


def test_frames_of_the_file_go_out_in_radians_and_order(publisher, sink, written, tmp_path, problems):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    for i, angle in enumerate((0.0, 90.0, 45.0)):
        run.datum(i, i + 1)
        run.event(i + 1, angle)
    run.stop(reason="done")
    assert [(kind, index, angle) for kind, index, angle, _ in sink.items] == [
        ("projection", 1, 0.0),
        ("projection", 2, math.pi / 2),
        ("projection", 3, math.pi / 4),
    ]
    np.testing.assert_array_equal(sink.frames(), written[:3])
    assert all(source.in_file for *_, source in sink.items)
    assert sink.closed == [("success", "done")]
    (spec,) = sink.specs
    assert (spec.run_uid, spec.recon_uid, spec.planned) == (run.uid, "r1", 4)
    assert (spec.detector_shape, spec.dtype, spec.preview_rows) == ((ROWS, COLUMNS), "<u2", (1, 2))
    assert problems == []


def test_event_and_datum_are_paired_by_number_whichever_comes_first(publisher, sink, written, tmp_path):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    run.event(1, 10.0)
    run.event(2, 20.0)
    run.datum(0, 1, count=3)
    run.event(3, 30.0)
    assert [round(math.degrees(angle)) for _, _, angle, _ in sink.items] == [10, 20, 30]
    np.testing.assert_array_equal(sink.frames(), written[:3])


def test_orphan_frame_in_the_file_is_passed_over(publisher, sink, written, tmp_path):
    """The bundle with index 1 was dropped after a pause; the event has the frame that was taken again."""
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    run.datum(0, 1)
    run.event(1, 0.0)
    run.datum(2, 2)
    run.event(2, 1.0)
    np.testing.assert_array_equal(sink.frames(), written[[0, 2]])


def test_event_that_is_repeated_is_published_once(publisher, sink, written, tmp_path, problems):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    for index, seq in ((0, 1), (1, 2), (2, 2), (3, 3)):
        run.datum(index, seq)
        run.event(seq, 10.0 * seq)
    run.stop()
    assert [index for _, index, _, _ in sink.items] == [1, 2, 3]
    np.testing.assert_array_equal(sink.frames(), written[[0, 1, 3]])
    assert problems == []


def test_frame_that_is_taken_again_before_its_event_replaces_the_first(publisher, sink, written, tmp_path):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    run.datum(0, 1)
    run.datum(1, 1)
    run.event(1, 0.0)
    np.testing.assert_array_equal(sink.frames(), written[[1]])


def test_several_frames_of_one_event_are_averaged(publisher, sink, written, tmp_path):
    run = Run(publisher, tmp_path)
    run.describe(shape=(4, ROWS, COLUMNS))
    run.resource()
    run.datum(1, 1)
    run.event(1, 0.0)
    assert sink.specs[0].dtype == "<f4"
    np.testing.assert_array_equal(sink.frames()[0], written[4:8].mean(axis=0, dtype=np.float64).astype("f4"))


def test_flats_and_darks_need_no_angle(publisher, sink, written, tmp_path):
    run = Run(publisher, tmp_path)
    for stream in ("dark", "flat"):
        run.describe(stream, angle=False)
        run.resource(stream)
        run.datum(0, 1, stream=stream)
        run.event(1, stream=stream)
    run.describe()
    run.resource()
    run.datum(0, 1)
    run.event(1, 5.0)
    assert [(kind, index) for kind, index, *_ in sink.items] == [("dark", 1), ("flat", 1), ("projection", 1)]
    assert len(sink.specs) == 1


def test_inline_frames_are_not_copied(publisher, sink):
    run = Run(publisher)
    run.describe(shape=(ROWS, COLUMNS))
    pixels = np.arange(ROWS * COLUMNS, dtype="<u2").reshape(ROWS, COLUMNS)
    run.event(1, 0.0, det=pixels)
    assert np.shares_memory(sink.items[0][3], pixels)


@pytest.mark.parametrize(
    ("pixels", "dtype"),
    [
        ([[1, 2], [3, 4]], "<f8"),
        (np.array([[1, 2], [3, 4]], dtype=">u2"), "<u2"),
        (np.array([[True, False], [False, True]]), "|u1"),
        (np.ones((2, 2), dtype="f2"), "<f4"),
    ],
)
def test_inline_frames_of_other_types_go_in_one_that_holds_them(publisher, sink, pixels, dtype):
    run = Run(publisher)
    run.describe(shape=(2, 2), dtype="")
    run.event(1, 0.0, det=pixels)
    frame = sink.frames()[0]
    assert sink.specs[0].dtype == dtype == frame.dtype.str
    np.testing.assert_array_equal(frame, np.asarray(pixels))


def test_event_pages_are_unpacked(publisher, sink):
    run = Run(publisher)
    bundle = run.describe(shape=(ROWS, COLUMNS))
    frames = np.zeros((2, ROWS, COLUMNS), dtype="<u2")
    page = {"descriptor": bundle.descriptor_doc["uid"], "seq_num": [1, 2], "data": {"det": frames, "rot": [1.0, 2.0]}}
    publisher("event_page", page)
    assert [round(math.degrees(angle)) for _, _, angle, _ in sink.items] == [1, 2]


@pytest.mark.parametrize(
    ("units", "value", "radians"), [("rad", 1.0, 1.0), ("deg", 180.0, math.pi), ("mrad", 5, 0.005)]
)
def test_angle_is_taken_in_the_units_of_its_data_key(publisher, sink, units, value, radians):
    run = Run(publisher)
    run.describe(shape=(ROWS, COLUMNS), units=units)
    run.event(1, value, det=np.zeros((ROWS, COLUMNS), dtype="<u2"))
    assert sink.items[0][2] == pytest.approx(radians)


def test_named_detector_and_hinted_key_are_chosen_among_several_images(publisher, sink, written, tmp_path):
    image = {"source": "x", "dtype": "array", "shape": [1, 7, 7], "dtype_numpy": "<u2", "external": "STREAM:"}
    run = Run(publisher, tmp_path)
    run.describe(keys={"other": {**image, "object_name": "other"}, "det-mask": {**image, "object_name": "det"}})
    run.resource(data_key="other")
    run.datum(0, 1)
    run.resource()
    run.datum(0, 1)
    run.event(1, 0.0)
    assert sink.specs[0].detector_shape == (ROWS, COLUMNS)
    np.testing.assert_array_equal(sink.frames(), written[:1])


def test_run_without_a_block_is_none_of_its_business(publisher, sink, problems):
    run = Run(publisher, block={})
    run.stop()
    assert (sink.specs, sink.closed, problems) == ([], [], [])


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("sample", "sent"),
    [
        ("x" * 10_000, "x" * 4094 + " …"),
        ({"name": "x" * 5_000}, "{'name': '" + "x" * 4084 + " …"),
        ("file-\udcff", "file-\\udcff"),
        (Unspeakable(), None),
        (b"\x00", "b'\\x00'"),
        (float("nan"), "nan"),
    ],
    ids=["long", "nested", "surrogate", "unspeakable", "bytes", "nan"],
)
def test_metadata_of_any_kind_and_size_reach_the_job_cut_or_not_at_all(publisher, sink, problems, sample, sent):
    block = {"recon_uid": "r1", "projections": 1, "detector": "det"}
    start = {"uid": "u", "plan_name": "p" * 9_000, "sample": sample, "hints": {"dimensions": [5]}, "streamrecon": block}
    keys = {"det": {"shape": [2, 2], "dtype": "array", "dtype_numpy": "<u2", "source": "x"}}
    keys["rot"] = {"shape": [], "dtype": "number", "source": "y"}
    publisher("start", start)
    publisher("descriptor", {"uid": "d", "run_start": "u", "name": "flat", "data_keys": keys})
    publisher("event", {"descriptor": "d", "seq_num": 1, "data": {"det": np.zeros((2, 2), "<u2"), "rot": 0.0}})
    publisher("stop", {"uid": "s", "run_start": "u", "exit_status": "fail", "reason": "r" * 9_000})
    assert problems == []
    assert sink.closed == [("fail", "r" * 4094 + " …")]
    (spec,) = sink.specs
    assert spec.metadata.get("sample") == sent
    assert len(spec.metadata["plan_name"]) == 4096
    decoded = msgspec.json.decode(msgspec.json.encode(spec.metadata), type=dict[Name, Text])
    assert decoded == spec.metadata


@pytest.mark.parametrize(
    ("configured", "sent"),
    [
        ({"det-driver-bit_depth": 12}, "4095"),
        ({"det_cam_bits_per_pixel": 14}, "16383"),
        ({"det-exposure": 0.1, "det-saturation": 60000.0}, "60000"),
        ({"det-driver-bit_depth": "Mono12"}, None),
        ({"det-driver-bit_depth": 0}, None),
        ({}, None),
    ],
)
def test_detectors_configuration_tells_the_job_where_it_saturates(publisher, sink, configured, sent):
    run = Run(publisher)
    run.describe(configured=configured)
    run.event(1, 0.0, det=np.zeros((1, ROWS, COLUMNS), "<u2"))  # which opens the run
    assert sink.specs[0].metadata.get("saturation") == sent


def test_other_streams_and_other_runs_pass_by(publisher, sink, written, tmp_path, problems):
    run = Run(publisher, tmp_path)
    other = Run(publisher, tmp_path, block={"recon_uid": "r2", "projections": 1})
    other.describe()
    run.describe("baseline")
    other.stop()
    run.stop()
    assert (sink.specs, sink.closed, problems) == ([], [], [])


@pytest.mark.parametrize(
    ("describe", "words"),
    [
        ({"angle": False}, "angle 'rot' not found among the data keys 'det'"),
        ({"units": "mm"}, "got units 'mm'"),
        ({"dtype": "<c8"}, "expected integers or floats"),
        ({"shape": (3,)}, "no image of detector 'det'"),
    ],
)
def test_what_can_not_be_published_is_told_once_and_never_raised(publisher, sink, problems, describe, words, caplog):
    run = Run(publisher)
    run.describe(**describe)
    run.event(1, 0.0, det=np.zeros((ROWS, COLUMNS)))
    run.stop()
    assert len(problems) == 1
    assert words in problems[0]
    assert any(run.uid in record.getMessage() for record in caplog.records)


def test_block_that_can_not_be_understood_is_told(publisher, problems):
    Run(publisher, block={"projections": 4}).stop()
    Run(publisher, block={"recon_uid": "r", "projections": 4, "recon": {"speed": 3}}).stop()
    assert "lacks 'recon_uid'" in problems[0]
    assert "speed" in problems[1]


def test_failing_sink_ends_the_stream_with_its_reason(publisher, sink, problems):
    run = Run(publisher)
    run.describe(shape=(ROWS, COLUMNS))
    run.event(1, 0.0, det=np.zeros((ROWS, COLUMNS), dtype="<u2"))
    sink.fails = OSError("no space left")
    run.event(2, 1.0, det=np.zeros((ROWS, COLUMNS), dtype="<u2"))
    sink.fails = None
    run.event(3, 2.0, det=np.zeros((ROWS, COLUMNS), dtype="<u2"))
    run.stop()
    assert len(sink.items) == 1
    assert sink.closed == [("fail", "OSError: no space left")]
    assert problems == ["streaming stopped after 1 projections: OSError: no space left"]
    Run(publisher).stop()


def test_region_that_changes_between_streams_is_told(publisher, sink, written, tmp_path, problems):
    run = Run(publisher, tmp_path)
    run.describe("flat", angle=False, shape=(1, 4, 4))
    run.describe()
    assert "was the detector's region of interest" in problems[0]


def test_frames_that_never_got_an_event_are_told_at_the_end(publisher, sink, written, tmp_path, problems):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    run.datum(0, 1)
    run.stop()
    assert "events [1] had a frame and no angle" in problems[0]


def test_file_of_another_kind_is_refused_with_what_to_do(publisher, sink, written, tmp_path, problems):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource(mimetype="multipart/related;type=image/png")
    assert "expected HDF5" in problems[0]


def test_publishing_takes_less_than_a_millisecond_of_the_run_engine_thread(publisher, sink):
    run = Run(publisher)
    run.describe(shape=(2048, 2048))
    pixels = np.zeros((2048, 2048), dtype="<u2")
    times = []
    for seq in range(1, 201):
        begun = time.perf_counter()
        run.event(seq, 1.0, det=pixels)
        times.append(time.perf_counter() - begun)
    assert np.median(times) < 1e-3


# --------------------------------------------------------------------------------------- files


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


class FlownRun(Run):
    """Documents of a fly scan: angles are in a file, too."""

    def __init__(self, publisher, tmp_path):
        super().__init__(publisher, tmp_path)
        self.angles_path = tmp_path / "angles.h5"
        angle = {"source": "y", "dtype": "number", "shape": [1], "external": "STREAM:", "object_name": "rot"}
        self.describe(angle=False, keys={"rot": angle})
        self.resource()
        self.angles = self.run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{self.angles_path}",
            data_key="rot",
            parameters={"dataset": "/a", "chunk_shape": [1024]},
        )
        publisher("stream_resource", self.angles.stream_resource_doc)

    def write(self, *degrees):
        with h5py.File(self.angles_path, "w") as file:
            file["a"] = np.array(degrees)
        with h5py.File(self.path, "w") as file:
            file["d"] = np.stack([np.full((ROWS, COLUMNS), n, "<u2") for n in range(len(degrees))])

    def angle_datum(self, index, seq, count):
        doc = self.angles.compose_stream_datum(
            indices={"start": index, "stop": index + count},
            seq_nums={"start": seq, "stop": seq + count},
            descriptor=self.streams["primary"].descriptor_doc,
        )
        self.publisher("stream_datum", doc)


@pytest.mark.parametrize("angles_first", [True, False])
def test_angles_in_a_file_are_read_and_paired_with_their_frames(publisher, sink, tmp_path, angles_first):
    run = FlownRun(publisher, tmp_path)
    run.write(10.0, 20.5, 31.0)
    for first, count in ((0, 2), (2, 1)):
        steps = [lambda f=first, n=count: run.angle_datum(f, f + 1, n), lambda f=first, n=count: run.datum(f, f + 1, n)]
        for step in steps if angles_first else reversed(steps):
            step()
    assert [(kind, index) for kind, index, *_ in sink.items] == [
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
    for (*_, source), fits in zip(sink.items, (True, True, False), strict=True):
        if fits:
            source.read()
        else:
            with pytest.raises(DataError, match="has 2 frames after"):
                source.read()


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
        sink.items[-1][3].read()


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


# ------------------------------------------------------------------------- files that are kept back while written


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
