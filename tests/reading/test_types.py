"""Types of pixels and layouts of frames: taken at their true values, or refused in words."""

from __future__ import annotations

from threading import Thread
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from h5py._objects import phil

from bluesky_streamrecon.data_keys import FrameLayout, frame_layout
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.hdf5.frame_writer import write_chunk
from bluesky_streamrecon.pixels import common_dtype, exactly, plain_dtype
from bluesky_streamrecon.sim_devices import Exposure, FrameKind, RecordedCamera
from bluesky_streamrecon.storage import TomoScan, load_run, read_nxtomo, write_nxtomo


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        ([3, 8249], "|u1", "8249 at (1,), int64, which does not fit the type uint8"),
        ([3, -1], "<u2", "-1 at (1,)"),
        ([1.0, np.nan], "<u2", "nan at (1,)"),
        ([1.0, np.inf], "<i4", "inf at (1,)"),
        ([1.5, 2.0], "<u2", "1.5 at (0,)"),
        ([2.0**64], "<u8", "1.8446744073709552e+19"),
        (np.array([2**63], "u8"), "<i8", "9223372036854775808"),
        ([1e300], "<f4", "1e+300"),
        ([70000.0], "<f2", "70000.0"),
        ([1 + 1j], "<f4", "expected integers or floats"),
    ],
)
def test_value_that_does_not_fit_is_refused_and_never_cast(values, dtype, words):
    with pytest.raises(DataError) as caught:
        exactly(np.asarray(values), np.dtype(dtype), "scan.h5: data")
    assert words in str(caught.value)
    if "j" not in str(values):
        assert str(caught.value).startswith("scan.h5: data: got")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([1, 255], ">i8"), "|u1"),
        (np.array([True, False]), "|u1"),
        (np.array([np.nan, 0.1]), "<f4"),
        (np.array([1.0, 3.0], "f2"), "<i8"),
        (np.array([2**64 - 1], "u8"), "<f8"),
    ],
)
def test_value_that_fits_stays_what_it_is(values, dtype):
    found = exactly(values, np.dtype(dtype), "")
    assert found.dtype.str == dtype
    np.testing.assert_allclose(found.astype(np.float64), values.astype(np.float64), rtol=1e-7)


def test_camera_that_replays_a_recording_shows_flats_of_a_wider_type_as_they_are():
    scan = TomoScan(
        np.full((2, 1, 3), 200, "u1"),
        np.full((1, 1, 3), 8249.5, ">f4"),
        np.full((1, 1, 3), -3, "i2"),
        np.array([0.0, 9.0]),
    )
    camera = RecordedCamera(scan)
    shown = [
        camera.frame(Exposure(kind, 0.0, 0))[0, 0] for kind in (FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK)
    ]
    assert shown == [200, 8249.5, -3]


def test_nxtomo_of_stacks_of_several_types_holds_all_their_values(tmp_path):
    scan = TomoScan(
        np.full((2, 1, 3), 200, "u1"),
        np.full((1, 1, 3), 8249.5, ">f4"),
        np.full((1, 1, 3), -3, "i2"),
        np.array([0.0, 9.0]),
    )
    write_nxtomo(tmp_path / "scan.nxs", scan)
    read = read_nxtomo(tmp_path / "scan.nxs")
    assert [float(stack[0, 0, 0]) for stack in (read.projections, read.flats, read.darks)] == [200, 8249.5, -3]


def test_common_type_holds_both():
    assert common_dtype("|u1", ">i2").str == "<i2"
    assert common_dtype("<u8", "<i8").str == "<f8"
    assert plain_dtype(">f8").str == "<f8"


def image(shape, configuration=None, **more):
    key = {"source": "x", "dtype": "array", "shape": shape, "object_name": "cam", **more}
    return {
        "name": "primary", "data_keys": {"cam": key}, "configuration": {"cam": {"data": configuration or {}}}
    }  # fmt: skip


@pytest.mark.parametrize(
    "descriptor",
    [
        image([512, 640, 3]),
        image([1, 512, 640, 4], external="STREAM:"),
        image([3, 512, 640], {"cam-driver-color_mode": "RGB3"}, external="STREAM:"),
        image([3, 512, 640], dims=["channel", "y", "x"]),
        image([512, 3, 640], dims=["y", "rgb", "x"]),
    ],
)
def test_frames_in_colour_are_refused_at_the_descriptor(descriptor):
    with pytest.raises(DataError, match=r"stream 'primary', image 'cam': got frames in colour, shape \["):
        frame_layout(descriptor, "cam")


@pytest.mark.parametrize(
    "descriptor", [image([5, 64, 80]), image([2, 5, 64, 80], external="STREAM:"), image([5, 2, 8])]
)
def test_stack_that_the_detector_does_not_name_is_refused_at_the_descriptor(descriptor):
    with pytest.raises(DataError, match="frames per event, and the detector does not say what they are"):
        frame_layout(descriptor, "cam")


@pytest.mark.parametrize(
    ("descriptor", "exposures"),
    [
        (image([64, 80]), 1),
        (image([1, 64, 80], {"cam-color_mode": "Mono"}), 1),
        (image([3, 64, 4]), None),
        (image([4, 64, 80], external="STREAM:"), 4),
        (image([4, 64, 80], dims=["exposures", "y", "x"]), 4),
        (image([4, 64, 80], {"cam_cam_num_images": 4}), 4),
    ],
)
def test_exposures_that_the_detector_names_are_a_stack_to_be_averaged(descriptor, exposures):
    if exposures is None:
        with pytest.raises(DataError):
            frame_layout(descriptor, "cam")
    else:
        assert frame_layout(descriptor, "cam") == FrameLayout(exposures, 64, 80)


