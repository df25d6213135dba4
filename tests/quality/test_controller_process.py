"""The controller as it is really run: a process of its own, at the other end of real sockets."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from bluesky_streamrecon.beamline.serving import BeamlineEndpoint, PeerJoined
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import OpenRun, OpenRunSpec, Preview, RankEndpoint, Score

BOUND = 30.0  # seconds that any one thing may take; reached only where something is broken
SIDE = 44
ROWS = (3, 7)
CODE = (
    "import sys; from bluesky_streamrecon.quality.controller import run_controller; sys.exit(run_controller(%r, %r%s))"
)


class Beamline:
    """A beamline and the two ranks of a job, in this process; each has one preview row."""

    def __init__(self) -> None:
        self.events: queue.Queue = queue.Queue()
        self.endpoint = BeamlineEndpoint(on_event=lambda event, _: self.events.put(event))
        job_id = self.endpoint.job_id
        self.ranks = [RankEndpoint(self.endpoint.address, job_id=job_id, rank=rank, size=2) for rank in (0, 1)]

    def expect(self, kind, wanted: Callable = lambda event: True):
        while True:
            event = self.events.get(timeout=BOUND)
            if isinstance(event, kind) and wanted(event):
                return event

    def controller_joined(self):
        return self.expect(PeerJoined, lambda event: event.peer.role == "controller")

    def told(self, rank, kind):
        while True:
            event = self.ranks[rank].next(BOUND)
            assert event is not None
            if isinstance(event, kind):
                return event

    def open_run(self, uid: str, **steering) -> None:
        self.endpoint.open_run(
            OpenRunSpec(
                run_uid=uid,
                recon_uid=f"recon-of-{uid}",
                planned=20,
                detector_shape=(10, SIDE),
                dtype="<u2",
                recon=ReconSettings(window=3),
                steering=SteeringSettings(**({"minimum_projections": 0} | steering)),
                preview_rows=ROWS,
            )
        )
        for rank in range(2):
            self.told(rank, OpenRun)

    def send(self, number: int) -> None:
        for rank, endpoint in enumerate(self.ranks):
            stack = np.random.default_rng([number, rank]).random((1, SIDE, SIDE), np.float32) / number
            stack[:, 10:30, 12:28] += 1
            endpoint.send(
                Preview(
                    run_uid="run-1",
                    rank=rank,
                    image_number=number,
                    projections=number,
                    rows=(ROWS[rank],),
                    shape=(SIDE, SIDE),
                    pixels=stack,
                )
            )

    def close(self) -> None:
        for each in (*self.ranks, self.endpoint):
            each.close(0.0)


@pytest.fixture
def beamline() -> Iterator[Beamline]:
    beamline = Beamline()
    yield beamline
    beamline.close()


@pytest.fixture
def start_controller(beamline) -> Iterator[Callable[..., subprocess.Popen]]:
    started = []

    def start(more: str = "") -> subprocess.Popen:
        code = CODE % (beamline.endpoint.address, beamline.endpoint.job_id, more)
        started.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.stdin.close()
        process.kill()
        process.wait(BOUND)


def test_controller_scores_each_image_and_comes_back_after_a_crash(beamline, start_controller):
    controller = start_controller()
    beamline.controller_joined()
    beamline.open_run("run-1", threshold=0.5)
    for number in range(1, 6):
        beamline.send(number)
    scores = [beamline.expect(Score) for _ in range(4)]
    assert [score.image_number for score in scores] == [1, 2, 3, 4]
    assert [score.score is None for score in scores] == [True, True, True, False]
    assert [score.verdict for score in scores] == ["continue", "continue", "continue", "enough"]
    assert scores[3].text.startswith("at 4 of 20 projections: MS-SSIM 0.")

    controller.kill()
    controller.wait(BOUND)
    again = start_controller()
    beamline.controller_joined()
    beamline.send(6)
    newest = beamline.expect(Score, lambda event: event.image_number == 6)
    assert newest.score is not None  # image 3 was sent before this process began

    beamline.endpoint.shutdown_peers("done")
    assert again.wait(BOUND) == 0


def test_controller_ends_when_its_standard_input_is_closed(beamline, start_controller):
    controller = start_controller(", watch_parent=True")
    beamline.controller_joined()
    controller.stdin.close()
    assert controller.wait(BOUND) == 0


def test_controller_of_another_job_is_refused_and_ends(beamline):
    code = CODE % (beamline.endpoint.address, "another-job", "")
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=BOUND, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "refused by the beamline" in ended.stderr
    assert "another-job" in ended.stderr
