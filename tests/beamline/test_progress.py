"""How a run is told: one sentence for what several ranks report, and what a scan was stopped for."""

from __future__ import annotations

import msgspec
import pytest

from bluesky_streamrecon.beamline.job_orders import _judged
from bluesky_streamrecon.beamline.progress import RunProgress
from bluesky_streamrecon.config import ReconSettings
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.messages import OpenRunSpec, Problem, Score

NO_FLAT = "reconstruction: got 60 projections and no flat field, expected at least one; were flats taken?"


@pytest.fixture
def progress():
    spec = OpenRunSpec(
        run_uid="run", recon_uid="recon", planned=180, detector_shape=(4, 8), dtype="<u2", recon=ReconSettings(ranks=3)
    )
    return RunProgress(spec, 0.0)


def report(progress, rank, text, role="rank"):
    peer = PeerInfo(role=role, rank=rank, size=3, host="node", pid=1, instance="i", linked=True, software="")
    where, _, words = text.partition(": ")
    progress.handle(Problem(fault="local", where=where, text=words), 1.0, peer)


def test_what_every_rank_reports_is_said_once_and_without_ranks(progress):
    for rank in (1, 0, 2, 1):
        report(progress, rank, NO_FLAT)
    assert progress.problems == [NO_FLAT]


def test_what_some_ranks_report_names_them_in_one_sentence(progress):
    report(progress, 2, "reconstruction: disk full")
    report(progress, 1, NO_FLAT)
    report(progress, 0, "reconstruction: disk full")
    report(progress, 0, "steering: no such policy", role="controller")
    assert progress.problems == [
        "ranks 0, 2: reconstruction: disk full",
        f"rank 1: {NO_FLAT}",
        "controller: steering: no such policy",
    ]


def test_verdict_in_numbers_says_from_how_many_projections_the_gain_was_predicted():
    metrics = {"predicted-gain": 0.03, "predicted-gain-low": 0.02, "predicted-gain-high": 0.04}
    score = Score(run_uid="run", image_number=60, projections=60, score=0.97, metrics=metrics)
    assert (_judged(score).gain, _judged(score).gain_at) == (0.03, None)
    score = msgspec.structs.replace(score, metrics={**metrics, "predicted-gain-at": 57.0})
    assert (_judged(score).projections, _judged(score).gain_at) == (60, 57)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "at 124 of 180 projections: the remaining 56 are predicted to improve the image by 0.011 ± 0.008 MS-SSIM "
            "(tolerance 0.02)",
            "quality: stopped at 124 of 180 projections: the remaining 56 are predicted to improve the image by "
            "0.011 ± 0.008 MS-SSIM (tolerance 0.02); 127 taken",
        ),
        ("changed by 0.001", "quality: changed by 0.001; 127 taken"),
    ],
    ids=["ours", "their-own"],
)
def test_reason_says_where_the_scan_was_stopped_and_how_many_were_taken(progress, text, reason):
    enough = Score(run_uid="run", verdict="enough", text=text, score=0.98, projections=124, image_number=124)
    progress.handle(enough, 1.0)
    progress.taken["projection"] = 127
    assert progress.quality_reached().reason == reason