def test_file_in_colour_is_refused_in_words(tmp_path):
    from bluesky_streamrecon.storage import read_scan

    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"], file["exchange/theta"] = np.ones((2, 8, 9, 3), "u1"), [0.0, 90.0]
    with pytest.raises(DataError, match=r"scan\.h5: /exchange/data has frames in colour"):
        read_scan(tmp_path / "scan.h5")


# ------------------------------------------------------------------------------------------- stored runs


class Stored:
    """An array of a catalogue: in a file, or only on its server."""

    def __init__(self, values, path=None, dataset=None, announced=None):
        self._values, self.shape = values, values.shape
        self.dtype = np.dtype(announced or values.dtype)
        asset = SimpleNamespace(data_uri=f"file://localhost{path}")
        self._sources = path and [
            SimpleNamespace(
                mimetype="application/x-hdf5", assets=[asset], parameters={"dataset": dataset, "swmr": False}
            )
        ]

    def data_sources(self):
        return self._sources

    def read(self):
        return self._values

    def __getitem__(self, key):
        return self._values[key]


class Node(dict):
    """A container of a catalogue."""

    def __init__(self, metadata, **parts):
        super().__init__(parts)
        self.metadata = metadata
        self.base = self

    def new_variation(self, **_):
        return self


def stored_run(folder, *, units="deg", announced="<u2", exposures=1, here=True, angles=(0.0, 90.0, 45.0), held=None):
    frames = np.arange(3 * exposures * 2 * 5, dtype=">u2").reshape(3 * exposures, 2, 5) + 300
    path = folder / "frames.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("d", shape=frames.shape, dtype=frames.dtype, chunks=(1, 2, 5))
        data[:held] = frames[:held]
    if not here:
        path.unlink()
    shown = frames.reshape(3, exposures, 2, 5)
    keys = {
        "cam": {"dtype_numpy": announced, "shape": [exposures, 2, 5], "external": "STREAM:"},
        "rot": {"dtype": "number", "shape": [], **({"units": units} if units else {})},
    }
    primary = Node({"data_keys": keys, "configuration": {}}, cam=Stored(shown, path, "d"), rot=Stored(np.array(angles)))
    start = {"detectors": ["cam"], "motors": ["rot"]}
    return {"run": Node({"start": start}, primary=primary)}, frames


def test_angles_of_a_stored_run_are_taken_in_the_units_of_their_data_key(tmp_path):
    catalog, _ = stored_run(tmp_path, units="Radians", angles=(0.0, np.pi / 2, 1.0))
    np.testing.assert_allclose(load_run(catalog, "run").angles_deg, [0, 90, np.rad2deg(1)])
    catalog, _ = stored_run(tmp_path, units="mm")
    with pytest.raises(DataError, match="run run, rot: got units 'mm'"):
        load_run(catalog, "run")
    np.testing.assert_allclose(load_run(catalog, "run", angle_units="turns").angles_deg, [0, 90 * 360, 45 * 360])


def test_frames_of_a_stored_run_are_read_from_the_detectors_file_whatever_was_announced(tmp_path):
    catalog, frames = stored_run(tmp_path, announced="|u1")
    scan = load_run(catalog, "run")
    np.testing.assert_array_equal(scan.projections[:], frames)
    assert "frames.h5: d has values of >u2, its data key says |u1" in scan.problems[0].replace("uint16", ">u2")


def test_exposures_of_an_event_are_averaged_from_file_and_server_alike(tmp_path):
    expected = stored_run(tmp_path, exposures=4)[1].reshape(3, 4, 2, 5).mean(axis=1)
    for here in (True, False):
        catalog, _ = stored_run(tmp_path, exposures=4, here=here)
        scan = load_run(catalog, "run")
        np.testing.assert_allclose(scan.projections[:], expected)
        np.testing.assert_allclose(scan.projections[1], expected[1])
        np.testing.assert_allclose(scan.projections[::2, 1:], expected[::2, 1:])
        assert scan.projections.dtype == np.float32
        assert ("come through the Tiled server" in "".join(scan.problems)) is not here


def test_frames_of_a_stored_run_that_were_never_written_are_left_out_and_counted(tmp_path):
    catalog, frames = stored_run(tmp_path, held=2)
    scan = load_run(catalog, "run")
    np.testing.assert_array_equal(scan.projections[:], frames[:2])
    np.testing.assert_array_equal(scan.angles_deg, [0, 90])
    assert "the last 1 of 3 frames" in scan.problems[0]


def test_chunk_is_written_while_no_other_thread_is_in_hdf5():
    """Else a frame fails at random while somebody else reads, or the process dies, with h5py 3.14 and older."""
    entered, found = [], SimpleNamespace()

    def enter():
        entered.append(phil.acquire(blocking=False))

    def write_direct_chunk(place, chunk):
        other = Thread(target=enter)
        other.start()
        other.join()

    found.id = SimpleNamespace(write_direct_chunk=write_direct_chunk)
    write_chunk(found, (0,), b"")
    assert entered == [False]
