"""Forecasts in the background: each comes when it is done, and one that fails takes nothing from the others."""

from __future__ import annotations

import math
import sys

import pytest

from bluesky_streamrecon.quality.checks import RankReports, inspect_scan
from bluesky_streamrecon.quality.forecast import Forecast, Forecaster


@pytest.fixture
def forecast_of():
    """Make one forecast in the background, and return it when its thread has ended."""

    def make(forecaster, lines):
        assert (forecaster.busy, forecaster.take()) == (False, [])
        forecaster.begin(lines, RankReports())
        forecaster._thread.join(20)
        assert not forecaster.busy
        (made,) = forecaster.take()
        assert forecaster.take() == []
        return made

    return make


def test_forecasts_in_the_background_come_when_they_are_done(simulate, forecast_of):
    forecaster = Forecaster(None, gain=False, fewest=24, background=True)
    for count in (24, 36):
        made = forecast_of(forecaster, simulate().upto(count))
        assert made == Forecast(count, checks=inspect_scan(simulate().upto(count), RankReports())[1])


class OfLines:
    def __init__(self, name, measure):
        self.name, self.measure = name, measure


def test_metric_of_lines_that_fails_is_named_and_takes_nothing_from_the_others(simulate, stand_in):
    def fails(study):
        raise RuntimeError("boom")

    def leaves(study):
        sys.exit("no licence")

    def writes(study):
        study.full[...] = 0
        return 1.0

    wanted = [
        OfLines("fails", fails),
        OfLines("leaves", leaves),
        OfLines("writes", writes),
        OfLines("no-number", lambda study: study.full.mean(axis=(1, 2))),
        OfLines("endless", lambda study: math.inf),
        OfLines("fine", lambda study: study.full.max()),
    ]
    forecaster = Forecaster(stand_in, gain=True, metrics=wanted, fewest=24)
    forecaster.begin(simulate().upto(48), RankReports())
    (made,) = forecaster.take()
    assert made.gain is not None
    assert made.metrics == {
        "fails": None,
        "leaves": None,
        "writes": None,
        "no-number": None,
        "endless": None,
        "fine": 1.0,
    }
    assert len(made.failed) == 5
    assert made.failed[0] == "metric 'fails' failed: RuntimeError: boom"
    assert made.failed[1] == "metric 'leaves' failed: SystemExit: no licence"
    assert "read-only" in made.failed[2]
    assert made.failed[4].startswith("metric 'endless' returned inf, expected a finite number")


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit("boom")])
def test_forecast_that_fails_says_so_and_the_next_is_made(simulate, stand_in, forecast_of, error):
    def fails(*args, **kwargs):
        raise error

    stand_in.reconstruct = fails
    forecaster = Forecaster(stand_in, gain=True, fewest=24, background=True)
    for _ in range(2):
        made = forecast_of(forecaster, simulate().upto(36))
        assert made.why_not == f"the prediction failed: {type(error).__name__}: boom"
