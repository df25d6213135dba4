"""The finished images of a run that is over, in the making on one rank, whenever no run is open.

All ranks call these methods at the same moments. What is computed is the analysis' business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DeviceFailedError, StreamReconError
from bluesky_streamrecon.recon.analysis import Analysis
from bluesky_streamrecon.recon.communicator import Communicator
from bluesky_streamrecon.recon.output import DATASET, VOLUME, Attribute, result_path, write_result
from bluesky_streamrecon.recon.stepping import shown_rows
from bluesky_streamrecon.wire import OpenRun, Problem, RankEndpoint, Status, VolumeDone

__all__ = ["Compare", "Finishing"]

log = logging.getLogger(__name__)

Compare = Callable[[NDArray[np.float32], NDArray[np.float32]], float]
"""Returns how similar an image is to a better one, both of shape (height, width)."""


class Finishing:
    """What is left to do for one run.

    Parameters
    ----------
    run : OpenRun
        Which run.
    analysis : Analysis
        It is released when all is done, or given up.
    projections : int
        In the images.
    communicator : Communicator
        To the other ranks.
    endpoint : RankEndpoint
        Back to the beamline.
    compare : Compare or None
        How similar the live images are to the finished ones; None: that is not measured.

    Attributes
    ----------
    done : bool
        This rank has nothing more to compute.
    """

    def __init__(
        self,
        run: OpenRun,
        analysis: Analysis[Any],
        projections: int,
        communicator: Communicator,
        endpoint: RankEndpoint,
        compare: Compare | None,
    ) -> None:
        self.run = run
        self._analysis = analysis
        self._projections = projections
        self._communicator = communicator
        self._endpoint = endpoint
        self._compare = compare
        self._path = result_path(str(run.output), run.recon_uid)
        self._parts: Iterator[float] | None = None
        self._problem = ""
        self.done = False

    def advance(self) -> None:
        """Do the next part, if this rank has not done, or given up, all of its own."""
        if self.done:
            return
        try:
            if self._parts is None:
                self._parts = self._analysis.finish() or iter(())
            share = next(self._parts, None)
        except DeviceFailedError:  # a job that is started again goes on with it
            raise
        except (StreamReconError, MemoryError, OSError) as error:
            self._problem, share = f"{type(error).__name__}: {error}", None
        self.done = share is None
        if share is not None:
            self._say(share)

    def interrupt(self) -> None:
        """Release what is computed with, for a run that begins; nothing that was finished is lost."""
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.close()  # type: ignore[attr-defined] # a generator, or an empty iterator
            log.info("run %s: finishing is interrupted", self.run.run_uid)

    def conclude(self) -> None:
        """Store the finished images beside the live ones, and report them."""
        similarity = None
        good = bool(self._communicator.minimum([0 if self._problem else 1])[0])
        if good:
            similarity = self._similarity()
            good, self._problem = self._write(similarity)
        if self._problem:
            self._endpoint.send(
                Problem(fault="local", where="finished volume", text=self._problem[:4096], run_uid=self.run.run_uid)
            )
        if self._communicator.rank == 0:
            self._endpoint.send(
                VolumeDone(
                    run_uid=self.run.run_uid,
                    rank=0,
                    similarity=similarity,
                    result=str(self._path) if good else None,
                    text="" if good else self._problem or "another rank could not finish it",
                )
            )

    def release(self) -> None:
        """Release memory and scratch files."""
        self._parts = None
        self._analysis.release()

    def _similarity(self) -> float | None:
        """Return how similar the live images of the shown rows are to the finished ones, mean over all ranks."""
        total = np.zeros(2)
        rows = [row - self.run.block.first for row in shown_rows(self.run)]
        if self._compare is not None and rows:
            try:
                with h5py.File(self._path) as file:
                    live = [file[DATASET][row + self.run.block.first] for row in rows]
                pairs = zip(live, self._analysis.images(rows), strict=True)
                total[:] = sum(self._compare(image, better) for image, better in pairs), len(rows)
            except (StreamReconError, OSError, KeyError) as error:
                log.warning("run %s: live and finished images are not compared: %s", self.run.run_uid, error)
        self._communicator.sum(total)
        return float(total[0] / total[1]) if total[1] else None

    def _write(self, similarity: float | None) -> tuple[bool, str]:
        recon = self.run.recon
        views = self.run.newest_volume(self._projections)
        attributes: dict[str, Attribute] = {"final": recon.final, "projections": len(views)}
        if self.run.per_volume:
            attributes["volume"] = views.start // self.run.per_volume + 1
        if similarity is not None:
            attributes["similarity_to_live"] = similarity
        return write_result(
            self._path,
            self._communicator,
            self.run.block,
            self._analysis.images,
            shape=(self.run.detector_shape[0], *self._analysis.shape),
            attributes=attributes,
            dataset=VOLUME,
        )

    def _say(self, share: float) -> None:
        text = f"{100 * share:.0f} %"
        uid, rank = self.run.run_uid, self._communicator.rank
        self._endpoint.send(Status(run_uid=uid, rank=rank, state="finishing", text=text))
