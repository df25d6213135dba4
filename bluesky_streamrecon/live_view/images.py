"""Images of a run to look at besides the one that the job is making: earlier images, and what is stored in the end.

Of earlier images one row is kept finely, and the whole coarsely. What is stored is cut where it is, in the result's
file. Places are those of `Cut`; values are 1/pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.slices import coarse_volume, measured, slice_of
from bluesky_streamrecon.beamline.source import Volume
from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.cuts import Cut, cut_volume
from bluesky_streamrecon.errors import DataError, StreamReconError
from bluesky_streamrecon.hdf5.results import IMAGES, result_images
from bluesky_streamrecon.wire import Cuts, RunStatus

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.source import Snapshot, Source

__all__ = ["LIVE_IMAGE", "NEWEST", "Images", "Kept", "Shown", "thinned"]

MOST_KEPT: Final = 64
MOST_BYTES: Final = 2**27
MOST_PIXELS: Final = 2**17
"""Of the row that is kept of an image, and of the box."""
SECONDS: Final = 2.0
"""Between two images that are kept."""
SEEN_COLUMNS: Final = 5
"""Of a projection, to see whether there is one."""
NEWEST, LIVE_IMAGE = 0, -1
"""Numbers of the newest image, and of the last live one where a finished volume is the newest; others are as made."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What is kept of an image.

    Parameters
    ----------
    run_uid, image_number, projections
        Which image of which run, and how many projections went into it.
    volume : (int, int, int)
        Rows, height and width of the whole.
    rows : tuple of int
        Detector rows of which there are slices.
    slices : ndarray of float32, shape (len(rows), h, w)
        Of the whole slices, as many pixels as there are.
    box : ndarray of float32, shape (r, h, w), or None
        Of the whole volume.
    axis : float or None
        Detector column of the rotation axis.
    """

    run_uid: str
    image_number: int
    projections: int
    volume: Volume
    rows: tuple[int, ...]
    slices: NDArray[np.float32]
    box: NDArray[np.float32] | None = None
    axis: float | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.slices.nbytes + (0 if self.box is None else self.box.nbytes)

    @property
    def text(self) -> str:
        """What it is, in words."""
        rows = ", ".join(map(str, self.rows))
        has = f"rows {rows} only" if self.box is None else f"row {rows}, coarse elsewhere"
        axis = "" if self.axis is None else f", rotation axis at detector column {self.axis:.2f}"
        return f"Image {self.image_number} from {self.projections} projections: {has}{axis}"

    def placed(self, cut: Cut) -> Cut:
        """Return a cut where there is something to see: where there are rows alone, along the nearest."""
        if self.box is not None or not _along_row(cut):
            return cut
        row = min(self.rows, key=lambda each: abs(each - cut.corner[0]))
        return msgspec.structs.replace(cut, corner=(float(row), *cut.corner[1:]))

    def cut(self, cut: Cut, volume: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the values of a cut through this volume, NaN where there is nothing.

        An image of another width, as before the axis was corrected, has the rotation axis in its middle, too.
        """
        row, y, x = cut.corner
        down, across = ((own - other) / 2 for own, other in zip(self.volume[1:], volume[1:], strict=True))
        cut = msgspec.structs.replace(cut, corner=(row, y + down, x + across))
        if _along_row(cut) and round(row) in self.rows:
            return cut_volume(self.slices[self.rows.index(round(row))][None], [cut], self.volume)[0]
        return (
            np.full(cut.size, np.nan, np.float32) if self.box is None else cut_volume(self.box, [cut], self.volume)[0]
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """Cuts of an image, and the same of the newest image that it can be compared with.

    Parameters
    ----------
    run_uid, text : str
        Which image of which run it is.
    volume : (int, int, int)
        Rows, height and width of the whole volume.
    cuts : tuple of Cut
        That were made; where only some rows are kept, along the nearest.
    values, newest : list of ndarray of float32
        For each cut, NaN outside; `newest` is empty if this is the newest.
    made : float
        When the image was made, Unix seconds, if it is one of a run that goes on; 0: not known.
    """

    run_uid: str | None
    text: str
    volume: tuple[int, ...]
    cuts: tuple[Cut, ...]
    values: list[NDArray[np.float32]]
    newest: list[NDArray[np.float32]]
    made: float = 0.0


class Images:
    """Keep something of a source's newest run, thinned as it goes on, and open what is stored when it is over.

    Parameters
    ----------
    source : Source
        That is watched.
    kept : sequence of Kept, optional
        Images of its run that are there already.
    stored : mapping of str to ndarray, optional
        Stored images of a run that is over, by their names in `IMAGES`; by default those in the file that the
        source's status names.

    Attributes
    ----------
    directions : dict
        ``covered`` says of each direction of the newest ``run`` that is planned whether there is a projection;
        ``start``, ``span`` and ``turn`` are those of its angles, ``newest`` that of the newest projection. Empty: not
        known.
    version : int
        Counts up with each change.
    """

    def __init__(
        self, source: Source, kept: Sequence[Kept] = (), stored: Mapping[str, NDArray[np.float32]] | None = None
    ) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._kept: tuple[Kept, ...] = ()
        self._given = stored
        self.directions: dict[str, Any] = {}
        self.version = 0
        self._opened: tuple[tuple[str, str], Mapping[str, NDArray[np.float32]]] = (("", ""), {})
        for image in kept:
            self._keep(image)
        self.close: Callable[[], None] = source.watch(_to_keep, self._take, pause=SECONDS)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Images of the newest run, the oldest first."""
        return self._kept

    def newest(self, snapshot: Snapshot) -> str:
        """Return which whole image is newest, in a text that changes with it; empty if there is none."""
        if snapshot.unlinked:
            return list(self._stored(snapshot) or [""])[-1]
        return str(snapshot.status.image_number or "")

    def earlier(self, snapshot: Snapshot) -> list[tuple[int, str]]:
        """Return numbers and names of the images before the newest, the oldest first."""
        of = f" of {snapshot.status.total}" if snapshot.status.total else ""
        found = [(each.image_number, f"projection {each.projections}{of}") for each in self._of(snapshot)[:-1]]
        return found + [(LIVE_IMAGE, "last live image")] * (len(self._stored(snapshot)) > 1)

    def cut(self, image: int, cuts: Sequence[Cut]) -> Shown:
        """Return cuts of an image; of one that is not kept, of the nearest.

        Parameters
        ----------
        image : int
            `NEWEST` (of those that are here), `LIVE_IMAGE`, or the number of an image.
        cuts : sequence of Cut
            Where to cut.

        Raises
        ------
        DataError
            If there is no image.
        """
        snapshot = self._source.snapshot
        stored, kept = self._stored(snapshot), self._of(snapshot)
        if stored and image in (NEWEST, LIVE_IMAGE):
            live, newest = stored[IMAGES[0]], list(stored.values())[-1]
            whole = live if image == LIVE_IMAGE else newest
            name = "Last live image" if whole is live else "Finished volume"
            text = f"{name} from {snapshot.status.used} projections"
            compared = [] if whole is newest else cut_volume(newest, cuts)
            values = cut_volume(whole, cuts)
            return Shown(snapshot.status.run_uid, text, whole.shape, tuple(cuts), values, compared)
        if not kept:
            raise DataError("there is no image to look at yet")
        chosen = last = kept[-1]
        if image != NEWEST:
            chosen = min(kept, key=lambda each: abs(each.image_number - image))
        volume = next((each.shape for each in stored.values()), last.volume)
        placed = tuple(chosen.placed(cut) for cut in cuts)
        values, compared = ([each.cut(cut, volume) for cut in placed] for each in (chosen, last))
        return Shown(chosen.run_uid, chosen.text, volume, placed, values, [] if chosen is last else compared)

    def _take(self, cuts: Cuts) -> None:
        status = self._source.snapshot.status
        row, box, sinogram = cuts.values()
        covered = np.isfinite(sinogram).any(axis=1)
        if covered.any():
            over = AngularRange(*status.angles)
            newest = over.start if cuts.angle is None else cuts.angle
            self.directions = {"run": cuts.run_uid, "covered": covered.tolist(), "newest": newest, "turn": over.turn}
            self.directions |= {"start": over.start, "span": over.span}
        box = box.reshape(cuts.cuts[1].layers, *cuts.cuts[1].shape)
        axis = status.axis if status.run_uid == cuts.run_uid else None
        rows = (int(cuts.cuts[0].corner[0]),)
        self._keep(Kept(cuts.run_uid, cuts.image_number, cuts.projections, cuts.volume, rows, row[None], box, axis))

    def _keep(self, image: Kept) -> None:
        with self._lock:
            newest = self._kept[-1] if self._kept else None
            if newest is not None and (newest.run_uid, newest.image_number) == (image.run_uid, image.image_number):
                return
            before = (each for each in self._kept if each.run_uid == image.run_uid)
            earlier = [each for each in before if each.image_number < image.image_number]  # a job may begin anew
            self._kept = thinned((*earlier, image), MOST_KEPT, MOST_BYTES)
            self.version += 1

    def _of(self, snapshot: Snapshot) -> tuple[Kept, ...]:
        kept = self._kept
        return kept if kept and kept[-1].run_uid == snapshot.status.run_uid else ()

    def _stored(self, snapshot: Snapshot) -> Mapping[str, NDArray[np.float32]]:
        """Return what is stored of a run that is over; the file is opened anew when its volume gets on."""
        if not snapshot.unlinked:
            return {}
        if self._given is not None:
            return self._given
        which = (snapshot.status.result, snapshot.status.volume)
        if self._opened[0] != which:
            try:
                self._opened = (which, result_images(Path(which[0])) if which[0] else {})
            except StreamReconError:  # it is on another computer
                self._opened = (which, {})
        return self._opened[1]


def thinned(images: Sequence[Kept], most: int, most_bytes: int) -> tuple[Kept, ...]:
    """Leave images out until there are not too many, always the one whose neighbours are nearest to each other.

    The first and the last stay, and the others are spread over the projections.
    """
    kept = list(images)
    while len(kept) > 2 and (len(kept) > most or sum(each.nbytes for each in kept) > most_bytes):
        gaps = [after.projections - before.projections for before, after in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return tuple(kept)


def _to_keep(status: RunStatus, volume: Volume) -> list[Cut]:
    """Return the middle one of the rows that the score is taken from, the whole, and which directions are covered."""
    rows = [row for row in status.preview_rows if row < volume[0]] or [volume[0] // 2]
    directions = measured("sinogram", status, rows[len(rows) // 2])
    return [
        slice_of(rows[len(rows) // 2], volume, MOST_PIXELS),
        coarse_volume(volume, MOST_PIXELS),
        msgspec.structs.replace(directions, shape=(directions.shape[0], SEEN_COLUMNS)),
    ]


def _along_row(cut: Cut) -> bool:
    return cut.layers == 1 and cut.down[0] == cut.across[0] == 0
