"""The paper's figures, the policy study and the window comparison, on images of a few pixels."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.defaults import evaluate_defaults, in_short
from bluesky_streamrecon.evaluation.offline import judge_offline
from bluesky_streamrecon.evaluation.orders import ORDERS, evaluate_orders
from bluesky_streamrecon.evaluation.policy_study import Case, CaseResult, study, summarize
from bluesky_streamrecon.evaluation.scans import simulated_scan
from bluesky_streamrecon.evaluation.score import Truth
from bluesky_streamrecon.evaluation.similarity import follow
from bluesky_streamrecon.evaluation.study_figures import draw_cases
from bluesky_streamrecon.evaluation.tables import save_figure
from bluesky_streamrecon.evaluation.windows import evaluate_windows
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.sim_devices import Discs, SheppLogan

PNG = b"\x89PNG"


def head(num=60, counts=1e5, columns=64, sample=None):
    order = make_order("optimized-interleaved", num=num)
    return simulated_scan("head", sample or SheppLogan(), columns=columns, order=order, counts=counts)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def judgements():
    return judge_offline(head(), ReconSettings(), [SteeringSettings(), SteeringSettings(policy="ms-ssim")])


def test_orders_are_compared_live_and_finished_and_the_fixed_one_is_worst(tmp_path):
    rows = evaluate_orders(tmp_path, columns=48, num=48)
    after = {(r.sample, r.order, r.image): r.ms_ssim for r in rows if r.projections == 30}
    assert set(after) == {(s, o, i) for s in ("foam", "shepp-logan") for o in ORDERS for i in ("live", "finished")}
    for sample in ("foam", "shepp-logan"):
        assert min(ORDERS, key=lambda order: after[sample, order, "live"]) == "fixed"
    assert len(table(tmp_path / "orders.csv")) == len(rows)
    for name in ("orders_images.png", "orders_curves.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_self_similarity_is_followed_beside_the_truth():
    scan = head()
    curve = follow(scan, Truth.known(scan.truth), ReconSettings(window_policy="newest"), compare_to=24, show_at=(30,))
    assert [p.projections for p in curve.points] == list(range(1, 61))
    assert all(p.self_similarity is None for p in curve.points[:24])
    assert list(curve.shown) == [30]
    crossed = curve.crossing(0.5)
    assert crossed is not None
    assert curve.crossing(0.5, settled=crossed + 1) == crossed + 1
    assert curve.crossing(1.1) is None
    assert curve.stays(0.5) >= crossed


def test_each_policy_judges_every_image_and_goes_on_after_its_stop(judgements):
    for judgement in judgements:
        assert [score.projections for score in judgement.scores] == list(range(1, 61))
        assert judgement.used == (judgement.stopped_at or 60)
    ours, paper = judgements
    assert (ours.policy, paper.policy) == ("predicted-gain", "ms-ssim")
    assert paper.stopped_at == 48  # head: as soon as every projection of both windows was replaced


def test_offline_judgement_is_that_of_a_controller_that_gets_the_same_previews(judgements):
    again = judge_offline(head(), ReconSettings(), [SteeringSettings()])
    assert again[0].scores == judgements[0].scores


def test_unknown_policy_is_refused_before_anything_is_reconstructed():
    with pytest.raises(ConfigError, match="expected one of"):
        judge_offline(head(), ReconSettings(), [SteeringSettings(policy="no-such-policy")])


def test_study_tells_what_was_lost_and_what_an_oracle_would_have_saved(tmp_path):
    cases = []
    for number, sample in enumerate((SheppLogan(), Discs(balls=6))):
        scan = head(sample=sample, counts=1e5)
        cases.append(Case(f"sample {number}", 1e5, number, scan, Truth.known(scan.truth)))
    results = study(cases)
    for result in results:
        assert result.planned == 60
        assert result.oracle_loss <= 0.02
        assert result.oracle_stop <= 60
        assert 0 <= result.in_band <= result.decisions <= result.all_decisions
        assert result.stopped_at == 60 or result.predicted_loss is not None
    save_figure(draw_cases(results, 0.02), tmp_path / "cases.png")
    assert (tmp_path / "cases.png").read_bytes().startswith(PNG)


def test_summary_counts_false_stops_and_the_share_of_the_oracle():
    one = CaseResult(
        sample="a", noise=1e3, seed=0, stopped_at=60, planned=100, quality_loss=0.01, predicted_loss=0.012,
        oracle_stop=50, oracle_loss=0.02, paper_stop=40, paper_loss=0.03, decisions=4, in_band=3,
        all_decisions=8, all_in_band=7, columns=64,
    )  # fmt: skip
    found = summarize([one, replace(one, stopped_at=80, quality_loss=0.021), replace(one, stopped_at=100)])
    assert found.median_saving == pytest.approx(0.2)
    assert found.oracle_share == pytest.approx(0.4)
    assert (found.false_stops, found.paper_false_stops) == (1, 3)
    assert found.worst_loss == 0.021
    assert found.calibrated_share == pytest.approx(0.75)
    assert found.calibrated_share_all == pytest.approx(7 / 8)


def test_defaults_are_changed_one_at_a_time_on_the_same_scans(tmp_path):
    rows = evaluate_defaults(tmp_path, columns=32, long=185)
    found = {key: (mean, end) for *key, mean, end in map(list, in_short(rows)) for key in [tuple(key)]}
    usual = "optimized-interleaved 180, mlem, s = 1"
    default = found["initial", usual, "mass of the data"]
    assert found["iterations", usual, "1"] == found["older", usual, "1/2"] == default
    assert found["older", usual, "none"] != default
    assert found["initial", usual, "1 per pixel"][1] == pytest.approx(default[1], abs=0.01)  # MLEM forgets
    light = [key for key in found if key[0] == "relaxation" and key[2] == "1"]
    assert len(light) == 3
    assert np.mean([found[key] for key in light], axis=0) == pytest.approx(default)
    assert {row.question for row in rows} == {"older", "kept", "iterations", "relaxation", "initial"}
    assert len(rows) == 6 * len({(row.question, row.case, row.choice) for row in rows})
    assert (tmp_path / "defaults.png").read_bytes().startswith(PNG)
    assert (tmp_path / "defaults.csv").read_text().count("\n") == len(rows) + 1


def test_windows_are_compared_on_the_same_scans(tmp_path):
    rows = evaluate_windows(tmp_path, columns=48, seeds=1, long=90)
    pairs = {}
    for row in rows:
        pairs.setdefault((row.sample, row.order, row.algorithm, row.noise, row.projections, row.step), []).append(row)
    assert all([r.policy for r in pair] == ["newest", "spread"] for pair in pairs.values())
    fixed = [row for row in rows if row.order == "fixed"]
    gains = [b.end - a.end for a, b in zip(fixed[:6], fixed[6:], strict=True)]
    assert np.mean(gains) > 0
    assert (tmp_path / "windows.png").read_bytes().startswith(PNG)
