"""Tomography as an analysis of frames: preparation, rotation axis, engine. Angles are radians, lengths pixels."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.geometry import TomoGeometry, image_size
from bluesky_streamrecon.partition import partition_rows
from bluesky_streamrecon.projection_sets import ProjectionStore, most_views
from bluesky_streamrecon.recon.algorithms import algorithms
from bluesky_streamrecon.recon.analysis import Analysis, Report, explained
from bluesky_streamrecon.recon.archive import Archive, Archived
from bluesky_streamrecon.recon.axis_estimate import GIVEN, AxisEstimate
from bluesky_streamrecon.recon.axis_search import FIRST_VIEWS, AxisSearch, seen_to_reach_out
from bluesky_streamrecon.recon.backends import Choice
from bluesky_streamrecon.recon.checkpoint import Checkpoint
from bluesky_streamrecon.recon.communicator import Communicator, Group
from bluesky_streamrecon.recon.compiling import prepare_backend
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.field_of_view import SIDES, field_of_view
from bluesky_streamrecon.recon.measured import MeasuredViews
from bluesky_streamrecon.recon.output import Attribute
from bluesky_streamrecon.recon.stepping import shown_rows
from bluesky_streamrecon.recon.view import View, pixels_of, prepared_for, window_of
from bluesky_streamrecon.recon.volume import FinishedVolume
from bluesky_streamrecon.settings import FINAL_NONE, ROTATIONS
from bluesky_streamrecon.wire import CloseRun, Item, ItemGone, OpenRun, Preview

__all__ = ["Tomography", "View"]

log = logging.getLogger(__name__)

_COUNT = "count_"

MOST_EARLY = 2**30
"""Bytes of projections that are held at most, before any flat has come."""


class Tomography(Analysis[View]):
    """Slices of a sample that turns in the beam, updated from a window of projections.

    Where nobody has said where the rotation axis is, it is looked for. From the first window on there is an image,
    about the most likely axis if none is certain; such images are provisional, and nothing is judged by them. Once the
    axis is certain, or all projections have come, every image is made anew, so that the last is the one of a run that
    had this axis from the start.

    Projections that come before any flat are held as they are, up to a limit, until one has come.

    Parameters
    ----------
    run : OpenRun
        What the run is and which rows this rank has.
    ranks : Communicator
        To the other ranks.
    threads : int
        That compute.

    Raises
    ------
    ConfigError, DataError, GeometryError, DeviceError
        If a setting can not work, or the beamline sends other rows than the steps need.
    """

    def __init__(self, run: OpenRun, ranks: Communicator, threads: int) -> None:
        recon = run.recon
        self._run, self._ranks, self._threads = run, ranks, threads
        self._columns = run.detector_shape[1]
        self.resumable = True
        self._archive = Archive(run.block.rows, self._columns)
        self._measured = MeasuredViews(run, self._archive)
        self._preparation, self._steps = prepared_for(run)
        self._early: list[Item | ItemGone] = []
        self._early_bytes = 0
        self._came = 0  # projections
        self._mirrored = recon.rotation != ROTATIONS[0]
        self.warnings: list[str] = self._preparation.warnings
        algorithms.get(recon.algorithm)
        self._axis = AxisSearch(run, ranks, self.warnings)
        self._full_turn = AngularRange.from_metadata(run.metadata).full_turn
        self._sides: tuple[str, ...] | None = None  # where the sample reaches out of view; not known yet
        size = self._geometry().size  # which checks the settings
        self.shape = (size, size)
        self._saved: Checkpoint | None = None
        self._engine: Engine | None = None
        self._volume: FinishedVolume | None = None
        self._group: Group | None = None
        self._angles: list[float] = []
        self._counts: dict[str, int] = {}  # with the last projection that is in the image
        self._shown = [row - run.block.first for row in shown_rows(run)]
        self._unsent = ProjectionStore(most_views(self._columns))  # line integrals that no preview has had yet
        self._choice = self._compiled()
        self._backend = "cpu" if self._choice.broken else recon.backend  # chosen anew: images may be larger later
        self.device = "; ".join(filter(None, (self._choice.device, self._choice.note)))

    def _compiled(self) -> Choice:
        """Choose what computes, and have its kernels ready before projections come."""
        run = self._run
        by = "".join(f" with projector {name!r}" for option, name in run.recon.options.items() if option == "projector")
        with explained(f"algorithm {run.recon.algorithm!r}{by} failed on a small image"):
            choice, seconds = prepare_backend(
                run.recon,
                self._geometry(),
                run.block.rows,
                planned=run.per_volume or run.planned,
                threads=self._threads,
                shared=run.block.members > 1,
                host=self._ranks.host,
            )
        if choice.note:
            log.warning("run %s: %s", run.run_uid, choice.note)
        log.info("run %s: kernels are ready after %.1f s; %s", run.run_uid, seconds, choice.device)
        return choice

    def prepare(self, item: Item | ItemGone) -> list[View]:
        """Return the projections that can be used now, as line integrals; one that was lost keeps its place."""
        if item.kind != "projection":
            if isinstance(item, Item):
                place = item.index, self._came
                self._preparation.add_reference(item.kind, pixels_of(item), place, item.monitor)
            return []
        if self._preparation.ready or (isinstance(item, ItemGone) and not self._early):
            return self._released(item)
        if isinstance(item, Item):
            item = msgspec.structs.replace(item, pixels=pixels_of(item).copy())
            self._early_bytes += pixels_of(item).nbytes
        self._early.append(item)
        if self._early_bytes > MOST_EARLY:
            raise DataError(
                f"{len(self._early)} projections came before any flat field and take more than "
                f"{MOST_EARLY >> 20} MiB; expected flats before the projections"
            )
        return []

    def close(self, closed: CloseRun) -> list[View]:  # noqa: ARG002 - which run it is, is known
        """Return the projections that were held back."""
        if self._early and not self._preparation.ready:
            raise DataError(
                f"got {len(self._early)} projections and no flat field, expected at least one; were flats taken? "
                "(pixel_values='transmission' says that none are needed)"
            )
        views = self._released()
        self._preparation.conclude(later=self._run.recon.final != FINAL_NONE)
        return views

    def _released(self, *more: Item | ItemGone) -> list[View]:
        early, self._early, self._early_bytes = self._early, [], 0
        return [self._view(item) for item in (*early, *more)]

    def _view(self, item: Item | ItemGone) -> View:
        self._came = item.index
        lines = None
        if isinstance(item, Item):
            lines = self._steps.first_part(self._preparation.prepare(pixels_of(item), item.monitor), item.angle)
        return View(item.seq, lines, item.angle, {**self.counts}, self._measured.frame(item))

    def begin(self, frames: Sequence[View], closed: bool) -> str:
        """Find the axis, at least a provisional one, and make the engine, as soon as that can be done."""
        if self._sides is None:
            if len(frames) < FIRST_VIEWS and not closed:
                return "looking how wide the sample is"
            self._sides = seen_to_reach_out(self._run, self._ranks, frames[:FIRST_VIEWS])
        looked_for = self._axis.provisional
        if not self._axis.begin(frames, closed):
            return "finding the rotation axis"
        if looked_for or self._axis.estimate is None:
            self._take_axis()
        self._archive.open(self.scratch, keep=0 if self._saved is None else self._saved.projections)
        self._make_engine()
        return ""

    def _take_axis(self) -> None:
        """Note what follows from another axis."""
        axis = self._axis
        # A checkpoint does not tell a provisional axis from one that is certain; the window is in the scratch file.
        self.resumable = not (axis.provisional or self._archive.problem)
        if not axis.provisional:
            self._warn(axis.doubt or self._field_of_view(), axis.disagreement)

    def _warn(self, *texts: str) -> None:
        self.warnings += [text for text in texts if text and text not in self.warnings]

    def _field_of_view(self) -> str:
        return field_of_view(self._geometry(), self._sides or (), full_turn=self._full_turn)

    def update(self, frames: Sequence[View]) -> None:
        """Take projections into the window, and make the next image from it."""
        new: list[Archived] = []
        for view in frames:
            pixels = self._steps.second_part(view.pixels, view.angle)
            new.append((pixels, view.angle))
            self._keep_shown(pixels, view.angle)
            self._angles.append(view.angle)
            self._counts = view.counts
            self._archive.append(view.pixels, view.angle, self._running.image_number + 1)
        self.newest_angle = frames[-1].angle
        self._measured.take(frames[-1], new[-1][0], self._running, self._geometry())
        self._warn(self._archive.problem)
        self.resumable &= not self._archive.problem
        if self._axis.look(frames, len(self._angles) - len(frames)):
            self._take_axis()
            self._make_images_anew(new)
        else:
            self._warn(self._axis.disagreement)
            self._make_image(new)

    def _keep_shown(self, lines: NDArray[np.float32], angle: float) -> None:
        if self._shown:
            self._unsent.append(lines[self._shown], angle)

    def show(self, rows: Sequence[int]) -> None:
        """Let the next preview bring the line integrals of these rows from all projections so far."""
        self._shown, self._unsent = list(rows), ProjectionStore(most_views(self._columns))
        if self._archive.problem:
            self._warn(f"preview rows: nothing is predicted of others than before: {self._archive.problem}")
            return
        for pixels, angle in chain.from_iterable(self._steps.second_part_again(self._archive.steps())):
            self._keep_shown(pixels, angle)

    def remake(self, axis: float) -> None:
        """Make all images so far anew, about an axis that is certain: the last is that of a run that began with it."""
        self._axis.take(AxisEstimate(axis, 0.0, math.inf, len(self._angles), method=GIVEN), final=True)
        self._take_axis()
        if self._engine is not None:
            self._make_images_anew()

    def _make_images_anew(self, new: Sequence[Archived] = ()) -> None:
        """Make all images about the present axis; `new` are projections that the window has not yet."""
        if not self._archive.problem:
            steps = self._steps.second_part_again(self._archive.steps())
        else:  # what the window still has is the next best
            angles, projections = self._running.kept()
            known = [*((pixels, float(angle)) for pixels, angle in zip(projections, angles, strict=True)), *new]
            every = self._run.recon.step
            steps = (known[first : first + every] for first in range(0, len(known), every))
        self._release_engine()
        self._make_engine()
        for step in steps:
            self._make_image(step)

    def _make_image(self, step: Iterable[Archived]) -> None:
        for pixels, angle in step:
            self._running.append(pixels, angle)
        self._running.update(self._run.recon.iterations)

    def conclude(self) -> bool:
        """Take the axis that all projections show, if it was provisional, and make the images anew if it is another."""
        if not self._axis.provisional or self._axis.estimate is None:
            return False
        another = self._axis.conclude()
        self._take_axis()
        if another:
            self._make_images_anew()
        return True

    def images(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return slices, shape (len(rows), N, N), 1/pixel."""
        volume = self._volume if self._volume is not None and self._volume.complete else self._running
        return self._as_turned(volume.slices([*rows]))

    def begin_images(self, rows: Sequence[int]) -> Callable[[], NDArray[np.float32]]:
        """Ask for slices: a GPU copies them while the next update is made."""
        begun = self._running.begin_slices(rows)
        return lambda: self._as_turned(begun())

    def view(self, row: int) -> NDArray[np.float32]:
        """Return one slice, shape (N, N), 1/pixel."""
        return self._running.view(row)[:: -1 if self._mirrored else 1]

    def measured(self, cut: Cut, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return values among the projections, see `MeasuredViews`."""
        return self._measured.values(cut, points, self._geometry().axis, self._angles)

    def _as_turned(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return images of a sample that turns the way it does: seen as turning the other way it is a mirror image."""
        return np.ascontiguousarray(images[:, ::-1]) if self._mirrored else images

    def finish(self) -> Iterator[float] | None:
        """Make the whole volume by the settings' recipe, from all projections."""
        saved, self._saved = self._saved, None
        if saved is not None:
            self._archive.open(self.scratch, keep=saved.projections)
        if self._volume is None:
            self._volume = FinishedVolume(
                self._run,
                self._archive,
                self._threads,
                self._engine_of,
                self._ranks,
                geometry=self._geometry(),
                backend=self._backend,
                preparation=self._preparation,
                steps=self._steps,
            )
        return self._finishing(self._volume) if saved is not None or self._volume.wanted else None

    def _finishing(self, volume: FinishedVolume) -> Iterator[float]:
        self._release_engine()  # its memory is that of a volume
        self._connect()
        yield from volume.parts()

    def annotate(self, report: Report) -> Report:
        """Return a report with the axis; a preview also with the line integrals that none before it had."""
        axis = self._axis
        report = msgspec.structs.replace(report, axis=axis.column)
        if not isinstance(report, Preview):
            return report
        fields = {"doubt": axis.doubt, "disagreement": axis.disagreement, "saturated": self._preparation.saturated}
        unsent, self._unsent = self._unsent, ProjectionStore(most_views(self._columns))
        return msgspec.structs.replace(report, **fields).with_views(unsent.views() if len(unsent) else None)

    @property
    def counts(self) -> Mapping[str, int]:
        """Flats, darks and bad pixels, see `Preparation`, and what its steps counted."""
        return {**self._preparation.counts, **self._steps.counts}

    def datasets(self) -> Mapping[str, tuple[NDArray[np.generic], str]]:
        """Return the angles used, in order."""
        return {"theta": (np.rad2deg(np.asarray(self._angles, dtype=np.float64)), "degrees")}

    def attributes(self) -> Mapping[str, Attribute]:
        """Return algorithm, axis and what computed."""
        axis, estimate = self._axis.column, self._axis.estimate
        return {
            "algorithm": self._run.recon.algorithm,
            "axis": math.nan if axis is None else axis,
            "axis_uncertainty": 0.0 if estimate is None else estimate.uncertainty,
            "axis_found": int(estimate is not None),
            "device": self._choice.device,
        }

    def save(self, *, last: bool = False) -> Mapping[str, NDArray[np.generic]]:
        """Return image, axis, flats and darks; to finish, no image. The window is made of the scratch file."""
        engine, estimate = self._running, self._axis.estimate
        axis = (self._axis.column, 0.0 if estimate is None else estimate.uncertainty)
        arrays: dict[str, NDArray[np.generic]] = {
            **{f"{_COUNT}{name}": np.asarray(number) for name, number in self._counts.items()},
            "axis": np.asarray(axis, np.float64),
            "sides": np.asarray([side in (self._sides or ()) for side in SIDES]),
            "angles": np.asarray(self._angles),
            **self._preparation.arrays(),
        }
        if last:
            return arrays
        arrays |= {"image": engine.image(), "image_number": np.asarray(engine.image_number)}
        if engine.typical is not None:
            arrays["typical"] = engine.typical
        return arrays

    def restore(self, saved: Checkpoint) -> None:
        """Go on from where a job before this one was."""
        arrays = saved.arrays
        self._counts = {name.removeprefix(_COUNT): int(arrays[name]) for name in arrays if name.startswith(_COUNT)}
        self._angles = arrays["angles"].tolist()
        self._came = len(self._angles)
        self._preparation.restore(arrays, self._counts)
        self._steps.restore(self._counts)
        axis, uncertainty = (float(value) for value in arrays["axis"])
        found = AxisEstimate(axis, uncertainty, math.inf, self._came)
        self._axis.go_on(None if axis == self._run.recon.axis else found)
        self._sides = tuple(compress(SIDES, arrays["sides"].astype(bool)))
        self.shape = (self._geometry().size,) * 2
        self._saved = saved

    def release(self) -> None:
        """Release memory, threads and channels."""
        self._release_engine()
        self._archive.remove()

    def _release_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._group is not None:
            self._group.free()
        self._engine = self._group = None

    @property
    def _running(self) -> Engine:
        assert self._engine is not None  # noqa: S101 - nothing is asked for before `begin`
        return self._engine

    def _connect(self) -> None:
        shares = partition_rows(self._run.detector_shape[0], self._ranks.size, share=self._run.recon.share)
        self._group = self._ranks.group(shares)

    def _engine_of(self, rows: int, planned: int, **changes: Any) -> Engine:
        """Make an engine for some rows of the block that uses all projections, or as `changes` say."""
        return Engine(
            self._geometry(),
            rows,
            **{"window": None, **changes},
            planned=planned,
            threads=self._threads,
            group=self._group,
            backend=self._backend,
            host=self._ranks.host,
        )

    def _make_engine(self) -> None:
        recon = self._run.recon
        self._connect()
        self.shape = (self._geometry().size,) * 2
        engine = self._engine = self._engine_of(
            self._run.block.rows,
            self._run.planned,
            algorithm=recon.algorithm,
            options=recon.options,
            **window_of(self._run),
        )
        self.asynchronous = engine.asynchronous
        if engine.choice.name != self._choice.name:
            self._choice = engine.choice
            self._warn(f"backend: {engine.choice.note or engine.choice.device}")
        if (saved := self._saved) is not None:
            arrays = cast(Mapping[str, NDArray[np.float32]], saved.arrays)
            for pixels, angle in chain.from_iterable(self._steps.second_part_again(self._archive.steps())):
                engine.append(pixels, angle)
                self._keep_shown(pixels, angle)
            engine.load(arrays["image"], int(arrays["image_number"]), typical=arrays.get("typical"))
            log.info("run %s: goes on after image %d", self._run.run_uid, saved.image_number)
            self._saved = None

    def _geometry(self) -> TomoGeometry:
        recon, axis = self._run.recon, self._axis.column
        axis = (self._columns - 1) / 2 if axis is None else axis
        edges = None if self._sides is None else len(self._sides)
        size = recon.size or image_size(self._columns, axis, full_turn=self._full_turn, edges=edges)
        return TomoGeometry(self._columns, axis, size, recon.disc)
