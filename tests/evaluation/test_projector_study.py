"""The fast projector is compared with line integrals on the same projections, in every algorithm."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.evaluation import projector as study
from bluesky_streamrecon.evaluation.projector import ALGORITHMS, ColumnProjector, evaluate_projector
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.siddon import SiddonProjector


def test_every_algorithm_is_compared_on_every_sample(tmp_path):
    rows = evaluate_projector(tmp_path, columns=32, projections=24)
    assert {(r.sample, r.noise, r.algorithm) for r in rows} == {
        (sample, noise, name) for sample in ("shepp-logan", "foam") for noise in study.NOISE for name in ALGORITHMS
    }
    for row in rows:
        assert row.excess == pytest.approx(row.fast / row.lines - 1)
        assert 0 < row.averaged < 1
    with (tmp_path / "projector.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_measured_scan_predicts_what_was_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "ITERATIONS", 1)
    monkeypatch.setattr(study, "ALGORITHMS", ("osem",))
    monkeypatch.setattr(study, "NOISE", (1e4,))
    tooth = Path(__file__).parents[1] / "data" / "tooth.h5"
    row = evaluate_projector(tmp_path, columns=32, projections=24, data=tooth)[-1]
    assert (row.sample, row.projections, row.averaged) == ("tooth", 91, None)
    assert row.fast < 0.2
    assert abs(row.excess) < 0.03


def test_averaged_line_integrals_are_matched_and_see_uniform_columns_alike():
    geometry, angles = TomoGeometry(columns=20, size=12), np.array([0.0, 0.4, 2.0])
    averaged, lines = ColumnProjector(geometry, angles), SiddonProjector(geometry, angles)
    random = np.random.default_rng(0)
    image, sinogram = (random.random((*s, 2)).astype(np.float32) for s in (averaged.domain_shape, averaged.range_shape))
    forward, back = averaged.forward(image), averaged.back(sinogram)
    assert (forward * sinogram).sum() == pytest.approx((back * image).sum(), rel=1e-5)
    np.testing.assert_allclose(forward[0], lines.forward(image)[0], atol=1e-5)  # rays along the columns
