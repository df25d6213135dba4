"""One run on one rank: items come in one by one, are prepared at once, and go into the image step by step.

Step i depends only on projections 1 to i*s, whatever came when. What all ranks do together (begin, updates, the
result's file) is called by the job's loop at moments that all ranks agree on; the rest is this rank's own business.
What the images are is up to an `Analysis`. Times are seconds.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, DeviceFailedError, StorageError, StreamReconError
from bluesky_streamrecon.gpus import usable_gpus
from bluesky_streamrecon.jit import kernels_on_disk
from bluesky_streamrecon.recon.analysis import Analysis, Frame, explained, get_analysis
from bluesky_streamrecon.recon.checkpoint import Checkpoint, CheckpointStore
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.cuts import CutView
from bluesky_streamrecon.recon.finishing import Compare, Finishing
from bluesky_streamrecon.recon.output import result_path, run_attributes, write_result
from bluesky_streamrecon.recon.stepping import USUAL_WINDOW, shown_rows, step_size
from bluesky_streamrecon.wire import (
    AbandonRun,
    ChangeRun,
    CloseRun,
    Item,
    ItemGone,
    OpenRun,
    Preview,
    Problem,
    RankEndpoint,
    RankEvent,
    RunDone,
    ShowCuts,
    Status,
)
from bluesky_streamrecon.wire.messages import COMPILING

__all__ = ["RankRun"]

log = logging.getLogger(__name__)

LONGEST = 4096
"""Characters of a text on the wire."""

LOST_REPORTED = 3
"""Lost frames that are reported one by one."""


class RankRun:
    """One run, as seen by one rank.

    Parameters
    ----------
    run : OpenRun
        What the run is and which rows this rank has.
    communicator : Communicator
        To the other ranks.
    endpoint : RankEndpoint
        Back to the beamline, and to the controller.
    threads : int
        For the analysis, where the settings say nothing.
    checkpoints : CheckpointStore, optional
        Where to save now and then, if the settings say so.
    resume : Checkpoint, optional
        What to go on from; only items after it come.

    Attributes
    ----------
    prepared : int
        Projections that could go into the image, or are in it.
    axes : list of float
        Corrected rotation axes, all that have come.
    closed : CloseRun or None
        Set when no items follow.
    failure : str or None
        Why this run can not be reconstructed; its items are then taken and dropped.
    superseded : bool
        The beamline has given this run up, and takes no acknowledgements any more.
    broken : bool
        All ranks know that it can not be.
    cuts : CutView
        What viewers wish to see of the newest image.
    """

    def __init__(
        self,
        run: OpenRun,
        communicator: Communicator,
        endpoint: RankEndpoint,
        *,
        threads: int = 1,
        checkpoints: CheckpointStore | None = None,
        resume: Checkpoint | None = None,
    ) -> None:
        self.run = run
        self.axes: list[float] = []
        self.closed: CloseRun | None = None
        self.failure: str | None = None
        self.superseded = self.broken = False
        self._communicator = communicator
        self._endpoint = endpoint
        self._seq = self._acknowledged = 0 if resume is None else resume.seq
        self.prepared = self._applied = 0 if resume is None else resume.projections
        self._image_number = 0 if resume is None else resume.image_number
        self._frames: deque[Frame] = deque()  # prepared and not in the image, oldest first
        self._lost_before = 0 if resume is None else resume.lost
        self._lost: list[int] = []  # items, since then
        self._corrected = 0  # corrections that images were made anew for
        self._begun = self._final_sent = False
        self._coalesced = 0
        self._redo: int | None = run.redo or None  # until we have caught up, images are those that were made before
        self._preview: tuple[Preview, Callable[[], NDArray[np.float32]]] | None = None  # not sent yet
        self._findings: list[str] = []
        self._shown = shown_rows(run)
        self.cuts = CutView(run, communicator, endpoint, lambda: self._lag() >= 2 * run.recon.step)
        self._store = checkpoints
        self._checkpoints = checkpoints if run.recon.checkpoint_every > 0 else None
        self._analysis: Analysis[Any] | None = None
        try:
            self._analysis = self._opened(run.recon.threads or threads, resume)
        except StreamReconError as error:
            self.fail(str(error))

    # ------------------------------------------------------------------------------- this rank's own business

    def _opened(self, threads: int, resume: Checkpoint | None) -> Analysis[Any]:
        """Return the run's analysis, with its kernels ready: loaded from disk in a second, or compiled in some more."""
        name = self.run.recon.analysis
        gpu = self.run.recon.backend != "cpu" and usable_gpus() > 0
        self._say("loading kernels" if kernels_on_disk(gpu=gpu) else COMPILING)
        with explained(f"analysis {name!r} failed when it was opened"):
            analysis = get_analysis(name)(self.run, self._communicator, threads)
            if self._store is not None:
                analysis.scratch = self._store.scratch(self.run.run_uid)
            if resume is not None:
                analysis.restore(resume)
        if not analysis.resumable:
            self._checkpoints = None
        self._say("waiting for projections", text=analysis.device)
        return analysis

    def fail(self, text: str, *, here: bool = True) -> None:
        """Abandon this run, for a reason on this rank or another one; what comes is taken and dropped."""
        if self.failure is not None:
            return
        self.failure = text
        self._say("failed", text=text[:4000])
        if here:  # at once, not at the end: people see it while the scan runs
            self._send_problem("reconstruction", text)

    def take(self, event: RankEvent) -> None:
        """Take what comes of this run; what is of another one is passed over."""
        if getattr(event, "run_uid", self.run.run_uid) != self.run.run_uid:
            return
        match event:
            case Item() | ItemGone():
                self._prepare(event)
            case ChangeRun():
                self._change(event)
            case ShowCuts():
                self.cuts.want(event)
            case CloseRun():
                self._close(event)
            case AbandonRun():
                self.superseded = True

    def _prepare(self, item: Item | ItemGone) -> None:
        """Prepare the next item, or what stands in the place of a lost one."""
        self._seq = item.seq
        if isinstance(item, ItemGone):
            self._lost.append(item.seq)
            if len(self._lost) <= LOST_REPORTED:
                self._find([f"frames: {item.kind} {item.index} was lost: {item.why}"])
        if self.failure is None and self._analysis is not None:
            try:
                self._hold(self._analysis.prepare(item))
            except DataError as error:
                self.fail(f"{item.kind} {item.index}: {error}")
        self._acknowledge()

    def _change(self, change: ChangeRun) -> None:
        """Note a corrected axis; show other rows from the next image on, with all that is known of them."""
        if change.axis is not None:
            self.axes.append(change.axis)
        if change.selection is not None and self._analysis is not None:
            shown = shown_rows(self.run, change.selection.rows)
            if shown != self._shown:
                self._shown = shown
                self._analysis.show([row - self.run.block.first for row in shown])

    def _close(self, closed: CloseRun) -> None:
        self.closed = closed
        if self.failure is not None or self._analysis is None:
            return
        try:
            self._hold(self._analysis.close(closed))
        except DataError as error:
            self.fail(str(error))
            return
        if len(self._lost) > LOST_REPORTED:
            self._find([f"frames: {len(self._lost)} were lost in all"])
        if self.prepared != closed.projections:
            self._find([f"frames: {self.prepared} projections came, {closed.projections} were announced"])

    def _hold(self, frames: Iterable[Frame]) -> None:
        before = len(self._frames)
        self._frames.extend(frames)
        self.prepared += len(self._frames) - before

    def _acknowledge(self) -> None:
        """Acknowledge what is taken care of: in the image, or held here as long as the image can not be begun.

        Held projections must not use up the credit: the flats that are missing, or the projections that it takes to
        begin, come after them.
        """
        seq = self._frames[0].seq - 1 if self._frames and self._begun else self._seq
        if seq > self._acknowledged and not self.superseded:
            self._acknowledged = seq
            self._endpoint.applied(seq)

    # ------------------------------------------------------------------- what all ranks do at the same moments

    def advance(self, agreed: int, corrections: int, closed: bool) -> bool:
        """Make the next image if it is due, or all anew; return whether one was made.

        Parameters
        ----------
        agreed : int
            Projections that are prepared on all ranks.
        corrections : int
            Corrections of the axis that all ranks have heard of.
        closed : bool
            All ranks know that no more will come.
        """
        # A failure of this rank alone changes nothing before all have agreed on it: the others count on this step.
        if self._analysis is None or self.broken:
            return False
        if corrections > self._corrected:
            self._corrected = corrections
            self._make_anew(self._analysis, self.axes[corrections - 1])
        if not self._ready(self._analysis, agreed, closed):
            return False
        settings = self.run.recon
        pending = agreed - self._applied
        if self._redo is not None and self._applied >= self._redo and pending <= (settings.window or USUAL_WINDOW):
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
        began = time.monotonic()
        frames = [self._frames.popleft() for _ in range(take)]
        self._analysis.update(frames)
        self._applied += take
        self._image_number += 1
        self._coalesced += take > settings.step
        seconds = time.monotonic() - began
        self._show(self._analysis, final=closed and self._applied == agreed)
        self._save(self._analysis, frames[-1].seq)
        self._acknowledge()
        self._find(self._analysis.warnings)
        text = f"{take} projections in one step" if take > settings.step else ""
        self._say("reconstructing", step_seconds=seconds, text=text)
        return True

    def _make_anew(self, analysis: Analysis[Any], axis: float) -> None:
        """Make all images so far about a corrected axis, and show the newest as one more."""
        self._say("making images anew", text=f"about detector column {axis:.2f}")
        analysis.remake(axis)
        self._find(analysis.warnings)
        if self._applied:
            self._image_number += 1
            self._show(analysis, final=False)
            self._say("reconstructing")

    def finish(self) -> RunDone:
        """Write the result after the last image, and return how the run went."""
        analysis, path, problem, finishing = self._analysis, None, "", False
        if analysis is not None:
            self._find(analysis.warnings)
        if self.failure is not None:
            text = f"failed: {self.failure}"
        elif analysis is None or not self._begun:
            text = "no projection came, so there is no image"
        else:
            if analysis.conclude() or not self._final_sent:
                self._find(analysis.warnings)
                self._show(analysis, final=True)
            self._send_preview()
            finishing = self._to_finish(analysis)
            path, text, problem = (None, "", "") if self.run.output is None else self._write(analysis, finishing)
            finishing = finishing and path is not None
        if problem:
            self._send_problem("reconstruction", problem)
        done = RunDone(
            run_uid=self.run.run_uid,
            rank=self._communicator.rank,
            image_number=self._image_number,
            counts=self._counts(),
            result=path,
            text="; ".join([*([text] if text else []), *self._findings])[:LONGEST],
            finishing=finishing,
        )
        return done if analysis is None else analysis.annotate(done)

    def _to_finish(self, analysis: Analysis[Any]) -> bool:
        """Return whether all ranks have better images to make, and save what they are made from."""
        wanted = self.run.output is not None and self.closed is not None and self.closed.exit_status == "success"
        if not self._communicator.minimum([int(wanted and analysis.finish() is not None)])[0]:
            return False
        if self._store is not None:
            last = self._checkpoint(analysis.save(last=True), self._seq)
            try:
                self._store.save_last(self.run, last)
            except StorageError as error:  # then a job that dies in the middle of it does not go on
                log.warning("%s", error)
        return True

    def finishing(self, compare: Compare | None) -> Finishing:
        """Return what makes the better images; it takes the analysis over, which is not to be released before."""
        assert self._analysis is not None  # noqa: S101 - there is an image
        return Finishing(self.run, self._analysis, self._applied, self._communicator, self._endpoint, compare)

    def release(self) -> None:
        """Release memory, threads and channels; all ranks do so together."""
        self._frames.clear()
        if self._analysis is not None:
            self._analysis.release()

    def _ready(self, analysis: Analysis[Any], agreed: int, closed: bool) -> bool:
        """Begin as soon as that can be done; return whether images can be made."""
        if self._begun or agreed == 0:
            return self._begun
        problem = missing = ""
        try:
            missing = analysis.begin(list(islice(self._frames, agreed - self._applied)), closed)
        except DeviceFailedError:  # not the settings' fault: a job that is started again may go on
            raise
        except StreamReconError as error:
            problem = str(error)
        self._find(analysis.warnings)
        if missing:
            self._say(missing)
            return False
        # Settings that can not work fail on all ranks alike, and then the job goes on with the next run.
        good, minus_redo = self._communicator.minimum([0 if problem else 1, -(self._redo or 0)])
        self._redo = -minus_redo or None  # ranks joined one after the other, while projections were taken
        self._begun = bool(good)
        if not good:
            self.broken = True
            self.fail(problem or "another rank could not begin the image", here=bool(problem))
        return self._begun

    def _save(self, analysis: Analysis[Any], seq: int) -> None:
        """Save what the next image depends on, if it is time to."""
        if self._checkpoints is None or not analysis.resumable or self._image_number % self.run.recon.checkpoint_every:
            return
        try:
            self._checkpoints.save(self._checkpoint(analysis.save(), seq))
        except StorageError as error:
            log.warning("%s", error)
            self._find([f"checkpoints: no more are written: {error}"])
            self._checkpoints = None

    def _checkpoint(self, arrays: Mapping[str, NDArray[np.generic]], seq: int) -> Checkpoint:
        lost = self._lost_before + sum(number <= seq for number in self._lost)
        return Checkpoint(self.run.run_uid, seq, self._image_number, self._applied, lost, arrays)

    def _show(self, analysis: Analysis[Any], *, final: bool) -> None:
        """Ask for a preview of the image as it is now, and send the one before it."""
        self._final_sent = final
        self.cuts.image = analysis, self._image_number, self._applied, time.time()
        if not self._shown:
            return
        preview = analysis.annotate(Preview(**self._place(), final=final, rows=self._shown, shape=analysis.shape))
        pixels = analysis.begin_images([row - self.run.block.first for row in self._shown])
        self._send_preview()
        self._preview = preview, pixels
        if not analysis.asynchronous:
            self._send_preview()

    def _send_preview(self) -> None:
        """Send the preview that was asked for last: a GPU may still have to make its pixels."""
        if self._preview is not None:
            (preview, pixels), self._preview = self._preview, None
            self._endpoint.send(msgspec.structs.replace(preview, pixels=pixels()))

    def _lag(self) -> int:
        return self.prepared - self._applied + self._endpoint.pending()

    def _say(self, state: str, **more: Any) -> None:
        self._endpoint.send(Status(**self._place(), state=state, **more))

    def _place(self) -> dict[str, Any]:
        place = {"run_uid": self.run.run_uid, "rank": self._communicator.rank}
        return {**place, "image_number": self._image_number, "projections": self._applied}

    def _find(self, lines: Iterable[str]) -> None:
        """Report what the user should know, each line once, while the run goes on."""
        for line in lines:
            if line not in self._findings:
                self._findings.append(line)
                where, _, text = line.partition(": ")
                self._send_problem(where, text)

    def _send_problem(self, where: str, text: str) -> None:
        self._endpoint.send(Problem(fault="local", where=where, text=text[:LONGEST], run_uid=self.run.run_uid))

    def _write(self, analysis: Analysis[Any], finishing: bool) -> tuple[str | None, str, str]:
        """Write the image with all ranks; return the path, why there is none, and what went wrong here."""
        self._say("writing")
        path = result_path(str(self.run.output), self.run.recon_uid)
        known = run_attributes(self.run, self.closed, self._image_number, self._counts(), self._communicator)
        good, problem = write_result(
            path,
            self._communicator,
            self.run.block,
            analysis.images,
            shape=(self.run.detector_shape[0], *analysis.shape),
            datasets=analysis.datasets(),
            attributes={**known, **analysis.attributes()},
            more_to_come=finishing,
        )
        return (str(path), "", "") if good else (None, problem or "another rank could not write the result", problem)

    def _counts(self) -> dict[str, int]:
        return {
            **({} if self._analysis is None else self._analysis.counts),
            "lost": self._lost_before + len(self._lost),
            "projections": self._applied,
            "coalesced_steps": self._coalesced,
            "previews_dropped": self._endpoint.previews_dropped,
        }
