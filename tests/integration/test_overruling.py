"""People have the last word in the middle of a real run: from another thread, and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from bluesky.preprocessors import plan_mutator
from bluesky.utils import Msg

from bluesky_streamrecon.errors import SteeringError
from bluesky_streamrecon.plans import streaming_wrapper
from bluesky_streamrecon.selection import Selection
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("no_orphans"), pytest.mark.timeout(240)]


def steer(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bluesky_streamrecon", "steer", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def of(documents, name, stream=None):
    descriptors = {doc["uid"]: doc["name"] for kind, doc in documents if kind == "descriptor"}
    found = [doc for kind, doc in documents if kind == name]
    return found if stream is None else [doc for doc in found if descriptors[doc["descriptor"]] == stream]


def by_people(documents):
    """Return verdict, who, where and why of the steering stream's rows that are a person's."""
    rows = [event["data"] for event in of(documents, "event", "steering")]
    mine = [row for row in rows if row["job-steering-policy"] == "operator"]
    assert all(0 <= time.time() - row["job-steering-when"] < 100 for row in mine)
    return [tuple(row[f"job-steering-{name}"] for name in ("verdict", "who", "place", "text")) for row in mine]


def test_command_line_finishes_a_run_that_is_held_and_advisory(overruled, documents, kept_job):
    seen = []

    def speak():
        steer("hold", "look at the crack", "--as", "anna")
        seen.append(steer("status"))
        steer("finish", "seen enough", "--as", "ben")

    overruled(speak, advisory=True)
    stop = of(documents, "stop")[0]
    assert (stop["exit_status"], stop["reason"]) == ("success", "operator ben: seen enough")
    assert stop["num_events"]["primary"] == 11  # the one that was about to be taken, and no more
    assert seen[0]["run_uid"] == of(documents, "start")[0]["uid"]
    assert (seen[0]["taken"], seen[0]["planned"], seen[0]["held"]["who"]) == (10, 24, "anna")
    assert by_people(documents) == [
        ("hold", "anna", "command line", "look at the crack: held: no automatic stop until release"),
        ("finish", "ben", "command line", "seen enough"),
    ]
    assert kept_job.last_run.ledger_totals()["balanced"]
    assert [order.action for order in kept_job.last_run.orders] == ["hold", "finish"]


def test_run_that_is_extended_takes_angles_between_the_planned_ones_and_all_are_in_the_image(
    overruled, documents, kept_job
):
    stored = []
    token = kept_job.subscribe(lambda name, doc: stored.append((name, doc)))
    overruled(lambda: kept_job.extend(9, "one more round", who="anna"), at=20, threshold=1.0)
    kept_job.unsubscribe(token)
    start, stop = of(documents, "start")[0], of(documents, "stop")[0]
    assert start["streamrecon"]["extendable"]
    assert (stop["exit_status"], stop["num_events"]["primary"]) == ("success", 29)
    assert "24 planned, extended to 29 by anna" in stop["reason"]
    angles = [event["data"]["stage"] for event in of(documents, "event", "primary")]
    planned = sorted(angles[:24])
    assert len({round(angle, 6) for angle in angles}) == 29
    gaps = [next(i for i, (a, b) in enumerate(pairwise(planned)) if a < angle < b) for angle in angles[24:]]
    assert len(set(gaps)) == 5
    record = kept_job.last_run
    assert (record.taken, record.used, record.planned) == (29, 29, 24)
    assert record.ledger_totals()["balanced"]
    assert record.problems == ()
    assert record.verdicts[-1].projections == 29
    assert stored[0][1]["raw_run_uid"] == start["uid"]
    assert (stored[-1][0], stored[-1][1]["exit_status"]) == ("stop", "success")


def test_gain_that_is_left_is_predicted_for_the_plan_as_it_was_extended(overruled, documents, kept_job):
    overruled(
        lambda: kept_job.extend(16, who="anna"), at=20, policy="predicted-gain", tolerance=1e-6, minimum_projections=12
    )
    assert of(documents, "stop")[0]["num_events"]["primary"] == 36
    rows = [event["data"] for event in of(documents, "event", "steering")]
    judged = [row["job-steering-text"] for row in rows if row["job-steering-policy"] == "predicted-gain"]
    assert " of 36 projections" in judged[-1]
    assert kept_job.last_run.problems == ()


def test_axis_is_corrected_at_the_prompt_and_from_the_command_line_and_the_image_is_that_of_the_right_one(
    overruled, documents, kept_job
):
    same = {"coalesce": False, "threshold": 1.0, "pixel_values": "line-integrals", "flats": 0, "darks": 0}
    overruled(lambda: None, **same)
    right = kept_job.last_run
    seen = []
    documents.clear()

    def speak():
        with pytest.raises(SteeringError, match="got True, expected a detector column"):
            kept_job.set_axis(True)
        with pytest.raises(SteeringError, match="got 'left', expected a detector column"):
            kept_job.set_axis("left")
        with pytest.raises(SteeringError, match="within a detector's width of the 64 columns"):
            kept_job.set_axis(400)
        kept_job.set_axis(right.axis - 3, "too far", who="anna")
        seen.append(steer("axis", right.axis, "a doubled edge", "--as", "ben"))

    overruled(speak, axis=right.axis + 5, **same)
    record = kept_job.last_run
    assert seen[0]["axis"] == record.axis == right.axis
    assert [(order.action, order.who, order.axis) for order in record.orders] == [
        ("axis", "anna", right.axis - 3),
        ("axis", "ben", right.axis),
    ]
    told = f"images are made anew about detector column {right.axis:g}, and scores begin anew"
    assert by_people(documents)[1] == ("axis", "ben", "command line", f"a doubled edge: {told}")
    judged = [verdict.axis for verdict in record.verdicts]
    assert judged[-1] == right.axis
    assert record.ledger_totals()["balanced"]
    assert record.used == right.used == 24
    with h5py.File(right.result) as one, h5py.File(record.result) as other:
        expected, found = one["/exchange/data"][:], other["/exchange/data"][:]
    assert np.abs(found - expected).max() <= 1e-5 * expected.max()


def test_scan_is_stopped_by_the_gain_that_is_left_in_the_region_that_a_person_has_set(overruled, documents, kept_job):
    region, seen = (16, 16, 48, 48), []

    def speak():
        with pytest.raises(SteeringError, match="expected a part of slices of"):
            kept_job.set_region((0, 0, 400, 40))
        with pytest.raises(SteeringError, match=r"got \(1, 2\), expected \(left, top, right, bottom\)"):
            kept_job.set_region((1, 2))
        kept_job.set_region(np.array([0, 0, 40, 40]), "a first try", who="anna")
        seen.append(steer("region", *region, "--row", 0, "--reason", "the crack", "--as", "ben"))

    def as_a_detector_takes_them(plan):
        """Leave the job a moment for each projection, unless it wants the run to end."""

        def stops():
            return kept_job.runs.open is None or kept_job.runs.open.finalize_requested

        async def moment():
            await kept_job.job.wait(stops, lambda: 0.25, lambda: 0)

        def before(msg):
            yield Msg("wait_for", None, [moment])
            return (yield msg)

        def look(msg):
            return (before(msg), None) if msg.command == "checkpoint" else (None, None)

        return plan_mutator(plan, look)

    overruled(speak, at=6, through=as_a_detector_takes_them, num=60, policy="predicted-gain", tolerance=0.3)
    record, stop = kept_job.last_run, of(documents, "stop")[0]
    assert (seen[0]["selection"], seen[0]["selected_by"]["who"]) == ({"region": list(region), "rows": [0]}, "ben")
    assert stop["exit_status"] == "success"
    assert stop["num_events"]["primary"] < 60
    assert "(tolerance 0.3)" in stop["reason"]
    assert "judged by x 16 to 47, y 16 to 47 of row 0 alone" in stop["reason"]
    enough = next(verdict for verdict in record.verdicts if verdict.verdict == "enough")
    assert (enough.selection, enough.size) == (Selection(region, (0,)), 64)
    assert enough.metrics["predicted-gain-high"] < 0.3
    assert [(order.who, order.selection) for order in record.orders] == [
        ("anna", Selection((0, 0, 40, 40))),
        ("ben", enough.selection),
    ]
    told = "the crack: judged by x 16 to 47, y 16 to 47 of row 0 from now on, and scores begin anew"
    assert by_people(documents)[1] == ("region", "ben", "command line", told)


def test_plan_that_is_not_ours_can_be_finished_but_not_lengthened(overruled, documents, kept_job):
    told = []

    def speak():
        with pytest.raises(SteeringError, match="can not be made longer"):
            kept_job.extend(20)
        told.append(kept_job.extend(3))
        told.append(kept_job.status())
        with pytest.raises(SteeringError, match="no-such-run is meant"):
            kept_job.finish_now("wrong run", run_uid="no-such-run")
        with pytest.raises(SteeringError, match="reason"):
            kept_job.finish_now(" ")
        kept_job.finish_now("good enough", who="anna")

    def plan(beamline):
        return streaming_wrapper(
            bp.scan([beamline.detector], beamline.stage, 0, 170, 18),
            job=kept_job,
            detector=beamline.detector,
            angle=beamline.stage,
            pixel_values="line-integrals",
            recon=ReconSettings(window=6, ranks=2, axis=beamline.axis),
            steering=SteeringSettings(threshold=1.0),
        )

    overruled(speak, at=5, plan=plan)
    assert of(documents, "stop")[0]["reason"].startswith("operator anna: good enough")
    assert told[0] == "no automatic stop before 8 projections"
    assert "5 of 18 streamed" in repr(told[1])
    assert not of(documents, "start")[0]["streamrecon"]["extendable"]
    with pytest.raises(SteeringError, match="no run is open"):
        kept_job.hold()
