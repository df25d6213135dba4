"""What holds under every policy: people and advisory mode are against its stop, and longer plans are predicted for.

That no fault ends a scan under any of them is in `test_data_checks`, and that each can be replayed in `test_replay`.
"""

from __future__ import annotations

import msgspec
import pytest

from bluesky_streamrecon.beamline import RunState
from bluesky_streamrecon.beamline.operator_override import OperatorOverride
from bluesky_streamrecon.beamline.supervision import Supervision
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.settings import SteeringSettings
from bluesky_streamrecon.wire import ChangeRun, OpenRunSpec, Order

ASKED = {
    "ms-ssim": ({"threshold": 0.9}, "MS-SSIM 0.9"),
    "predicted-gain": ({"tolerance": 0.1}, "are predicted to improve the image by 0.0"),
    "measurement": ({"options": {"measure": "porosity", "within": 0.05}}, "predicted to be 0.11"),
    "resolution": ({"options": {"least_share": 0.3}}, "px at the end (ends where the rest brings less than 30 %)"),
}
"""Settings of each policy, and what it says when its criterion is met."""
PLANNED, FIRST = 120, 48


@pytest.fixture(scope="module")
def recipe():
    return QuickReconstructor()


@pytest.fixture
def judged(simulate, drive, recipe):
    """Drive a scan that goes well to its end, or until the criterion is met."""

    def judge(rule, **more):
        told = ASKED[rule][0] | {"minimum_projections": FIRST} | more
        return drive(simulate(counts=1e5), policy=rule, reconstructor=recipe, step=6, **told)

    return judge


def begun(rule, **more):
    settings = SteeringSettings(policy=rule, **(ASKED[rule][0] | more))
    about = {"run_uid": "run-1", "recon_uid": "recon-1", "planned": PLANNED, "detector_shape": (10, 96), "dtype": "<u2"}
    override = OperatorOverride(planned=PLANNED, lengthens=True)
    run = RunState(OpenRunSpec(**about, steering=settings), 0.0, Supervision(1, 0.5), override)
    run.taken = FIRST
    return run


def order(run, action, **more):
    return run.order(Order(action=action, who="anna", uid=action, **more), 1e9)


@pytest.mark.parametrize("rule", ASKED)
def test_every_policy_ends_a_scan_in_its_own_words_unless_people_or_advisory_mode_are_against_it(judged, rule):
    _, enough = judged(rule)
    assert enough is not None
    assert (enough.policy, FIRST <= enough.projections < PLANNED) == (rule, True)
    run, ended = begun(rule), begun(rule)
    for each in (run, ended):
        each.handle(enough, None, 1.0, 1e9)
        assert each.finalize_requested
    reason = str(ended.quality_reached())
    assert reason.startswith(f"quality: stopped at {enough.projections} of 120 projections: ")
    assert ASKED[rule][1] in reason
    order(run, "hold")
    assert (run.finalize_requested, run.decisions[-1].verdict) == (False, "would stop")
    order(run, "release")
    run.handle(msgspec.structs.replace(enough, image_number=enough.image_number + 1), None, 1.0, 1e9)
    assert run.finalize_requested
    answer, effects = order(run, "extend", count=PLANNED)
    assert (run.finalize_requested, effects) == (False, [ChangeRun(run_uid="run-1", planned=PLANNED + FIRST)])
    assert "no automatic stop before 168 projections" in answer

    _, advised = judged(rule, advisory=True)
    assert advised.text == f"advisory: {enough.text}"
    run = begun(rule, advisory=True)
    run.handle(advised, None, 1.0, 1e9)
    assert not run.finalize_requested


@pytest.mark.parametrize("rule", ASKED)
def test_every_policy_judges_by_the_plan_as_it_was_extended(judged, rule):
    scores, enough = judged(rule, changes={30: ChangeRun(run_uid="run-1", planned=2 * PLANNED)})
    assert {f"of {2 * PLANNED} projections" in score.text for score in scores if score.projections > 30} == {True}
    assert (enough is None) is (rule == "resolution")  # which predicts nothing before two thirds of a plan
    if rule == "predicted-gain":
        assert f"the remaining {2 * PLANNED - enough.projections} are predicted" in enough.text
