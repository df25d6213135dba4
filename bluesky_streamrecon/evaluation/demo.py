"""The main job from a script: a simulated or replayed scan, streamed, reconstructed, scored and stopped.

Everything is as at a beamline (a real RunEngine, real processes, a real catalogue); only the devices are simulated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import JobError, StorageError
from bluesky_streamrecon.evaluation.pictures import draw_run
from bluesky_streamrecon.evaluation.tables import new_directory
from bluesky_streamrecon.quality.snapshots import snapshots_path

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline import RunRecord
    from bluesky_streamrecon.storage import Storage

__all__ = ["DemoProgress", "DemoResult", "run_demo"]


@dataclass(frozen=True, slots=True)
class DemoProgress:
    """One projection: its number, angle (degrees), the newest score (NaN: none yet) and the job's lag (projections)."""

    projection: int
    planned: int
    angle: float
    score: float
    lag: int

    def __str__(self) -> str:
        score = "     -" if math.isnan(self.score) else f"{self.score:6.4f}"
        return (
            f"projection {self.projection:4d}/{self.planned}  angle {self.angle:8.3f}  score {score}  lag {self.lag:3d}"
        )


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a demo gave; the fields are those of the command line's JSON."""

    run_uid: str
    recon_uid: str
    exit_status: str
    reason: str
    projections_used: int
    projections_planned: int
    score: float
    axis: float
    ranks: int
    seconds: float
    seconds_to_first_image: float
    picture: Path
    ledger: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Give the fields as plain values."""
        return asdict(self) | {"picture": str(self.picture)}


def run_demo(
    *,
    data: Path | None = None,
    sample: str = "foam",
    num: int = 180,
    order: str = "optimized-interleaved",
    algorithm: str = "mlem",
    ranks: int = 2,
    threshold: float | None = None,
    tolerance: float = 0.02,
    policy: str | None = None,
    window: int = 24,
    window_policy: str = "spread",
    step: int = 1,
    seed: int = 0,
    out: Path = Path("streamrecon-demo"),
    on_progress: Callable[[DemoProgress], None] | None = None,
) -> DemoResult:
    """Run `stream_tomo_plan` once and keep everything that it gave in one directory.

    Parameters
    ----------
    data : Path, optional
        Recorded scan (DXfile) to replay by angle instead of a simulated sample; it says which angles there are.
    sample : str, optional
        Name of the simulated sample.
    num : int, optional
        Projections planned, for a simulated sample.
    order, algorithm, ranks, threshold, tolerance, policy, window, window_policy, step
        As for `stream_tomo_plan`.
    seed : int, optional
        Seed of the simulated noise.
    out : Path, optional
        Directory for the picture, the raw data, the reconstruction and the catalogue; made if missing.
    on_progress : callable, optional
        Called with a `DemoProgress` after each projection.

    Returns
    -------
    DemoResult
        Uids, counts, times and the picture's path.

    Raises
    ------
    ConfigError
        If an argument can not work.
    JobError
        If the reconstruction job can not be started.
    """
    from bluesky.run_engine import RunEngineResult
    from bluesky.utils import RunEngineInterrupted

    from bluesky_streamrecon.beamline import MpiLauncher, ReconJob
    from bluesky_streamrecon.evaluation.engines import run_engine
    from bluesky_streamrecon.ordering import listed, make_order
    from bluesky_streamrecon.plans import stream_tomo_plan
    from bluesky_streamrecon.sim_devices import sim_beamline
    from bluesky_streamrecon.storage import open_storage

    angle_order = make_order(order, num=num) if data is None else None
    out = new_directory(out.resolve())
    beamline = sim_beamline(data or sample, seed=seed, directory=out / "detector")
    if angle_order is None:
        assert beamline.angles is not None  # noqa: S101 - a recorded scan has its angles
        recorded = np.sort(beamline.angles)
        grid = make_order(order, num=len(recorded), start=0, stop=len(recorded))
        angle_order = listed(recorded[np.asarray(grid.angles, int)])
    recon_directory = out / "reconstruction"
    recon_directory.mkdir(exist_ok=True)
    began = time.monotonic()
    job = ReconJob(ranks=ranks, output=recon_directory, launcher=MpiLauncher(log_directory=out / "logs"))
    # The catalogue's server takes seconds to start; the scan does not wait for it.
    with ThreadPoolExecutor(1) as starting, ExitStack() as stack:
        engine = stack.enter_context(run_engine())
        stack.callback(job.close)
        opening = starting.submit(open_storage, directory=out / "catalogue", readable=[out])
        stack.push(_closing(opening))
        store = _StoreWhenOpen(opening)
        job.subscribe(store)
        engine.subscribe(store)
        if on_progress is not None:
            engine.subscribe(_Reporter(on_progress, len(angle_order), beamline.stage.name, job.name))
        plan = stream_tomo_plan(
            [beamline.detector],
            beamline.stage,
            order=angle_order,
            window=window,
            window_policy=window_policy,
            step=step,
            algorithm=algorithm,
            threshold=threshold,
            tolerance=tolerance,
            policy=policy,
            ranks=ranks,
            job=job,
            shutter=beamline.shutter,
            sample_table=beamline.table,
            md={"sample": str(data.name if data else sample), "angle_order": order},
        )
        try:
            result = engine(plan)
        except RunEngineInterrupted:
            engine.abort("interrupted at the keyboard")
            raise JobError(f"demo: interrupted; the scan was aborted, and what was taken is in {out}") from None
    record = job.last_run
    assert isinstance(result, RunEngineResult)  # noqa: S101 - as asked for with call_returns_result
    if record is None or not result.run_start_uids:
        raise JobError(f"demo: the plan ended as {result.exit_status!r} without a run: {result.reason}")
    picture = out / "demo.png"
    _draw(picture, record, recon_directory, str(data.name if data else sample), order)
    return DemoResult(
        run_uid=record.run_uid,
        recon_uid=record.recon_uid,
        exit_status=record.exit_status,
        reason=record.reason,
        projections_used=record.used,
        projections_planned=record.planned,
        score=math.nan if record.score is None else record.score,
        axis=math.nan if record.axis is None else record.axis,
        ranks=record.ranks,
        seconds=time.monotonic() - began,
        seconds_to_first_image=math.nan if record.seconds_to_first_image is None else record.seconds_to_first_image,
        picture=picture,
        ledger=record.ledger_totals(),
    )


def _closing(opening: Future[Storage]) -> Callable[[object, BaseException | None, object], None]:
    """Close the catalogue in the end; why it could not be opened is told unless something else is wrong already."""

    def end(_kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            opening.result().close()
        except StorageError:
            if error is None:
                raise

    return end


class _StoreWhenOpen:
    """Document callback that holds documents back until the catalogue is open, and waits for it only at a run's end.

    A catalogue that can not be opened does not end the scan; it is told when it is closed.
    """

    def __init__(self, opening: Future[Storage]) -> None:
        self._opening = opening
        self._held: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        self._held.append((name, document))
        if name == "stop" or self._opening.done():
            if self._opening.exception() is not None:
                return
            writer = self._opening.result().writer
            held, self._held = self._held, []
            for item in held:
                writer(*item)


class _Reporter:
    """Document callback that turns each projection's event into a `DemoProgress`."""

    def __init__(self, tell: Callable[[DemoProgress], None], planned: int, stage: str, job: str) -> None:
        self._tell = tell
        self._planned = planned
        self._stage = stage
        self._job = job
        self._primary: str | None = None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "descriptor" and doc.get("name") == "primary":
            self._primary = doc["uid"]
        elif name == "event" and doc["descriptor"] == self._primary:
            data = doc["data"]
            self._tell(
                DemoProgress(
                    doc["seq_num"],
                    self._planned,
                    float(data.get(self._stage, math.nan)),
                    float(data.get(f"{self._job}-score", math.nan)),
                    int(data.get(f"{self._job}-lag", 0)),
                )
            )


