"""A stage that is not in degrees is refused before it moves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans.parts import within_limits


def stage(units, **more):
    keys = {"rot": {"dtype": "number", "shape": [], "units": units}, **more}
    return SimpleNamespace(name="stage", describe=lambda: keys, hints={"fields": ["rot"]})


@pytest.mark.parametrize(
    ("units", "words"),
    [("rad", "rot is in rad, expected degrees"), (" Turns ", "rot is in Turns"), ("mm", "got units 'mm'")],
)
def test_stage_in_another_unit_than_degrees_is_refused(run_engine, units, words):
    with pytest.raises(ConfigError, match=words):
        run_engine(within_limits(stage(units), [0.0, 90.0]))


@pytest.mark.parametrize("units", ["deg", "Degrees", "", None])
def test_stage_in_degrees_or_without_units_may_scan(run_engine, units):
    run_engine(within_limits(stage(units, velocity={"dtype": "number", "shape": [], "units": "deg/s"}), [0.0, 90.0]))
