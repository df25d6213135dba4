"""The simulated beamline has the faults of real scans, and the steps that are meant for them take them away."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.recon.later_references import take_off
from bluesky_streamrecon.recon.preparation import Preparation
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.sim_devices import Exposure, Faults, Foam, FrameKind, Noise, sim_beamline
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


def test_flats_after_the_projections_are_those_of_the_beam_by_then_until_the_shutter_was_closed(tmp_path):
    beamline = sim_beamline(
        rows=SHAPE[0], columns=SHAPE[1], directory=tmp_path, instant=True, inline=True, fading=0.4, flat_drift=3.0,
        projections=NUM, noise=Noise(poisson=False, readout=0, dead=0, hot=0, gain=0),
    )  # fmt: skip

    async def flat():
        await beamline.table.set("out")
        for device in (beamline.detector, beamline.monitor):
            await device.trigger()
        await beamline.table.set("in")
        values = [(await device.read())[device.name]["value"] for device in (beamline.detector, beamline.monitor)]
        return values[0] - 100.0, values[1]

    async def scan():
        before = await flat()
        for device in (beamline.detector, beamline.monitor):
            await device.stage()
            for _ in range(NUM):
                await device.trigger()
            await device.unstage()
        after = await flat()
        await beamline.shutter.set("closed")
        await beamline.shutter.set("open")
        return before, after, await flat()

    (before, full), (after, left), (again, refilled) = asyncio.run(scan())
    assert (full, refilled) == (1e7, 1e7)
    share = 0.6 ** (NUM / (NUM - 1))
    assert left == pytest.approx(1e7 * share)
    np.testing.assert_array_equal(again, before)
    moved = 3.0 * NUM / (NUM - 1)
    columns = np.arange(20, SHAPE[1] - 20)
    there = np.stack([np.interp(columns - moved, np.arange(SHAPE[1]), row) for row in before])
    np.testing.assert_allclose(after[:, columns], share * there, rtol=0.02)
    assert np.abs(after[:, columns] / before[:, columns] / share - 1).max() > 0.05


def test_monitor_and_flats_afterwards_take_a_fading_and_drifting_beam_away(tmp_path):
    beamline = sim_beamline(
        Foam(absorption=0.8), rows=SHAPE[0], columns=SHAPE[1], fill=0.6, directory=tmp_path, instant=True, fading=0.4,
        flat_drift=1.0, projections=NUM, noise=Noise(poisson=False, readout=0, dead=0, hot=0),
    )  # fmt: skip
    faults, camera = beamline.detector.scene.faults, beamline.camera

    def lines(faults, monitor):
        made, projections = Preparation(*SHAPE), []
        made.add_reference("dark", camera.frame(Exposure(FrameKind.DARK, 0.0, 0)))
        for number, after in enumerate((0, NUM), 1):
            flat = faulty_exposure(Exposure(FrameKind.FLAT, 0.0, 0), faults, after)
            made.add_reference("flat", camera.frame(flat), (number, after), flat.beam if monitor else 1.0)
            for k in range(NUM if number == 1 else 0):
                shown = faulty_exposure(Exposure(FrameKind.PROJECTION, 4.0 * k, k), faults)
                projections.append(made.prepare(camera.frame(shown), shown.beam if monitor else 1.0))
        return np.stack(projections), made.changes([])

    clean, _ = lines(Faults(), monitor=False)
    faded, _ = lines(faults, monitor=False)
    normalised, changes = lines(faults, monitor=True)
    interpolated = normalised.copy()
    take_off(interpolated, changes, slice(None))
    errors = [np.sqrt(np.mean((each - clean) ** 2)) for each in (faded, normalised, interpolated)]
    assert errors[1] < 0.1 * errors[0]
    assert errors[2] < 0.05 * errors[1]


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
