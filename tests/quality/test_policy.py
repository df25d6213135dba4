"""The paper's rule stops when it should, says why, and can be replaced."""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.quality import (
    Evidence,
    MsSsimPolicy,
    Policy,
    ScoredImage,
    Verdict,
    get_policy,
)
from bluesky_streamrecon.quality.policy import policies
from bluesky_streamrecon.quality.session import SteeringSession
from bluesky_streamrecon.settings import SteeringSettings

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-policy.md"
METRIC_HOW_TO = HOW_TO.with_name("add-a-metric.md")


def evidence(*scores, projections=57, planned=180, gap=None):
    first = projections - len(scores) + 1
    images = [ScoredImage(first + i, first + i, {"ms-ssim": score}) for i, score in enumerate(scores)]
    return Evidence(images, planned, compare_to=24, largest_gap=gap)


def ms_ssim(**settings):
    return MsSsimPolicy(SteeringSettings(**settings))


def test_stops_with_score_threshold_and_counts_in_words():
    verdict = ms_ssim().judge(evidence(0.9, 0.95312))
    assert verdict == Verdict("enough", 0.95312, "at 57 of 180 projections: MS-SSIM 0.953 >= 0.95")


def test_goes_on_below_the_threshold_and_says_so():
    verdict = ms_ssim().judge(evidence(0.99, 0.912))
    assert verdict == Verdict("continue", 0.912, "at 57 of 180 projections: MS-SSIM 0.912 < 0.95")


def test_stops_at_the_first_score_when_it_is_high_enough_already():
    assert ms_ssim(threshold=0.5).judge(evidence(0.51)).verdict == "enough"
    assert ms_ssim(threshold=0.95).judge(evidence(0.95)).verdict == "enough"


def test_says_nothing_before_there_is_an_image_to_compare_with():
    verdict = ms_ssim().judge(evidence(None, projections=12))
    assert verdict == Verdict(
        "continue", None, "at 12 of 180 projections: no MS-SSIM yet: no image is 24 projections older"
    )


def test_threshold_of_one_never_stops_even_for_equal_images():
    verdict = ms_ssim(threshold=1.0).judge(evidence(1.0, 1.0))
    assert verdict.verdict == "continue"
    assert "a threshold of 1 never stops a scan" in verdict.text


def test_patience_asks_for_so_many_images_running():
    policy = ms_ssim(patience=3)
    said = [policy.judge(evidence(*scores)).verdict for scores in ([0.96] * 2, [0.96, 0.9, 0.96, 0.96], [0.96] * 3)]
    assert said == ["continue", "continue", "enough"]
    assert policy.judge(evidence(0.96, 0.97)).text.endswith(">= 0.95, for 2 of 3 images in a row")
    assert policy.judge(evidence(*[0.96] * 9)).text.endswith("for 3 of 3 images in a row")


@pytest.mark.parametrize("gap_in_scores", [None, math.nan])
def test_image_without_a_score_begins_the_count_anew(gap_in_scores):
    assert ms_ssim(patience=2).judge(evidence(0.99, gap_in_scores, 0.99)).verdict == "continue"


def test_never_stops_before_the_minimum_of_projections():
    policy = ms_ssim(minimum_projections=58)
    said = policy.judge(evidence(0.99)).text
    assert said == "at 57 of 180 projections: MS-SSIM 0.990 >= 0.95; not before 58 projections"
    assert policy.judge(evidence(0.99)).verdict == "continue"
    assert policy.judge(evidence(0.99, projections=58)).verdict == "enough"


