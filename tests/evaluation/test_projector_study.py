"""The fast projector is compared with line integrals on the same projections, in every algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from study import load_study

from bluesky_streamrecon.geometry import TomoGeometry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    return load_study("projector")


def test_every_algorithm_is_compared_on_every_sample(study):
    rows = study.evaluate_projector(columns=32, num=24).data["projector"]
    assert {(r["sample"], r["noise"], r["algorithm"]) for r in rows} == {
        (sample, noise, name)
        for sample in ("shepp-logan", "foam")
        for noise in study.NOISE
        for name in study.ALGORITHMS
    }
    for row in rows:
        assert row["excess"] == pytest.approx(row["fast"] / row["lines"] - 1)
        assert 0 < row["averaged"] < 1


def test_measured_scan_predicts_what_was_held_out(study, monkeypatch):
    monkeypatch.setattr(study, "ITERATIONS", 1)
    monkeypatch.setattr(study, "ALGORITHMS", ("osem",))
    monkeypatch.setattr(study, "NOISE", (1e4,))
    tooth = ROOT / "tests" / "data" / "tooth.h5"
    row = study.evaluate_projector(columns=32, num=24, data=tooth).data["projector"][-1]
    assert (row["sample"], row["projections"], row["averaged"]) == ("tooth", 91, None)
    assert row["fast"] < 0.2
    assert abs(row["excess"]) < 0.03


def test_averaged_line_integrals_are_matched_and_see_uniform_columns_alike(study):
    geometry, angles = TomoGeometry(columns=20, size=12), np.array([0.0, 0.4, 2.0])
    averaged, lines = study.ColumnProjector(geometry, angles), study.SiddonProjector(geometry, angles)
    random = np.random.default_rng(0)
    image, sinogram = (random.random((*s, 2)).astype(np.float32) for s in (averaged.domain_shape, averaged.range_shape))
    forward, back = averaged.forward(image), averaged.back(sinogram)
    assert (forward * sinogram).sum() == pytest.approx((back * image).sum(), rel=1e-5)
    np.testing.assert_allclose(forward[0], lines.forward(image)[0], atol=1e-5)  # rays along the columns
