"""What follows from what happens to a run: events in, state, decisions and effects out. No job, no device, no clock."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_streamrecon.beamline import JobState, RunState
from bluesky_streamrecon.beamline.job_state import NEXT, Change, next_state
from bluesky_streamrecon.beamline.operator_override import OperatorOverride
from bluesky_streamrecon.beamline.operator_status import as_judged, run_status
from bluesky_streamrecon.beamline.processes import ProcessExit
from bluesky_streamrecon.beamline.run_state import DetachStream
from bluesky_streamrecon.beamline.serving import Acked, AllRanksReady, PeerLost, RunFinished
from bluesky_streamrecon.beamline.supervision import RestartFailed, RestartProcess, Supervision
from bluesky_streamrecon.errors import ConfigError, SteeringError
from bluesky_streamrecon.selection import WHOLE_VIEW, Selection
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.messages import ChangeRun, OpenRunSpec, Problem, RunDone, Score, Status
from bluesky_streamrecon.wire.operator_messages import Check, Order

UID = "run"
RANK = PeerInfo(job_id="job", role="rank", rank=1, size=2, host="here", pid=7, software="", instance="i", linked=True)
RANKS_DIED = ProcessExit("job of 2 ranks", -9, Path("/nowhere/job.log"), "")


@pytest.fixture
def run():
    return made()


def made(*, advisory=False, lengthens=True, restarts=1):
    spec = OpenRunSpec(
        run_uid=UID,
        recon_uid="recon",
        planned=10,
        detector_shape=(4, 8),
        dtype="<u2",
        steering=SteeringSettings(policy="ms-ssim", threshold=0.9, advisory=advisory),
    )
    return RunState(spec, 0.0, Supervision(restarts, 0.5), OperatorOverride(planned=10, lengthens=lengthens, columns=8))


def take(run, event, sender=None, now=1.0):
    return run.handle(event, sender, now, 1e9)


def score(number, verdict="continue", uid=UID):
    return Score(run_uid=uid, image_number=number, projections=number, score=0.5, verdict=verdict, text=f"at {number}")


def order(run, action, **fields):
    return run.order(Order(action=action, who="anna", uid=f"{action}{fields}", **fields), 1e9)


@pytest.mark.parametrize(
    "event",
    [
        score(3, "enough", "another"),
        Status(run_uid="another", rank=0, state="running", projections=5, image_number=5),
        Acked("another", 0, 9, 9),
        Problem(fault="local", where="rank 1", text="late", run_uid="another"),
        Problem(fault="local", where="streaming", text="late", run_uid="another"),
        RunFinished("another", (RunDone(run_uid="another", rank=0, image_number=1),)),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_is_reported_of_another_run_changes_nothing(run, event):
    before = run.record({}, 2, 5.0)
    assert take(run, event, RANK) == []
    assert run.record({}, 2, 5.0) == before
    assert (run.over, run.finalize_requested, run.state) == (False, False, JobState.RUNNING)


def test_verdict_of_enough_asks_the_plan_to_end_with_its_reason(run):
    run.taken = 5
    take(run, score(3, "enough"))
    assert run.finalize_requested
    assert run.quality_reached().reason == "quality: stopped at 3; 5 taken"


def test_advisory_verdict_asks_for_nothing():
    run = made(advisory=True)
    take(run, score(3, "enough"))
    assert not run.finalize_requested


def test_verdict_after_the_last_frame_asks_for_nothing(run):
    run.close("success", "", 1.0)
    take(run, score(3, "enough"))
    assert not run.finalize_requested


def test_image_that_is_judged_once_more_is_no_second_verdict(run):
    for number in (1, 2, 1, 2, 3):
        take(run, score(number))
    assert [verdict.image_number for verdict in run.verdicts] == [1, 2, 3]
    assert [decision.image_number for decision in run.decisions] == [1, 2, 3]


def test_fault_that_is_found_after_the_last_frame_is_a_verdict_of_its_own(run):
    take(run, score(3))
    run.close("success", "", 1.0)
    for verdict in ("invalid", "invalid"):
        take(run, score(3, verdict))
    assert [verdict.verdict for verdict in run.verdicts] == ["continue", "invalid"]
    assert [decision.verdict for decision in run.decisions] == ["continue", "invalid"]
    assert run.judged == 3


def test_hold_revokes_a_stop_that_has_not_happened_and_is_noted_once(run):
    take(run, score(3, "enough"))
    order(run, "hold")
    take(run, score(4, "enough"))
    assert not run.finalize_requested
    assert [decision.verdict for decision in run.decisions] == ["enough", "hold", "would stop", "enough"]
    order(run, "release")
    take(run, score(5, "enough"))
    assert run.finalize_requested


def test_order_that_comes_when_the_run_is_ending_is_refused_with_the_reason(run):
    take(run, score(3, "enough"))
    run.quality_reached()
    with pytest.raises(SteeringError, match="hold: run run is about to end: quality: stopped at 3"):
        order(run, "hold")


def test_extension_beyond_the_plan_is_told_to_the_controller(run):
    run.taken = 8
    answer, effects = order(run, "extend", count=5)
    assert effects == [ChangeRun(run_uid=UID, planned=13)]
    assert "3 added to the 10 of the plan" in answer
    assert run.more_wanted(12)
    assert not run.more_wanted(13)
    with pytest.raises(SteeringError, match="all 13 projections are taken"):
        order(run, "extend", count=9)


def test_axis_that_is_corrected_goes_to_the_ranks_with_who_and_why_and_revokes_a_stop_about_another(run):
    take(run, score(3, "enough"))
    assert run.finalize_requested
    answer, effects = order(run, "axis", axis=4.25, reason="a doubled edge")
    assert (effects, run.finalize_requested, run.axis) == ([ChangeRun(run_uid=UID, axis=4.25)], False, 4.25)
    assert answer == "images are made anew about detector column 4.25, and scores begin anew"
    decision = run.decisions[-1]
    assert (decision.verdict, decision.who, decision.text) == ("axis", "anna", f"a doubled edge: {answer}")
    take(run, score(4, "enough"))  # made before, and judged after it
    assert not run.finalize_requested
    assert order(run, "axis", axis=4.25, reason="again") == ("images are made about detector column 4.25 already", [])
    take(run, msgspec.structs.replace(score(5, "enough"), axis=4.25))
    assert run.finalize_requested
    assert [each.axis for each in run.record({}, 2, 5.0).orders] == [4.25]


def test_region_that_is_set_goes_to_the_controller_with_who_and_why_and_revokes_a_stop_by_another(run):
    take(run, score(3, "enough"))
    assert run.finalize_requested
    region = (0, 0, 40, 36)
    run.spec = msgspec.structs.replace(run.spec, recon=ReconSettings(size=48))
    answer, effects = order(run, "region", selection=Selection(region), reason="the crack")
    assert (effects, run.finalize_requested) == ([ChangeRun(run_uid=UID, selection=Selection(region))], False)
    assert answer == "judged by x 0 to 39, y 0 to 35 from now on, and scores begin anew"
    decision = run.decisions[-1]
    assert (decision.verdict, decision.who, decision.text) == ("region", "anna", f"the crack: {answer}")
    take(run, score(4, "enough"))  # judged before the controller heard of it
    assert not run.finalize_requested
    assert order(run, "region", selection=Selection(region)) == ("judged by x 0 to 39, y 0 to 35 already", [])
    status = run_status(run, {}, state="running", problem="", ranks=2)
    assert (status.selection, status.selected_by.who) == (Selection(region), "anna")
    assert re.fullmatch(r"x 0 to 39, y 0 to 35, by anna since [\d:]{8}: the crack", dict(status.lines())["counts"])
    answer, effects = order(run, "region")
    assert (answer, effects) == (
        "judged by the whole view from now on, and scores begin anew",
        [ChangeRun(run_uid=UID, selection=WHOLE_VIEW)],
    )
    order(run, "region", selection=Selection(region), reason="after all")
    take(run, msgspec.structs.replace(score(5, "enough"), selection=Selection(region)))
    assert run.finalize_requested
    record = run.record({}, 2, 5.0)
    assert (record.selection, record.selected_by.reason) == (Selection(region), "after all")
    assert [each.selection.region for each in record.orders] == [region, None, region]


def test_rows_that_are_set_are_those_of_the_detector_and_are_taken_back_as_the_ones_of_the_beginning(run):
    run.spec = msgspec.structs.replace(run.spec, preview_rows=(2, 1))
    answer, effects = order(run, "region", selection=Selection(rows=(3, 0, 3)))
    assert answer == "judged by rows 0, 3 from now on, and scores begin anew"
    assert effects == [ChangeRun(run_uid=UID, selection=Selection(rows=(0, 3)))]
    take(run, score(3, "enough"))  # of the rows before
    assert not run.finalize_requested
    assert run_status(run, {}, state="running", problem="", ranks=2).preview_rows == (2, 1)
    assert order(run, "region", selection=Selection(rows=(1, 2)))[1] == [ChangeRun(run_uid=UID, selection=WHOLE_VIEW)]
    for row in (-1, 4):
        with pytest.raises(SteeringError, match=f"rows: got {row}, expected 0 to 3, rows of the detector"):
            order(run, "region", selection=Selection(rows=(1, row)))


@pytest.mark.parametrize(
    ("region", "said"),
    [
        ((0, 0, 31, 40), "at least 32 of them in both directions"),
        ((-1, 0, 40, 40), "from 0 on"),
        ((40, 40, 8, 8), "from 0 on"),
        ((20, 20, 60, 56), r"got \(20, 20, 60, 56\), expected a part of slices of 56 x 56 pixels"),
    ],
)
def test_region_that_can_not_count_is_refused(run, region, said):
    take(run, msgspec.structs.replace(score(3), size=56))
    with pytest.raises(SteeringError, match=said):
        order(run, "region", selection=Selection(region))
    assert (len(run.decisions), run.override.orders) == (1, ())


def test_region_of_a_run_that_nobody_judges_is_refused_with_the_reason(run):
    take(run, ProcessExit("controller", 1, Path("/nowhere/control.log"), ""))
    take(run, RestartFailed(ProcessExit("controller", 1, Path("/nowhere/control.log"), ""), "no more cores"))
    with pytest.raises(SteeringError, match=r"region: this run is not judged, so none can count: .*no more cores"):
        order(run, "region", selection=Selection((0, 0, 40, 40)))


@given(st.tuples(*[st.integers(-5, 60)] * 4), st.integers(0, 60))
def test_region_counts_if_and_only_if_it_could_be_given_at_the_start_and_lies_within_the_slices(region, size):
    run = made()
    take(run, msgspec.structs.replace(score(3), size=size or 20))
    try:
        SteeringSettings(region=region)
        good = max(region) <= (size or 20)
    except ConfigError:
        good = False
    if good:
        assert order(run, "region", selection=Selection(region))[1] == [
            ChangeRun(run_uid=UID, selection=Selection(region))
        ]
    else:
        with pytest.raises(SteeringError, match="region: got"):
            order(run, "region", selection=Selection(region))


@pytest.mark.parametrize("reason", ["", "  "])
def test_end_that_is_asked_for_without_a_reason_is_refused(run, reason):
    with pytest.raises(SteeringError, match="finish: got no reason"):
        order(run, "finish", reason=reason)
    assert (run.decisions, run.override.finish) == ([], None)


@pytest.mark.parametrize("axis", [None, math.nan, math.inf, -8.1, 16.1])
def test_axis_that_is_not_on_or_near_the_detector_is_refused(run, axis):
    with pytest.raises(SteeringError, match=r"axis: got detector column .*within a detector's width of the 8 columns"):
        order(run, "axis", axis=axis)
    assert (run.decisions, run.axis) == ([], None)


def test_run_whose_analysis_has_no_axis_says_so(run):
    run.override = OperatorOverride(planned=10)
    with pytest.raises(SteeringError, match="axis: what this run is analysed by has no rotation axis"):
        order(run, "axis", axis=4.0)


def test_process_is_started_again_until_the_limit_and_then_the_run_is_lost(run):
    assert take(run, RANKS_DIED) == [RestartProcess(RANKS_DIED, 0.5)]
    assert (run.state, run.restarting) == (JobState.RESTARTING, True)
    take(run, PeerLost(RANK, "gone"))
    assert run.state is JobState.RESTARTING  # its link is lost as well, which is no news
    take(run, AllRanksReady(2))
    assert (run.state, run.restarting) == (JobState.RUNNING, False)
    assert take(run, RANKS_DIED) == [DetachStream("the reconstruction job was lost")]
    assert (run.lost, run.over) == (True, True)
    assert "reconstruction job lost after 0 of 10 projections" in run.problems[-1]


def test_controller_that_can_not_be_started_again_costs_the_stop_and_not_the_run(run):
    died = ProcessExit("controller", 1, Path("/nowhere/control.log"), "")
    take(run, died)
    assert take(run, RestartFailed(died, "no more cores")) == []
    assert not run.lost
    assert "can not end by quality any more: controller could not be started again: no more cores" in run.problems[-1]


def test_ranks_that_come_back_after_the_last_frame_are_finishing(run):
    run.close("success", "", 1.0)
    take(run, PeerLost(RANK, "gone"))
    assert run.state is JobState.DISCONNECTED
    take(run, AllRanksReady(2))
    assert run.state is JobState.FINISHING


def test_lag_counts_to_the_slowest_rank(run):
    run.taken = 9
    take(run, Acked(UID, 0, 9, 9))
    take(run, Acked(UID, 1, 6, 6))
    assert (run.used, run.lag) == (6, 3)
    take(run, Status(run_uid=UID, rank=1, state="running", projections=8, image_number=4))
    assert (run.used, run.lag) == (8, 1)


@given(st.lists(st.sampled_from(Change)))
def test_states_are_left_only_by_what_may_end_them(changes):
    state = JobState.IDLE
    for change in changes:
        before, state = state, next_state(state, change)
        if change is Change.UNSTAGED:
            assert state is JobState.IDLE
        if before in (JobState.LOST, JobState.FINISHED) and state is not before:
            assert change in (Change.LAUNCHED, Change.STAGED, Change.RUN_OPENED, Change.UNSTAGED)
        if state in (JobState.FINISHED, JobState.LOST, JobState.RESTARTING) and before is not state:
            assert before in (JobState.RUNNING, JobState.DISCONNECTED, JobState.RESTARTING, JobState.FINISHING)


def report(run, rank, text):
    where, _, words = text.partition(": ")
    sender = None if rank is None else msgspec.structs.replace(RANK, rank=rank)
    take(run, Problem(fault="local", where=where, text=words, run_uid=UID), sender)


def test_problem_of_all_ranks_is_said_once_and_that_of_some_names_them(run):
    for rank in (1, 0, 1):
        report(run, rank, "reconstruction: no flat field")
    report(run, 1, "reconstruction: disk full")
    assert run.problems == ["reconstruction: no flat field", "rank 1: reconstruction: disk full"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "at 124 of 180 projections: no more to gain",
            "quality: stopped at 124 of 180 projections: no more to gain; 127 taken",
        ),
        ("changed by 0.001", "quality: changed by 0.001; 127 taken"),
    ],
)
def test_reason_says_where_the_scan_was_stopped_and_how_many_were_taken(run, text, reason):
    run.taken = 127
    take(run, Score(run_uid=UID, image_number=124, projections=124, score=0.98, verdict="enough", text=text))
    assert run.quality_reached().reason == reason


def test_gain_is_shown_with_the_projections_that_it_was_predicted_at():
    metrics = {"predicted-gain": 0.03, "predicted-gain-low": 0.02, "predicted-gain-high": 0.05}
    late = Score(run_uid=UID, image_number=60, projections=60, metrics=metrics)
    assert (as_judged(late).gain, as_judged(late).gain_at) == (0.03, None)
    late = Score(run_uid=UID, image_number=60, projections=60, metrics={**metrics, "predicted-gain-at": 57.0})
    assert (as_judged(late).projections, as_judged(late).gain_at) == (60, 57)


def test_status_has_the_newest_checks_where_a_stop_is_expected_and_what_people_know_the_run_by(run):
    metadata = {"sample": "foam", "sample_name": "foam 7", "scan_id": "42", "time": "1000.5", "user": "anna"}
    run.spec = msgspec.structs.replace(run.spec, metadata=metadata)
    check = Check(name="axis", state="look", number="column 511.5", text="two methods disagree")
    made = Score(run_uid=UID, image_number=3, projections=3, metrics={"predicted-stop": 9.0}, checks=(check,))
    take(run, made)
    take(run, msgspec.structs.replace(made, image_number=4, checks=()))
    status = run_status(run, {}, state="running", problem="", ranks=2)
    assert (status.stop_at, status.checks, status.started) == (9, (check,), 1000.5)
    assert status.about == {"sample": "foam 7", "scan": "42", "by": "anna"}
    assert ("check", "axis: two methods disagree") in status.lines()
    values = {"measurement-pores": 0.31, "measurement-pores-final": 0.3}
    values |= {"measurement-pores-low": 0.28, "measurement-pores-high": 0.32}
    judged = as_judged(Score(run_uid=UID, image_number=3, projections=3, metrics=values))
    assert (judged.value, judged.value_low, judged.value_high) == (0.31, 0.28, 0.32)


def test_every_state_is_reached_and_left():
    assert set(NEXT) == set(JobState)
    assert {after for moves in NEXT.values() for after in moves.values()} == set(JobState)


@pytest.mark.parametrize(
    ("metadata", "recon", "options", "size"),
    [
        ({"pixel_size": "0.65"}, {}, {}, 0.65),
        ({"pixel_size": "0.65"}, {"bin": 4}, {}, 2.6),
        ({}, {}, {"pixel_size": 2}, 2.0),
        ({}, {}, {"pixel_size": "-1"}, None),
        ({}, {}, {"pixel_size": "wide"}, None),
        ({}, {}, {}, None),
    ],
    ids=["run", "bin", "policy", "negative", "no number", "nowhere"],
)
def test_size_of_a_voxel_is_shown_where_the_run_says_that_of_a_pixel(run, metadata, recon, options, size):
    steering = msgspec.structs.replace(run.spec.steering, options=options)
    run.spec = msgspec.structs.replace(run.spec, metadata=metadata, recon=ReconSettings(**recon), steering=steering)
    shown = run_status(run, {}, state="running", problem="", ranks=1).pixel_size
    assert shown == pytest.approx(size) if size else shown is None
