"""Programs of other people read what we write: nxtomo and nxtomomill, by the makers of ESRF's NXtomo files."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from bluesky_streamrecon.storage import ScanDetails, read_nxtomo, volume_files, write_dxfile, write_nxtomo
from bluesky_streamrecon.storage.volume_files import _write_dxfile, _write_tiff

DETAILS = ScanDetails(sample="a stone", pixel_size_um=0.65, energy_kev=25.0, distance_mm=50.0, started=1.7e9)


def read_by_nxtomo(path, entry):
    from nxtomo.application.nxtomo import NXtomo  # which takes long to import, as the others here do

    read = NXtomo().load(str(path), entry, detector_data_as="as_numpy_array")
    detector = read.instrument.detector
    keys = np.array([key.value for key in detector.image_key_control])
    return read, [detector.data[keys == key] for key in (0, 1, 2)]


def assert_frames(frames, scan):
    for found, expected in zip(frames, (scan.projections, scan.flats, scan.darks), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("copies", [True, False])
def test_dxfile_that_nxtomomill_converts_has_our_frames_and_the_size_of_their_pixels(tmp_path, scan, copies):
    """It makes angles up from the range that it is told, and looks for energy and distance in places of its own."""
    from nxtomomill.converter.dxfile.dxfileconverter import from_dx_config_to_nx
    from nxtomomill.models.dx2nx import DX2nxModel

    write_dxfile(tmp_path / "scan.h5", scan, details=DETAILS)
    model = DX2nxModel(
        input_file=str(tmp_path / "scan.h5"), output_file=str(tmp_path / "scan.nx"), copy_data=copies,
        scan_range=(0.0, 90.0), energy=25.0,
    )  # fmt: skip
    ((_, entry),) = from_dx_config_to_nx(model)
    read, frames = read_by_nxtomo(tmp_path / "scan.nx", entry)
    assert_frames(frames, scan)
    sizes = read.instrument.detector.x_pixel_size, read.instrument.detector.y_pixel_size
    assert [size.to("um").magnitude for size in sizes] == pytest.approx([0.65, 0.65])
    ours = read_nxtomo(tmp_path / "scan.nx")
    assert_frames((ours.projections[:], ours.flats[:], ours.darks[:]), scan)


def test_nxtomo_is_read_with_all_that_it_says(tmp_path, scan):
    write_nxtomo(tmp_path / "scan.nxs", scan, details=DETAILS)
    read, frames = read_by_nxtomo(tmp_path / "scan.nxs", "entry")
    assert_frames(frames, scan)
    angles = np.asarray(read.sample.rotation_angle.to("degree").magnitude)
    np.testing.assert_allclose(angles[-len(scan.angles_deg) :], scan.angles_deg)
    detector = read.instrument.detector
    assert (read.sample.name, read.start_time.year) == ("a stone", 2023)
    assert detector.x_pixel_size.to("um").magnitude == pytest.approx(0.65)
    assert detector.distance.to("mm").magnitude == pytest.approx(50.0)
    assert read.instrument.beam.incident_energy.to("keV").magnitude == pytest.approx(25.0)


def test_volume_as_dxfile_is_read_with_its_coordinates(tmp_path):
    from silx.io import get_data

    volume = np.random.default_rng(0).random((3, 8, 8), np.float32)
    assert _write_dxfile(tmp_path / "stone.h5", volume, 1.5, "stone", {"image": "volume"}) == 1
    read = {name: get_data(f"silx:{tmp_path}/stone.h5?/exchange/{name}") for name in ("data", "z", "y", "x")}
    np.testing.assert_array_equal(read["data"], volume)
    np.testing.assert_allclose(read["z"], [0, 1.5, 3])
    np.testing.assert_allclose(read["x"], 1.5 * np.arange(8))


@pytest.mark.parametrize("largest", [2**32, 0], ids=["as ImageJ does", "more than ImageJ can have"])
def test_tiff_stack_has_the_size_of_its_pixels_where_viewers_look_for_it(tmp_path, monkeypatch, largest):
    """ImageJ 1.53t and Fiji read the size in all three directions from what is checked here."""
    monkeypatch.setattr(volume_files, "LARGEST_IMAGEJ", largest)
    volume = np.random.default_rng(0).random((3, 7, 9), np.float32)
    assert _write_tiff(tmp_path / "stone.tif", volume, 1.3, "stone", {"image": "volume"}) == 1
    with tifffile.TiffFile(tmp_path / "stone.tif") as file:
        np.testing.assert_array_equal(file.asarray(), volume)
        assert (file.series[0].axes, len(file.pages)) == ("ZYX", 3)
        x, y = (file.pages[0].tags[f"{axis}Resolution"].value for axis in "XY")
        if largest:
            about = file.imagej_metadata
            assert (about["unit"], about["spacing"], about["slices"]) == ("micron", 1.3, 3)
            assert x == y == (10, 13)  # pixels per unit
            assert file.pages[0].tags["ResolutionUnit"].value == 1
        else:
            assert 'PhysicalSizeZ="1.3" PhysicalSizeZUnit="µm"' in file.ome_metadata
            assert x[0] / x[1] == y[0] / y[1] == pytest.approx(1e4 / 1.3)  # per centimetre
