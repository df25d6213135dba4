"""The publisher, fed with documents: what it pairs, what it ignores, and how it fails."""

from __future__ import annotations

import math
import re
import time
import weakref

import msgspec
import numpy as np
import pytest
from published_run import COLUMNS, ROWS, Run

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.wire.fields import Name, Text

MONITORED = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot", "recon": {"monitor": "i0"}}
GOOD = (True, True, True, False, False, True)


def test_frames_of_the_file_go_out_in_radians_and_order(publisher, sink, written, tmp_path, problems):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    for i, angle in enumerate((0.0, 90.0, 45.0)):
        run.datum(i, i + 1)
        run.event(i + 1, angle)
    run.stop(reason="done")
    assert [(frame.kind, frame.index, frame.angle) for frame in sink.items] == [
        ("projection", 1, 0.0),
        ("projection", 2, math.pi / 2),
        ("projection", 3, math.pi / 4),
    ]
    np.testing.assert_array_equal(sink.frames(), written[:3])
    assert all(frame.in_file for frame in sink.items)
    assert sink.closed == [("success", "done")]
    (spec,) = sink.specs
    assert (spec.run_uid, spec.recon_uid, spec.planned) == (run.uid, "r1", 4)
    assert (spec.detector_shape, spec.dtype, spec.preview_rows) == ((ROWS, COLUMNS), "<u2", (1, 2))
    assert problems == []


def test_run_is_opened_with_the_rows_that_its_steps_look_at(publisher, sink, tmp_path):
    phase = {"step": "paganin", "delta_beta": 200.0, "energy": 25.0, "distance": 60.0, "pixel_size": 1.5}
    block = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot"}
    for preparation in (["zingers"], ["zingers", phase], ["step-that-only-the-job-has"]):
        run = Run(publisher, tmp_path, block=block | {"recon": {"preparation": preparation}})
        run.describe()
        run.stop()
    assert [spec.halo for spec in sink.specs] == [0, 33, 0]


def test_steps_get_what_the_run_says_and_a_run_that_does_not_say_it_is_not_streamed(
    publisher, sink, tmp_path, problems
):
    """As `streamrecon follow` has it: documents are all that is known."""
    recon = {"bin": 1, "preparation": [{"step": "paganin", "delta_beta": 200.0, "distance": 60.0}, "of-the-job-alone"]}
    block = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot", "recon": recon}
    for configured in ({"det-pixel_size": 1.5}, {}):
        run = Run(
            publisher, tmp_path, block=block, metadata={"energy": 25.0, "pixel_size": 1.5} if not configured else {}
        )
        run.describe(configured=configured)
        run.stop()
    (spec,) = sink.specs
    assert spec.recon.preparation[0] == recon["preparation"][0] | {"energy": 25.0, "pixel_size": 1.5}
    assert spec.recon.preparation[1] == "of-the-job-alone"
    assert spec.metadata["found"] == "energy 25 keV (metadata: energy); pixel_size 1.5 µm (metadata: pixel_size)"
    (problem,) = problems
    assert "got no energy and no pixel_size; expected energy (keV), pixel_size (µm) as an option" in problem
    assert "not understood: det has det-pixel_size = 1.5 without units" in problem


@pytest.mark.parametrize(("flats", "projections"), [(3, 1), (2, 3), (1, 3)])
def test_events_of_one_exposure_can_follow_those_of_several_and_not_the_other_way_round(
    publisher, sink, tmp_path, problems, flats, projections
):
    run = Run(publisher, tmp_path)
    run.describe("flat", angle=False, shape=(flats, ROWS, COLUMNS))
    run.describe("primary", shape=(projections, ROWS, COLUMNS))
    (spec,) = sink.specs
    assert spec.dtype == ("<u2" if flats == 1 else "<f4")
    assert ["take flats and darks of several exposures" in each for each in problems] == [True] * (flats == 1)


