"""A past run judged again by any policy, from its stored data: no beamline, no job, no sockets.

Preparation, window and engine, and the controller's session are those of the running system, on the preview rows only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.acquisition import with_found_options
from bluesky_streamrecon.beamline.slices import grey_range
from bluesky_streamrecon.data_keys import FrameLayout
from bluesky_streamrecon.errors import ConfigError, DataError, StorageError
from bluesky_streamrecon.evaluation.figures import draw_verdicts, new_figure, show_slice
from bluesky_streamrecon.evaluation.images import finish
from bluesky_streamrecon.evaluation.offline import Judgement, judge_offline
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.evaluation.scans import LineScan, Truth, centred, prepared
from bluesky_streamrecon.geometry import FULL_TURN
from bluesky_streamrecon.ordering import places_in_order
from bluesky_streamrecon.partition import choose_preview_rows
from bluesky_streamrecon.quality.patches import patches_that_differ
from bluesky_streamrecon.quality.policy import PREDICTED_GAIN
from bluesky_streamrecon.quality.trials import region_slices, view_width
from bluesky_streamrecon.reduction import Reduction
from bluesky_streamrecon.selection import Region, Selection
from bluesky_streamrecon.settings import ROTATIONS, ReconSettings, SteeringSettings, settings_from
from bluesky_streamrecon.storage import TomoScan, find_reconstruction, find_run, open_storage, read_scan
from bluesky_streamrecon.storage.details import configurations
from bluesky_streamrecon.storage.run_streams import RunStreams
from bluesky_streamrecon.storage.runs import as_live, scan_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Recorded", "recorded_file", "recorded_run", "replay"]

logger = logging.getLogger(__name__)

BLOCK = "streamrecon"
VERDICT = ("projections", "verdict", "score", "metrics", "text")


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The data and settings of a past run.

    Parameters
    ----------
    name : str
        Uid or file.
    frames : TomoScan
        All that was taken.
    planned : int
        Projections planned.
    span : (float, float)
        Angles that the scan was going to visit, degrees.
    recon, steering : ReconSettings, SteeringSettings
        What the run was taken with.
    """

    name: str
    frames: TomoScan
    planned: int
    span: tuple[float, float] = (0.0, 180.0)
    recon: ReconSettings = field(default_factory=ReconSettings)
    steering: SteeringSettings = field(default_factory=SteeringSettings)


def recorded_file(path: Path, *, order: str | None = None, angle_units: str | None = None) -> Recorded:
    """Open a recorded scan, DXchange or NXtomo.

    Parameters
    ----------
    path : Path
        The file.
    order : str, optional
        Take its projections in this order instead of that in the file.
    angle_units : str, optional
        Units of its angles, in place of those that it states.

    Raises
    ------
    StorageError, DataError
        If it can not be read.
    """
    scan = read_scan(path, angle_units=angle_units)
    start, streams = ({}, {}) if scan.run is None else (scan.run.start, scan.run.streams)
    frames = as_live(start, scan.frames)
    if order is not None:
        frames = frames.in_order(places_in_order(order, frames.angles_deg))
    about = {} if scan.reconstruction is None else scan.reconstruction.start.get(BLOCK, {})
    return _as_taken(path.stem, frames, start, [stream.configuration for stream in streams.values()], about)


@contextmanager
def recorded_run(
    uid: str,
    *,
    uri: str | None = None,
    directory: Path | None = None,
    readable: Sequence[Path] = (),
    angle_units: str | None = None,
) -> Iterator[Recorded]:
    """Open a stored run, and close its catalogue in the end.

    Parameters
    ----------
    uid : str
        Of the raw run, or its first characters.
    uri : str, optional
        Of a Tiled server.
    directory : Path, optional
        Of an embedded catalogue; the user's own by default.
    readable : sequence of Path, optional
        Directories that the embedded server may read.
    angle_units : str, optional
        Units of its angles, in place of those that it states.

    Raises
    ------
    StorageError
        If there is no such catalogue or run.
    DataError, ConfigError
        If the run can not be understood.
    """
    with open_storage(uri, directory=directory, readable=readable) as storage:
        run = RunStreams(find_run(storage.catalog, uid))
        start: Mapping[str, Any] = run.metadata["start"]
        frames = as_live(start, scan_of(run, storage.catalog, uid, angle_units=angle_units))
        try:
            about = find_reconstruction(storage.catalog, uid).metadata["start"].get(BLOCK, {})
        except StorageError:  # none was stored
            about = {}
        yield _as_taken(uid, frames, start, list(configurations(run)), about)


