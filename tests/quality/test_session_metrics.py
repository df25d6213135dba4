"""Metrics of other packages in the controller: one that goes wrong is named, and never ends the scan."""

from __future__ import annotations

import math
import sys

import pytest

from bluesky_streamrecon.quality import Verdict, metrics, policy
from bluesky_streamrecon.quality.session import SteeringSession


class OneMetric:
    """Has enough when its metric is not small."""

    name = "one-metric"

    def __init__(self, metric):
        self.metrics = (metric,)

    def judge(self, evidence):
        value = evidence.newest.metrics[self.metrics[0]]
        enough = value is not None and not value < 0.1
        return Verdict("enough" if enough else "continue", None, f"it is {value}")


class Gives:
    """A metric that gives what it is told to, or raises it."""

    reach = 0

    def __init__(self, name, given):
        self.name = name
        self.given = given

    def __call__(self, history):
        return self.given(history)


class GivesOfLines:
    def __init__(self, name, given):
        self.name = name
        self.measure = given


@pytest.fixture
def with_metric(monkeypatch, open_run):
    """Make a session whose policy goes by a metric of one's own."""

    def make(metric):
        monkeypatch.setitem(metrics.metrics._added, metric.name, lambda settings, compare_to: metric)
        monkeypatch.setitem(policy.policies._added, "one-metric", lambda settings: OneMetric(metric.name))
        return SteeringSession(open_run(policy="one-metric"))

    return make


def boom(given):
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (boom, "metric 'mine' failed: RuntimeError: boom"),
        (lambda history: sys.exit("no licence"), "metric 'mine' failed: SystemExit: no licence"),
        (lambda history: math.nan, "metric 'mine' returned nan, expected a finite number"),
        (lambda history: math.inf, "metric 'mine' returned inf"),
        (lambda history: "good", "metric 'mine' returned 'good'"),
        (lambda history: history.newest.stack.std(axis=(1, 2)), "metric 'mine' returned array("),
        (lambda history: history.newest.stack.fill(0.0), "read-only"),
    ],
)
def test_metric_that_goes_wrong_is_named_and_never_ends_the_scan(with_metric, preview, image, given, said):
    session = with_metric(Gives("mine", given))
    session.accept(preview(1, pixels=image(1)))
    score = session.judge()
    assert (score.verdict, score.metrics) == ("invalid", {"ms-ssim": None, "mine": None})
    assert said in score.text


def test_number_of_any_real_kind_is_what_a_policy_is_given(with_metric, preview, image):
    session = with_metric(Gives("mine", lambda history: history.newest.stack.max()))
    session.accept(preview(1, pixels=image(1)))
    score = session.judge()
    assert score.metrics == {"ms-ssim": None, "mine": pytest.approx(float(image(1).max()))}
    assert score.verdict == "enough"


def test_every_reading_has_all_metrics_that_the_policy_asks_for(with_metric, preview, image):
    session = with_metric(GivesOfLines("of-lines", lambda study: 1.0))
    session.accept(preview(1, pixels=image(1)))
    score = session.judge()
    assert (score.verdict, score.text) == ("continue", "it is None")
