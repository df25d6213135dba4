"""Pictures of a tolerance: two patches of the sample that differ by it."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_streamrecon.quality.patches import patches_that_differ
from bluesky_streamrecon.quality.trials import display_range, similarity


@pytest.mark.parametrize("tolerance", [0.005, 0.02, 0.1])
def test_patches_differ_by_the_tolerance_and_show_where_most_is_to_be_seen(tolerance):
    rng = np.random.default_rng(0)
    image = np.zeros((256, 256), np.float32)
    image[60:120, 130:190] = rng.random((60, 60)) > 0.5
    worse = image + 0.1 * rng.standard_normal(image.shape).astype(np.float32)
    patch, other = patches_that_differ(image, worse, tolerance)
    assert 1 - similarity(patch, other, display_range(image)) == pytest.approx(tolerance, rel=0.02)
    assert patch.std() > 0.4


def test_images_that_are_alike_have_none():
    image = np.random.default_rng(0).random((128, 128), np.float32)
    assert patches_that_differ(image, image, 0.02) is None
    assert patches_that_differ(image, image[:64, :64], 0.02) is None
