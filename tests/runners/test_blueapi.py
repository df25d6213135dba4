"""blueapi registers the profile's plans, makes forms of them, and finds devices by name."""

from __future__ import annotations

import importlib.util
import json
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("blueapi") is None,
        reason="blueapi is not installed here; it comes with the extra 'runners'",
    ),
    pytest.mark.timeout(290),
]

PLANS = {"stream_tomo_plan", "stream_tomo_fly_plan", "take_references_plan", "check_devices_plan"}


def test_module_of_plans_is_registered_with_the_settings_as_fields_of_a_form(installed):
    script = """
        import json
        from blueapi.core import BlueskyContext
        import bluesky_streamrecon.plans

        context = BlueskyContext()
        context.with_plan_module(bluesky_streamrecon.plans)
        print(json.dumps({name: plan.model.model_json_schema() for name, plan in context.plans.items()}))
    """
    forms = json.loads(installed.run(sys.executable, "-c", textwrap.dedent(script)).splitlines()[-1])
    assert set(forms) == PLANS
    fields = forms["stream_tomo_plan"]["properties"]
    assert fields["detectors"]["items"]["type"] == "bluesky.protocols.Readable"
    assert fields["stage"]["type"] == "bluesky.protocols.Movable"
    assert (fields["window"]["type"], fields["window"]["default"]) == ("integer", 24)
    assert fields["pixel_values"]["enum"] == ["counts", "transmission", "line-integrals"]


def test_plans_of_the_profile_take_its_devices_by_name_and_refuse_others(installed):
    script = f"""
        import glob, json, runpy
        from blueapi.core import BlueskyContext
        from pydantic import ValidationError

        names = {{}}
        for file in sorted(glob.glob({str(installed.startup)!r} + "/*.py")):
            names = runpy.run_path(file, names)
        context = BlueskyContext(run_engine=names["RE"])
        for name in ("stage", "detector", "shutter", "sample_table"):
            context.register_device(names[name], name)
        context.register_device(names["recon_job"])
        for name in {sorted(PLANS)!r}:
            context.register_plan(names[name])
        model = context.plans["stream_tomo_plan"].model
        given = model.model_validate_json(
            '{{"detectors": ["detector"], "stage": "stage", "job": "recon_job", "order": [3, 5, 7], "window": null,'
            ' "shutter_words": ["open", "closed"]}}'
        )
        assert given.detectors == [names["detector"]] and given.stage is names["stage"]
        assert given.job is names["recon_job"] and list(given.order) == [3, 5, 7] and given.window is None
        refused = []
        wrongs = '{{"stage": "detector"}}', '{{"stage": "nobody"}}', '{{"windoow": 3}}', '{{"threshold": "high"}}'
        for wrong in wrongs:
            try:
                model.model_validate_json(wrong)
            except ValidationError:
                refused.append(wrong)
        print(json.dumps(refused))
    """
    refused = json.loads(installed.run(sys.executable, "-c", textwrap.dedent(script)).splitlines()[-1])
    assert len(refused) == 4
