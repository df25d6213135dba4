"""FBP, reconstruction in one call, and the volume of frames that are stored."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.fbp import FILTERS, filter_sinogram
from bluesky_streamrecon.recon.past_volume import finished_volume
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRunSpec


def disc(size, angles, axis):
    """A uniform disc of attenuation 1/size: image, and projections (n, 1, C)."""
    radius, half = 0.35 * size, (size - 1) / 2
    y, x = np.mgrid[0:size, 0:size] - half
    chord = 2 * np.sqrt(np.maximum(radius**2 - (np.arange(size) - axis) ** 2, 0)) / size
    return (x**2 + y**2 < radius**2) / size, np.tile(chord, (len(angles), 1, 1)).astype(np.float32)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("projector", ["shear", "line-integrals"])
def test_fbp_gives_attenuation_in_its_unit(name, projector):
    angles = np.arange(120) * math.pi / 120
    truth, projections = disc(80, angles, 41.0)
    image = reconstruct(projections, angles, axis=41.0, algorithm="fbp", filter=name, projector=projector)
    assert image[0, 30:50, 30:50].mean() == pytest.approx(1 / 80, rel=0.02)
    assert np.abs(image[0, 2:8, 30:50]).mean() < 0.03 / 80
    assert np.sqrt(((image[0] - truth) ** 2).mean()) < 0.25 * truth.mean() + 0.1 / 80


def test_fbp_weighs_uneven_angles():
    angles = np.concatenate((np.arange(60) * math.pi / 60, np.arange(60) * math.pi / 240))
    _, projections = disc(60, angles, 29.5)
    image = reconstruct(projections, angles, algorithm="fbp")
    assert image[0, 25:35, 25:35].mean() == pytest.approx(1 / 60, rel=0.02)


def off_centre(size, columns, axis, angles):
    """Discs of known attenuation around the axis of a detector that ends near it: image, and projections (n, 1, C)."""
    y, x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    truth, lines = np.zeros((size, size)), np.zeros((len(angles), columns))
    discs = np.array([(0, 0, 0.42), (0.22, 0.1, 0.1), (-0.1, 0.25, 0.08)]) * size
    for (at, right, radius), value in zip(discs, (1.0, -0.6, 0.8), strict=True):
        truth += value * ((x - at) ** 2 + (y - right) ** 2 < radius**2) / size
        centre = at * np.cos(angles) + right * np.sin(angles)
        chords = np.maximum(radius**2 - (np.arange(columns) - axis - centre[:, None]) ** 2, 0)
        lines += value * 2 * np.sqrt(chords) / size
    return truth, lines[:, None].astype(np.float32)


@pytest.mark.parametrize(("axis", "num"), [(48.0, 180), (40.3, 121), (20.0, 120), (12.5, 180), (79.0, 144)])
@pytest.mark.parametrize("projector", ["shear", "line-integrals"])
def test_fbp_of_a_full_turn_weighs_opposite_views_wherever_the_axis_is(axis, num, projector):
    columns = 100
    size = 2 * math.ceil(max(axis, columns - 1 - axis)) + 1
    angles = np.arange(num) * 2 * math.pi / num
    truth, projections = off_centre(size, columns, axis, angles)
    image = reconstruct(projections, angles, axis=axis, algorithm="fbp", size=size, projector=projector)[0]
    assert image[truth > 0].mean() == pytest.approx(truth[truth > 0].mean(), rel=0.02)
    y, x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    seen = np.hypot(x, y) < max(axis, columns - 1 - axis) - 1
    assert np.sqrt(((image - truth)[seen] ** 2).mean() / (truth[seen] ** 2).mean()) < 0.2
    assert image[seen & (truth == 0)].mean() == pytest.approx(0, abs=0.05 / size)


@pytest.mark.parametrize(("span", "axis"), [(math.pi, 40.0), (2 * math.pi, 30.0)])
def test_fbp_leaves_out_views_that_were_not_measured(span, axis):
    angles = np.arange(120) * span / 120
    _, projections = off_centre(101, 81, axis, angles)
    projections = np.repeat(projections, 2, axis=1)
    lost = [10, 11, 12, 50, 119]
    projections[lost] = np.nan
    projections[70:80, 1] = np.nan  # a rank's own row
    image = reconstruct(projections, angles, axis=axis, size=101, algorithm="fbp")
    for row, left in ((0, lost), (1, [*lost, *range(70, 80)])):
        there = np.delete(projections, left, axis=0)[:, row : row + 1]
        expected = reconstruct(there, np.delete(angles, left), axis=axis, size=101, algorithm="fbp")[0]
        np.testing.assert_allclose(image[row], expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("order", [np.arange(120), np.arange(120)[::-1], np.arange(120) * 49 % 120])
def test_fbp_counts_repeated_and_opposite_views_once(order):
    angles = np.arange(60) * math.pi / 60
    again = np.concatenate([angles, angles[::2] + math.pi, angles[1::2]])[order]
    truth, projections = off_centre(81, 81, 40.0, again)
    _, once = off_centre(81, 81, 40.0, angles)
    image = reconstruct(projections, again, axis=40.0, algorithm="fbp")
    np.testing.assert_allclose(image, reconstruct(once, angles, axis=40.0, algorithm="fbp"), atol=0.02 / 81)
    assert image[0][truth > 0].mean() == pytest.approx(truth[truth > 0].mean(), rel=0.02)


def test_filter_fills_missing_values_from_their_neighbours():
    sinogram = np.linspace(1, 2, 30, dtype=np.float32)[None, :, None].repeat(2, axis=2)
    holes = sinogram.copy()
    holes[0, 11:13, 1] = np.nan
    np.testing.assert_allclose(filter_sinogram(holes), filter_sinogram(sinogram), atol=1e-6)
    assert np.isfinite(filter_sinogram(np.full((1, 8, 1), np.nan, np.float32))).all()


def test_reconstruct_live_equals_engine_step_by_step(reference):
    from bluesky_streamrecon.geometry import TomoGeometry

    angles = np.arange(18) * 2.4
    _, projections = disc(30, angles, 14.5)
    got = reconstruct(projections, angles, window=6, step=3, threads=1)
    images = list(reference.stream(TomoGeometry(columns=30), projections, angles, window=6, step=3))
    np.testing.assert_allclose(got, images[-1], atol=1e-4 * images[-1].max())
    assert len(images) == 6


def test_reconstruct_refuses_what_does_not_fit():
    projections = np.ones((4, 2, 8), np.float32)
    with pytest.raises(DataError, match="got 3 for 4 projections"):
        reconstruct(projections, np.zeros(3))
    with pytest.raises(DataError, match=r"got shape \(4, 2\)"):
        reconstruct(projections[:, :, 0], np.zeros(4))
    with pytest.raises(ConfigError, match="expected 1 <= step <= window"):
        reconstruct(projections, np.zeros(4), window=2, step=3)


def test_importing_the_room_loads_neither_numba_nor_mpi():
    code = (
        "import sys, bluesky_streamrecon.recon as r; dir(r); r.check_algorithm('mlem', {}); "
        "assert not {'numba', 'mpi4py', 'scipy'} & set(sys.modules), sorted(sys.modules); "
        "r.reconstruct; r.Engine; assert 'mpi4py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


@pytest.mark.parametrize("reading", [0.0, -2.0, np.nan, np.inf])
def test_past_projection_by_whose_beam_light_can_not_be_divided_counts_as_lost(reading):
    lost, beam, angles = 3, 5.0, np.linspace(0, np.pi, 12, endpoint=False)
    recon = ReconSettings(axis=7.5, monitor="i0", final="fbp")
    spec = OpenRunSpec(
        run_uid="run",
        recon_uid="recon",
        planned=12,
        detector_shape=(1, 16),
        dtype="<f4",
        recon=recon,
        preview_rows=(0,),
    )
    seen = np.random.default_rng(0).uniform(300, 900, (12, 1, 16)).astype(np.float32)

    def volume(frame, its_beam):
        frames = [("flat", 1, np.full((1, 16), 1000, np.float32), 0.0, beam)]
        frames += [("projection", i + 1, seen[i], angles[i], beam) for i in range(12)]
        frames[1 + lost] = (*frames[1 + lost][:2], frame, angles[lost], its_beam)
        return finished_volume(spec, frames, threads=1)

    np.testing.assert_array_equal(volume(seen[lost], reading), volume(None, beam))