@pytest.mark.parametrize(
    ("exposed", "recon", "said"),
    [
        ({"dark": 0.1, "flat": 0.1, "primary": 0.1004}, {}, ""),
        ({"dark": 0.1, "flat": 0.1, "primary": 0.05}, {}, "projections are exposed for 0.05 s .*, darks for 0.1 s"),
        ({"dark": None, "flat": 0.2, "primary": 0.1}, {}, "projections are exposed for 0.1 s .*, flats for 0.2 s"),
        ({"dark": 0.1, "flat": 0.2, "primary": 0.1}, {}, "flats are exposed for 0.2 s .*, darks for 0.1 s"),
        ({"flat": 0.2, "primary": 0.1}, {"monitor": "i0"}, ""),
        ({"flat": 0.2, "primary": 0.1}, {"pixel_values": "transmission"}, ""),
    ],
)
def test_flats_that_were_not_exposed_as_the_projections_are_reported(
    publisher, tmp_path, problems, exposed, recon, said
):
    block = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot", "recon": recon}
    run = Run(publisher, tmp_path, block=block)
    more = {"i0": {"source": "z", "dtype": "number", "shape": [], "object_name": "i0"}}
    for stream, seconds in exposed.items():
        configured = None if seconds is None else {"det-driver-acquire_time": seconds}
        run.describe(stream, angle=stream == "primary", keys=more, configured=configured)
    assert bool(problems) == bool(said)
    assert not said or re.search(said, problems[0])


def test_event_and_datum_are_paired_by_number_whichever_comes_first(publisher, sink, written, tmp_path):
    run = Run(publisher, tmp_path)
    run.describe()
    run.resource()
    run.event(1, 10.0)
    run.event(2, 20.0)
    run.datum(0, 1, count=3)
    run.event(3, 30.0)
    assert [round(degrees) for degrees in sink.degrees()] == [10, 20, 30]
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
    assert [frame.index for frame in sink.items] == [1, 2, 3]
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


@pytest.mark.parametrize(
    ("reduced", "frame", "dtype"),
    [
        ({"bin": 2}, [[3.0, 5.0]], "<f4"),
        ({"rows": [1, 3]}, [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]], "<u2"),
        ({"bin": 2, "rows": [1, 3]}, [[8.0, 10.0]], "<f4"),
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_frames_of_every_kind_are_reduced_as_the_settings_say_and_the_run_is_opened_so(
    publisher, sink, written, tmp_path, problems, reduced, frame, dtype, in_file
):
    block = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot", "recon": reduced}
    run = Run(publisher, tmp_path if in_file else None, block=block)
    for stream, angle in (("dark", False), ("flat", False), ("primary", True)):
        run.describe(stream, angle=angle, shape=(1, ROWS, COLUMNS))
        if in_file:
            run.resource(stream)
            run.datum(0, 1, stream=stream)
        run.event(1, 10.0 if angle else None, stream=stream, **({} if in_file else {"det": written[:1]}))
    run.stop()
    assert problems == []
    assert (sink.specs[0].detector_shape, sink.specs[0].dtype) == (np.shape(frame), dtype)
    assert [frame.kind for frame in sink.items] == ["dark", "flat", "projection"]
    for found in sink.frames():
        assert found.dtype.str == dtype
        np.testing.assert_array_equal(found, frame)


def test_reduction_that_does_not_fit_the_frames_ends_the_stream_with_the_reason(publisher, sink, problems):
    block = {"recon_uid": "r1", "projections": 4, "detector": "det", "angle": "rot"}
    Run(publisher, block=block | {"recon": {"rows": [1, 4]}}).describe()
    assert "rows: got (1, 4), expected detector rows (first, stop) with stop <= 3" in problems[0]
    assert sink.specs == []


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
    assert [(frame.kind, frame.index) for frame in sink.items] == [("dark", 1), ("flat", 1), ("projection", 1)]
    assert len(sink.specs) == 1


def test_inline_frames_are_not_copied(publisher, sink):
    run = Run(publisher)
    run.describe(shape=(ROWS, COLUMNS))
    pixels = np.arange(ROWS * COLUMNS, dtype="<u2").reshape(ROWS, COLUMNS)
    run.event(1, 0.0, det=pixels)
    assert np.shares_memory(sink.items[0].pixels, pixels)


def test_inline_frames_that_are_reduced_let_their_pixels_go_once_they_were_read(publisher, sink):
    run = Run(publisher, block=MONITORED | {"recon": {"bin": 2}})
    run.describe(shape=(ROWS, COLUMNS))
    pixels = np.zeros((ROWS, COLUMNS), "<u2")
    known = weakref.ref(pixels)
    run.event(1, 0.0, det=pixels)
    del pixels
    assert sink.items[0].read().shape == (ROWS // 2, COLUMNS // 2)
    assert known() is None


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
    assert [round(degrees) for degrees in sink.degrees()] == [1, 2]


@pytest.mark.parametrize(
    ("units", "value", "radians"), [("rad", 1.0, 1.0), ("deg", 180.0, math.pi), ("mrad", 5, 0.005)]
)
def test_angle_is_taken_in_the_units_of_its_data_key(publisher, sink, units, value, radians):
    run = Run(publisher)
    run.describe(shape=(ROWS, COLUMNS), units=units)
    run.event(1, value, det=np.zeros((ROWS, COLUMNS), dtype="<u2"))
    assert sink.items[0].angle == pytest.approx(radians)


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
        ({"name": "x" * 5_000}, "x" * 4094 + " …"),
        ("file-\udcff", "file-\\udcff"),
        (Unspeakable(), None),
        (b"\x00", "b'\\x00'"),
        (float("nan"), "nan"),
    ],
    ids=["long", "nested", "surrogate", "unspeakable", "bytes", "nan"],
)
def test_metadata_of_any_kind_and_size_reach_the_job_cut_or_not_at_all(publisher, sink, problems, sample, sent):
    block = {"recon_uid": "r1", "projections": 1, "detector": "det"}
    start = {"uid": "u", "plan_name": "p" * 9_000, "sample": sample, "pixel_size": 0.65, "hints": {"dimensions": [5]}}
    start["streamrecon"] = block
    keys = {"det": {"shape": [2, 2], "dtype": "array", "dtype_numpy": "<u2", "source": "x"}}
    keys["rot"] = {"shape": [], "dtype": "number", "source": "y"}
    publisher("start", start)
    publisher("descriptor", {"uid": "d", "run_start": "u", "name": "flat", "data_keys": keys})
    publisher("event", {"descriptor": "d", "seq_num": 1, "data": {"det": np.zeros((2, 2), "<u2"), "rot": 0.0}})
    publisher("stop", {"uid": "s", "run_start": "u", "exit_status": "fail", "reason": "r" * 9_000})
    assert problems == []
    assert sink.closed == [("fail", "r" * 4094 + " …")]
    (spec,) = sink.specs
    assert (spec.metadata.get("sample"), spec.metadata["pixel_size"]) == (sent, "0.65")
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


