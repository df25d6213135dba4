"""Policies that stop by what a scientist measures: the number at the end is predicted, and says whether it can be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from study import load_study

from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.evaluation.scans import simulated_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.quality import Evidence, ScanLines, ScoredImage, get_policy, make_metric, measurements, session
from bluesky_streamrecon.quality.forecast import Forecast
from bluesky_streamrecon.quality.gain import predict_gain
from bluesky_streamrecon.quality.measurement_policy import Halved, predict_final
from bluesky_streamrecon.quality.session import SteeringSession
from bluesky_streamrecon.quality.trial_metrics import ring_correlation
from bluesky_streamrecon.quality.trials import TrialReconstruction, display_range, similarity
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices.samples import Foam

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "stop-by-what-you-measure.md"


@pytest.fixture(scope="module")
def recipe():
    reconstructor = QuickReconstructor()
    reconstructor.warm_up()
    return reconstructor


@pytest.fixture
def registered(monkeypatch):
    """Register measurements for one test."""
    monkeypatch.setattr(measurements.measurements, "_added", {})
    return measurements.measurements.add


def judge(values, *, planned=180, every=9, **options):
    """Judge as if this had been measured from 36 projections on: of all views, and of the halves."""
    forecasts = [
        Forecast(36 + every * number, metrics={"measurement": whole, "measurement-half-1": a, "measurement-half-2": b})
        for number, (whole, a, b) in enumerate(values)
    ]
    policy = get_policy("measurement")(
        SteeringSettings(policy="measurement", options={"measure": "porosity"} | options)
    )
    now = forecasts[-1].projections
    return policy.judge(Evidence([ScoredImage(now, now, {})], planned, forecasts=forecasts))


def settling(number):
    return [(0.2 + 0.5 / m, 0.2 + 1.02 / m, 0.2 + 0.98 / m) for m in range(36, 36 + 9 * number, 9)]


def test_scan_ends_when_the_final_value_is_known_as_well_as_asked_for():
    early = judge(settling(2), within=0.01)
    assert early.verdict == "continue"
    assert early.text.endswith("2 of 4 measurements that a prediction needs, not before 36 projections")
    verdict = judge(settling(8), within=0.01)
    assert verdict.verdict == "enough"
    assert verdict.text.startswith("at 99 of 180 projections: porosity 0.2051 after 99 projections is predicted to be")
    assert verdict.metrics["measurement-low"] < 0.2 + 0.5 / 180 < verdict.metrics["measurement-high"]
    assert judge(settling(8), within="0.01%").verdict == "continue"
    assert judge(settling(8), within="5%").verdict == "enough"


def test_measurement_that_never_settles_never_stops_a_scan_and_says_so():
    rng = np.random.default_rng(3)
    values = [tuple(0.2 + 0.05 * rng.standard_normal(3)) for _ in range(16)]
    for count in range(4, 17):
        verdict = judge(values[:count], within=0.01)
        assert verdict.verdict == "continue"
    assert "porosity does not settle: 0." in verdict.text


def test_band_is_widened_by_earlier_predictions_that_were_wrong():
    history = [Halved(m, 0.2 + 0.5 / m, 0.2 + 1.01 / m, 0.2 + 0.99 / m) for m in range(36, 100, 9)]
    wrong = [*history[:-1], Halved(99, 0.26, 0.265, 0.265)]
    assert predict_final(wrong, 180).plus_minus > 3 * predict_final(history, 180).plus_minus


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "got measure=None, expected what to measure"),
        ({"measure": "porosity"}, "got within=None, expected how well"),
        ({"measure": "porosity", "within": "-1%"}, "got within='-1%'"),
        ({"measure": "porosity", "within": 0.01, "treshold": 1.0}, "measurement 'porosity': .*'treshold'"),
        ({"measure": "no-such", "within": 0.01}, "got 'no-such', expected one of largest-pore, mean-attenuation"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_the_scan(options, said):
    with pytest.raises(ConfigError, match=said):
        get_policy("measurement")(SteeringSettings(policy="measurement", options=options))


def test_shipped_measurements_are_right_on_a_known_image():
    place = np.arange(128) - 63.5
    x, y = np.meshgrid(place, -place)
    image = (np.hypot(x, y) < 60).astype(np.float32)
    image[np.hypot(x - 20, y) < 10] = 0
    image[np.hypot(x, y - 30) < 6] = 0
    slices = image[None]
    assert measurements.porosity(slices, 1.0) == pytest.approx((10**2 + 6**2) / 58**2, rel=0.05)
    assert measurements.largest_pore(slices, 0.65) == pytest.approx(20 * 0.65, rel=0.03)
    assert measurements.mean_attenuation(slices, 0.65, x=13, y=0, radius=5) == 0
    assert measurements.mean_attenuation(slices, 0.65, x=-13, y=0, radius=5) == 1


@pytest.mark.parametrize("rule", ["measurement", "measurement+predicted-gain"])
def test_porosity_of_a_scan_is_inside_the_band_that_was_announced(simulate, drive, recipe, monkeypatch, rule):
    """Images from half and from all views are made once, also where two policies need them."""
    made = []
    reconstruct = recipe.reconstruct
    monkeypatch.setattr(recipe, "reconstruct", lambda *a, **k: made.append(len(a[0])) or reconstruct(*a, **k))
    simulated = simulate(Foam(pores=30), counts=1e5, order=make_order("optimized-interleaved", num=180))
    options = {"measure": "porosity", "within": 0.01}
    scores, enough = drive(simulated, policy=rule, options=options, reconstructor=recipe)
    assert enough is not None
    assert 36 < enough.projections < 150
    monkeypatch.undo()
    final = measurements.porosity(TrialReconstruction(simulated.lines, (0, 1), recipe).full, 1.0)
    low, high = (enough.metrics[f"measurement-{end}"] for end in ("low", "high"))
    assert low <= final <= high
    assert high - low <= 0.02
    assert "porosity" in enough.text
    forecasts = len({score.metrics.get("measurement") for score in scores} - {None})
    assert len(made) == forecasts * (3 if rule == "measurement" else 4)  # that with more noise is the gain's alone


def test_function_of_ones_own_may_return_a_few_named_numbers(simulate, drive, recipe, registered):
    def extremes(slices, pixel, *, share=0.5):
        return {"top": float(np.quantile(slices, 1 - share / 2)), "middle": float(np.quantile(slices, 0.5))}

    registered("extremes", extremes)
    options = {"measure": "extremes", "within": "50%", "share": 0.2}
    scores, _ = drive(simulate(counts=1e5), policy="measurement", options=options, reconstructor=recipe)
    assert {"measurement-top", "measurement-middle", "measurement-top-low"} <= scores[-1].metrics.keys()
    assert "extremes top" in scores[-1].text


def test_pixel_size_is_the_detectors_also_where_blocks_of_its_pixels_are_averaged(
    simulate, recipe, open_run, monkeypatch
):
    study, told, known = TrialReconstruction(simulate().upto(60), (0, 1), recipe), [], session.get_policy
    monkeypatch.setattr(
        session, "get_policy", lambda rule: lambda given: told.append(given.options["pixel_size"]) or known(rule)(given)
    )
    measured = []
    for side in (1, 2):
        options = {"measure": "largest-pore", "within": "90%", "resolution": 9.0, "pixel_size": 0.5}
        run = open_run(policy="measurement+resolution", options=options)
        run = msgspec.structs.replace(run, recon=ReconSettings(bin=side))
        metrics = {metric.name: metric for metric in SteeringSession(run)._forecaster._metrics}
        measured.append(metrics["measurement"].measure(study)[""])
    assert told == [0.5, 1.0]
    assert measured[1] == pytest.approx(2 * measured[0])


def test_region_is_judged_as_an_image_cropped_to_it(simulate, recipe):
    """The remaining gain, the resolution and what is measured are those within the rectangle."""
    left, top, right, bottom = region = (20, 30, 76, 70)
    lines = simulate().upto(60)
    whole, part = (TrialReconstruction(lines, (0, 1), recipe, region=each) for each in (None, region))
    full, halves = whole.full[:, top:bottom, left:right], [h[:, top:bottom, left:right] for h in whole.halves]
    lost = [1 - similarity(half[row], full[row], display_range(full[row])) for row in (0, 1) for half in halves]
    assert predict_gain(part).doubling == pytest.approx(np.mean(lost))
    mean = make_metric("measurement", SteeringSettings(options={"measure": "mean-attenuation"}), 24)
    assert mean.measure(part)[""] == pytest.approx(full.mean())
    correlated = [ring_correlation(*pair) for pair in zip(*halves, strict=True)]
    assert np.mean(correlated, axis=0).shape == (56 // 2 + 1,)
    resolution = make_metric("half-set-frc", SteeringSettings(), 24)
    assert resolution.measure(part)[""] != resolution.measure(whole)[""]
    with pytest.raises(DataError, match=r"region: got .*, which is outside the image of 96 x 96 pixels"):
        TrialReconstruction(lines, (0, 1), recipe, region=(0, 0, 97, 40))


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        ({}, (slice(30, 70), slice(20, 76))),
        ({"mirrored": True}, (slice(96 - 70, 96 - 30), slice(20, 76))),
        ({"size": 80}, (slice(38, 78), slice(28, 84))),
        ({"size": 80, "mirrored": True}, (slice(8 + 80 - 70, 8 + 80 - 30), slice(28, 84))),
    ],
)
def test_region_is_the_part_that_it_is_in_the_image_of_the_run_however_that_is_shown(simulate, recipe, image, shown):
    """A sample that turns clockwise is shown as the mirror image, and an image may be narrower than the detector."""
    lines = simulate().upto(60)
    part = TrialReconstruction(replace(lines, **image), (0, 1), recipe, region=(20, 30, 76, 70))
    whole = TrialReconstruction(lines, (0, 1), recipe)
    np.testing.assert_array_equal(part.seen(part.full[0]), whole.full[0][shown])


def test_rings_of_a_rectangle_are_those_of_its_periods():
    x = np.arange(96)
    wave = np.cos(2 * np.pi * x / 8)[None, :] * np.ones((64, 1))
    rng = np.random.default_rng(0)
    first, second = (wave + 0.2 * rng.standard_normal(wave.shape) for _ in range(2))
    correlation = ring_correlation(first.astype(np.float32), second.astype(np.float32))
    assert len(correlation) == 96 // 2 + 1
    assert int(np.argmax(correlation)) == 96 // 8
    across = ring_correlation(first.T.astype(np.float32), second.T.astype(np.float32))
    assert int(np.argmax(across)) == 96 // 8


def test_function_that_fails_stops_nothing_and_is_named_in_the_text(simulate, drive, recipe, registered):
    registered("broken", lambda slices, pixel: 1 / 0)
    options = {"measure": "broken", "within": 1}
    scores, enough = drive(simulate(), policy="measurement", options=options, reconstructor=recipe)
    assert enough is None
    assert "metric 'measurement' failed: ZeroDivisionError" in scores[-1].text


# ------------------------------------------------------------------------------------------------ resolution


def test_scan_ends_when_the_resolution_asked_for_is_reached_or_the_rest_brings_little():
    def judge(now, final=None, planned=180, **options):
        values = {"half-set-frc": now}
        if final is not None:
            values |= {"half-set-frc-final": final, "half-set-frc-planned": 180.0}
        settings = SteeringSettings(policy="resolution", options=options)
        evidence = Evidence([ScoredImage(99, 99, {})], planned, forecasts=[Forecast(99, metrics=values)])
        return get_policy("resolution")(settings).judge(evidence)

    assert judge(5.0, resolution=4.9).verdict == "continue"
    assert judge(5.0, resolution=5.0).verdict == "enough"
    assert judge(5.0, resolution=3.3, pixel_size=0.65).verdict == "enough"
    assert "resolution 3.25 µm after 99 projections" in judge(5.0, resolution=3.3, pixel_size=0.65).text
    assert judge(5.0, 4.8, least_share=0.05).verdict == "enough"
    assert judge(5.0, 4.7, least_share=0.05).verdict == "continue"
    assert judge(5.0, 4.8, planned=240, least_share=0.05).verdict == "continue"  # that was for a shorter plan


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "got neither resolution nor least_share"),
        ({"resolution": -1}, "got resolution=-1, expected a number above 0"),
        ({"least_share": 1.5}, "got least_share=1.5, expected a share between 0 and 1"),
        ({"resolutoin": 4.0, "least_share": 0.1}, "got option 'resolutoin', expected one of resolution, pixel_size"),
    ],
)
def test_resolution_that_can_not_be_asked_for_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        get_policy("resolution")(SteeringSettings(policy="resolution", options=options))


def test_resolution_at_the_end_is_predicted_to_within_15_percent(recipe):
    order = make_order("optimized-interleaved", num=120)
    scan = simulated_scan("foam", Foam(pores=60), columns=128, order=order, counts=1e5, rows=3)

    def frc(count, **more):
        lines = ScanLines(scan.integrals[:count], scan.angles[:count], scan.axis, (0, 1, 2), planned=120, **more)
        return make_metric("half-set-frc", SteeringSettings(), 0).measure(TrialReconstruction(lines, range(3), recipe))

    end = frc(120)
    assert end["final"] == end[""]
    assert "final" not in frc(72)
    for count in (84, 108):
        assert frc(count)["final"] == pytest.approx(end[""], rel=0.15)
    assert frc(90, allowed=108)["budget"] == pytest.approx(frc(108)[""], rel=0.15)
    assert "budget" not in frc(48, allowed=90)


# ---------------------------------------------------------------------------------------------------- how-to


def test_lines_of_the_how_to_work_as_printed(registered, simulate, drive, recipe):
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(blocks[1], names)
    registered("wall-thickness", names["wall_thickness"])
    asked = []
    for block in (blocks[0], *blocks[2:]):
        plan = {"stream_tomo_plan": lambda **settings: settings, "RE": asked.append}
        exec(block, plan)
    settings = [SteeringSettings(policy=each["policy"], options=each["policy_options"]) for each in asked]
    assert [get_policy(each.rule)(each).name for each in settings] == ["measurement", "measurement", "resolution"]
    _, enough = drive(simulate(counts=1e5), policy="measurement", options=settings[1].options, reconstructor=recipe)
    assert "wall-thickness" in enough.text


def test_study_of_measurements_finds_final_values_inside_the_bands():
    report = load_study("measurements").evaluate_measurements(columns=96, num=72, seeds=1, asked=["porosity"])
    assert len(report.fields["cases"]) == 12
    assert {row["sample"] for row in report.fields["summary"]} == {"all", "foam", "grains", "porous"}
    everything = report.fields["summary"][0]
    assert everything["cases"] == 12
    assert everything["in_band"] >= 0.85
