"""The paper's figures, the study of policies and that of settings, on images of a few pixels."""

from __future__ import annotations

import csv
from itertools import pairwise

import numpy as np
import pytest
from study import load_study

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.cases import kind_cases
from bluesky_streamrecon.evaluation.figures import predictions
from bluesky_streamrecon.evaluation.images import finish
from bluesky_streamrecon.evaluation.offline import judge_offline
from bluesky_streamrecon.evaluation.orders import ORDERS, evaluate_orders
from bluesky_streamrecon.evaluation.policies import draw_cases, judge_cases, summarize
from bluesky_streamrecon.evaluation.report import save_figure
from bluesky_streamrecon.evaluation.scans import simulated_scan
from bluesky_streamrecon.evaluation.steering import crossing, evaluate_steering, follow, stays
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices import Discs, Kind, SheppLogan

PNG = b"\x89PNG"


def head(num=60, counts=1e5, columns=64, sample=None):
    order = make_order("optimized-interleaved", num=num)
    return simulated_scan("head", sample or SheppLogan(), columns=columns, order=order, counts=counts)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def judgements():
    return [judge_offline(head(), ReconSettings(), SteeringSettings(policy=policy)) for policy in (None, "ms-ssim")]


def test_orders_are_compared_live_and_finished_and_the_fixed_one_is_worst(tmp_path):
    report = evaluate_orders(columns=48, num=48)
    report.write(tmp_path)
    rows = report.fields["rows"]
    after = {(r["sample"], r["order"], r["image"]): r["ms_ssim"] for r in rows if r["projections"] == 30}
    assert set(after) == {(s, o, i) for s in ("foam", "shepp-logan") for o in ORDERS for i in ("live", "finished")}
    for sample in ("foam", "shepp-logan"):
        assert min(ORDERS, key=lambda order: after[sample, order, "live"]) == "fixed"
    assert len(table(tmp_path / "orders.csv")) == len(rows)
    for name in ("orders_images.png", "orders_curves.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_self_similarity_is_followed_beside_the_truth():
    rows, shown = follow(head(), show_at=(30,))
    assert [row["projections"] for row in rows] == list(range(1, 61))
    assert all(row["self_similarity"] is None for row in rows[:24])
    assert list(shown) == [30]
    assert crossing(rows, 1.1) is stays(rows, 1.1) is None
    assert stays(rows, 0.5) >= crossing(rows, 0.5) > 24


def test_a_score_that_falls_again_stays_from_its_last_crossing_on():
    scores = [None, 0.8, 0.96, 0.9, 0.97, 0.98]
    rows = [{"projections": at, "self_similarity": score} for at, score in enumerate(scores, 1)]
    assert (crossing(rows, 0.95), stays(rows, 0.95)) == (3, 5)


def test_each_policy_judges_every_image_and_goes_on_after_its_stop(judgements):
    for judgement in judgements:
        assert [score.projections for score in judgement.scores] == list(range(1, 61))
        assert judgement.used == (judgement.stopped_at or 60)
    ours, paper = judgements
    assert (ours.policy, paper.policy) == ("predicted-gain", "ms-ssim")
    assert paper.stopped_at == 48  # head: as soon as every projection of both windows was replaced


def test_offline_judgement_is_that_of_a_controller_that_gets_the_same_previews(judgements):
    assert judge_offline(head(), ReconSettings(), SteeringSettings()).scores == judgements[0].scores


def test_predictions_are_twice_as_frequent_when_the_stop_is_near(judgements):
    far = judge_offline(head(), ReconSettings(step=3), SteeringSettings(tolerance=1e-4))
    steps = [[b - a for a, b in pairwise(predictions(judgement.scores))] for judgement in (judgements[0], far)]
    assert (set(steps[0][:-1]), set(steps[1])) == ({2}, {3})


def test_unknown_policy_is_refused_before_anything_is_reconstructed():
    with pytest.raises(ConfigError, match="expected one of"):
        judge_offline(head(), ReconSettings(), SteeringSettings(policy="no-such-policy"))


def test_cases_say_what_was_lost_and_what_an_oracle_would_have_saved(tmp_path):
    results = judge_cases([head(sample=sample, counts=1e5) for sample in (SheppLogan(), Discs(balls=6))])
    for result in results:
        assert result["planned"] == 60
        assert result["oracle_loss"] <= 0.02
        assert result["oracle_stop"] <= 60
        assert 0 <= result["in_band"] <= result["decisions"] <= result["all_decisions"]
        assert result["stopped_at"] == 60 or result["predicted_loss"] is not None
    save_figure(draw_cases(results, 0.02), tmp_path / "cases")
    assert (tmp_path / "cases").read_bytes().startswith(PNG)


def test_summary_counts_false_stops_and_the_share_of_the_oracle():
    one = {
        "stopped_at": 60, "planned": 100, "quality_loss": 0.01, "oracle_stop": 50, "paper_stop": 40, "paper_loss": 0.03,
        "decisions": 4, "in_band": 3, "all_decisions": 8, "all_in_band": 7,
    }  # fmt: skip
    found = summarize([one, one | {"stopped_at": 80, "quality_loss": 0.021}, one | {"stopped_at": 100}])
    assert found["median_saving"] == pytest.approx(0.2)
    assert found["oracle_share"] == pytest.approx(0.4)
    assert (found["false_stops"], found["paper_false_stops"]) == (1, 3)
    assert found["worst_loss"] == 0.021
    assert found["calibrated_share"] == pytest.approx(0.75)
    assert found["calibrated_share_all"] == pytest.approx(7 / 8)


def test_steering_study_has_the_contracts_fields(tmp_path, monkeypatch):
    few = [head(num=48, columns=48)]
    for cases in ("required_cases", "interior_cases"):
        monkeypatch.setattr(f"bluesky_streamrecon.evaluation.steering.{cases}", lambda **_: few)
    report = evaluate_steering(columns=32, kinds=("ellipses", "interior"))
    report.write(tmp_path)
    assert {"median_saving", "oracle_share", "false_stops", "calibrated_share", "cases"} <= set(report.fields)
    wanted = "sample noise seed stopped_at planned quality_loss oracle_stop paper_stop paper_loss"
    assert all(set(wanted.split()) <= set(case) for case in report.fields["cases"])
    assert [(row["kind"], row["cases"]) for row in report.fields["kinds"]] == [("ellipses", 1), ("interior", 1)]
    assert len(report.fields["curves"]) == 2
    assert (tmp_path / "steering_curves.png").read_bytes().startswith(PNG)
    assert len(table(tmp_path / "steering_ellipses.csv")) == 1


def test_kinds_of_samples_are_tried_alone_and_each_is_summarized(tmp_path, monkeypatch):
    def small(kind, *, columns):
        assert columns == 96
        return [head(num=48, columns=48, sample=Kind(kind))]

    monkeypatch.setattr("bluesky_streamrecon.evaluation.steering.kind_cases", small)
    report = evaluate_steering(study_columns=32, kinds=("fibres", "texture"))
    report.write(tmp_path)
    assert [row["kind"] for row in report.fields["kinds"]] == ["fibres", "texture"]
    assert report.fields["summary"]["cases"] == len(report.fields["cases"]) == 2
    assert (tmp_path / "steering_fibres.png").read_bytes().startswith(PNG)
    with pytest.raises(ConfigError, match=r"expected some of ellipses, .*texture, fibres"):
        evaluate_steering(kinds=("velvet",))


def test_cases_of_a_kind_are_the_same_each_time_and_hold_what_preparation_leaves():
    first, again = kind_cases("layers", columns=128), kind_cases("layers", only=[4, 10])
    assert [scan.name for scan in first] == ["layers", "layers, half acquisition"]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.integrals, other.integrals)
    half = first[-1]
    assert (half.span, half.axis) == ((0.0, 360.0), 20.0)
    assert half.size == half.known.width == 2 * 108 - 1
    assert half.known.similarity(finish(half)) > 0.9


