"""What a job computes: an analysis makes images of a run's frames, on each rank those of its own detector rows.

The job takes frames in, agrees with the other ranks on how many all of them have, and says when the next image is due;
it sends previews, keeps checkpoints and writes the result. What the images are is the analysis' own business.
Tomography is the one that comes with the package.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.errors import ConfigError, StreamReconError
from bluesky_streamrecon.recon.checkpoint import Checkpoint
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.output import Attribute
from bluesky_streamrecon.recon.parent_watch import Interrupted
from bluesky_streamrecon.registry import Registry, format_error
from bluesky_streamrecon.settings import TOMOGRAPHY
from bluesky_streamrecon.wire import CloseRun, Item, ItemGone, OpenRun, Preview, RunDone

__all__ = ["Analysis", "AnalysisFactory", "Frame", "analyses", "explained", "get_analysis"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Frame:
    """A frame that no image has taken in yet.

    Parameters
    ----------
    seq : int
        Number of its item.
    pixels : ndarray, shape (rows, columns), or None
        This rank's rows; None where the frame was lost.
    """

    seq: int
    pixels: NDArray[np.generic] | None


F = TypeVar("F", bound=Frame)
Report = TypeVar("Report", Preview, RunDone)


class Analysis(Protocol[F]):
    """What is made of one run on one rank; only `shape`, `update` and `images` are needed.

    It is opened with the run, before frames come: ``analysis(run, ranks, threads)``, where `run` is an `OpenRun`,
    `ranks` the `Communicator` to the other ranks, and `threads` how many it may use. Whatever it raises then, a
    `DataError` of `prepare` or `close`, and a `StreamReconError` of `begin` end the run, and the job goes on with the
    next one. Any other error ends the job, for other ranks may wait for this one; it is started again.

    Attributes
    ----------
    shape : (int, int)
        Height and width of an image.
    asynchronous : bool
        Whether `update` returns before the image is made.
    device : str
        What computes, for people.
    resumable : bool
        Whether `save` and `restore` can be relied on in this run; else it has no checkpoints. May be false for a while
        later.
    warnings : sequence of str
        What people should know, a line each, which begins with what it is about: ``"flats: …"``. Grows.
    newest_angle : float or None
        Of the newest projection in the image, radians, where frames have angles.
    scratch : Path or None
        A file that it may write on this rank, set before `restore` and `begin`: it is there again after a restart, with
        at least what it held at the checkpoint. None: there is none that outlives this process.
    """

    shape: tuple[int, int]
    asynchronous: bool = False
    device: str = ""
    resumable: bool = False
    warnings: Sequence[str] = ()
    newest_angle: float | None = None
    scratch: Path | None = None

    # ------------------------------------------------------- as frames come, whatever the other ranks have

    def prepare(self, item: Item | ItemGone) -> list[F]:
        """Return the frames that can be used now that this item has come: every projection, in order, once.

        Parameters
        ----------
        item : Item or ItemGone
            The next flat, dark or projection; or what stands in the place of one that was lost.

        Raises
        ------
        DataError
            If it can not be used, and the run can not go on.
        """
        if item.kind != "projection":
            return []
        return [cast(F, Frame(item.seq, item.pixels if isinstance(item, Item) else None))]

    def close(self, closed: CloseRun) -> list[F]:  # noqa: ARG002 - for those that hold frames back
        """Return the frames that were held back; no items follow.

        Raises
        ------
        DataError
            If what came is not enough.
        """
        return []

    # ----------------------------------------------------------------- by all ranks at the same moments

    def begin(self, frames: Sequence[F], closed: bool) -> str:  # noqa: ARG002 - for those that need some to begin
        """Make ready for the first image.

        Parameters
        ----------
        frames : sequence of Frame
            All so far that every rank has; not taken in yet.
        closed : bool
            No more will come.

        Returns
        -------
        str
            What is done meanwhile, in a few words, if it takes more frames to begin; empty if it is ready. The same
            on all ranks.
        """
        return ""

    @abstractmethod
    def update(self, frames: Sequence[F]) -> None:
        """Take the next frames in, and make the next image."""

    def remake(self, axis: float) -> None:
        """Make all images so far anew about another rotation axis, detector column; only asked of tomography."""

    @abstractmethod
    def images(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return images of some detector rows.

        Parameters
        ----------
        rows : sequence of int
            Counted within this rank's block.

        Returns
        -------
        ndarray of float32, shape (len(rows), height, width)
        """

    def begin_images(self, rows: Sequence[int]) -> Callable[[], NDArray[np.float32]]:
        """Ask for `images`; what is returned waits for them, and may be called after the next update."""
        made = self.images(rows)
        return lambda: made

    def view(self, row: int) -> NDArray[np.float32]:
        """Return the image of one row, shape (height, width), to be read before the next update: it need be no copy."""
        return self.images([row])[0]  # type: ignore[no-any-return]

    def measured(self, cut: Cut, points: NDArray[np.float64]) -> NDArray[np.float32]:  # noqa: ARG002 - see Tomography
        """Return the values of a cut that lies among the projections, of this rank's part of it.

        Parameters
        ----------
        cut : Cut
            Its `space` says what is wanted.
        points : ndarray of float64, shape (k, 3)
            (row, angle, column) of some of its pixels: whole rows, counted within this rank's block, and columns.

        Returns
        -------
        ndarray of float32, shape (k,)
            NaN where there is nothing.
        """
        return np.full(len(points), np.nan, np.float32)

    def conclude(self) -> bool:
        """Make the last image as good as it can be when no more frames come; return whether it is another one now."""
        return False

    def finish(self) -> Iterator[float] | None:
        """Return what makes better images from all frames when the run is over; None: there is nothing to finish.

        It is iterated by all ranks side by side, and yields the share that is done whenever it may be interrupted. It
        is then closed, and begun again later, to go on from there. After its end `images` returns the finished images.
        A `StreamReconError`, `MemoryError` or `OSError` gives up this rank's part, and so the whole. Where other ranks
        may wait for this one, raise any other error: it ends the job, which is started again and goes on.
        """
        return None

    def show(self, rows: Sequence[int]) -> None:
        """Note that previews are of these rows from now on, counted within this rank's block; the next may tell all."""

    def annotate(self, report: Report) -> Report:
        """Return a preview, or the report on the run's end, with what else it can tell."""
        return report

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted, by name; ``…_pixels`` and ``…_values`` are added up over ranks."""
        return {}

    def datasets(self) -> Mapping[str, tuple[NDArray[np.generic], str]]:
        """Return further arrays for the result's file, with their units, by name; those of rank 0 are written."""
        return {}

    def attributes(self) -> Mapping[str, Attribute]:
        """Return further attributes for the result's file; those of rank 0 are written."""
        return {}

    def save(self, *, last: bool = False) -> Mapping[str, NDArray[np.generic]]:  # noqa: ARG002 - for those that finish
        """Return all that the next images depend on, apart from frames that are still to come.

        Parameters
        ----------
        last : bool, optional
            Nothing but `finish` follows: only what it needs beside `scratch`.
        """
        return {}

    def restore(self, saved: Checkpoint) -> None:
        """Go on from what `save` returned, before anything else is asked for."""

    def release(self) -> None:
        """Return memory, threads and channels; nothing is asked for any more."""


AnalysisFactory = Callable[[OpenRun, Communicator, int], Analysis[Any]]
"""Opens an analysis: run, other ranks, threads."""

analyses: Registry[AnalysisFactory] = Registry(
    "analysis", "bluesky_streamrecon.analyses", {TOMOGRAPHY: "bluesky_streamrecon.recon.tomography:Tomography"}
)


def get_analysis(name: str) -> AnalysisFactory:
    """Return what opens the analysis of this name.

    Raises
    ------
    ConfigError
        If there is none of that name (the message lists those there are), or it can not be called.
    """
    found: Any = analyses.get(name)  # of another package, it may be anything
    if not callable(found):
        raise ConfigError(f"analysis {name!r}: got {found!r}, expected a class with the methods of Analysis")
    return cast(AnalysisFactory, found)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever an analysis or algorithm raises, `SystemExit` too, into a `ConfigError` that names its line.

    It would fail again however often the job is started. Errors of this package, of files and of memory are let
    through, and what ends the job.
    """
    try:
        yield
    except (StreamReconError, OSError, MemoryError, Interrupted):
        raise
    except BaseException as error:
        log.exception("%s", what)
        raise ConfigError(f"{what}: {format_error(error)}") from error
