"""Phase retrieval is the published formula, takes fringes away, and does not depend on which rows a rank has."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy.special import erf

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.partition import RowBlock, partition_rows
from bluesky_streamrecon.preparation_steps import check_steps
from bluesky_streamrecon.recon.steps import Pipeline, halo_rows, make_step
from bluesky_streamrecon.recon.view import prepared_for
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import OpenRun

STEP = {"step": "paganin", "delta_beta": 200.0, "energy": 25.0, "distance": 60.0, "pixel_size": 1.5}


def alpha_of(step):
    """z delta / mu in pixels squared, from SI units."""
    wavelength = 6.62607015e-34 * 2.99792458e8 / (step["energy"] * 1e3 * 1.602176634e-19)
    mu = 4 * np.pi / (wavelength * step["delta_beta"])  # over delta
    return 1e-3 * step["distance"] / mu / (1e-6 * step["pixel_size"]) ** 2


def squared(shape):
    """Spatial frequencies (cycles per pixel) squared."""
    return np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1])[None, :] ** 2


def by_the_formula(lines, alpha, pad):
    """-ln F^-1{F{I} / (4 pi^2 (z delta / mu) w^2 + 1)}, w in cycles, as tomopy has it; edges go on."""
    light = np.pad(np.exp(-lines.astype(np.float64)), pad, mode="edge")
    light = np.fft.ifft2(np.fft.fft2(light) / (4 * np.pi**2 * alpha * squared(light.shape) + 1)).real
    return -np.log(light[pad:-pad, pad:-pad])


def projection(rows=60, columns=150, seed=0):
    """Line integrals of a ball, a block and noise, which reach the edges of the detector."""
    y, x = np.mgrid[:rows, :columns]
    ball = 0.05 * np.sqrt(np.maximum(25.0**2 - (x - 60) ** 2 - (y - 20) ** 2, 0))
    block = 0.8 * ((x > 100) & (x < 130) & (y > 30))
    noise = np.random.default_rng(seed).normal(0, 0.05, (rows, columns))
    return (ball + block + noise).astype(np.float32)


@pytest.mark.parametrize("distance", [0.5, 5.0, 60.0, 400.0])
def test_phase_is_retrieved_as_by_the_published_formula(distance):
    lines, step = projection(), STEP | {"distance": distance}
    result = Pipeline([step], *lines.shape).first_part(lines.copy(), 0.0)
    expected = by_the_formula(lines, alpha_of(step), pad=200)
    assert np.abs(result - expected).max() < 1e-3 * expected.max()
    assert np.abs(result - lines).max() > 50 * np.abs(result - expected).max()


@pytest.mark.skipif(importlib.util.find_spec("algotom") is None, reason="needs the extra bench")
def test_filter_is_that_of_a_published_program():
    from algotom.prep.filtering import fresnel_filter

    lines = projection()
    light = np.pad(np.exp(-lines.astype(np.float64)), 200, mode="edge")
    ratio = 4 * np.pi**2 * alpha_of(STEP)
    expected = -np.log(fresnel_filter(light, ratio, dim=2, pad=0, apply_log=False)[200:-200, 200:-200])
    result = Pipeline([STEP], *lines.shape).first_part(lines.copy(), 0.0)
    assert np.abs(result - expected).max() < 1e-3 * expected.max()


def test_fringe_of_an_edge_is_gone_and_the_edge_is_where_it_was():
    """A blurred edge, propagated exactly; across the rows, so that it is seen through the halo."""
    edge, sigma, height = 80.3, 4.0, 0.1
    thickness = height / 2 * (1 + erf((np.arange(160) - edge) / (np.sqrt(2) * sigma)))
    far = np.pad(thickness, 400, mode="edge")
    # The wave behind the sample: ln of its amplitude is -mu T / 2, its phase delta / beta times that; then Fresnel's
    # propagator, exp(-i pi wavelength z u^2). The edge down at the end of the circle is far away.
    wave = np.exp(-far / 2 * (1 + 1j * STEP["delta_beta"]))
    wavelengths = 4 * np.pi * alpha_of(STEP) / STEP["delta_beta"]  # times z, pixels squared
    seen = np.fft.ifft(np.fft.fft(wave) * np.exp(-1j * np.pi * wavelengths * np.fft.fftfreq(len(far)) ** 2))
    lines = -np.log(np.abs(seen[400:-400]) ** 2)
    given = np.repeat(lines[:, None], 20, axis=1).astype(np.float32)
    result = Pipeline([STEP], *given.shape).first_part(given.copy(), 0.0)[:, 10]
    fringe = np.abs(lines - thickness).max()
    assert fringe > 0.3 * height
    assert np.abs(result - thickness).max() < 0.03 * fringe


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_rows_of_a_rank_are_those_of_the_whole_projection(ranks):
    lines = projection()
    lines[[0, 31, 32]] = np.nan  # not measured
    lines[::7, 75] -= 2.0  # zingers
    preparation = ["zingers", STEP]
    whole = Pipeline(preparation, *lines.shape)
    expected = whole.first_part(lines.copy(), 0.0)
    np.testing.assert_array_equal(np.isnan(expected), np.isnan(lines))
    halo, zingers, parts = halo_rows(preparation), 0, []
    assert halo > len(lines) / ranks / 2
    for block in partition_rows(len(lines), ranks):
        first, stop = max(block.first - halo, 0), min(block.stop + halo, len(lines))
        beyond = block.first - first, stop - block.stop
        pipeline = Pipeline(preparation, block.rows, lines.shape[1], beyond=beyond)
        parts.append(pipeline.first_part(lines[first:stop].copy(), 0.0))
        zingers += pipeline.counts["zingers"]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-6, atol=1e-6)
    assert zingers == whole.counts["zingers"] > 0


def test_rows_that_were_not_measured_count_for_none():
    lines = np.full((30, 40), 0.7, np.float32)
    lines[10:14] = np.nan
    np.testing.assert_allclose(Pipeline([STEP], *lines.shape).first_part(lines.copy(), 0.0), lines, rtol=1e-6)


@pytest.mark.parametrize(
    ("preparation", "words"),
    [
        (["paganin"], "got no delta_beta, expected delta_beta .ratio., energy .keV."),
        ([STEP | {"energy": -25.0}], "got energy=-25.0"),
        ([STEP | {"pixel_size": 1.5e-6}], "pixels wide, expected at most 100.*micrometres"),
        (["rings", STEP], "got step 'paganin' after 'rings'; expected it before"),
    ],
)
def test_phase_retrieval_that_can_not_work_is_refused(preparation, words):
    with pytest.raises(ConfigError, match=words):
        check_steps(preparation)


def test_halo_is_seven_widths_of_the_kernel():
    assert halo_rows(["zingers", STEP, "rings"]) == int(np.ceil(7 * np.sqrt(alpha_of(STEP))))
    assert halo_rows([STEP], 2) == halo_rows([STEP | {"pixel_size": 2 * STEP["pixel_size"]}])
    assert make_step("rings").halo_rows == 0


@pytest.mark.parametrize(("side", "sent"), [(1, 0), (2, halo_rows([STEP]))])
def test_job_refuses_rows_around_its_own_that_do_not_fit_its_steps(side, sent):
    """As where the beamline's computer has another release of a step, or of this package, than the job's."""
    run = OpenRun(
        run_uid="raw", recon_uid="recon", planned=4, detector_shape=(64, 32), dtype="<u2", halo=sent,
        block=RowBlock(0, 64, 0, 0, 1), recon=ReconSettings(bin=side, preparation=(STEP,)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=f"got {sent} rows on each side .* expected {halo_rows([STEP], side)}; are"):
        prepared_for(run)
