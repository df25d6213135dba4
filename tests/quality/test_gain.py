"""The predicted gain: right about what is left of a simulated scan, and said in words that a person can act on."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import median_filter

from bluesky_streamrecon.coverage import AngularRange, largest_gap
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.cases import kind_cases
from bluesky_streamrecon.evaluation.images import finish
from bluesky_streamrecon.evaluation.scans import simulated_scan
from bluesky_streamrecon.ordering import make_order, optimized_interleaved
from bluesky_streamrecon.quality import Evidence, ScoredImage, get_policy, make_metric
from bluesky_streamrecon.quality.forecast import Forecast, fewest_views
from bluesky_streamrecon.quality.gain import UNEVEN, Gain, band, predict_gain, saturation
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.policy import at_budget, measured_by
from bluesky_streamrecon.quality.trials import TrialReconstruction, display_range, in_view, similarity
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.settings import SteeringSettings
from bluesky_streamrecon.sim_devices.samples import Discs, Foam
from bluesky_streamrecon.wire import ChangeRun

COLUMNS = 192
WEDGE = AngularRange(math.radians(-60), math.radians(60))


@pytest.fixture(scope="module")
def recipe():
    reconstructor = QuickReconstructor()
    reconstructor.warm_up()
    return reconstructor


def loss(simulated, truth, count, recipe):
    """What the projections after the first `count` add, MS-SSIM to the truth, mean over rows."""
    shown = np.ptp(truth, axis=(1, 2))

    def quality(projections):
        images = TrialReconstruction(simulated.upto(projections), range(len(truth)), recipe).full
        return np.mean([similarity(*pair) for pair in zip(images, truth, shown, strict=True)])

    return quality(simulated.lines.planned) - quality(count)


@pytest.mark.parametrize(
    ("sample", "counts", "order"),
    [
        (Foam(pores=90), 1e3, optimized_interleaved(120)),
        (Discs(), 1e4, optimized_interleaved(120)),
        (Foam(pores=90), 1e5, make_order("golden", num=120)),
    ],
    ids=["noisy foam", "discs", "golden foam"],
)
def test_true_gain_is_inside_the_band(simulate, recipe, sample, counts, order):
    simulated = simulate(sample, counts=counts, order=order, columns=COLUMNS)
    truth = sample.body(2, 0.43 * COLUMNS).image(COLUMNS)
    for count in (48, 84):
        gain = predict_gain(TrialReconstruction(simulated.upto(count), [0, 1], recipe))
        assert gain.lower <= loss(simulated, truth, count, recipe) <= gain.upper


def test_what_noise_costs_is_known_although_similarity_saturates():
    """Half of the views and all, both halves, and what the last 60 % of a scan gain, of an image with this noise."""
    noise, left = np.array([0.001, 0.02, 0.1, 0.3]), 0.4
    doubling, between = noise / (1 + 3 * noise), 4 * noise / (1 + 4 * noise)
    gained = noise / (1 + noise) - left * noise / (1 + left * noise)
    found = doubling * (1 - left) * saturation(doubling, between, left)
    np.testing.assert_allclose(found, gained, rtol=1e-6)
    assert saturation(np.array([0.03]), np.array([0.2]), left) == 1  # not of noise alone: never less than in proportion
    assert saturation(np.array([0.03]), np.array([0.03]), left) == saturation(np.array([0.05]), np.array([0.16]), left)


def test_evenly_spread_views_have_less_to_gain_than_uneven_ones_of_nearly_the_same_arcs(recipe, monkeypatch):
    """After three quarters of a round of the interleaved order, and at its end, both as a share of what is gained."""
    order = make_order("optimized-interleaved", num=128)
    scan = simulated_scan("discs", Discs(), columns=COLUMNS, order=order, counts=1e6)
    whole, off = scan.truth.similarity(finish(scan)), []
    for uneven in (UNEVEN, 0.0):
        monkeypatch.setattr("bluesky_streamrecon.quality.gain.UNEVEN", uneven)
        shares = []
        for part in (scan.first(56), scan.first(64)):
            lines = ScanLines(part.integrals, part.angles, scan.axis, (0,), planned=128)
            gain = predict_gain(TrialReconstruction(lines, [0], recipe)).gain
            shares.append(gain / (whole - scan.truth.similarity(finish(part))))
        off.append(shares[1] / shares[0])
    assert 1 < off[0] < 0.9 * off[1]


def test_half_acquisition_is_not_ended_in_the_middle_of_a_round_for_what_its_end_still_adds(recipe):
    """A honeycomb that lost 0.0206 at 210 of 300 projections, where 0.0183 at most was predicted."""
    (scan,) = kind_cases("honeycomb", seed=14, only=[10])
    part = scan.first(210)
    study = TrialReconstruction(
        ScanLines(part.integrals, part.angles, scan.axis, (0,), 300, scan.over, size=scan.size), [0], recipe
    )
    loss = scan.truth.similarity(finish(scan)) - scan.truth.similarity(study.full)
    gain = predict_gain(study)
    assert max(gain.lower, 0.02) < loss < gain.upper


@pytest.mark.parametrize(("predicted", "true"), [(0.0136, 0.0180), (0.0769, 0.1478), (0.0736, 0.138), (0.036, 0.017)])
def test_band_holds_what_samples_of_other_kinds_gained(predicted, true):
    """What is porous, and a honeycomb, both with fringes, speckle in few views, and detail of one size."""
    lower, upper = band(predicted)
    assert lower <= true <= upper
    assert band(0.0145)[1] > 0.02 > band(0.0144)[1]  # where scans stop


def test_more_photons_and_more_views_leave_less_to_gain(simulate, recipe):
    gains = [
        predict_gain(TrialReconstruction(simulate(counts=counts).upto(count), [0], recipe))
        for counts, count in ((1e3, 48), (1e5, 48), (1e5, 96))
    ]
    assert gains[0].gain > gains[1].gain > gains[2].gain
    assert gains[0].noise_share > gains[1].noise_share


def test_complete_scan_has_nothing_to_gain(simulate, recipe):
    gain = predict_gain(TrialReconstruction(simulate().lines, [0, 1], recipe))
    assert (gain.gain, gain.lower) == (pytest.approx(0, abs=1e-6), 0)
    assert gain.upper < 0.002


def test_same_data_give_the_same_prediction_however_often(simulate, recipe):
    lines = simulate().upto(60)
    assert predict_gain(TrialReconstruction(lines, [0], recipe)) == predict_gain(
        TrialReconstruction(lines, [0], recipe)
    )


def test_wide_detectors_are_studied_in_pairs_of_pixels(simulate, recipe, monkeypatch):
    simulated = simulate(columns=193)
    whole = predict_gain(TrialReconstruction(simulated.upto(60), [0], recipe))
    monkeypatch.setattr("bluesky_streamrecon.quality.trials.UNBINNED", 128)
    study = TrialReconstruction(simulated.upto(60), [0], recipe)
    assert (study.binning, study.full.shape, study.axis) == (
        2,
        (1, 96, 96),
        pytest.approx((simulated.lines.axis - 0.5) / 2),
    )
    assert predict_gain(study).gain == pytest.approx(whole.gain, rel=0.5)


def test_only_noise_counts_for_more_where_binned_images_lack_the_finest_level(simulate, recipe, monkeypatch):
    simulated = simulate(columns=193)
    monkeypatch.setattr("bluesky_streamrecon.quality.trials.UNBINNED", 128)
    study = TrialReconstruction(simulated.upto(60), [0], recipe)
    found = predict_gain(study)
    monkeypatch.setattr("bluesky_streamrecon.quality.gain.NOISE_OF_BINNING", 1.0)
    alone = predict_gain(study)
    assert found.by_variance == pytest.approx(1.2 * alone.by_variance)
    assert found.by_aliasing == alone.by_aliasing > 0


def test_scan_ends_by_the_predicted_gain_and_says_so_in_words(simulate, drive, recipe):
    scores, enough = drive(simulate(counts=1e5), reconstructor=recipe)
    assert enough is not None
    assert 24 <= enough.projections < 120
    assert enough.score == scores[-1].score
    made = int(scores[-1].metrics["predicted-gain-at"])
    assert enough.text.startswith(f"at {enough.projections} of 120 projections: ")
    assert f"the remaining {120 - made} " in enough.text
    assert "predicted to improve the image by 0.0" in enough.text
    assert " (tolerance 0.02); MS-SSIM 0.9" in enough.text
    assert scores[-1].metrics["predicted-gain"] < scores[-1].metrics["predicted-gain-high"] < 0.02
    assert scores[-1].policy == "predicted-gain"
    assert min(score.metrics.get("predicted-gain-at", 120) for score in scores) == 24  # as soon as one can be made


def test_noisy_scan_goes_on_longer_than_a_clean_one(simulate, drive, recipe):
    ends = []
    for counts in (1e3, 1e5):
        scores, enough = drive(simulate(counts=counts), reconstructor=recipe)
        ends.append(enough.projections if enough else 121)
        assert any("more are needed" in score.text or "all of them are needed" in score.text for score in scores)
    assert ends[0] > ends[1]


def test_ms_ssim_is_the_score_whatever_the_policy(simulate, drive, recipe):
    scores, _ = drive(simulate(counts=1e5), reconstructor=recipe)
    assert all(score.score == score.metrics["ms-ssim"] for score in scores)
    assert scores[-1].score > 0.5


def test_fixed_order_is_not_predicted_before_it_is_through(simulate, drive, recipe):
    scores, enough = drive(simulate(order=make_order("fixed", num=60)), reconstructor=recipe)
    assert enough is None or enough.projections > 50
    assert any("angles so far are too uneven" in score.text for score in scores)


def test_controller_without_a_recipe_says_so_and_never_stops(simulate, drive):
    scores, enough = drive(simulate())
    assert enough is None
    assert "this controller has nothing to reconstruct with" in scores[-1].text


def test_run_that_is_made_longer_is_predicted_anew_for_the_longer_plan(simulate, drive, recipe):
    scan = simulate(counts=1e3)
    short = replace(scan, lines=replace(scan.lines, planned=72))
    given = {"reconstructor": recipe, "minimum_projections": 61, "advisory": True}
    first, _ = drive(short, **given)
    longer, _ = drive(short, changes={60: ChangeRun(run_uid="run-1", planned=120)}, **given)
    whole, _ = drive(scan, **given)
    at = 60 // 3
    assert [score.text for score in longer[:at]] == [score.text for score in first[:at]]
    assert first[at].verdict == "enough"
    assert longer[at].text.startswith("at 63 of 120 projections: the remaining 57 are predicted to improve")
    assert [score.text for score in longer[at:] if score.verdict == "enough"] != []
    assert all(" of 120 projections" in score.text for score in longer[at:])
    made = [
        {score.metrics.get("predicted-gain-at"): score.metrics.get("predicted-gain") for score in run}
        for run in (longer, whole)
    ]
    assert len(common := {63, 69, 75, 81, 87, 93, 99, 105, 111, 117} & made[0].keys() & made[1].keys()) > 3
    assert {at: made[0][at] for at in common} == {at: made[1][at] for at in common}


def test_prediction_for_a_shorter_plan_stops_nothing_and_counts_for_no_patience():
    short, long = Forecast(60, gain=gain(60, 0.015)), Forecast(70, gain=gain(70, 0.015, planned=240))
    assert judge(evidence(short, planned=240)).text.startswith("at 60 of 240 projections: no prediction: ")
    assert judge(evidence(short, long, planned=240)).verdict == "enough"
    assert judge(evidence(short, long, planned=240), patience=2).verdict == "continue"
    assert judge(evidence(long, long, planned=240), patience=2).verdict == "enough"


# ------------------------------------------------------------------------------------------------- policies


def gain(projections, upper, planned=180, value=None):
    return Gain(upper / 1.7 if value is None else value, 0.0, upper, projections, planned, 0.5, 0.05, 1.0, 0.01, 256)


def evidence(*forecasts, projections=None, planned=180, score=0.97, **more):
    at = projections or forecasts[-1].projections
    images = [ScoredImage(at, at, {"ms-ssim": score})]
    return Evidence(images, planned, 24, forecasts=forecasts, **more)


def judge(given, **settings):
    settings = SteeringSettings(**settings)
    return get_policy(settings.rule)(settings).judge(given)


def at_end_of_budget(policy, given, **settings):
    return at_budget(get_policy(policy)(SteeringSettings(policy=policy, **settings)), given)


def test_words_of_the_policy():
    verdict = judge(evidence(Forecast(140, gain=gain(140, 0.0121, value=0.0081))))
    assert verdict.verdict == "enough"
    assert verdict.text == (
        "at 140 of 180 projections: the remaining 40 are predicted to improve the image by 0.008 MS-SSIM, at most "
        "0.012 (tolerance 0.02); MS-SSIM 0.970 to the image 24 projections before"
    )
    verdict = judge(evidence(Forecast(90, gain=replace(gain(90, 0.03), by_variance=3.0)), projections=91))
    assert verdict.verdict == "continue"
    assert verdict.text.startswith(
        "at 91 of 180 projections: after 90, the remaining 90 were predicted to improve the image by 0.018 MS-SSIM, "
        "at most 0.030 (tolerance 0.02); about "
    )
    assert verdict.text.endswith(" more are needed; MS-SSIM 0.970 to the image 24 projections before")


def test_how_good_the_image_is_when_a_budget_ends_the_scan_is_said_beforehand(simulate, recipe):
    predicted = predict_gain(TrialReconstruction(simulate().upto(60), (0, 1), recipe))
    assert predicted.left_at(60, AngularRange()) == pytest.approx(predicted.gain, rel=0.2)
    assert predicted.left_at(120, AngularRange()) == 0
    text = at_end_of_budget("predicted-gain", evidence(Forecast(60, gain=predicted), planned=120, allowed=90))
    left = predicted.left_at(90, AngularRange())
    assert 0 < left < predicted.gain
    assert f"the budget ends the scan after about 90, with an image predicted to be {left:.3f} MS-SSIM from" in text
    assert at_end_of_budget("predicted-gain", evidence(Forecast(60, gain=predicted), planned=120, allowed=120)) == ""


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("ms-ssim", "with no prediction of the image then (policy 'ms-ssim' makes none)"),
        ("predicted-gain", "with no prediction of the image then yet"),
        ("measurement", "with porosity 0.3001 ± 0.00047 predicted"),
        ("resolution", "with a resolution of 3.25 µm predicted after 88"),
        ("ms-ssim|resolution", "with no prediction of the image then (policy 'ms-ssim' makes none) and a resolution"),
    ],
)
def test_each_policy_says_what_it_predicts_for_the_end_of_a_budget(policy, said):
    frc = {"half-set-frc": 6.0, "half-set-frc-budget": 5.0, "half-set-frc-allowed": 88.0}
    names = ("measurement", "measurement-half-1", "measurement-half-2")
    made = [Forecast(m, metrics={**frc, **dict.fromkeys(names, 0.3 + 1e-4 * (m % 8 == 0))}) for m in range(50, 65, 2)]
    options = {"measure": "porosity", "within": 0.01, "resolution": 2.0, "pixel_size": 0.65}
    settings = {} if policy in ("ms-ssim", "predicted-gain") else {"options": options}
    given = evidence(*made, planned=120, allowed=90)
    assert f"; the budget ends the scan after about 90, {said}" in at_end_of_budget(policy, given, **settings)


def test_budget_is_in_the_text_of_a_verdict_that_lets_the_scan_go_on(simulate, drive, recipe):
    given = {"reconstructor": recipe, "policy": "resolution", "options": {"least_share": 0.001}, "advisory": True}
    scores, _ = drive(simulate(), step=12, changes={48: ChangeRun(run_uid="run-1", allowed=100)}, **given)
    told = [score for score in scores if "the budget ends the scan after about 100" in score.text]
    assert [score.projections for score in told] == [60, 72, 84, 96]
    predicted = re.search(r"with a resolution of ([\d.]+) px predicted", told[-1].text)
    assert float(predicted[1]) == pytest.approx(scores[-1].metrics["half-set-frc"], rel=0.15)


@pytest.mark.parametrize(
    ("forecasts", "projections", "planned", "said"),
    [
        ((), 20, 180, "not before 36 projections"),
        ((Forecast(8),), 35, 180, "not before 36 projections"),
        ((Forecast(35),), 41, 180, "the first one is being made"),
        ((Forecast(36, why_not="angles"),), 36, 180, "angles"),
        ((Forecast(36, why_not="angles"),), 41, 180, "angles (at 36 projections)"),
        ((Forecast(20),), 20, 24, "not before 24 projections"),
        ((Forecast(23),), 24, 24, "all projections are taken"),
        ((Forecast(8),), 12, 16, "not before 24 projections, and 16 are planned"),
        ((Forecast(8),), 16, 16, "all projections are taken"),
        ((Forecast(60),), 60, 0, "the first one is being made"),
    ],
)
def test_why_there_is_no_prediction_is_true_at_every_moment(forecasts, projections, planned, said):
    of = f" of {planned}" if planned else ""
    given = evidence(*forecasts, projections=projections, planned=planned, score=None)
    assert judge(given).text == f"at {projections}{of} projections: no prediction: {said}"


def test_prediction_that_is_old_says_when_it_was_made_and_why_there_is_no_newer_one():
    made = Forecast(57, gain=gain(57, 0.03))
    end = judge(evidence(made, projections=180, score=None))
    assert (end.verdict, end.text) == (
        "continue",
        "at 180 of 180 projections: after 57, the remaining 123 were predicted to improve the image by 0.018 MS-SSIM, "
        "at most 0.030 (tolerance 0.02)",
    )
    refused = judge(evidence(made, Forecast(66, why_not="angles so far are too uneven"), score=None))
    assert "(tolerance 0.02); no newer prediction: angles so far are too uneven; " in refused.text


def test_prediction_is_not_reported_any_more_once_the_data_have_a_fault():
    made = Forecast(57, gain=gain(57, 0.03))
    assert measured_by([made, Forecast(66)], 180)["predicted-gain-at"] == 57
    assert measured_by([made, Forecast(66, fault="the sample moves on its mount")], 180) == {}


def test_combined_policies_say_once_how_far_the_scan_is():
    given = evidence(Forecast(60, gain=gain(60, 0.015)), score=0.97)
    text = judge(given, policy="ms-ssim+predicted-gain").text
    assert text.startswith("at 60 of 180 projections: MS-SSIM 0.970 >= 0.95; the remaining 120 are predicted ")


def test_tolerance_patience_minimum_and_coverage_all_count():
    low, high = Forecast(60, gain=gain(60, 0.015)), Forecast(50, gain=gain(50, 0.03))
    assert judge(evidence(low)).verdict == "enough"
    assert judge(evidence(low), tolerance=0.01).verdict == "continue"
    assert judge(evidence(high, low), patience=2).verdict == "continue"
    assert judge(evidence(low, low), patience=2).verdict == "enough"
    assert "not before 70 projections" in judge(evidence(low), minimum_projections=70).text
    short = Forecast(60, gain=gain(60, 0.015, planned=600))
    assert "not before 120 projections" in judge(evidence(short, planned=600)).text
    assert judge(evidence(low, largest_gap=4.0), minimum_coverage=3.0).verdict == "continue"
    assert judge(evidence(low, largest_gap=3.0), minimum_coverage=3.0).verdict == "enough"


def test_prediction_holds_until_the_next_one_can_be_made():
    made, not_made = Forecast(60, gain=gain(60, 0.015)), Forecast(69, why_not="the prediction failed: x")
    assert judge(evidence(made, not_made)).verdict == "enough"
    assert judge(evidence(not_made)).text.startswith(
        "at 69 of 180 projections: no prediction: the prediction failed: x"
    )


@pytest.mark.parametrize(
    ("name", "score", "upper", "verdict"),
    [
        ("ms-ssim+predicted-gain", 0.97, 0.015, "enough"),
        ("ms-ssim+predicted-gain", 0.90, 0.015, "continue"),
        ("ms-ssim+predicted-gain", 0.97, 0.03, "continue"),
        ("ms-ssim|predicted-gain", 0.90, 0.015, "enough"),
        ("ms-ssim | predicted-gain", 0.97, 0.03, "enough"),
        ("ms-ssim|predicted-gain", 0.90, 0.03, "continue"),
        ("ms-ssim+ms-ssim|predicted-gain", 0.90, 0.015, "enough"),
    ],
)
def test_policies_are_combined_by_plus_and_bar(name, score, upper, verdict):
    judged = judge(evidence(Forecast(60, gain=gain(60, upper)), score=score), policy=name)
    assert (judged.verdict, judged.score) == (verdict, score)
    if verdict == "continue":
        assert "MS-SSIM" in judged.text
        assert "remaining" in judged.text


def test_part_of_a_combination_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="got 'no-such', expected one of change, measurement, ms-ssim"):
        get_policy("ms-ssim+no-such")


def test_threshold_alone_means_the_papers_rule_and_nothing_the_predicted_gain():
    assert SteeringSettings().rule == "predicted-gain"
    assert (SteeringSettings(threshold=0.9).rule, SteeringSettings(threshold=0.9).least_score) == ("ms-ssim", 0.9)
    with pytest.raises(ConfigError, match=r"threshold: got 0\.9 with policy='predicted-gain', which does not use it"):
        SteeringSettings(policy="predicted-gain", threshold=0.9)
    assert SteeringSettings(policy="ms-ssim+predicted-gain", threshold=0.9).least_score == 0.9
    assert SteeringSettings(policy="ms-ssim").least_score == 0.95
    with pytest.raises(ConfigError, match="tolerance: got 0"):
        SteeringSettings(tolerance=0.0)


@pytest.mark.parametrize(("planned", "asked", "fewest"), [(60, None, 24), (180, None, 36), (180, 10, 10), (180, 0, 8)])
def test_fewest_views_to_predict_from(planned, asked, fewest):
    assert fewest_views(planned, asked) == fewest


def test_predicted_end_is_where_the_band_falls_below_the_tolerance():
    made = Gain(0.02, 0.01, 0.03, 60, 180, 1.0, 0.06, by_variance=0.02 / (1 / 60 - 1 / 180), by_aliasing=0.0, size=256)
    end = made.enough_at(0.02, AngularRange())
    left = made.by_variance * (1 / end - 1 / 180)
    assert band(left)[1] < 0.02 <= band(made.by_variance * (1 / (end - 1) - 1 / 180))[1]
    assert made.enough_at(0.001, AngularRange()) is None


# ------------------------------------------------------------------------------------------------- coverage


def test_views_of_a_limited_scan_are_weighted_and_spread_over_its_own_range():
    angles = np.radians([-60, -20, 20])
    assert WEDGE.unevenness(angles) == pytest.approx(1)
    assert AngularRange().unevenness(angles) > 1.05
    assert WEDGE.variance(angles) == pytest.approx(1 / 3)
    np.testing.assert_allclose(np.degrees(WEDGE.even(3)), [-60, -20, 20])
    assert largest_gap(angles, WEDGE) == pytest.approx(40)
    assert largest_gap(np.radians([-10, 10]), WEDGE) == pytest.approx(50)


def test_full_turn_counts_views_from_the_back_as_views():
    turn = AngularRange(0, 2 * math.pi)
    assert turn.span == math.pi
    assert turn.variance(turn.even(360)) == pytest.approx(1 / 360)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"angle_start": "-60.0", "angle_stop": "60"}, WEDGE),
        ({"angle_start": "0", "angle_stop": "nonsense"}, AngularRange()),
        ({"angle_start": "10", "angle_stop": "10"}, AngularRange()),
        ({}, AngularRange()),
    ],
)
def test_range_is_read_from_the_runs_metadata(metadata, expected):
    assert AngularRange.from_metadata(metadata) == expected


def test_minimum_coverage_of_a_limited_scan_counts_its_own_range(simulate, drive):
    order = make_order("optimized-interleaved", num=48, start=-60, stop=60)
    told = {"angle_start": "-60", "angle_stop": "60"}
    simulated = simulate(order=order, over=WEDGE)
    _, enough = drive(
        simulated, policy="ms-ssim", minimum_projections=0, minimum_coverage=6.0, metadata=told, threshold=0.5
    )
    assert enough is not None
    assert drive(simulated, policy="ms-ssim", minimum_projections=0, minimum_coverage=6.0, threshold=0.5)[1] is None


# -------------------------------------------------------------------------------------- metrics, background


def test_metrics_of_line_integrals_are_reported_by_name(simulate, drive, recipe, monkeypatch):
    from bluesky_streamrecon.quality import PredictedGainPolicy, policy

    class Curious(PredictedGainPolicy):
        metrics = ("held-out-residual", "half-set-frc")

    monkeypatch.setattr(policy.policies, "_added", {**policy.policies._added, "curious": Curious})
    scores, _ = drive(simulate(counts=1e4), policy="curious", reconstructor=recipe)
    measured = [score.metrics for score in scores if score.metrics.get("half-set-frc") is not None]
    assert measured[0]["held-out-residual"] is None
    assert 0 < measured[-1]["held-out-residual"] < measured[2]["held-out-residual"] < 0.2
    assert 2.0 <= measured[-1]["half-set-frc"] < measured[0]["half-set-frc"] < 30


def test_identical_half_sets_agree_to_the_finest_period(simulate, recipe):
    study = TrialReconstruction(simulate().upto(48), [0], recipe)
    study.__dict__["halves"] = (study.full, study.full)
    assert make_metric("half-set-frc", SteeringSettings(), 24).measure(study)[""] == 2.0


def test_true_gain_of_an_interior_scan_with_rings_is_inside_the_band(recipe):
    """At 90 and 180 of 240 the views are uneven, and the image about the view is known from some of them only."""
    order = make_order("optimized-interleaved", num=240)
    scan = simulated_scan(
        "grains", Discs(balls=60), columns=96, order=order, counts=5e3, seed=100, fill=1.5, rings=0.02
    )
    assert scan.size == 120
    whole = scan.truth.similarity(finish(scan))
    for count in (90, 180):
        part = scan.first(count)
        lines = ScanLines(part.integrals, part.angles, part.axis, (0,), planned=240, size=part.size)
        gain = predict_gain(TrialReconstruction(lines, [0], recipe))
        assert gain.lower <= whole - scan.truth.similarity(finish(part)) <= gain.upper


def test_contrast_of_an_interior_scan_is_that_within_the_view():
    image = np.full((60, 60), 7.0, np.float32)
    image[10:50, 10:50] = 2.0
    image[22:38, 22:38] = 3.0
    assert display_range(image) == 5.0
    assert display_range(image, 40) == 1.0
    assert in_view(image, 40).shape == (40, 40)
    assert in_view(image, 40)[0, 0] == 0
    assert in_view(image, 60) is image


def test_display_range_leaves_out_single_pixels():
    image = np.zeros((40, 40), np.float32)
    image[10:30, 10:30] = 1.0
    image[5, 5] = 100.0
    assert display_range(image) == 1.0


@pytest.mark.parametrize("shape", [(33, 40), (5, 4), (1, 7)])
def test_display_range_is_that_of_medians_of_five_along_columns_and_rows(shape):
    image = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    smooth = median_filter(median_filter(image, size=(5, 1), mode="reflect"), size=(1, 5), mode="reflect")
    assert display_range(image) == float(smooth.max() - smooth.min())


@pytest.mark.parametrize(
    ("columns", "axis", "fill", "turn", "size"), [(97, 12.0, 0.9, 360, 169), (96, 49.3, 1.5, 180, 120)]
)
def test_trials_show_what_the_detector_sees_not_whole(recipe, columns, axis, fill, turn, size):
    """Half acquisition on a wide image; an interior scan with a margin, which does not count."""
    radius = fill * (columns - 0.5 - axis)
    sample = Foam(seed=3).body(1, radius)
    order = np.radians(np.array(optimized_interleaved(96, 0, turn)))
    values = np.stack([sample.projection(float(angle), columns, axis) for angle in order])
    over = AngularRange(0.0, math.radians(turn)).around(axis, columns)
    lines = ScanLines(values, order, axis, (0,), 96, over, size=size)
    study = TrialReconstruction(lines, [0], recipe)
    truth, width = sample.image(size)[0], study.seen(study.full[0]).shape[0]
    assert width == (size if turn == 360 else columns)
    shown = study.seen(study.full[0])
    difference = np.where(shown > 0, shown - study.seen(truth), 0)
    assert np.sqrt(np.mean(difference**2)) < 0.15 * np.ptp(truth)
    assert predict_gain(study).gain < 0.01  # all are taken
