"""Data that are not there: found out in every layout, told with the file's name, or left out and counted."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.hdf5 import DataLostError, LazyFrames, MissingFilterError, NotWrittenError
from bluesky_streamrecon.storage import read_dxfile, read_nxtomo, read_scan

from .recordings import record

FRAMES = np.arange(1, 6 * 2 * 5 + 1, dtype="<u2").reshape(6, 2, 5)


def dxfile(folder, frames=FRAMES):
    path = folder / "scan.h5"
    with h5py.File(path, "w") as file:
        file["exchange/data"] = frames
        file["exchange/theta"] = np.arange(len(frames)) * 30.0
        file["exchange/data_white"] = FRAMES[:2] + 1000
    return path


def replace(path, name, **how):
    """Replace a dataset by one of another layout, in which nothing is written yet."""
    with h5py.File(path, "r+") as file:
        old = file[name]
        shape, dtype = old.shape, old.dtype
        del file[name]
        return file.create_dataset(name, shape=shape, dtype=dtype, **how).name


def source(folder, name="source.h5", frames=FRAMES):
    with h5py.File(folder / name, "w") as file:
        file["d"] = frames
    return h5py.VirtualSource(name, "d", frames.shape)


def virtual(path, name, layout):
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        file.create_virtual_dataset(name, layout)


def one_of_many_sources_is_gone(folder, path):
    layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
    for i in range(6):
        layout[i] = source(folder, f"part-{i}.h5", FRAMES[i])
    virtual(path, "exchange/data", layout)
    (folder / "part-3.h5").unlink()
    return "part-3.h5 is not there"


def source_of_the_flats_is_gone(folder, path):
    layout = h5py.VirtualLayout((2, 2, 5), FRAMES.dtype)
    layout[:] = source(folder, "flats.h5", FRAMES[:2])
    virtual(path, "exchange/data_white", layout)
    (folder / "flats.h5").unlink()
    return "flats.h5 is not there"


def source_of_a_source_is_gone(folder, path):
    inner, outer = (h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype) for _ in range(2))
    inner[:] = source(folder, "deep.h5")
    with h5py.File(folder / "middle.h5", "w") as file:
        file.create_virtual_dataset("d", inner)
    outer[:] = h5py.VirtualSource("middle.h5", "d", FRAMES.shape)
    virtual(path, "exchange/data", outer)
    (folder / "deep.h5").unlink()
    return "deep.h5 is not there"


def source_has_another_dataset(folder, path):
    layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
    layout[:] = source(folder)
    virtual(path, "exchange/data", layout)
    with h5py.File(folder / "source.h5", "r+") as file:
        file.move("d", "renamed")
    return "has no dataset d"


def source_lost_its_first_frames(folder, path):
    layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
    layout[:] = source(folder)[...]
    virtual(path, "exchange/data", layout)
    with h5py.File(folder / "source.h5", "w") as file:
        data = file.create_dataset("d", shape=FRAMES.shape, dtype=FRAMES.dtype, chunks=(1, 2, 5))
        data[2:] = FRAMES[2:]
    return "2 frames, the first of them 0, of 6 are missing"


def nothing_is_mapped_to_a_frame(folder, path):
    layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
    whole = source(folder)
    layout[:2], layout[3:] = whole[:2], whole[3:]
    virtual(path, "exchange/data", layout)
    return "frame 2 of 6 is missing: no source"


def half_of_a_frame_is_mapped(folder, path):
    layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
    whole = source(folder)
    layout[:4], layout[5:], layout[4, :1] = whole[:4], whole[5:], whole[4, :1]
    virtual(path, "exchange/data", layout)
    return "frame 4 of 6 is missing: no source"


def external_file_is_gone(folder, path):
    replace(path, "exchange/data", external=[(str(folder / "frames.raw"), 0, FRAMES.nbytes)])
    return r"frames\.raw is not there"


def one_tile_of_a_frame_is_not_written(folder, path):
    replace(path, "exchange/data", chunks=(1, 1, 5))
    with h5py.File(path, "r+") as file:
        data = file["exchange/data"]
        data[0, 0], data[1:] = FRAMES[0, 0], FRAMES[1:]
    return "frame 0 of 6 is missing: they were never written"


def angles_were_never_written(folder, path):
    replace(path, "exchange/theta")
    return "the angle of projection 0 is nan"


def angles_are_all_the_same(folder, path):
    with h5py.File(path, "r+") as file:
        file["exchange/theta"][:] = 0.0
    return "all 6 projections are at 0 degrees"


def nothing_was_written(folder, path):
    replace(path, "exchange/data")
    return "got no projections"


@pytest.mark.parametrize(
    "fault",
    [
        one_of_many_sources_is_gone, source_of_the_flats_is_gone, source_of_a_source_is_gone,
        source_has_another_dataset,
        source_lost_its_first_frames, nothing_is_mapped_to_a_frame, half_of_a_frame_is_mapped, external_file_is_gone,
        one_tile_of_a_frame_is_not_written, angles_were_never_written, angles_are_all_the_same, nothing_was_written,
    ],
)  # fmt: skip
def test_missing_data_are_refused_with_the_name_of_the_file(tmp_path, fault):
    path = dxfile(tmp_path)
    words = fault(tmp_path, path)
    with pytest.raises(DataError, match=rf"scan\.h5.*{words}"):
        read_scan(path)


def test_frames_that_an_aborted_scan_has_not_written_are_left_out_and_counted(tmp_path):
    for how in ({"chunks": (1, 2, 5)}, {"chunks": (4, 2, 5)}, {}):
        path = dxfile(tmp_path)
        replace(path, "exchange/data", **how)
        with h5py.File(path, "r+") as file:
            file["exchange/data"][:4] = FRAMES[:4]
        scan = read_dxfile(path)
        np.testing.assert_array_equal(scan.projections[:], FRAMES[:4])
        np.testing.assert_array_equal(scan.angles_deg, [0, 30, 60, 90])
        (problem,) = scan.problems
        assert "scan.h5: the last 2 of 6 frames in exchange/data were never written: left out" in problem


def test_external_file_that_ends_early_gives_the_whole_frames_that_it_has(tmp_path):
    path = dxfile(tmp_path)
    raw = tmp_path / "frames.raw"
    raw.write_bytes(FRAMES[:3].tobytes() + b"half a frame"[:10])
    replace(path, "exchange/data", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])
    scan = read_dxfile(path)
    np.testing.assert_array_equal(scan.projections[:], FRAMES[:3])
    assert "the last 3 of 6" in scan.problems[0]


def test_black_darks_and_black_projections_among_others_are_data(tmp_path):
    frames = FRAMES.copy()
    frames[2] = 0
    path = dxfile(tmp_path, frames)
    with h5py.File(path, "r+") as file:
        file["exchange/data_dark"] = np.zeros((3, 2, 5), "<u2")
    scan = read_dxfile(path)
    assert (len(scan.projections), len(scan.darks), scan.problems) == (6, 3, ())


def test_image_keys_that_were_never_written_make_no_projections(tmp_path):
    made = record(tmp_path, nxtomo=True)
    replace(made.path, "e/instrument/detector/image_key", chunks=(1,))
    with pytest.raises(DataError, match=r"scan\.h5: image_key of frame 0 was never written"):
        read_nxtomo(made.path)


def test_frames_that_go_missing_after_the_file_was_opened_are_no_zeros(tmp_path):
    made = record(tmp_path, layout="virtual")
    scan = read_dxfile(made.path)
    for gone in tmp_path.glob("exchange-*"):
        gone.unlink()
    with pytest.raises(DataLostError, match=r"scan\.h5: /exchange/data: .* is not there"):
        scan.projections[:]


def test_virtual_dataset_that_grows_has_what_its_source_has(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("d", data=FRAMES, maxshape=(None, 2, 5), chunks=(1, 2, 5))
    layout = h5py.VirtualLayout((1, 2, 5), FRAMES.dtype, maxshape=(None, 2, 5))
    endless = h5py.h5s.UNLIMITED
    layout[:endless] = h5py.VirtualSource("s.h5", "d", shape=(1, 2, 5), maxshape=(None, 2, 5))[:endless]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("d", layout)
    np.testing.assert_array_equal(LazyFrames(tmp_path / "v.h5", "d")[:], FRAMES)


def foreign_filter(path):
    """Write a chunk as a filter would that nobody has."""
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 2, 5))
        plist.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((1, 2, 5))
        h5py.h5d.create(file.id, b"d", h5py.h5t.STD_U16LE, space, plist).write_direct_chunk((0, 0, 0), b"squeezed")


def test_missing_filter_is_named_with_file_dataset_and_what_to_install(tmp_path):
    from bluesky_streamrecon.beamline.frames import FrameFile

    path = tmp_path / "squeezed.h5"
    foreign_filter(path)
    words = r"squeezed\.h5: /d is compressed by the HDF5 filter 32999"
    with pytest.raises(MissingFilterError, match=words):
        LazyFrames(path, "d")

    def wait(seconds):
        raise AssertionError("a filter does not come by waiting")

    live = FrameFile(f"file://localhost{path}", "application/x-hdf5", {"dataset": "/d"}, wait=wait)
    with pytest.raises(MissingFilterError, match=words):
        live.read(0, 1)


def test_frame_that_is_announced_before_it_is_written_is_waited_for(tmp_path):
    from bluesky_streamrecon.beamline.frames import FrameFile

    path = tmp_path / "late.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", shape=FRAMES.shape, dtype=FRAMES.dtype, chunks=(1, 2, 5))

    def write(seconds):
        with h5py.File(path, "r+") as file:
            file["d"][1] = FRAMES[1]

    live = FrameFile(f"file://localhost{path}", "application/x-hdf5", {"dataset": "/d"}, wait=write)
    np.testing.assert_array_equal(live.read(1, 2), FRAMES[1:2])
    live.close()
    never = FrameFile(f"file://localhost{path}", "application/x-hdf5", {"dataset": "/d"}, patience=0.0)
    with pytest.raises(DataError, match=r"frames 2 to 2 of .*late\.h5:/d: .* never written"):
        never.read(2, 3)


def test_not_written_and_lost_are_told_apart():
    assert issubclass(NotWrittenError, DataError)
    assert not issubclass(DataLostError, NotWrittenError)
