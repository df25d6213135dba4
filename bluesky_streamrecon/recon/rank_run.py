"""One run on one rank: items come in one by one, are prepared at once, and go into the image step by step.

Step i depends only on projections 1 to i*s, whatever came when. What all ranks do together (the axis, the engine,
updates, the result's file) is called by the job's loop at moments that all ranks agree on; the rest is this rank's
own business. Angles are radians, times seconds.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError, DataError, StorageError, StreamReconError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.partition import RowBlock, partition_rows
from bluesky_streamrecon.recon.algorithms import get_algorithm
from bluesky_streamrecon.recon.axis import AxisEstimate
from bluesky_streamrecon.recon.axis_search import AxisSearch
from bluesky_streamrecon.recon.backends import Choice
from bluesky_streamrecon.recon.checkpoint import Checkpoint, CheckpointStore
from bluesky_streamrecon.recon.communicator import Communicator, Group
from bluesky_streamrecon.recon.compiling import prepare_backend
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.findings import Findings
from bluesky_streamrecon.recon.links import RankLink, Result
from bluesky_streamrecon.recon.output import ResultFile, result_path
from bluesky_streamrecon.recon.preview_sinograms import PreviewSinograms
from bluesky_streamrecon.recon.projection_buffer import ProjectionBuffer, View
from bluesky_streamrecon.recon.stepping import USUAL_WINDOW, preview_rows_of, step_size
from bluesky_streamrecon.registry import format_error
from bluesky_streamrecon.wire import CloseRun, Item, ItemGone, OpenRun, Preview, Status

__all__ = ["RankRun"]

log = logging.getLogger(__name__)


class RankRun:
    """One run, as seen by one rank.

    Parameters
    ----------
    run : OpenRun
        What the run is and which rows this rank has.
    communicator : Communicator
        To the other ranks.
    link : RankLink
        Back to the beamline, and to the controller.
    threads : int
        For the engine, where the settings say nothing.
    checkpoints : CheckpointStore, optional
        Where to save now and then, if the settings say so.
    resume : Checkpoint, optional
        What to go on from; only items after it come.
    clock : callable, optional
        Monotonic seconds.

    Attributes
    ----------
    closed : CloseRun or None
        Set when no items follow.
    failure : str or None
        Why this run can not be reconstructed; its items are then taken and dropped.
    superseded : bool
        The beamline has given this run up, and takes no acknowledgements any more.
    broken : bool
        All ranks know that it can not be.
    """

    def __init__(
        self,
        run: OpenRun,
        communicator: Communicator,
        link: RankLink,
        *,
        threads: int = 1,
        checkpoints: CheckpointStore | None = None,
        resume: Checkpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.closed: CloseRun | None = None
        self.failure: str | None = None
        self.superseded = False
        self.broken = False
        self._failed_here = False
        self._communicator = communicator
        self._link = link
        self._clock = clock
        self._threads = run.recon.threads or threads
        self._block: RowBlock = run.block
        self._columns = run.detector_shape[1]
        self._acknowledged = 0
        self._engine: Engine | None = None
        self._group: Group | None = None
        self._axis: AxisEstimate | None = None
        self._search: AxisSearch | None = None
        self._angles: list[float] = []
        self._coalesced = 0
        self._redo: int | None = run.redo or None  # until we have caught up, images are those that were made before
        self._final_sent = False
        self._preview: tuple[Preview, Callable[[], NDArray[np.float32]]] | None = None
        self._findings = Findings(run.run_uid, link.send)
        shown = preview_rows_of(run) if run.block.member == 0 else ()
        self._shown = tuple(row for row in shown if self._block.first <= row < self._block.stop)
        self._resume = resume
        # Stripes are estimated from projections that a checkpoint would have to forget again; such runs begin anew.
        saves = checkpoints is not None and run.recon.checkpoint_every > 0 and not run.recon.stripe_removal
        self._checkpoints = checkpoints if saves else None
        local = [row - self._block.first for row in self._shown]
        self._preview_sinograms = PreviewSinograms(local, self._columns, keep=saves)
        self._buffer: ProjectionBuffer | None = None
        self._choice = Choice("cpu", "")
        try:
            self._buffer = ProjectionBuffer(run, resume)
            get_algorithm(run.recon.algorithm)
            self._geometry(run.recon.axis)
            if resume is not None:
                self._angles = resume.angles.tolist()
                self._preview_sinograms.restore(resume.arrays, len(self._angles))
                self._acknowledged = resume.seq
            elif run.recon.axis is None:
                self._search = AxisSearch(run, communicator)
            self._compile()
        except StreamReconError as error:
            self.fail(str(error))

    # ------------------------------------------------------------------------------- this rank's own business

    def _compile(self) -> None:
        """Have the kernels ready before projections come: from disk in a second, or compiled in some more."""
        run = self.run
        self._say("compiling kernels", text="or loading them from disk, if this was done before")
        shared = self._block.members > 1
        try:
            self._choice, seconds = prepare_backend(
                run.recon, self._geometry(None), self._block.rows, planned=run.planned, threads=self._threads,
                shared=shared, host=self._communicator.host,
            )  # fmt: skip
        except (StreamReconError, OSError, MemoryError):
            raise
        except Exception as error:
            # It would fail again however often the job is started.
            log.exception("run %s: the algorithm failed on a small image", run.run_uid)
            projector = run.recon.options.get("projector")
            by = f" with projector {projector!r}" if projector is not None else ""
            raise ConfigError(
                f"algorithm {run.recon.algorithm!r}{by} failed on a small image: {format_error(error)}"
            ) from error
        if self._choice.note:
            log.warning("run %s: %s", run.run_uid, self._choice.note)
        log.info("run %s: kernels are ready after %.1f s; %s", run.run_uid, seconds, self._choice.device)
        self._say("waiting for projections", text="; ".join(filter(None, (self._choice.device, self._choice.note))))

    @property
    def prepared(self) -> int:
        """Projections that could go into the image, or are in it."""
        return 0 if self._buffer is None else self._buffer.prepared

    @property
    def applied(self) -> int:
        """Projections that are in the image."""
        return len(self._angles)

    @property
    def image_number(self) -> int:
        """Images made."""
        return 0 if self._engine is None else self._engine.image_number

    def fail(self, text: str, *, here: bool = True) -> None:
        """Abandon this run, for a reason on this rank or another one; what comes is taken and dropped."""
        if self.failure is not None:
            return
        self.failure = text
        self._failed_here = here
        self._say("failed", projections=self.applied, image_number=self.image_number, text=text[:4000])

    def take(self, item: Item) -> None:
        """Take the next item in, and prepare it if it is a projection."""
        if self.failure is None and self._buffer is not None:
            try:
                self._buffer.take(item)
            except DataError as error:
                self.fail(str(error))
        self._acknowledge(item.seq)

    def take_lost(self, item: ItemGone) -> None:
        """Note that an item can not be had any more."""
        if self.failure is None and self._buffer is not None:
            self._buffer.take_lost(item)
        self._acknowledge(item.seq)

    def close(self, close: CloseRun) -> None:
        """Note that no items follow."""
        self.closed = close
        if self.failure is None and self._buffer is not None:
            try:
                self._buffer.close(close)
            except DataError as error:
                self.fail(str(error))

    def _acknowledge(self, seq: int) -> None:
        """Tell what is taken care of: in the image, or held here as long as the image can not be begun.

        Held projections must not use up the credit: the flats that are missing, or the projections that the axis
        still needs, come after them.
        """
        if self._buffer is not None and self._buffer.views and self._engine is not None:
            seq = self._buffer.views[0].seq - 1
        if seq > self._acknowledged and not self.superseded:
            self._acknowledged = seq
            self._link.applied(seq)

    # ------------------------------------------------------------------- what all ranks do at the same moments

    def advance(self, agreed: int, closed: bool) -> bool:
        """Make the next image if it is due; tell whether one was made.

        Parameters
        ----------
        agreed : int
            Projections that are prepared on all ranks.
        closed : bool
            All ranks know that no more will come.
        """
        # A failure of this rank alone changes nothing before all have agreed on it: the others count on this step.
        if self._buffer is None or self.broken or not self._begun(agreed, closed, self._buffer.views):
            return False
        if self._engine is None:
            return False
        settings = self.run.recon
        pending = agreed - self.applied
        if self._redo is not None and self.applied >= self._redo and pending <= (settings.window or USUAL_WINDOW):
            self._redo = None
        take = step_size(
            pending,
            step=settings.step,
            window=settings.window,
            coalesce=settings.coalesce and self._redo is None,
            closed=closed,
        )
        if not take:
            self._send_preview()
            return False
        began = self._clock()
        for _ in range(take):
            view = self._buffer.views.popleft()
            pixels = self._blank() if view.pixels is None else view.pixels
            self._engine.append(pixels, view.angle)
            self._preview_sinograms.append(pixels, view.angle)
            self._angles.append(view.angle)
        self._coalesced += take > settings.step
        self._engine.update(settings.iterations)
        seconds = self._clock() - began
        self._show(final=closed and self.applied == agreed)
        self._save(self._engine, view)
        self._acknowledge(self._buffer.seq)
        self._findings.add_all(self._buffer.warnings)
        self._say(
            "reconstructing",
            projections=self.applied,
            image_number=self.image_number,
            lag=self._lag(),
            step_seconds=seconds,
            text=f"{take} projections in one step" if take > settings.step else "",
        )
        return True

    def finish(self) -> Result:
        """Write the result after the last image, and tell how the run went."""
        self._findings.add_all([] if self._buffer is None else self._buffer.warnings)
        if self.failure is not None:
            return self._result(None, f"failed: {self.failure}", self.failure if self._failed_here else "")
        if self._engine is None:
            return self._result(None, "no projection came, so there is no image")
        if not self._final_sent:
            self._show(final=True)
        self._send_preview()
        if self.run.output is None:
            return self._result(None, "")
        return self._result(*self._write(self._engine))

    def release(self) -> None:
        """Let go of memory, threads and channels; all ranks do so together."""
        if self._buffer is not None:
            self._buffer.forget()
        if self._engine is not None:
            self._engine.close()
        if self._group is not None:
            self._group.free()
        self._engine = self._group = None

    def _begun(self, agreed: int, closed: bool, views: deque[View]) -> bool:
        """Find the axis and make the engine, as soon as that can be done."""
        if self._engine is not None:
            return True
        if agreed == 0:
            return False
        if self._resume is not None:
            self._continue(self._resume)
        elif self.run.recon.axis is not None:
            self._make_engine(self.run.recon.axis)
        elif self._search is not None:
            self._axis = self._search.look(views, agreed, closed)
            if self._axis is None:
                self._findings.add_search(self._search.newest)
                self._say("finding the rotation axis", lag=self._lag())
            else:
                self._findings.add_axis(self._axis, self._columns, self.run.recon.size or self._columns)
                self._make_engine(self._axis.axis)
        return self._engine is not None

    def _continue(self, saved: Checkpoint) -> None:
        """Go on from where a job before this one was."""
        if self.run.recon.axis is None:
            self._axis = AxisEstimate(saved.axis, saved.axis_uncertainty, math.inf, len(saved.angles))
        self._make_engine(saved.axis)
        if self._engine is None:
            return
        for pixels, angle in zip(saved.window, saved.window_angles, strict=True):
            self._engine.append(pixels, float(angle))
        self._engine.load(
            saved.image, saved.image_number, len(saved.angles), typical=cast(Any, saved.arrays.get("typical"))
        )
        log.info("run %s: goes on after image %d", self.run.run_uid, saved.image_number)

    def _save(self, engine: Engine, last: View) -> None:
        """Save what the next image depends on, if it is time to."""
        every = self.run.recon.checkpoint_every
        if self._checkpoints is None or engine.image_number % every or self._buffer is None:
            return
        window_angles, window = engine.kept()
        arrays = {**self._buffer.arrays(), **self._preview_sinograms.arrays()}
        if engine.typical is not None:
            arrays["typical"] = engine.typical
        try:
            self._checkpoints.save(
                Checkpoint(
                    run_uid=self.run.run_uid,
                    seq=last.seq,
                    image_number=engine.image_number,
                    axis=self._axis_used(),
                    axis_uncertainty=0.0 if self._axis is None else self._axis.uncertainty,
                    angles=np.asarray(self._angles),
                    image=engine.image(),
                    window=window,
                    window_angles=window_angles,
                    arrays=arrays,
                    counts=last.counts,
                )
            )
        except StorageError as error:
            log.warning("%s", error)
            self._findings.add(f"checkpoints: no more are written: {error}")
            self._checkpoints = None

    def _axis_used(self) -> float:
        return float("nan") if (axis := self._axis_or_none()) is None else axis

    def _axis_or_none(self) -> float | None:
        return self.run.recon.axis if self._axis is None else self._axis.axis

    def _make_engine(self, axis: float) -> None:
        run = self.run
        blocks = partition_rows(run.detector_shape[0], self._communicator.size, share=run.recon.share)
        problem = ""
        engine = None
        self._group = self._communicator.group(blocks)
        try:
            engine = Engine(
                self._geometry(axis),
                self._block.rows,
                algorithm=run.recon.algorithm,
                window=run.recon.window,
                window_policy=run.recon.window_policy,
                planned=run.planned,
                threads=self._threads,
                options=run.recon.options,
                halo=self._group,
                reducer=self._group,
                backend=self._choice.name,
                host_rank=self._communicator.host[0],
                sharers=self._communicator.host[1],
            )
        except StreamReconError as error:
            problem = str(error)
        # Settings that can not work fail on all ranks alike, and then the job goes on with the next run.
        good, minus_redo = self._communicator.minimum([0 if problem else 1, -(self._redo or 0)])
        self._redo = -minus_redo or None  # ranks joined one after the other, while projections were taken
        if not good:
            self.broken = True
            self.fail(problem or "another rank could not begin the image", here=bool(problem))
        else:
            self._engine = engine
            self._search = None

    def _geometry(self, axis: float | None) -> TomoGeometry:
        recon = self.run.recon
        middle = (self._columns - 1) / 2
        return TomoGeometry(self._columns, middle if axis is None else axis, recon.size or 0, recon.disc)

    def _blank(self) -> NDArray[np.float32]:
        """Return a projection that says nothing, for one that was lost or had no light."""
        return np.full((self._block.rows, self._columns), np.nan, dtype=np.float32)

    def _lag(self) -> int:
        return self.prepared - self.applied + self._link.pending()

    def _say(self, state: str, **numbers: Any) -> None:
        status = Status(run_uid=self.run.run_uid, rank=self._communicator.rank, state=state, **numbers)
        self._link.send(status)

    def _show(self, *, final: bool) -> None:
        """Ask for a preview of the image as it is now, and send the one before it."""
        self._final_sent = final
        if self._shown and self._engine is not None:
            preview = Preview(
                run_uid=self.run.run_uid,
                rank=self._communicator.rank,
                image_number=self._engine.image_number,
                projections=self.applied,
                final=final,
                rows=self._shown,
                size=self._geometry(None).size,
                axis=self._axis_or_none(),
                doubt=self._findings.doubt,
            ).with_views(self._preview_sinograms.take())
            pixels = self._engine.begin_slices(row - self._block.first for row in self._shown)
            self._send_preview()
            self._preview = preview, pixels
            if not self._engine.asynchronous:
                self._send_preview()

    def _send_preview(self) -> None:
        """Send the preview that was asked for last: a GPU may still have to make its pixels."""
        if self._preview is not None:
            preview, pixels = self._preview
            self._preview = None
            self._link.send(msgspec.structs.replace(preview, pixels=pixels()))

    def _write(self, engine: Engine) -> tuple[str | None, str, str]:
        """Write the image with all ranks; give the path, why there is none, and what went wrong here."""
        self._say("writing", projections=self.applied, image_number=self.image_number)
        file = ResultFile(result_path(str(self.run.output), self.run.recon_uid))
        attributes = self._attributes(self._all_counts())
        good, problem = file.write_together(
            self._communicator,
            self._block,
            engine.slices,
            rows=self.run.detector_shape[0],
            size=self._geometry(None).size,
            angles=self._angles,
            attributes=attributes,
        )
        if good:
            return str(file.path), "", ""
        return None, problem or "another rank could not write the result", problem

    def _attributes(self, counts: dict[str, int]) -> dict[str, str | int | float]:
        from bluesky_streamrecon import __version__

        run, closed = self.run, self.closed
        assert self._engine is not None  # noqa: S101
        return {
            "raw_run_uid": run.run_uid,
            "recon_uid": run.recon_uid,
            "algorithm": run.recon.algorithm,
            "axis": self._axis_used(),
            "axis_uncertainty": 0.0 if self._axis is None else self._axis.uncertainty,
            "axis_found": int(self._axis is not None),
            "projections": self.applied,
            "image_number": self.image_number,
            "device": self._choice.device,
            "settings": msgspec.json.encode(run.recon).decode(),
            "metadata": msgspec.json.encode(run.metadata).decode(),
            "counts": msgspec.json.encode(counts).decode(),
            "exit_status": "" if closed is None else closed.exit_status,
            "reason": "" if closed is None else closed.reason,
            "software": f"bluesky-streamrecon {__version__}",
        }

    def _counts(self) -> dict[str, int]:
        counts = {} if self._buffer is None else self._buffer.counts
        return counts | {
            "projections": self.applied,
            "coalesced_steps": self._coalesced,
            "previews_dropped": self._link.previews_dropped,
        }

    def _all_counts(self) -> dict[str, int]:
        """Add up the counts of pixels over all rows; give this rank's of the rest."""
        counts = self._counts()
        pixels = [name for name in counts if name.endswith(("_pixels", "_values"))]
        share = 1.0 if self._block.member == 0 else 0.0
        total = np.array([counts[name] * share for name in pixels], dtype=np.float64)
        self._communicator.sum(total)
        return counts | {name: int(value) for name, value in zip(pixels, total, strict=True)}

    def _result(self, path: str | None, text: str, problem: str = "") -> Result:
        return Result(
            self.image_number,
            self._axis_or_none(),
            self._counts(),
            path,
            "; ".join([*([text] if text else []), *self._findings.lines])[:4000],
            problem[:4000],
        )
