"""Stages get angles in the unit that they have; what is no unit of angle is refused before anything moves."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from ophyd.sim import SynAxis

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.plans.motion import rotation_of
from bluesky_streamrecon.sim_devices import sim_beamline


class InUnits(SynAxis):
    """A stage whose readback has a unit."""

    def __init__(self, units):
        super().__init__(name="rot")
        self.units, self.visited = units, []

    def describe(self):
        described = super().describe()
        described["rot"]["units"] = self.units
        return described

    def set(self, value):
        self.visited.append(value)
        return super().set(value)


def stage(units, **more):
    keys = {"rot": {"dtype": "number", "shape": [], "units": units}, **more}
    return SimpleNamespace(name="stage", describe=lambda: keys, hints={"fields": ["rot"]})


def limits(of, angles):
    rotation = yield from rotation_of(of)
    yield from rotation.within_limits(angles)
    return rotation.degrees


def test_stage_in_a_unit_that_is_none_of_angle_is_refused(run_engine):
    with pytest.raises(ConfigError, match="got units 'mm'"):
        run_engine(limits(stage("mm"), [0.0, 90.0]))


@pytest.mark.parametrize(
    ("units", "degrees"),
    [
        ("deg", 1.0),
        ("Degrees", 1.0),
        ("", 1.0),
        (None, 1.0),
        ("rad", 180 / math.pi),
        (" Turns ", 360.0),
        ("mdeg", 1e-3),
    ],
)
def test_unit_of_the_readback_counts_and_no_other(run_engine, units, degrees):
    velocity = {"dtype": "number", "shape": [], "units": "deg/s"}
    result = run_engine(limits(stage(units, velocity=velocity), [0.0, 90.0]))
    assert result.plan_result == pytest.approx(degrees)


@pytest.mark.parametrize(("units", "degrees"), [("rad", 180 / math.pi), ("mdeg", 1e-3)])
def test_stage_is_sent_to_the_angles_in_its_own_unit(run_engine, pretend_job, script, tmp_path, units, degrees):
    rotation = InUnits(units)
    camera = sim_beamline(rows=4, columns=32, directory=tmp_path, instant=True).detector
    plan = stream_tomo_plan(
        camera, rotation, num=4, order="fixed", pixel_values="transmission", job=pretend_job, window=None
    )
    run_engine(plan)
    assert rotation.visited == pytest.approx([angle / degrees for angle in (0, 45, 90, 135)])
    assert [angle for _, _, angle, _ in script.frames] == pytest.approx(np.radians([0, 45, 90, 135]))