def _as_taken(
    name: str, frames: TomoScan, start: Mapping[str, Any], configured: Sequence[Any], about: Mapping[str, Any]
) -> Recorded:
    """Return a run with its settings, with the rows and the region that counted in the end.

    `about` is the ``streamrecon`` block of its reconstruction, `configured` what its devices were configured to.
    """
    block: Mapping[str, Any] = start.get(BLOCK, {})
    planned = max(int(block.get("projections") or 0), len(frames.angles_deg))  # it may have been extended
    ends = block.get("start"), block.get("stop")
    span = _range_of(frames.angles_deg) if None in ends else (float(ends[0]), float(ends[1]))  # type: ignore[arg-type]
    recon, _ = with_found_options(settings_from(ReconSettings, block.get("recon", {})), start, configured)
    steering = settings_from(SteeringSettings, block.get("steering", {}))
    if about.get("selected_by") is not None:
        selection = msgspec.convert(about["selection"], Selection)
        rows = selection.rows or steering.preview_rows
        steering = msgspec.structs.replace(steering, region=selection.region, preview_rows=rows)
    return Recorded(name, frames, planned, span, recon, steering)


def replay(recorded: Recorded, steering: SteeringSettings | None = None, *, threads: int = 1) -> Report:
    """Judge a past run again; problems of its data are logged.

    Parameters
    ----------
    recorded : Recorded
        The run.
    steering : SteeringSettings, optional
        Policy and its settings; those of the run by default.
    threads : int, optional
        That compute.

    Returns
    -------
    Report
        ``policy``; ``stopped_at``, the projections after which the scan would have ended (None: never); ``planned``,
        and those that are stored (``taken``); ``lost``, 1 - MS-SSIM between the images finished from the projections
        until then and from all that are stored (0 where it would not have ended: the truth is not known, this is how
        much the image would still have changed); and ``verdicts``, one for each image, with the numbers that it went
        by. The figure is ``replay``.

    Raises
    ------
    ConfigError
        If there is no such policy, or the run can not be reconstructed as it was.
    DataError
        If there are no flats, or no projections.
    """
    for problem in recorded.frames.problems:
        logger.warning("%s", problem)
    steering = steering or recorded.steering
    taken, scan, region = _shown_rows(recorded, steering)
    judgement = judge_offline(
        taken,
        msgspec.structs.replace(recorded.recon, threads=None, ranks=1, share=1),
        msgspec.structs.replace(steering, preview_rows=tuple(range(scan.rows))),
        planned=recorded.planned,
        threads=threads,
    )
    whole = finish(scan, threads=threads)
    stopped = judgement.stopped_at
    early: NDArray[np.float32] | None = None
    lost = 0.0
    if stopped is not None and stopped < len(scan):
        early = finish(scan.first(stopped), threads=threads)
        inside = ... if region is None else (slice(None), *region_slices(region, scan.geometry.size))
        width = view_width(scan.columns, scan.axis, scan.over) if region is None else scan.geometry.size
        lost = 1 - Truth.measured(whole[inside], width).similarity(early[inside])
    verdicts = [{name: getattr(score, name) for name in VERDICT} for score in judgement.scores]
    for row in verdicts:  # judging went on to the end
        row["text"] = row["text"].removeprefix("advisory: ")
    fields = {
        "policy": judgement.policy,
        "stopped_at": stopped,
        "planned": recorded.planned,
        "taken": len(scan),
        "verdicts": verdicts,
        "lost": lost,
        "problems": list(scan.problems),
    }
    patches = None
    if PREDICTED_GAIN in steering.rule:
        middle = scan.rows // 2
        worse = early if early is not None else finish(scan.first(max(len(scan) // 2, 1)), threads=threads)
        patches = patches_that_differ(whole[middle], worse[middle], steering.tolerance)
    return Report(fields, figures={"replay": _draw(recorded.name, judgement, steering, early, whole, lost, patches)})


def _shown_rows(recorded: Recorded, steering: SteeringSettings) -> tuple[LineScan, LineScan, Region | None]:
    """Prepare the preview rows, as the job had them, and with the axis in the middle, to be finished alike everywhere.

    The edges of the slices are cut off or added to in these; the region is the same part of the sample in them.
    """
    height = Reduction.wanted(FrameLayout(1, *recorded.frames.projections.shape[1:]), recorded.recon).shape[0]
    rows = steering.preview_rows or choose_preview_rows(height)
    if max(rows) >= height:
        raise ConfigError(f"preview_rows: got {rows}, but the frames of {recorded.name} have {height} rows")
    if not len(recorded.frames.angles_deg):
        raise DataError(f"{recorded.name}: got no projections, expected at least one")
    recon = recorded.recon
    scan = replace(prepared(recorded.frames, recorded.name, recon, rows), span=recorded.span)
    taken, shown = replace(scan, size=recon.size or scan.size, disc=recon.disc), centred(scan)
    if recon.rotation != ROTATIONS[0]:  # finished images are mirrored, too
        shown = replace(shown, angles=-scan.angles, span=(-scan.span[1], -scan.span[0]))
    if steering.region is None:
        return taken, shown, None
    size, was = shown.geometry.size, taken.geometry.size
    left, top, right, bottom = (min(max(edge + (size - was) // 2, 0), size) for edge in steering.region)
    return taken, shown, (left, top, right, bottom)


def _draw(
    name: str,
    judgement: Judgement,
    steering: SteeringSettings,
    early: NDArray[np.float32] | None,
    whole: NDArray[np.float32],
    lost: float,
    patches: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
) -> Figure:
    """Draw what the policy decided by, the images finished from its stop, if any, and from all, and two patches."""
    figure = new_figure(15, 4.2)
    axes, *panels = figure.subplots(1, 6, width_ratios=[1.6, 1, 1, 1, 0.8, 0.8])
    stopped, planned = judgement.stopped_at, judgement.planned
    draw_verdicts(axes, judgement.scores, steering, planned=planned, stopped_at=stopped, stop="would have ended at")
    axes.set_title(f"{name}: {judgement.policy}", fontsize=10)
    middle = len(whole) // 2
    _, high = grey_range(whole[middle])
    shown: list[Any] = [None, (whole[middle], "finished from all", 0, high), None, None, None]
    if early is None:
        panels[0].set_title("would not have ended it", fontsize=9)
    else:
        shown[0] = early[middle], f"finished from {stopped}", 0, high
        shown[2] = early[middle] - whole[middle], f"difference (1 - MS-SSIM = {lost:.3f})", -high / 4, high / 4
    if patches is not None:
        shown[3] = patches[0], "a patch of it", 0, high
        shown[4] = patches[1], f"{steering.tolerance:g} MS-SSIM worse", 0, high
    for panel, what in zip(panels, shown, strict=True):
        panel.set_axis_off()
        if what is not None:
            show_slice(panel, *what)
    return figure


def _range_of(angles: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range of a scan that does not record it: a half turn if it nearly is one, else what it covers."""
    low, high = float(angles.min()), float(angles.max())
    covered = high - low + (high - low) / max(len(angles) - 1, 1)
    return (low, low + 180.0) if 0.95 * 180 <= covered < FULL_TURN else (low, low + covered)
