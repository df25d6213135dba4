"""Scans are stopped by the product's prediction, by its own band or another one."""

from __future__ import annotations

import numpy as np
import pytest
from study import load_study

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.evaluation.scans import simulated_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality import ScanLines, TrialReconstruction, trials
from bluesky_streamrecon.quality.gain import band, predict_gain
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.sim_devices import Kind

ORDER = make_order("optimized-interleaved", num=60)


@pytest.fixture(scope="module")
def study():
    return load_study("prediction")


def scan_of(kind, seed=5, columns=64):
    """Return a small scan, and what it is."""
    scan = simulated_scan(kind, Kind(kind, seed), columns=columns, order=ORDER, counts=1e5, seed=seed)
    return {"kind": kind, "seed": seed, "case": 0, "noise": scan.noise, "columns": columns}, scan


def test_product_predicts_in_the_study_what_it_predicts_for_the_scan(study, monkeypatch):
    monkeypatch.setattr(study, "SHARES", np.array([0.5]))
    about, scan = scan_of("grains")
    point, last = study.points_of([(about, scan)])
    part = scan.first(30)
    lines = ScanLines(part.integrals, part.angles, scan.axis, (0,), planned=60)
    assert point["gain"] == predict_gain(TrialReconstruction(lines, [0], QuickReconstructor())).gain
    assert (point["projections"], last["projections"]) == (30, 60)
    assert "gain" not in last
    assert last["similarity"] > point["similarity"]


def test_wide_detectors_are_predicted_from_binned_images_and_judged_by_those_in_full(study, monkeypatch):
    monkeypatch.setattr(study, "SHARES", np.array([0.5]))
    narrow = study.points_of([scan_of("grains")])
    monkeypatch.setattr(trials, "UNBINNED", 32)
    wide = study.points_of([scan_of("grains")])
    assert [point["similarity"] for point in wide] == pytest.approx([point["similarity"] for point in narrow], abs=1e-6)
    assert wide[0]["gain"] != narrow[0]["gain"]


def test_scan_stops_where_the_upper_end_falls_below_the_tolerance(study):
    def point(projections, loss, gain=None):
        about = {"kind": "made up", "seed": 0, "case": 0, "noise": None, "columns": 64, "planned": 100}
        return about | {"projections": projections, "similarity": 1 - loss, "gain": gain, "single": 0.0}

    def scan(*gains):
        losses = (0.05, 0.025, 0.01, 0.005)
        return [*map(point, (20, 40, 60, 80), losses, gains), point(100, 0.0)]

    careful = study.judge(scan(0.05, 0.03, 0.011, 0.005), 0.43)
    early = study.judge(scan(0.02, 0.012, 0.004, 0.001), 0.3)
    assert early["stopped_at"] == pytest.approx(35)  # from 0.0285 at 20 and 0.0177 at 40
    assert early["loss"] == pytest.approx(0.03125)
    assert early["in_band"] == 0 < early["decisions"]
    assert careful["stopped_at"] == pytest.approx(60)
    assert careful["in_band"] == careful["decisions"]
    assert careful["oracle"] == early["oracle"] == pytest.approx(47.5)  # a loss of 0.02 at 46.7
    found = study.summarize([careful, early])
    assert (found["scans"], found["false_stops"]) == (2, 1)
    assert found["share"] == found["mean_share"] == 1.0  # 40 and 65 for 52.5
    assert found["worst_loss"] == pytest.approx(0.03125, abs=1e-4)
    never = study.judge([point(40, 0.03), point(60, 0.01, 0.001), point(100, 0.0)])
    assert (never["stopped_at"], never["loss"], never["decisions"]) == (100, 0.0, 0)


@pytest.mark.parametrize("gain", [0.001, 0.012, 0.02, 0.1])
def test_band_with_the_constants_of_the_product_is_that_of_the_product(study, gain):
    assert study.ends_of(gain) == pytest.approx(band(gain))


def test_points_are_judged_again_from_their_file(study, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "SHARES", np.array([0.5, 0.8]))
    points = study.points_of([scan_of("grains"), scan_of("layers")])
    assert [point["single"] > 0 for point in points if "single" in point] == [False, True, False, True]
    Report({}, data={"points": points}).write(tmp_path)
    read = study.read_points(tmp_path / "points.csv")
    first, again = (study.evaluate_prediction(some, [0.2, 0.43]).data["cases"] for some in (points, read))
    for one, other in zip(first, again, strict=True):
        numbers = [name for name, value in one.items() if not isinstance(value, str)]
        assert [other[name] for name in numbers] == pytest.approx([one[name] for name in numbers], rel=1e-4, abs=2e-6)
    assert all(row["decisions"] for row in first)
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"points\.csv: got columns a, b, expected those of a points"):
        study.read_points(tmp_path / "points.csv")


def test_kinds_and_cases_that_there_are_not_are_refused(study):
    with pytest.raises(ConfigError, match="kinds: got cheese, expected some of texture"):
        study.made_scans(["cheese"], 0, [0])
    with pytest.raises(ConfigError, match=r"cases: got \[12\], expected some of 0 to 11"):
        study.made_scans(["grains"], 0, [0, 12])
