"""What is printed of a streamed run: from documents alone, stepping and flying alike."""

from __future__ import annotations

import io
import json
import math
import sys

import event_model
import pytest

from bluesky_streamrecon.beamline import RunTable
from bluesky_streamrecon.beamline.run_table import WIDTH

BLOCK = {
    "recon_uid": "r",
    "projections": 48,
    "angle": "stage",
    "order": "fixed",
    "job_ranks": 3,
    "recon": {"algorithm": "sirt"},
    "steering": {"policy": None, "tolerance": 0.03, "advisory": False},
}
SIGNALS = {"job-score": "number", "job-lag": "integer", "job-image_number": "integer", "job-projections": "integer"}
STEERING = {"job-steering-metrics": "string", "job-steering-text": "string", "job-steering-who": "string"}
STEERING |= {"job-steering-place": "string", "job-steering-verdict": "string"}


@pytest.fixture
def lines():
    return []


@pytest.fixture
def table(lines):
    return RunTable(lines.append)


def keys(**kinds):
    return {name: {"source": "test", "dtype": kind, "shape": []} for name, kind in kinds.items()}


class Run:
    """A run whose documents go to a callback."""

    def __init__(self, table, **metadata):
        self.table, self.composed = table, event_model.compose_run(metadata={"scan_id": 7, **metadata}, time=100.0)
        self.uid = self.composed.start_doc["uid"]
        table("start", self.composed.start_doc)

    def stream(self, name, **kinds):
        devices = {"stage": ["stage"]} if "stage" in kinds else {}
        devices |= {"job": list(SIGNALS)} if "job-lag" in kinds else {}
        stream = self.composed.compose_descriptor(name=name, data_keys=keys(**kinds), object_keys=devices)
        self.table("descriptor", stream.descriptor_doc)

        def event(time=0.0, **data):
            stamps = dict.fromkeys(data, 0.0)
            self.table("event", stream.compose_event(data=data, timestamps=stamps, time=100.0 + time))

        return event

    def stop(self, time, **how):
        self.table("stop", self.composed.compose_stop(time=100.0 + time, **how))


def signals(image, used, lag=0, score=math.nan):
    return {"job-score": score, "job-lag": lag, "job-image_number": image, "job-projections": used}


def test_run_begins_and_ends_with_what_a_person_needs_to_know(table, lines):
    run = Run(table, streamrecon=BLOCK)
    assert lines[0].startswith(f"Scan 7 ({run.uid[:8]}): 48 projections in fixed order; sirt, 3 ranks.")
    said = " ".join(line.strip() for line in lines)
    assert "Ends when the image is good enough (predicted-gain, tolerance 0.03)." in said
    assert 'Look: streamrecon view. Steer: status(), finish_now("why"), hold().' in said
    lines.clear()
    run.stop(3723, reason="quality: stopped at 40 of 48 projections", exit_status="success")
    said = " ".join(line.strip() for line in lines)
    assert f"Scan 7 ({run.uid[:8]}) ended after 1:02:03, success: quality: stopped at 40 of 48 projections" in said
    assert "Next: show_last(); in a shell: streamrecon replay -1, streamrecon export -1 FILE.nxs" in said
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize(
    ("steering", "said"),
    [
        (
            {"policy": None, "threshold": 0.97, "tolerance": 0.02},
            "Ends when the image is good enough (ms-ssim, threshold 0.97).",
        ),
        (
            {"policy": "ms-ssim+predicted-gain", "threshold": None, "tolerance": 0.02, "advisory": True},
            "Reports when the image is good enough (ms-ssim+predicted-gain, threshold 0.95, tolerance 0.02).",
        ),
        ({"policy": "mine", "threshold": None, "tolerance": 0.02}, "Ends when the image is good enough (mine)."),
    ],
)
def test_criterion_that_the_run_has_is_said(table, lines, steering, said):
    Run(table, streamrecon=BLOCK | {"steering": steering})
    assert said in " ".join(line.strip() for line in lines)


