"""What comes in of one run on one rank: flats, darks and projections become prepared views, in order.

No other rank has a part in this, nor has the image. Angles are radians.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.recon.checkpoint import Checkpoint
from bluesky_streamrecon.recon.preparation import Preparation, StripeFilter
from bluesky_streamrecon.wire import CloseRun, Item, ItemGone, OpenRun

__all__ = ["ProjectionBuffer", "View"]

_RAW_LIMIT = 2**30

LOST_TOLD = 3
"""Lost frames that are reported one by one."""


@dataclass(slots=True)
class View:
    """A projection that is prepared and not yet in the image.

    Parameters
    ----------
    seq : int
        Its item's number.
    angle : float
        Radians.
    pixels : ndarray of float32, shape (rows, columns), or None
        Line integrals; None where the projection was lost.
    counts : dict of str to int
        `ProjectionBuffer.counts` with this projection and without those after it.
    """

    seq: int
    angle: float
    pixels: NDArray[np.float32] | None
    counts: dict[str, int]


class ProjectionBuffer:
    """Prepare the items of a run as they come.

    Projections that come before any flat are held as they are, up to a limit, until flats have come.

    Parameters
    ----------
    run : OpenRun
        What the run is and which rows this rank has. Its metadata may say from which count on pixels are saturated, in
        ``saturation``.
    resume : Checkpoint, optional
        What to go on from: flats and darks are taken from it, and only items after it come.

    Attributes
    ----------
    views : deque of View
        Prepared and not yet taken by the image, oldest first.
    prepared : int
        Views made, taken ones included.
    seq : int
        Number of the last item.
    lost : int
        Items that could not be had.
    warnings : list of str
        What the user should know, a line each, as it is found.

    Raises
    ------
    DataError
        If the metadata can not be understood.
    """

    def __init__(self, run: OpenRun, resume: Checkpoint | None = None) -> None:
        self.views: deque[View] = deque()
        self.prepared = 0
        self.seq = 0
        self.lost = 0
        self._raw: list[tuple[Item | ItemGone, NDArray[np.generic] | None]] = []
        self._raw_bytes = 0
        self._preparation = Preparation(
            run.block.rows,
            run.detector_shape[1],
            values=run.recon.pixel_values,
            saturation=_number(run, "saturation"),
        )
        self.warnings = self._preparation.warnings
        if resume is not None:
            self._preparation.restore(resume.arrays, resume.counts)
            self.seq = resume.seq
            self.lost = resume.counts.get("lost", 0)
            self.prepared = len(resume.angles)
        self._stripes = StripeFilter(run.recon.window) if run.recon.stripe_removal else None

    @property
    def counts(self) -> dict[str, int]:
        """Flats, darks and bad pixels, see `Preparation`; and the items lost."""
        return self._preparation.counts | {"lost": self.lost}

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what a checkpoint has to keep of flats and darks."""
        return self._preparation.arrays()

    def take(self, item: Item) -> None:
        """Take the next item in.

        Raises
        ------
        DataError
            If it can not be used, and the run can not go on; the message names the item.
        """
        self.seq = item.seq
        pixels = item.pixels
        try:
            if pixels is None:
                raise DataError("got no pixels")
            if item.kind != "projection":
                self._preparation.add_reference(item.kind, pixels)
            elif self._preparation.ready:
                self._prepare_held()
                self._add(item.seq, item.angle, self._preparation.prepare(pixels))
            else:
                self._hold(item, pixels)
        except DataError as error:
            raise DataError(f"{item.kind} {item.index}: {error}") from error

    def take_lost(self, item: ItemGone) -> None:
        """Note that an item can not be had any more; a projection keeps its place, so steps stay the same."""
        self.seq = item.seq
        self.lost += 1
        if self.lost <= LOST_TOLD:
            self.warnings.append(f"frames: {item.kind} {item.index} was lost: {item.why}")
        if item.kind == "projection":
            self._prepare_held()
            if self._raw:
                self._raw.append((item, None))
            else:
                self._add(item.seq, item.angle, None)

    def close(self, close: CloseRun) -> None:
        """Prepare what is still held: no items follow.

        Raises
        ------
        DataError
            If flats were needed and none came.
        """
        if self._raw and not self._preparation.ready:
            raise DataError(
                f"got {len(self._raw)} projections and no flat field, expected at least one; were flats taken? "
                "(pixel_values='transmission' says that none are needed)"
            )
        self._prepare_held()
        self._preparation.conclude()
        if self.lost > LOST_TOLD:
            self.warnings.append(f"frames: {self.lost} were lost in all")
        if self.prepared != close.projections:
            self.warnings.append(f"frames: {self.prepared} projections came, {close.projections} were announced")

    def forget(self) -> None:
        """Drop everything that is held."""
        self.views.clear()
        self._raw.clear()

    def _hold(self, item: Item, pixels: NDArray[np.generic]) -> None:
        self._raw_bytes += pixels.nbytes
        if self._raw_bytes > _RAW_LIMIT:
            raise DataError(
                f"{len(self._raw)} projections came before any flat field and take more than {_RAW_LIMIT >> 20} MiB; "
                "expected flats before the projections"
            )
        self._raw.append((item, pixels.copy()))

    def _prepare_held(self) -> None:
        if not self._preparation.ready:
            return
        raw, self._raw = self._raw, []
        for item, pixels in raw:
            self._add(item.seq, item.angle, None if pixels is None else self._preparation.prepare(pixels))

    def _add(self, seq: int, angle: float, pixels: NDArray[np.float32] | None) -> None:
        if pixels is not None and self._stripes is not None:
            pixels = self._stripes.apply(pixels, angle)
        self.views.append(View(seq, angle, pixels, self.counts))
        self.prepared += 1


def _number(run: OpenRun, key: str) -> float | None:
    text = run.metadata.get(key)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"got metadata {key}={text!r}, expected a number") from error
