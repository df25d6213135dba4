"""The demo: a simulated or replayed scan that is streamed, reconstructed, scored and stopped.

RunEngine, processes and catalogue are those of a beamline; only the devices are simulated.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.slices import grey_range, slice_of
from bluesky_streamrecon.errors import JobError, StorageError
from bluesky_streamrecon.evaluation.report import new_directory, save_figure

if TYPE_CHECKING:
    from bluesky import RunEngine
    from bluesky.run_engine import RunEngineResult

    from bluesky_streamrecon.beamline.source import Volume
    from bluesky_streamrecon.cuts import Cut
    from bluesky_streamrecon.run_record import RunRecord
    from bluesky_streamrecon.wire import Cuts, RunStatus

__all__ = ["run_demo", "store"]

SHOWN = 5
"""Intermediate images in the picture, beside the final one."""

GROWTH = 1.4
"""So many times more projections than the last has a further one, at least."""

SUMMARY = ("run_uid", "recon_uid", "exit_status", "reason", "score", "axis", "ranks", "seconds_to_first_image")
"""Of the run's record, by the same names in the result."""

Documents = list[tuple[str, dict[str, Any]]]
Slices = list[tuple[int, NDArray[np.float32]]]
"""Projections, and the middle slice of the image that was made of them: fewer and fewer as the run goes on."""

logger = logging.getLogger(__name__)


