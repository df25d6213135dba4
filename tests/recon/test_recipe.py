"""The recipe of a finished volume: as many updates as the noise allows, and never fewer than was predicted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.images import live_updates, with_best_image
from bluesky_streamrecon.evaluation.scans import measured_scan
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.recipe import find_recipe, log_photons, some_views
from bluesky_streamrecon.settings import ReconSettings

TOOTH = Path(__file__).parents[1] / "data" / "tooth.h5"


@pytest.mark.parametrize(("photons", "iterations"), [(0.0, 10), (1e4, 10), (1.6e4, 12), (1e6, 15)])
def test_recipe_has_more_updates_where_there_is_little_noise(photons, iterations):
    recipe = find_recipe("auto", 180, photons=photons)
    assert (recipe.algorithm, recipe.iterations, recipe.options["subsets"]) == ("osem", iterations, 6)


def test_recipe_of_few_views_has_as_many_updates_of_fewer_subsets():
    recipe = find_recipe("auto", 8)
    assert (recipe.iterations, recipe.options["subsets"]) == (30, 2)
    assert find_recipe("fbp", 180).iterations == 1
    assert find_recipe("sirt", 180, 7, {"relaxation": 0.5}).options == {"relaxation": 0.5}
    assert find_recipe("none", 180) is None
    with pytest.raises(ConfigError, match="final='auto' with options"):
        find_recipe("auto", 180, options={"subsets": 3})


@pytest.mark.parametrize("photons", [1e3, 1e5])
def test_photons_are_estimated_from_noise_whatever_the_order_of_angles(photons):
    rng = np.random.default_rng(1)
    angles = rng.permutation(np.arange(64) * 0.05)
    smooth = 1 + 0.5 * np.sin(np.arange(300) / 60)
    lines = (smooth + np.sqrt(np.exp(smooth) / photons) * rng.standard_normal((64, 3, 300))).astype(np.float32)
    lines[:, 1] = np.nan
    found = log_photons(lines[some_views(angles)])
    assert np.exp(found[[0, 2]]) == pytest.approx(photons, rel=0.1)
    assert np.isnan(found[1])
    np.testing.assert_array_equal(log_photons(lines[some_views(angles)]), log_photons(lines[np.argsort(angles)[::2]]))


@pytest.mark.nightly
@pytest.mark.timeout(120)
def test_finished_tooth_is_better_than_its_live_image():
    """By the study's measure: MS-SSIM to the image of 300 updates from all projections."""
    scan = with_best_image(measured_scan(TOOTH), threads=2)
    finished = reconstruct(
        scan.integrals, scan.angles, axis=scan.axis, algorithm="auto", disc=True, threads=2, backend="cpu"
    )
    for _, engine in live_updates(scan, ReconSettings(window_policy="newest", step=8), threads=2):
        live = engine.image()
    assert scan.truth.similarity(finished) >= 0.992
    assert scan.truth.similarity(live) < scan.truth.similarity(finished)