def test_run_of_another_analysis_is_not_said_to_have_an_algorithm(table, lines):
    Run(table, streamrecon=BLOCK | {"recon": {"analysis": "running-mean", "algorithm": "mlem"}})
    assert "; running-mean, 3 ranks." in lines[0]


@pytest.mark.parametrize(("took", "said"), [(-3600, "0:00"), (3661, "1:01:01"), (90_000, "25:00:00")])
def test_duration_is_short_however_long_it_was_or_the_clock_was_put(table, lines, took, said):
    Run(table, streamrecon=BLOCK).stop(took)
    assert f"ended after {said}, success" in " ".join(lines)


def test_failed_run_gives_its_reason_and_nothing_to_look_at(table, lines):
    Run(table, streamrecon=BLOCK).stop(5, exit_status="fail", reason="stage: stalled")
    assert lines[-1].endswith("ended after 0:05, fail: stage: stalled")


def test_rows_come_at_even_distances_and_have_score_and_prediction(table, lines):
    run = Run(table, streamrecon=BLOCK)
    primary, steering = run.stream("primary", stage="number", **SIGNALS), run.stream("steering", **STEERING)
    lines.clear()
    nobody = dict.fromkeys(("job-steering-text", "job-steering-who", "job-steering-place"), "")
    nobody["job-steering-verdict"] = "continue"
    for number in range(1, 9):
        if number == 5:
            metrics = {"predicted-gain": 0.0512, "predicted-gain-high": 0.0712}
            steering(**nobody, **{"job-steering-metrics": json.dumps(metrics)})
        primary(number, stage=float(number), **signals(number - 1, number - 1, 1, 0.9 if number > 4 else math.nan))
    heading, *rows = lines
    assert heading.split() == ["projections", "angle", "image", "score", "predicted", "gain", "lag", "time", "left"]
    assert [row.split()[0] for row in rows] == ["2", "4", "6", "8"]
    assert rows[1].split() == ["4", "of", "48", "4.000", "3", "1", "0:04", "0:44"]
    assert rows[2].split() == ["6", "of", "48", "6.000", "5", "0.9000", "0.051", "(≤", "0.071)", "1", "0:06", "0:42"]
    assert {len(line) for line in lines} <= set(range(WIDTH + 1))


def test_terminal_without_a_sign_gets_the_row_all_the_same(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    RunTable()._say("predicted gain 0.051 ± 0.02 (≤ 0.071)")
    terminal.flush()
    assert terminal.buffer.getvalue().decode("latin-1").strip() == "predicted gain 0.051 ± 0.02 (? 0.071)"


def test_flying_run_has_the_same_rows_from_its_progress(table, lines):
    run = Run(table, streamrecon=BLOCK | {"angle": "encoder"}, motors=("stage",))
    progress = run.stream("progress", stage="number", **SIGNALS)
    lines.clear()
    progress(1, stage=1.5, **signals(0, 0, 9))
    progress(2, stage=1.6, **signals(0, 1, 9))
    progress(3, stage=3.0, **signals(9, 11, 0))
    assert [row.split()[:4] for row in lines[1:]] == [["9", "of", "48", "1.500"], ["11", "of", "48", "3.000"]]


def test_order_of_a_person_stands_in_the_table(table, lines):
    steering = Run(table, streamrecon=BLOCK).stream("steering", **STEERING)
    steering(
        **{"job-steering-who": "anna", "job-steering-place": "live view", "job-steering-metrics": "{}"},
        **{"job-steering-verdict": "hold", "job-steering-text": "look at the crack"},
    )
    assert lines[-1] == "hold by anna (live view): look at the crack"


def test_run_without_reconstruction_prints_nothing(table, lines):
    run = Run(table)
    run.stream("primary", stage="number")(1, stage=1.0)
    run.stop(1)
    assert lines == []


def test_terminal_that_is_gone_ends_no_scan(caplog):
    def gone(line):
        raise OSError("terminal closed")

    Run(RunTable(gone), streamrecon=BLOCK)
    assert "terminal closed" in caplog.text
