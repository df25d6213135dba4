"""The simulated beamline has the faults of real scans, and the steps that are meant for them take them away."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.sim_devices import Exposure, Foam, FrameKind, sim_beamline
from bluesky_streamrecon.sim_devices.camera import faulty_exposure

PHASE = {"step": "paganin", "delta_beta": 200, "energy": 25, "distance": 20, "pixel_size": 2.0}
NUM, SHAPE = 48, (8, 160)


def line_integrals(directory, **options):
    """Return angles and line integrals (NUM, rows, columns) of a scan in golden order, medians of flats and darks."""
    beamline = sim_beamline(
        Foam(absorption=0.8), rows=SHAPE[0], columns=SHAPE[1], fill=0.6, counts=1e7, directory=directory, instant=True,
        projections=NUM, **options,
    )  # fmt: skip
    faults, camera = beamline.detector.scene.faults, beamline.camera
    flat, dark = (
        np.median([camera.frame(Exposure(kind, 0.0, k)) for k in range(5)], axis=0)
        for kind in (FrameKind.FLAT, FrameKind.DARK)
    )
    angles = np.mod(np.arange(NUM) * 0.6180339887, 1) * 180
    exposures = [Exposure(FrameKind.PROJECTION, angle, k) for k, angle in enumerate(angles)]
    frames = np.stack([camera.frame(faulty_exposure(each, faults)) for each in exposures]).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        lines = -np.log(np.maximum((frames - dark) / (flat - dark), 1e-3))
    lines[:, camera.dead_pixels | camera.hot_pixels] = 0.0
    return np.deg2rad(angles), lines.astype(np.float32)


@pytest.mark.parametrize(
    ("options", "step", "share"),
    [
        ({"zingers": 0.002}, "zingers", 0.1),
        ({"rings": 0.05}, "rings", 0.6),
        ({"rings": 0.05}, "wavelet-rings", 0.6),
        ({"bad_columns": 2}, "rings", 0.3),
        ({"phase": PHASE}, PHASE, 0.5),
        ({"fading": 0.3}, {"step": "beam", "left": 12, "right": 12}, 0.05),
    ],
    ids=["zingers", "rings", "wavelet-rings", "bad_columns", "phase", "fading"],
)
def test_each_fault_is_there_and_its_step_takes_it_away(tmp_path, options, step, share):
    angles, clean = line_integrals(tmp_path)
    again, faulty = line_integrals(tmp_path, **options)
    np.testing.assert_array_equal(faulty, line_integrals(tmp_path, **options)[1])  # the same, by its seed
    steps = Pipeline([step], *SHAPE)
    first = np.stack([steps.first_part(each.copy(), angle) for each, angle in zip(faulty, again, strict=True)])
    prepared = steps.second_part_of_all(first, angles)
    before, after = (np.sqrt(np.mean((each - clean) ** 2)) for each in (faulty, prepared))
    print(options, before, after, after / before)
    assert before > 0.01
    assert after < share * before


def test_zingers_hit_flats_and_darks_and_drift_moves_the_sample(tmp_path):
    beamline = sim_beamline(rows=8, columns=160, directory=tmp_path, instant=True, zingers=0.01, drift=3, projections=4)
    for kind, level in ((FrameKind.FLAT, 40000), (FrameKind.DARK, 100)):
        frame = beamline.camera.frame(Exposure(kind, 0.0, 0)).astype(float)
        assert 2 <= np.count_nonzero(frame > np.median(frame) + 15000) <= 40, (kind, level)
    shifts = [beamline.detector.scene.faults.shift(k) for k in range(4)]
    np.testing.assert_allclose(shifts, [(0, 0), (1, 0), (2, 0), (3, 0)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"zingers": 0.7}, "zingers: got 0.7"),
        ({"bad_columns": 30}, "bad_columns: got 30 of each kind, expected at most an eighth of 160"),
        ({"fading": 1.0}, r"fading: got 1.0, expected a share of the beam in \[0, 1\)"),
        ({"drift": (1.0, 2.0, 3.0)}, "drift: got .*, expected a number of pixels, or two"),
        ({"projections": 1}, "projections: got 1, expected at least 2"),
        ({"phase": {"delta_beta": 200}}, "phase: preparation step 'paganin': got no energy"),
        ({"phase": {"delta": 200}}, "phase: got .*, expected delta_beta, energy, distance and pixel_size"),
    ],
)
def test_faults_that_can_not_be_are_refused(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        sim_beamline(rows=8, columns=160, directory=tmp_path, **options)