def test_never_stops_before_the_angles_cover_enough():
    policy = ms_ssim(minimum_coverage=5)
    assert [policy.judge(evidence(0.99, gap=gap)).verdict for gap in (None, 5.625, 5.0, 2.8)] == [
        "continue",
        "continue",
        "enough",
        "enough",
    ]
    said = policy.judge(evidence(0.99, gap=5.625)).text
    assert said.endswith("not before gaps between angles are at most 5 deg (largest: 5.625 deg)")
    assert "and the angles are not known" in policy.judge(evidence(0.99)).text


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_score_that_is_no_number_never_stops(score):
    verdict = ms_ssim(threshold=0.1).judge(evidence(score))
    assert (verdict.verdict, verdict.score) == ("continue", None)
    assert "which can not be judged by" in verdict.text


@given(st.floats(0, 1), st.floats(0.001, 0.999))
def test_text_never_contradicts_the_verdict(score, threshold):
    verdict = ms_ssim(threshold=threshold).judge(evidence(score))
    shown = float(re.search(r"MS-SSIM (\S+) ", verdict.text)[1])
    assert (shown >= threshold) == (score >= threshold) == (verdict.verdict == "enough")


def test_unknown_number_of_planned_projections_is_left_out_of_the_text():
    assert ms_ssim().judge(evidence(0.96, planned=0)).text == "at 57 projections: MS-SSIM 0.960 >= 0.95"


def test_policy_is_made_from_the_settings_of_the_run():
    settings = SteeringSettings(threshold=0.9, patience=2, minimum_projections=30, minimum_coverage=10.0)
    policy = get_policy("ms-ssim")(settings)
    assert policy == MsSsimPolicy(settings)
    assert isinstance(policy, Policy)


def test_settings_that_can_not_work_are_refused():
    with pytest.raises(ConfigError, match="options tolerance, but it takes none"):
        get_policy("ms-ssim")(SteeringSettings(options={"tolerance": 0.02}))


def test_unknown_policy_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"stopping policy: got 'ms-sim', expected one of change, measurement"):
        get_policy("ms-sim")


def test_policy_of_an_installed_package_is_found_by_its_name(installed_package):
    source = (
        "class Policy:\n    name = 'their-policy'\n    metrics = ()\n"
        "    def judge(self, evidence): return self.threshold\n"
        "def make(settings):\n    made = Policy()\n    made.threshold = settings.threshold\n    return made\n"
    )
    installed_package("bluesky_streamrecon.policies", "their-policy", "their_policies", source, "make")
    assert policies.names() == ("change", "measurement", "ms-ssim", "predicted-gain", "resolution", "their-policy")
    assert get_policy("their-policy")(SteeringSettings(threshold=0.7)).judge(None) == 0.7


def test_package_that_can_not_be_imported_is_named(installed_package):
    installed_package("bluesky_streamrecon.policies", "broken", "broken_package", "import no_such_module", "make")
    with pytest.raises(ConfigError, match=r"'broken' is registered as broken_package:make .*ModuleNotFoundError"):
        get_policy("broken")


