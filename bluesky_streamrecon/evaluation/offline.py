"""Steering without a beamline: a scan's line integrals go through the job's engine and the controller's session.

No process is started. The decisions are those of a running system that keeps up with the detector, with one
difference: forecasts are made at once, not beside the scan.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass

import msgspec
import numpy as np

from bluesky_streamrecon.evaluation.images import live_updates
from bluesky_streamrecon.evaluation.scans import LineScan
from bluesky_streamrecon.partition import RowBlock, choose_preview_rows
from bluesky_streamrecon.quality.session import SteeringSession
from bluesky_streamrecon.recon.quick import QuickReconstructor
from bluesky_streamrecon.recon.view import window_of
from bluesky_streamrecon.settings import ROTATIONS, ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import OpenRun, Preview, Score

__all__ = ["Judgement", "judge_offline"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdicts of one policy on a scan.

    Parameters
    ----------
    policy : str
        Registered name.
    scores : tuple of Score
        A verdict for each image, in order; also of images after the one that would have been the last.
    planned : int
        Projections planned.
    """

    policy: str
    scores: tuple[Score, ...]
    planned: int

    @property
    def stopped_at(self) -> int | None:
        """Projections after which the scan would have ended; None: it would have gone on to its end."""
        return next((score.projections for score in self.scores if score.verdict == "enough"), None)

    @property
    def used(self) -> int:
        """Projections that would have been taken."""
        return self.planned if (at := self.stopped_at) is None else at


def judge_offline(
    scan: LineScan,
    recon: ReconSettings,
    steering: SteeringSettings,
    *,
    planned: int | None = None,
    threads: int = 1,
) -> Judgement:
    """Reconstruct a scan live, and have a policy judge every image.

    Parameters
    ----------
    scan : LineScan
        All projections, or those that were taken.
    recon : ReconSettings
        Of the live image.
    steering : SteeringSettings
        Policy, and its settings.
    planned : int, optional
        Projections planned; as many as there are by default.
    threads : int, optional
        That compute.

    Raises
    ------
    ConfigError
        If there is no policy of a name, or settings can not work.
    """
    planned = planned or len(scan)
    run = _opened(scan, recon, steering, planned)
    session = SteeringSession(run, reconstructor=QuickReconstructor(threads))
    rows, scores = run.preview_rows, []
    done, every = 0, max(1, len(scan) // 10)
    with closing(session):
        for number, engine in live_updates(scan, recon, window=window_of(run), threads=threads):
            pixels = engine.slices(rows)[:, :: 1 if recon.rotation == ROTATIONS[0] else -1]
            lines = np.ascontiguousarray(scan.integrals[done:number][:, list(rows)])
            preview = Preview(
                run_uid=run.run_uid,
                seq=engine.image_number,
                rank=0,
                image_number=engine.image_number,
                projections=number,
                rows=rows,
                shape=(pixels.shape[1], pixels.shape[2]),
                angles_used=tuple(float(a) for a in scan.angles[done:number]),
                columns=scan.columns,
                lines_first=done,
                axis=scan.axis,
                pixels=pixels,
                lines=lines,
                doubt=scan.doubt,
            )
            done = number
            session.accept(preview)
            while (judged := session.judge()) is not None:
                scores.append(judged)
            if number % every == 0:
                logger.info("%s: %d of %d projections judged", scan.name, number, len(scan))
    return Judgement(run.steering.rule, tuple(scores), planned)


def _opened(scan: LineScan, recon: ReconSettings, steering: SteeringSettings, planned: int) -> OpenRun:
    """Make the message that would have opened the run. Advisory, so that judging goes on to the end."""
    return OpenRun(
        run_uid=scan.name or "offline",
        recon_uid="offline",
        planned=planned,
        detector_shape=(scan.rows, scan.columns),
        dtype="<f4",
        block=RowBlock(0, scan.rows, 0, 0, 1),
        recon=recon,
        steering=msgspec.structs.replace(steering, advisory=True),
        preview_rows=steering.preview_rows or choose_preview_rows(scan.rows),
        metadata={"angle_start": str(scan.span[0]), "angle_stop": str(scan.span[1])},
    )