@pytest.mark.parametrize("in_file", [False, True])
def test_readings_of_a_monitor_travel_with_flats_and_projections_and_bad_ones_cost_their_frame_alone(
    publisher, sink, problems, tmp_path, written, in_file
):
    run = Run(publisher, tmp_path if in_file else None, block=MONITORED)
    monitor = {"source": "z", "dtype": "number", "shape": [], "object_name": "i0"}
    for stream, angle in (("dark", False), ("flat", False), ("primary", True)):
        run.describe(stream, keys={"i0-rate": monitor}, angle=angle)
    frames = [
        ("dark", 1, 0.0),
        ("flat", 1, 5.0),
        *(("primary", n, r) for n, r in enumerate([4.0, 0.0, np.nan, 3.0], 1)),
    ]
    for number, (stream, seq, reading) in enumerate(frames):
        if in_file:
            run.resource(stream)
            run.datum(number, seq, stream=stream)
        pixels = {} if in_file else {"det": written[number]}
        run.event(seq, 10.0 * seq if stream == "primary" else None, stream, **pixels, **{"i0-rate": reading})
    run.stop()
    assert (problems, sink.closed) == ([], [("success", "")])
    assert sink.degrees()[2:] == pytest.approx([10, 20, 30, 40])
    for number, (frame, good) in enumerate(zip(sink.items, GOOD, strict=True)):
        if good:
            pixels = frame.read() if frame.pixels is None else frame.pixels
            np.testing.assert_array_equal(pixels, written[number])
        else:
            with pytest.raises(
                DataError, match=r"monitor 'i0-rate': got (0.0|nan), expected a positive, finite number"
            ):
                frame.read()
    assert [frame.monitor for frame, good in zip(sink.items, GOOD, strict=True) if good] == [1.0, 5.0, 4.0, 3.0]


def test_monitor_that_a_stream_has_not_is_refused_with_what_there_is(publisher, sink, problems):
    Run(publisher, block=MONITORED).describe()
    assert "stream 'primary': monitor 'i0' not found among the data keys 'det', 'rot'; expected" in problems[0]