def test_example_of_the_how_to_works_as_printed(tmp_path, monkeypatch, open_run, preview, image):
    monkeypatch.setattr(policies, "_added", dict(policies._added))
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    assert len(blocks[0].splitlines()) <= 30
    (tmp_path / "example_of_a_policy.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("example_of_a_policy")
    session = SteeringSession(open_run(policy="settled", window=4, planned=12, options={"tolerance": 0.5}))
    judged = []
    for number in range(1, 13):
        session.accept(preview(number, pixels=image(number)))
        judged.append(session.judge())
    first = next(score for score in judged if score.verdict == "enough")
    assert "changed by" in first.text


def test_metric_of_the_how_to_is_recorded_and_ends_nothing_by_itself(installed_package, open_run, preview, image):
    text = METRIC_HOW_TO.read_text()
    assert len(text.splitlines()) < 60
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    entries = re.findall(r'entry-points\."(.*)"\]\n(.*) = ".*:(.*)"', text)
    assert [name for _, name, _ in entries] == ["ncc", "look-on"]
    for group, name, attribute in entries:
        installed_package(group, name, f"package_with_{attribute}", source, attribute)
    session = SteeringSession(open_run(policy="ms-ssim|look-on", threshold=1.0, window=4, planned=12))
    scores = []
    for number in range(1, 13):
        session.accept(preview(number, pixels=image(number)))
        scores.append(session.judge())
    assert {score.verdict for score in scores} == {"continue"}
    assert "NCC None" in scores[3].text
    assert scores[-1].metrics["ncc"] == pytest.approx(np.corrcoef(image(12).ravel(), image(8).ravel())[0, 1], abs=1e-5)
    assert scores[-1].text.endswith(f"; NCC {scores[-1].metrics['ncc']}")


def test_no_stop_before_every_window_was_replaced_once_unless_told_otherwise():
    def judge(policy, projections):
        reading = ScoredImage(projections, projections, {"ms-ssim": 0.99})
        return policy.judge(Evidence([reading], planned=180, compare_to=24, settled=48))

    early = judge(ms_ssim(), 47)
    assert early.verdict == "continue"
    assert "not before 48 projections" in early.text
    assert judge(ms_ssim(), 48).verdict == "enough"
    assert judge(ms_ssim(minimum_projections=0), 25).verdict == "enough"
    assert judge(ms_ssim(minimum_projections=60), 59).verdict == "continue"
    short = ms_ssim().judge(Evidence([ScoredImage(24, 24, {"ms-ssim": 0.99})], planned=24, compare_to=24, settled=48))
    assert short.text.endswith("; not before 48 projections, and 24 are planned")


class Own:
    def __init__(self, metrics=("ms-ssim",)):
        self.name, self.metrics = "mine", metrics

    def judge(self, evidence):
        return None


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (dict.fromkeys, "can not be made with its settings: TypeError"),
        (lambda settings: Own(**settings.options), "unexpected keyword argument 'tolerence'"),
        (lambda settings: sys.exit(3), "can not be made with its settings: SystemExit: 3"),
        (lambda settings: None, "its factory returned None, expected an object with name, metrics and judge"),
        (lambda settings: Own("ms-ssim"), "got metrics 'ms-ssim', expected a tuple of names"),
        (lambda settings: Own(None), "got metrics None"),
    ],
)
def test_what_is_no_policy_is_refused_by_name(monkeypatch, factory, said):
    monkeypatch.setattr(policies, "_added", {"mine": factory})
    with pytest.raises(ConfigError, match="stopping policy 'mine'") as refused:
        get_policy("mine|mine")(SteeringSettings(options={"tolerence": 1}))
    assert said in str(refused.value)


def test_options_are_those_of_ones_own_policy_also_beside_ours(monkeypatch):
    monkeypatch.setattr(policies, "_added", {"mine": lambda settings: Own((settings.options["metric"],))})
    settings = SteeringSettings(options={"metric": "contrast"}, tolerance=0.1)
    assert get_policy("mine+predicted-gain")(settings).metrics == ("contrast", "ms-ssim", "predicted-gain")
    assert get_policy("ms-ssim+predicted-gain|mine")(settings).policies[0].policies[1].settings.tolerance == 0.1
    with pytest.raises(ConfigError, match="takes none"):
        get_policy("ms-ssim+predicted-gain")(settings)


@pytest.mark.parametrize("name", ["ms-ssim", "predicted-gain"])
def test_nobody_takes_the_name_of_a_policy_of_ours(installed_package, name):
    installed_package("bluesky_streamrecon.policies", name, "their_rule", "make = Own", "make")
    with pytest.raises(ConfigError, match="comes with the package"):
        policies.add(name, lambda settings: Own())
    assert get_policy(name)(SteeringSettings()).name == name
    assert not isinstance(get_policy(name)(SteeringSettings()), Own)


def test_name_that_two_packages_offer_is_refused_with_both(tmp_path, monkeypatch):
    for package in ("first", "second"):
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[bluesky_streamrecon.policies]\ntheirs = {package}:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="2 installed packages that register it, as first:make and second:make"):
        get_policy("theirs")