def run_demo(
    *,
    data: Path | None = None,
    sample: str = "foam",
    num: int = 180,
    order: str = "optimized-interleaved",
    ranks: int = 2,
    seed: int = 0,
    out: Path = Path("streamrecon-demo"),
    angle_units: str | None = None,
    simulated: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run `stream_tomo_plan` once, with all results in one directory; the table of the run is logged.

    Parameters
    ----------
    data : Path, optional
        Recorded scan (DXchange or NXtomo) to replay by angle instead of a simulated sample; the angles are its own.
    sample : str, optional
        Name of the simulated sample.
    num : int, optional
        Projections planned, for a simulated sample.
    order : str, optional
        Registered name of the angle order.
    ranks : int, optional
        MPI ranks.
    seed : int, optional
        Seed of the simulated noise.
    out : Path, optional
        Directory for the picture, the raw data, the reconstruction and the catalogue; made if missing.
    angle_units : str, optional
        Units of the recorded scan's angles, in place of those that its file states.
    simulated : mapping, optional
        Further arguments of `sim_beamline`: rows, columns, axis, half_acquisition, fill, tilt, rings, counts, ... With
        ``half_acquisition`` the scan is one over a full turn.
    **settings
        As for `stream_tomo_plan`: algorithm, window, step, policy, threshold, tolerance, ...

    Returns
    -------
    dict
        The fields of the command line's JSON: uids, counts, times, the ledger and the picture's path.

    Raises
    ------
    ConfigError
        If an argument can not work.
    JobError
        If the reconstruction job can not be started, or the scan was interrupted.
    StorageError
        If data or catalogue can not be written; the scan is not ended by that.
    """
    from bluesky_streamrecon.beamline import MpiLauncher, ReconJob, RunTable
    from bluesky_streamrecon.beamline.source import Source
    from bluesky_streamrecon.data_keys import FrameLayout
    from bluesky_streamrecon.ordering import listed, make_order, places_in_order
    from bluesky_streamrecon.plans import stream_tomo_plan
    from bluesky_streamrecon.plans.engines import run_engine
    from bluesky_streamrecon.plans.parts import check_frames, check_names
    from bluesky_streamrecon.plans.signature import image_settings
    from bluesky_streamrecon.sim_devices import sim_beamline

    geometry = dict(simulated or {})
    turn = 360.0 if geometry.get("half_acquisition") else 180.0
    angle_order = make_order(order, num=num, stop=turn) if data is None else None
    out = out.resolve()
    beamline = sim_beamline(data or sample, seed=seed, directory=out / "detector", angle_units=angle_units, **geometry)
    recon, steering = image_settings(ranks, settings)
    check_names(recon, steering)
    check_frames(FrameLayout(1, *beamline.camera.shape), recon, steering, local=True)
    new_directory(out)
    for problem in beamline.problems:
        logger.warning("%s", problem)
    if angle_order is None:
        assert beamline.angles is not None  # noqa: S101 - a recorded scan has its angles
        recorded = np.asarray(beamline.angles)
        angle_order = listed(recorded[places_in_order(order, recorded)])
    title = data.name if data else sample
    recon_directory = new_directory(out / "reconstruction")
    began = time.monotonic()
    documents: Documents = []
    try:
        job = ReconJob(ranks=ranks, output=recon_directory, launcher=MpiLauncher(log_directory=out / "logs"))
        developed: Slices = []

        def wish(status: RunStatus, volume: Volume) -> list[Cut]:
            return [slice_of(_middle(status.preview_rows), volume)]

        def take(cuts: Cuts) -> None:
            if not developed or cuts.projections >= GROWTH * developed[-1][0]:
                developed.append((cuts.projections, cuts.values()[0]))

        with (
            run_engine() as engine,
            contextlib.closing(job),
            contextlib.closing(Source(job.connect_operator, "demo")) as watching,
        ):
            watching.watch(wish, take)
            for source in (job, engine):
                source.subscribe(lambda name, doc: documents.append((name, doc)))
            table = RunTable(logger.info, steer="streamrecon steer status, finish 'why', hold")
            for name in ("start", "descriptor", "event"):  # how it ended is returned
                engine.subscribe(table, name)
            devices: list[Any] = [beamline.detector]
            if settings.get("monitor") is not None:
                devices.append(beamline.monitor)
            plan = stream_tomo_plan(
                devices,
                beamline.stage,
                order=angle_order,
                ranks=ranks,
                job=job,
                shutter=beamline.shutter,
                sample_table=beamline.table,
                md={"sample": title, "angle_order": order},
                **settings,
            )
            ended = _run(engine, plan, out)
    except BaseException:
        with contextlib.suppress(StorageError):  # something else is wrong already
            store(out, documents)
        raise
    store(out, documents)
    record = job.last_run
    if record is None:
        raise JobError(f"demo: the plan ended as {ended.exit_status!r} without a run: {ended.reason}")
    picture = out / "demo.png"
    row = _middle(record.spec.preview_rows)
    _draw(picture, record, row, developed, f"{title}, {order}: {record.reason}")
    finished = {"finished": _draw_finished(out / "finished.png", record, row, title)} if record.volume else {}
    return {
        **{name: getattr(record, name) for name in SUMMARY},
        "projections_used": record.used,
        "projections_planned": record.planned,
        "seconds": time.monotonic() - began,
        "picture": str(picture),
        "ledger": record.ledger_totals(),
        **finished,
    }


def store(out: Path, documents: Documents) -> None:
    """Write all documents into the catalogue; not before the scan is over, for its server takes a core for seconds."""
    from bluesky_streamrecon.storage import open_storage

    with open_storage(directory=out / "catalogue", readable=[out]) as storage:
        for name, document in documents:
            storage.writer(name, document)


def _run(engine: RunEngine, plan: Any, out: Path) -> RunEngineResult:
    from bluesky.run_engine import RunEngineResult
    from bluesky.utils import RunEngineInterrupted

    try:
        ended = engine(plan)
    except RunEngineInterrupted:
        engine.abort("interrupted at the keyboard")
        raise JobError(f"demo: interrupted; the scan was aborted, and what was taken is in {out}") from None
    assert isinstance(ended, RunEngineResult)  # noqa: S101 - as our engines are made
    return ended


def _draw_finished(picture: Path, record: RunRecord, row: int, title: str) -> dict[str, Any]:
    """Draw a slice of the finished volume beside the live one; return what is said of it."""
    from bluesky_streamrecon.evaluation.figures import new_figure, show_slice

    assert record.volume is not None  # noqa: S101
    with h5py.File(record.volume) as file:
        live, finished = file["exchange/data"][row], file["exchange/volume"][row]
    similar = (
        "" if record.similarity is None else f": MS-SSIM of the live image to the finished one {record.similarity:.4f}"
    )
    figure = new_figure(13, 6.4)
    figure.suptitle(f"{title}, {record.used} projections{similar}", fontsize=11, wrap=True)
    low, high = grey_range(finished)
    for axes, image, name in zip(figure.subplots(1, 2), (live, finished), ("live", "finished"), strict=True):
        shown = show_slice(axes, image, name, low, high)
    figure.colorbar(shown, ax=figure.axes, shrink=0.75, label="attenuation (1/pixel)")
    save_figure(figure, picture)
    return {"picture": str(picture), "file": record.volume, "similarity_to_live": record.similarity}


def _middle(rows: Sequence[int]) -> int:
    return rows[len(rows) // 2]


def _draw(picture: Path, record: RunRecord, row: int, some: Slices, title: str) -> None:
    """Draw the last live slice, earlier ones, and the numbers that the policy decided by."""
    from bluesky_streamrecon.evaluation.figures import draw_verdicts, new_figure, show_slice

    chosen = [some[i] for i in np.unique(np.linspace(0, len(some) - 1, SHOWN).round().astype(int))] if some else []
    if record.result is not None:
        with h5py.File(record.result) as file:
            final = file["exchange/data"][row]
    elif chosen:
        final = chosen[-1][1]
    else:
        raise JobError(f"demo: the job made no image: {'; '.join(record.problems) or record.reason}")
    figure = new_figure(13, 6.8)
    figure.suptitle(title, fontsize=11, wrap=True)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.05, 1.2], height_ratios=[1, 1.35])
    low, high = grey_range(final)
    axes = figure.add_subplot(grid[:, 0])
    shown = show_slice(axes, final, f"final slice, {record.used} projections", low, high)
    figure.colorbar(shown, ax=axes, shrink=0.75, label="attenuation (1/pixel)")
    places = grid[0, 1].subgridspec(1, max(len(chosen), 1))
    for i, (projections, image) in enumerate(chosen):
        show_slice(figure.add_subplot(places[0, i]), image, f"{projections}", low, high)
    draw_verdicts(
        figure.add_subplot(grid[1, 1]),
        record.verdicts,
        record.spec.steering,
        planned=record.planned,
        stopped_at=record.used if record.used < record.planned else None,
        stop="stopped at",
    )
    save_figure(figure, picture)
