"""What pixels hold: deterministic, physical, and with the faults that were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError, DataError, GeometryError
from bluesky_streamrecon.sim_devices import (
    Ellipses,
    Exposure,
    Faults,
    Foam,
    FrameKind,
    Noise,
    RecordedCamera,
    SimulatedCamera,
)
from bluesky_streamrecon.sim_devices.camera import faulty_exposure
from bluesky_streamrecon.storage import TomoScan, read_dxfile

TOOTH = Path(__file__).parents[1] / "data" / "tooth.h5"
SILENT = Noise(poisson=False, readout=0.0, dead=0.0, hot=0.0)


def camera(seed: int = 0, noise: Noise | None = None, rows: int = 4, columns: int = 96) -> SimulatedCamera:
    return SimulatedCamera(Foam().body(rows, 0.4 * columns), columns, columns / 2 + 1.3, noise=noise, seed=seed)


def expose(kind: FrameKind = FrameKind.PROJECTION, angle: float = 30.0, index: int = 0, **more: object) -> Exposure:
    return Exposure(kind, angle, index, **more)


def test_same_exposure_gives_same_frame_and_any_change_another():
    first = camera().frame(expose())
    np.testing.assert_array_equal(first, camera().frame(expose()))
    others = [camera(seed=1).frame(expose()), camera().frame(expose(angle=31.0)), camera().frame(expose(index=1))]
    assert all(np.any(other != first) for other in others)


def test_flat_corrected_frame_gives_the_line_integrals():
    cam = camera(noise=SILENT)
    projection, flat, dark = (cam.frame(expose(kind)).astype(float) for kind in FrameKind)
    line_integrals = -np.log((projection - dark) / (flat - dark))
    np.testing.assert_allclose(line_integrals, cam.sample.projection(np.deg2rad(30), 96, cam.axis), atol=2e-3)


def test_photons_are_poisson_distributed():
    cam = camera(noise=Noise(counts=500, readout=0.0, dead=0, hot=0, stripes=0, gain=0))
    flats = np.stack([cam.frame(expose(FrameKind.FLAT, index=i)) for i in range(100)]).astype(float)
    gain = 40000 / 500
    photons = (flats - 100) / gain
    assert photons.var(axis=0, ddof=1).mean() == pytest.approx(photons.mean(), rel=0.05)


def test_flats_have_stripes_and_uneven_pixels_and_darks_have_an_offset_each():
    cam = camera(noise=SILENT, rows=16)
    flat, dark = cam.frame(expose(FrameKind.FLAT)).astype(float), cam.frame(expose(FrameKind.DARK)).astype(float)
    columns = flat.mean(axis=0)
    assert 0.01 < np.std(np.diff(columns)) / columns.mean() < 0.1
    assert dark.mean() == pytest.approx(100, rel=0.1)
    assert dark.std() > 3


def test_dead_pixels_see_nothing_and_hot_ones_always_read_high():
    cam = camera(noise=Noise(dead=0.02, hot=0.02))
    flat, dark = cam.frame(expose(FrameKind.FLAT)), cam.frame(expose(FrameKind.DARK))
    assert cam.dead_pixels.any()
    assert cam.hot_pixels.any()
    assert flat[cam.dead_pixels].max() < 500
    assert dark[cam.hot_pixels].min() > 60000


def test_sample_larger_than_the_field_of_view_is_refused():
    with pytest.raises(GeometryError, match="nearer to the middle"):
        SimulatedCamera(Foam().body(1, 40.0), 64, 31.5)


class Ball:
    """One ball of 6 pixels, off the axis and above the middle row."""

    def body(self, rows, radius):
        heights = np.arange(rows) - (rows - 1) / 2 + 10
        row = np.flatnonzero(np.abs(heights) < 6)
        r = np.sqrt(36 - heights[row] ** 2)
        each = np.ones(len(row))
        return Ellipses(rows, row, 20.0 * each, 5.0 * each, r, r, 0 * each, 0.05 * each)


@pytest.mark.parametrize("tilt", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("degrees", [0.0, 60.0, 200.0])
def test_tilted_axis_turns_the_whole_view_about_the_middle_of_the_axis(tilt, degrees):
    noise = Noise(poisson=False, readout=0.0, dead=0.0, hot=0.0, stripes=0.0, gain=0.0, dark=0.0)
    cam = SimulatedCamera(Ball().body(41, 40.0), 81, 40.0, noise=noise, tilt=tilt)
    projection = Exposure(FrameKind.PROJECTION, degrees, 0)
    shadow = -np.log(cam.frame(projection) / cam.frame(Exposure(FrameKind.FLAT, 0.0, 0)))
    rows, columns = np.indices(shadow.shape)
    centre = [float((place * shadow).sum() / shadow.sum()) for place in (columns, rows)]
    theta, phi = np.radians([degrees, tilt])
    aside, down = 20.0 * np.cos(theta) + 5.0 * np.sin(theta), -10.0
    expected = [
        40.0 + aside * np.cos(phi) + down * np.sin(phi),
        20.0 + down * np.cos(phi) - aside * np.sin(phi),
    ]
    assert centre == pytest.approx(expected, abs=0.06)


def test_rings_are_in_projections_and_not_in_flats():
    quiet = {"poisson": False, "readout": 0.0, "dead": 0.0, "hot": 0.0}
    sample = Foam().body(2, 20.0)
    clean, ringed = (SimulatedCamera(sample, 64, 31.5, noise=Noise(**quiet, rings=rings)) for rings in (0.0, 0.05))
    flat, seen = Exposure(FrameKind.FLAT, 0.0, 0), Exposure(FrameKind.PROJECTION, 0.0, 0)
    np.testing.assert_array_equal(clean.frame(flat), ringed.frame(flat))
    assert np.std(ringed.frame(seen) / clean.frame(seen)) == pytest.approx(0.05, rel=0.3)


def test_impossible_noise_is_refused():
    with pytest.raises(ConfigError, match="photons"):
        Noise(counts=0)
    with pytest.raises(ConfigError, match="hot"):
        Noise(hot=-0.1)


def test_recording_is_replayed_by_angle_in_any_order():
    scan = read_dxfile(TOOTH)
    cam = RecordedCamera(scan)
    assert (cam.shape, cam.dtype) == ((2, 640), np.dtype("<f4"))
    for k in (100, 3, 180):
        np.testing.assert_array_equal(cam.frame(expose(angle=float(scan.angles_deg[k]), index=7)), scan.projections[k])
    np.testing.assert_array_equal(cam.frame(expose(angle=float(scan.angles_deg[5]) + 360)), scan.projections[5])


def test_recorded_flats_and_darks_come_one_after_the_other_and_again():
    scan = read_dxfile(TOOTH)
    cam = RecordedCamera(scan)
    for index in (0, 9, 10, 13):
        np.testing.assert_array_equal(cam.frame(expose(FrameKind.FLAT, index=index)), scan.flats[index % 10])
        np.testing.assert_array_equal(cam.frame(expose(FrameKind.DARK, index=index)), scan.darks[index % 10])


def test_angle_that_was_not_recorded_is_refused_with_the_nearest():
    with pytest.raises(DataError, match=r"no projection at 45\.3.*nearest of 181 .* is 45\.7458"):
        RecordedCamera(read_dxfile(TOOTH)).frame(expose(angle=45.3))


def test_recording_without_flats_is_refused():
    scan = read_dxfile(TOOTH)
    with pytest.raises(DataError, match="0 flats and 10 darks"):
        RecordedCamera(TomoScan(scan.projections, scan.flats[:0], scan.darks, scan.angles_deg))


def test_faults_begin_at_the_projection_they_are_told():
    faults = Faults(dark_from=5, empty_from=3, jump_at=2, jump=(4.0, 0.0), drift=(0.0, 0.5), dimming=0.1)
    at = [faulty_exposure(expose(index=k), faults) for k in range(6)]
    assert [x.kind for x in at] == [FrameKind.PROJECTION] * 3 + [FrameKind.FLAT] * 2 + [FrameKind.DARK]
    assert [x.shift for x in at[:3]] == [(0.0, 0.0), (0.0, 0.5), (4.0, 1.0)]
    assert at[2].beam == pytest.approx(0.81)


def test_faults_spare_flats_and_darks():
    flat = expose(FrameKind.FLAT, index=9)
    assert faulty_exposure(flat, Faults(dark_from=0, dimming=0.5)) == flat


@pytest.mark.parametrize("bad", [{"dimming": 1.0}, {"dark_from": -1}, {"drift": (float("nan"), 0.0)}])
def test_impossible_faults_are_refused(bad):
    with pytest.raises(ConfigError):
        Faults(**bad)


def test_dimming_dims_simulated_and_recorded_beams_alike():
    scan = read_dxfile(TOOTH)
    for cam in (camera(noise=SILENT), RecordedCamera(scan)):
        dark = cam.frame(expose(FrameKind.DARK, angle=0.0)).astype(float)
        full, half = (cam.frame(expose(angle=0.0, beam=beam)).astype(float) - dark for beam in (1.0, 0.5))
        assert half.sum() == pytest.approx(0.5 * full.sum(), rel=1e-3)
