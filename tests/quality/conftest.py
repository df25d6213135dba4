"""Runs and previews made up for the quality room: images that settle down as projections come in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.ordering import optimized_interleaved
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.session import SteeringSession
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.sim_devices.camera import Exposure, FrameKind, Noise, SimulatedCamera, faulty_exposure
from bluesky_streamrecon.sim_devices.faults import Faults
from bluesky_streamrecon.sim_devices.samples import Foam
from bluesky_streamrecon.wire import OpenRun, Preview, Score

SIDE = 44


@pytest.fixture
def open_run() -> Callable[..., OpenRun]:
    def make(uid: str = "run-1", *, window=24, step=1, planned=180, rows=(3, 7), **steering) -> OpenRun:
        return OpenRun(
            run_uid=uid,
            recon_uid=f"recon-of-{uid}",
            planned=planned,
            detector_shape=(10, SIDE),
            dtype="<u2",
            block=RowBlock(0, 10, 0, 0, 1),
            recon=ReconSettings(window=window, step=step),
            steering=SteeringSettings(**({"policy": "ms-ssim", "minimum_projections": 0} | steering)),
            preview_rows=rows,
        )

    return make


@pytest.fixture
def image() -> Callable[..., np.ndarray]:
    """Return slices (rows, N, N) of a square with noise that fades as the number of projections grows."""

    def make(projections: int, rows: int = 2, noise: float = 1.0) -> np.ndarray:
        rng = np.random.default_rng(projections)
        stack = np.zeros((rows, SIDE, SIDE), np.float32)
        stack[:, 10:30, 12:28] = 1.0
        return stack + (noise / projections * rng.standard_normal(stack.shape)).astype(np.float32)

    return make


@pytest.fixture
def preview() -> Callable[..., Preview]:
    def make(
        number, projections=None, *, pixels=None, uid="run-1", rank=0, rows=(3, 7), size=SIDE, angles=(), final=False
    ):
        return Preview(
            run_uid=uid,
            seq=max(number, 1),
            rank=rank,
            image_number=number,
            projections=number if projections is None else projections,
            final=final,
            rows=rows,
            shape=(size, size),
            angles_used=tuple(angles),
            pixels=pixels,
        )

    return make


COLUMNS = 96
PLANNED = 120


@dataclass(frozen=True)
class Simulated:
    """A scan as the ranks see it: line integrals of the preview rows, in the order of arrival."""

    lines: ScanLines

    def upto(self, count: int) -> ScanLines:
        lines = self.lines
        return ScanLines(lines.values[:count], lines.angles[:count], lines.axis, lines.rows, lines.planned, lines.over)


@pytest.fixture
def simulate() -> Callable[..., Simulated]:
    """Scan a sample with faults, without stage and detector: dark, flat and -log as on the job."""

    def scan(
        sample=None, faults=None, *, order=None, counts=1e4, rows=2, columns=COLUMNS, seed=0, over=None
    ) -> Simulated:
        faults = faults or Faults()
        order = list(optimized_interleaved(PLANNED)) if order is None else list(order)
        axis = (columns - 1) / 2 + 1.3
        solid = (sample or Foam()).body(rows, 0.43 * columns)
        camera = SimulatedCamera(solid, columns, axis, noise=Noise(counts=counts, dead=0, hot=0), seed=seed)

        def mean(kind: FrameKind) -> np.ndarray:
            return np.mean([camera.frame(Exposure(kind, 0.0, index)).astype(float) for index in range(20)], axis=0)

        dark = mean(FrameKind.DARK)
        gain = mean(FrameKind.FLAT) - dark
        taken = []
        for index, angle in enumerate(order):
            stands = angle if faults.slips_from is None else order[min(index, faults.slips_from)]
            frame = camera.frame(faulty_exposure(Exposure(FrameKind.PROJECTION, stands, index), faults))
            shares = (frame - dark) / gain
            dim = shares.mean(axis=1) < 1e-3
            taken.append(-np.log(np.maximum(shares, 1e-6)))
            taken[-1][dim] = np.nan
        return Simulated(
            ScanLines(
                np.array(taken, np.float32),
                np.deg2rad(order),
                axis,
                tuple(range(3, 3 + rows)),
                len(order),
                over or AngularRange(),
            )
        )

    return scan


@pytest.fixture
def drive(image) -> Callable[..., tuple[list[Score], Score | None]]:
    """Send a scan's line integrals through a session, until the policy's criterion is met or the scan ends.

    The images are those of a scan that goes well and soon changes no more: only the line integrals tell otherwise.
    `changes`: what is changed of the run, by the projections taken until then. `closed`: after which image it is
    closed, while its forecasts are still to come.
    """

    def run(simulated: Simulated, *, reconstructor=None, step=3, metadata=None, changes=None, closed=None, **steering):
        lines = simulated.lines
        session = SteeringSession(
            OpenRun(
                run_uid="run-1",
                recon_uid="recon-1",
                planned=lines.planned,
                detector_shape=(10, lines.values.shape[2]),
                dtype="<u2",
                block=RowBlock(0, 10, 0, 0, 1),
                recon=ReconSettings(window=12, step=step),
                steering=SteeringSettings(**steering),
                preview_rows=lines.rows,
                metadata=metadata or {},
            ),
            reconstructor=reconstructor,
        )
        if closed is not None:
            session._forecaster.begin = lambda *_: None
        scores = []
        for number, last in enumerate(range(step, lines.projections + 1, step), start=1):
            if changes and last - step in changes:
                session.change(changes[last - step])
            new = slice(last - step, last)
            header = Preview(
                run_uid="run-1",
                seq=number,
                rank=0,
                image_number=number,
                projections=last,
                rows=lines.rows,
                shape=(SIDE, SIDE),
                angles_used=tuple(lines.angles[new].tolist()),
                columns=lines.values.shape[2],
                lines_first=last - step,
                axis=lines.axis,
                pixels=image(last, rows=len(lines.rows)),
                lines=lines.values[new],
            )
            session.accept(header)
            judged = session.judge()
            assert judged is not None
            scores.append(judged)
            if judged.verdict == "enough":
                return scores, judged
            if number == closed:
                session.close()
                scores += [score for score in [session.last_score(), session.last_score()] if score is not None]
        return scores, None

    return run


@pytest.fixture
def stand_in() -> object:
    """A reconstructor that makes nothing of its data but a picture, to be fast where the picture does not matter."""

    class StandIn:
        def warm_up(self):
            pass

        def reconstruct(self, projections, angles, weights, *, axis, size):
            stack = np.zeros((projections.shape[1], size, size), np.float32)
            stack[:, 10:30, 12:28] = 1.0
            return stack

        def project(self, images, angles, *, axis, columns):
            return np.zeros((len(angles), images.shape[0], columns), np.float32)

    return StandIn()