def test_settings_are_compared_on_the_same_scans(tmp_path):
    choices = ("window_policy=newest", "window_policy=spread", "older=0.5", "initial=1.0", "step=6 algorithm=osem")
    report = load_study("settings").evaluate_settings(choices, columns=48, order="fixed")
    report.write(tmp_path)
    rows = report.fields["rows"]
    assert len(rows) == 6 * len(choices) == len(table(tmp_path / "settings.csv"))
    newest, spread, older, initial, _ = ([row for row in rows if row["choice"] == choice] for choice in choices)
    assert [(row["sample"], row["noise"]) for row in newest] == [(row["sample"], row["noise"]) for row in spread]
    assert np.mean([row["end"] for row in spread]) > np.mean([row["end"] for row in newest])
    without = [{name: value for name, value in row.items() if name != "choice"} for row in spread]
    assert [{name: value for name, value in row.items() if name != "choice"} for row in older] == without
    for one, other in zip(initial, spread, strict=True):
        assert one["end"] == pytest.approx(other["end"], abs=0.01)  # MLEM forgets
    assert (tmp_path / "settings.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("words", "named"), [("step", "step"), ("step=none", "step"), ("subsets", "NAME=VALUE")])
def test_a_choice_that_can_not_be_read_is_named(words, named):
    with pytest.raises(ConfigError, match=named):
        load_study("settings").read_choice(words)