def _gains(record: RunRecord) -> list[tuple[int, float, float]]:
    """Give each prediction of the gain that was left: projections, gain, upper end of its band."""
    found = {}
    for verdict in record.verdicts:
        at, gain, upper = (verdict.metrics.get(f"predicted-gain{part}") for part in ("-at", "", "-high"))
        if at is not None and gain is not None and upper is not None:
            found[int(at)] = (int(at), gain, upper)
    return sorted(found.values())


def _draw(picture: Path, record: RunRecord, directory: Path, sample: str, order: str) -> None:
    snapshots: list[tuple[int, NDArray[np.float32]]] = []
    row = 0
    kept = snapshots_path(directory, record.recon_uid)
    if kept.exists():
        with h5py.File(kept) as file:
            middle = len(file["rows"]) // 2
            row = int(file["rows"][middle])
            # Evenly spread over what was kept; the final slice has a place of its own.
            chosen = np.unique(np.linspace(0, len(file["projections"]) - 1, 5).round().astype(int))
            snapshots = [(int(file["projections"][i]), file["images"][i, middle]) for i in chosen]
    if record.result is None:
        if not snapshots:
            raise JobError(f"demo: the job made no image: {'; '.join(record.problems) or record.reason}")
        final = snapshots[-1][1]
    else:
        with h5py.File(record.result) as file:
            final = file["exchange/data"][row]
    stopped = record.used if record.used < record.planned else None
    draw_run(
        picture,
        title=f"{sample}, {order}: {record.reason}",
        final=final,
        snapshots=snapshots,
        scores=record.scores,
        threshold=record.threshold if "ms-ssim" in record.spec.steering.rule else None,
        gains=_gains(record),
        tolerance=record.spec.steering.tolerance,
        stopped_at=stopped,
        planned=record.planned,
    )
