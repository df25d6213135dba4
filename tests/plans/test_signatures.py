"""What a running program sees of a plan: its arguments, their types and defaults, and what they mean."""

from __future__ import annotations

import ast
import inspect
from typing import get_args, get_origin, get_type_hints

import bluesky.protocols
import pytest
from bluesky.utils import is_plan

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import (
    check_devices_plan,
    stream_tomo_fly_plan,
    stream_tomo_plan,
    streaming_wrapper,
    take_references_plan,
    with_settings,
)
from bluesky_streamrecon.plans.signature import image_settings
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

PLANS = [stream_tomo_plan, stream_tomo_fly_plan, take_references_plan, check_devices_plan]
CONFIGURED = [with_settings(plan, {"window": 30}) for plan in PLANS[:2]]
SETTINGS = {*ReconSettings.__struct_fields__, *SteeringSettings.__struct_fields__, "policy_options"}


@pytest.mark.parametrize("plan", [*PLANS, *CONFIGURED])
def test_plan_is_a_generator_function_whose_defaults_are_literals(plan):
    assert is_plan(plan)
    assert inspect.isgeneratorfunction(plan)
    for parameter in inspect.signature(plan).parameters.values():
        assert ast.literal_eval(repr(parameter.default)) == parameter.default


@pytest.mark.parametrize("plan", [*PLANS, *CONFIGURED])
def test_annotations_are_types_of_bluesky_or_python_in_the_signature_and_in_the_hints_alike(plan):
    parameters = inspect.signature(plan).parameters
    assert not any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters.values())
    hints = get_type_hints(plan)
    assert set(hints) == {*parameters, "return"}
    assert all(hints[name] == each.annotation for name, each in parameters.items())
    assert not any(isinstance(each.annotation, str) for each in parameters.values())


@pytest.mark.parametrize("plan", PLANS)
def test_devices_are_asked_for_by_the_protocols_of_bluesky(plan):
    hints = get_type_hints(plan)
    (detectors, none) = get_args(hints["detectors"])
    assert get_args(detectors) == (bluesky.protocols.Readable,)
    assert none is type(None)
    for name in {"stage", "shutter", "sample_table"} & set(hints):
        assert get_args(hints[name])[0] is bluesky.protocols.Movable
        assert get_origin(get_args(hints[name])[0]) is None  # blueapi compares what is in the brackets


@pytest.mark.parametrize("plan", PLANS[:2])
def test_every_setting_is_an_argument_and_those_of_every_day_come_first(plan):
    names = list(inspect.signature(plan).parameters)
    assert set(names) >= SETTINGS
    daily = [names.index(name) for name in ("threshold", "tolerance", "algorithm", "axis", "window")]
    rest = [names.index(name) for name in ("share", "coalesce", "scales", "options", "policy_options", "take_flats")]
    assert names.index("order") < min(daily)
    assert max(daily) < min(rest)


@pytest.mark.parametrize("plan", PLANS)
def test_help_describes_every_argument_once_in_the_order_of_the_signature(plan):
    section = plan.__doc__.partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    entries = [line.partition(" : ")[0] for line in section.splitlines() if not line.startswith(" ")]
    assert entries == list(inspect.signature(plan).parameters)
    assert "settings" not in entries


def test_default_of_the_configuration_is_the_one_that_is_shown():
    assert inspect.signature(CONFIGURED[0]).parameters["window"].default == 30
    assert inspect.signature(stream_tomo_plan).parameters["window"].default == 24


def test_wrapper_is_no_plan_of_a_queue_since_it_takes_one():
    assert not is_plan(streaming_wrapper)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tresh": 1}, "tresh: not an argument of this plan; did you mean 'threshold'"),
        ({"algoritm": "sirt"}, "algoritm: not an argument of this plan; did you mean 'algorithm'"),
        ({"zzz": 1}, "zzz: not an argument of this plan; see its help"),
        ({"recon": ReconSettings()}, "recon: not an argument"),
    ],
)
def test_setting_that_does_not_exist_is_refused_with_the_nearest_name(given, words):
    with pytest.raises(ConfigError, match=words):
        image_settings(2, given)


def test_settings_that_are_left_out_or_none_are_those_of_the_structs():
    assert image_settings(3, {}) == (ReconSettings(ranks=3), SteeringSettings())
    recon, steering = image_settings(
        3, {"ranks": None, "options": None, "policy_options": None, "preview_rows": [1, 2]}
    )
    assert (recon, steering) == (ReconSettings(ranks=3), SteeringSettings(preview_rows=(1, 2)))
    recon, steering = image_settings(
        3, {"options": {"relaxation": 0.5}, "policy_options": {"images": 4}, "window": None}
    )
    assert (recon.options, steering.options, recon.window) == ({"relaxation": 0.5}, {"images": 4}, None)
