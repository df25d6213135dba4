"""An axis that is tilted, or a stage that turns the other way: a setting makes it right, and a tilt is reported."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.ordering import optimized_interleaved
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.axis import axis_rows
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.tilt import row_shifts, upright
from bluesky_streamrecon.recon.tomography import Tomography
from bluesky_streamrecon.recon.view import View
from bluesky_streamrecon.settings import ROTATIONS, ReconSettings
from bluesky_streamrecon.sim_devices import Exposure, Foam, FrameKind, Noise, SimulatedCamera
from bluesky_streamrecon.wire import Item, OpenRun

ROWS, COLUMNS, AXIS = 240, 96, 49.3
DEGREES = np.array(optimized_interleaved(72))
NOISE = Noise(counts=1e4, readout=0.0, dark=0.0, stripes=0.0, gain=0.0, dead=0.0, hot=0.0)
CLEAN = Noise(poisson=False, readout=0.0, dark=0.0, stripes=0.0, gain=0.0, dead=0.0, hot=0.0)
SHOWN = [0, 1, 60, 119, 120, 238, 239]


@pytest.fixture(scope="module")
def foam():
    return Foam(seed=4).body(ROWS, 42.0)


def lines_of(foam, tilt):
    """Line integrals (A, rows, C), with noise, of a foam that turns about a tilted axis."""
    camera = SimulatedCamera(foam, COLUMNS, AXIS, noise=NOISE, tilt=tilt)
    flat = SimulatedCamera(foam, COLUMNS, AXIS, noise=CLEAN).frame(Exposure(FrameKind.FLAT, 0.0, 0)).astype(float)
    frames = (camera.frame(Exposure(FrameKind.PROJECTION, float(angle), i)) for i, angle in enumerate(DEGREES))
    return np.stack([-np.log(np.maximum(frame, 1) / flat) for frame in frames]).astype(np.float32)


@pytest.fixture(scope="module")
def straight(foam):
    return lines_of(foam, 0.0)


@pytest.fixture(scope="module")
def tilted(foam):
    return lines_of(foam, 0.5)


def error(lines, foam):
    """Root mean square error of some slices, over the range of the truth."""
    image = reconstruct(np.ascontiguousarray(lines[:, SHOWN]), np.radians(DEGREES), axis=AXIS, iterations=15)
    truth = foam.taken_from(np.array(SHOWN)).image(COLUMNS)
    return float(np.sqrt(np.mean((image - truth) ** 2)) / np.ptp(truth))


def test_half_a_degree_of_tilt_costs_less_than_five_per_cent_once_it_is_corrected(foam, straight, tilted):
    shifts = row_shifts(RowBlock(0, ROWS, 0, 0, 1), ROWS, 0.5)
    none = error(straight, foam)
    assert error(tilted, foam) > 1.1 * none
    assert error(np.stack([upright(view, shifts) for view in tilted]), foam) < 1.05 * none


def test_rows_are_shifted_by_fractions_of_a_pixel():
    wave = np.sin(np.arange(64) / 5).astype(np.float32)
    shifts = np.array([-1.3, 0.0, 0.25, 2.5])
    moved = upright(np.stack([wave] * 4), shifts)
    for row, shift in zip(moved, shifts, strict=True):
        np.testing.assert_allclose(row[4:-4], np.sin((np.arange(64)[4:-4] + shift) / 5), atol=2e-3)
    np.testing.assert_array_equal(moved[1], wave)
    dark = upright(np.full((4, 64), np.nan, np.float32), shifts)
    assert np.isnan(dark).all()


@pytest.mark.parametrize("ranks", [1, 3])
def test_shifts_do_not_depend_on_how_rows_are_dealt_to_ranks(ranks):
    cuts = np.linspace(0, 30, ranks + 1).astype(int).tolist()
    parts = [row_shifts(RowBlock(a, b, 0, 0, 1), 30, 1.0) for a, b in pairwise(cuts)]
    whole = np.concatenate(parts)
    assert whole[-1] == pytest.approx(np.tan(np.radians(1.0)) * 14.5)
    assert whole.sum() == pytest.approx(0)


def opened(lines, step=24, **recon):
    """A tomography that has taken in all projections."""
    count, rows, columns = lines.shape
    settings = ReconSettings(
        window=step, step=step, ranks=1, threads=1, backend="cpu", pixel_values="line-integrals", final="none", **recon
    )
    run = OpenRun(
        run_uid="run",
        recon_uid="recon",
        planned=count,
        detector_shape=(rows, columns),
        dtype="<f4",
        recon=settings,
        block=RowBlock(0, rows, 0, 0, 1),
    )
    made = Tomography(run, Communicator(), 1)
    views: list[View] = []
    for i, view in enumerate(lines):
        item = Item(
            run_uid="run",
            seq=i + 1,
            kind="projection",
            index=i + 1,
            angle=float(np.radians(DEGREES[i])),
            rows=(0, rows),
            shape=(rows, columns),
            dtype="<f4",
            pixels=view,
        )
        views += made.prepare(item)
    missing, taken = 1, step
    while missing:
        missing = made.begin(views[:taken], taken >= len(views))
        taken += step
    for first in range(0, len(views), step):
        made.update(views[first : first + step])
    return made


@pytest.mark.parametrize(("tilt", "said"), [(0.0, 0.5), (0.5, None)])
def test_tilt_is_reported_with_its_angle_until_it_is_corrected(tilted, tilt, said):
    rows = axis_rows(ROWS)
    made = opened(tilted, axis_tilt=tilt)
    reports = [text for text in made.warnings if "tilted" in text]
    made.release()
    assert len(rows) < ROWS
    if said is None:
        assert reports == []
    else:
        (report,) = reports
        assert "in the upper half of the detector" in report
        number = float(report.split("axis_tilt=")[1].split()[0])
        assert number == pytest.approx(said, abs=0.1)


def test_straight_axis_is_not_reported_as_tilted(straight):
    made = opened(straight)
    assert not [text for text in made.warnings if "tilted" in text]
    made.release()


def test_stage_that_turns_the_other_way_gives_the_mirror_image(straight):
    lines = np.ascontiguousarray(straight[:16, :2])
    usual, mirrored = (opened(lines, step=8, axis=AXIS, rotation=way) for way in ROTATIONS)
    np.testing.assert_array_equal(mirrored.images([0, 1]), usual.images([0, 1])[:, ::-1])
    np.testing.assert_array_equal(mirrored.begin_images([1])(), usual.begin_images([1])()[:, ::-1])
    right = reconstruct(lines, -np.radians(DEGREES[:16]), axis=AXIS, window=8, step=8)
    np.testing.assert_allclose(mirrored.images([0, 1]), right, atol=1e-5)
    usual.release()
    mirrored.release()


def test_settings_that_can_not_work_are_refused():
    with pytest.raises(ConfigError, match="rotation: got 'left', expected one of counterclockwise, clockwise"):
        ReconSettings(rotation="left")
    with pytest.raises(ConfigError, match="axis_tilt"):
        ReconSettings(axis_tilt=3.0)
