"""Images of a run to look at besides the one that the job is making: earlier pictures, and what is stored in the end.

Of earlier images there are the pictures that people were shown: some rows, in 256 steps. What is stored is cut where it
is, in the result's file. Places are those of `Cut`; values are 1/pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError, StreamReconError
from bluesky_streamrecon.hdf5 import find_dataset, open_hdf5
from bluesky_streamrecon.recon.cuts import interpolated, points_of
from bluesky_streamrecon.storage import IMAGES
from bluesky_streamrecon.storage.reconstruction import DATASET, VOLUME
from bluesky_streamrecon.wire import Cut, Picture

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.source import Snapshot, Viewed

__all__ = ["LIVE_IMAGE", "NEWEST", "Images", "Shown", "mapped", "result_images", "thinned"]

MOST_PICTURES: Final = 64
MOST_BYTES: Final = 2**27
NEWEST, LIVE_IMAGE = 0, -1
"""Numbers of the newest image, and of the last live one where a finished volume is the newest; others are pictures'."""


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
        That were made: of a picture, along the nearest row that it has.
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
    """Keep pictures of a source's newest run, thinned as it goes on, and open what is stored when it is over.

    Parameters
    ----------
    source : Viewed
        That is listened to.
    pictures : sequence of Picture, optional
        Of its run, that are there already.
    stored : mapping of str to ndarray, optional
        Stored images of a run that is over, by their names in `IMAGES`; by default those in the file that the
        source's status names.

    Attributes
    ----------
    volume : (str, tuple of int)
        A run, and the shape of its volume, if somebody has seen it: pictures do not say.
    """

    def __init__(
        self,
        source: Viewed,
        pictures: Sequence[Picture] = (),
        stored: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._pictures: tuple[Picture, ...] = ()
        self._given = stored
        self.volume: tuple[str, tuple[int, ...]] = ("", ())
        self._opened: tuple[tuple[str, str], Mapping[str, NDArray[np.float32]]] = (("", ""), {})
        for picture in pictures:
            self._keep(picture)
        self.close: Callable[[], None] = source.listen(self._listen)
        self._listen()

    def newest(self, snapshot: Snapshot) -> str:
        """Return which whole image is newest, in a text that changes with it; empty if there is none."""
        return list(self._stored(snapshot) or [""])[-1] if snapshot.link else str(snapshot.status.image_number or "")

    def earlier(self, snapshot: Snapshot) -> list[tuple[int, str]]:
        """Return numbers and names of the images before the newest, the oldest first."""
        of = f" of {snapshot.status.total}" if snapshot.status.total else ""
        found = [(each.image_number, f"projection {each.projections}{of}") for each in self._of(snapshot)[:-1]]
        return found + [(LIVE_IMAGE, "last live image")] * (len(self._stored(snapshot)) > 1)

    def cut(self, image: int, cuts: Sequence[Cut]) -> Shown:
        """Return cuts of an image; of a picture that is not kept any more, of the nearest one.

        Parameters
        ----------
        image : int
            `NEWEST` (of those that are here), `LIVE_IMAGE`, or the number of a picture's image.
        cuts : sequence of Cut
            Where to cut.

        Raises
        ------
        DataError
            If there is no image.
        """
        snapshot = self._source.snapshot
        stored, pictures = self._stored(snapshot), self._of(snapshot)
        if stored and image in (NEWEST, LIVE_IMAGE):
            live, newest = stored[IMAGES[0]], list(stored.values())[-1]
            whole = live if image == LIVE_IMAGE else newest
            name = "Last live image" if whole is live else "Finished volume"
            text = f"{name} from {snapshot.status.used} projections"
            compared = [] if whole is newest else _cut(newest, cuts)
            return Shown(snapshot.status.run_uid, text, whole.shape, tuple(cuts), _cut(whole, cuts), compared)
        if not pictures:
            raise DataError("there is no image to look at yet")
        chosen = pictures[-1]
        if image != NEWEST:
            chosen = min(pictures, key=lambda each: abs(each.image_number - image))
        run_uid, volume = self.volume
        if stored or run_uid != chosen.run_uid:
            volume = next((each.shape for each in stored.values()), ())
        return _compared(chosen, pictures[-1], cuts, volume)

    def _listen(self) -> None:
        picture = self._source.snapshot.picture
        if picture is not None:
            self._keep(picture)

    def _keep(self, picture: Picture) -> None:
        with self._lock:
            newest = self._pictures[-1] if self._pictures else None
            if newest is not None and (newest.run_uid, newest.image_number) == (picture.run_uid, picture.image_number):
                return
            picture = msgspec.structs.replace(picture, sinogram=None)
            before = (p for p in self._pictures if p.run_uid == picture.run_uid)
            earlier = [p for p in before if p.image_number < picture.image_number]  # a job that was restarted: anew
            self._pictures = thinned((*earlier, picture), MOST_PICTURES, MOST_BYTES)

    def _of(self, snapshot: Snapshot) -> tuple[Picture, ...]:
        pictures = self._pictures
        return pictures if pictures and pictures[-1].run_uid == snapshot.status.run_uid else ()

    def _stored(self, snapshot: Snapshot) -> Mapping[str, NDArray[np.float32]]:
        """Return what is stored of a run that is over; the file is opened anew when its volume gets on."""
        if not snapshot.link:
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


def thinned(pictures: Sequence[Picture], most: int, most_bytes: int) -> tuple[Picture, ...]:
    """Leave pictures out until there are not too many, always the one whose neighbours are nearest to each other.

    The first and the last stay, and the others are spread over the projections.
    """
    kept = list(pictures)
    while len(kept) > 2 and (len(kept) > most or sum(len(each.pixels) for each in kept) > most_bytes):
        gaps = [after.projections - before.projections for before, after in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return tuple(kept)


def result_images(path: Path) -> dict[str, NDArray[np.float32]]:
    """Map the images in a result's file into memory, by their names in `IMAGES`, without those that are not there yet.

    Raises
    ------
    StreamReconError
        If there is no such file, or it is none of a job.
    """
    with open_hdf5(path) as file:
        datasets = {IMAGES[0]: find_dataset(file, DATASET)}
        if VOLUME in file:
            datasets[IMAGES[1]] = find_dataset(file, VOLUME)
        found = {name: mapped(path, dataset) for name, dataset in datasets.items()}
    return {name: values for name, values in found.items() if values is not None}


def mapped(path: Path, dataset: h5py.Dataset) -> NDArray[np.float32] | None:
    """Return a dataset without reading it; None if nothing was written to it, or it is in chunks."""
    offset = dataset.id.get_offset()
    if offset is None or dataset.ndim != 3:
        return None
    return np.asarray(np.memmap(path, dataset.dtype, "r", offset, dataset.shape))


def _cut(volume: NDArray[np.float32], cuts: Sequence[Cut]) -> list[NDArray[np.float32]]:
    rows, height, width = volume.shape
    found = []
    for cut in cuts:
        points, inside = points_of([cut], (rows, height, width))
        values = np.full(cut.pixels, np.nan, np.float32)
        values[inside] = interpolated(points[inside], (rows, height, width), volume.__getitem__)
        found.append(values.reshape(cut.size))
    return found


def _compared(chosen: Picture, newest: Picture, cuts: Sequence[Cut], volume: tuple[int, ...]) -> Shown:
    """Cut two pictures along the row that is nearest; what one of them clips is clipped in both."""
    limits = None if chosen is newest else (max(chosen.low, newest.low), min(chosen.high, newest.high))
    volume = volume or (chosen.rows[-1] + 1, chosen.full_size, chosen.full_size)
    at_rows = tuple(_at_row(cut, chosen.rows) for cut in cuts)
    values, compared = (_cut_picture(each, at_rows, volume, limits) for each in (chosen, newest))
    rows = ", ".join(map(str, chosen.rows))
    text = f"Image {chosen.image_number} from {chosen.projections} projections: rows {rows} only"
    if chosen.axis is not None:
        text += f", rotation axis at detector column {chosen.axis:.2f}"
    return Shown(chosen.run_uid, text, volume, at_rows, values, [] if limits is None else compared)


def _along_row(cut: Cut) -> bool:
    return cut.layers == 1 and cut.down[0] == cut.across[0] == 0


def _at_row(cut: Cut, rows: Sequence[int]) -> Cut:
    row = min(rows, key=lambda each: abs(each - cut.corner[0]))
    return msgspec.structs.replace(cut, corner=(float(row), *cut.corner[1:])) if _along_row(cut) else cut


def _cut_picture(
    picture: Picture, cuts: Sequence[Cut], volume: tuple[int, ...], limits: tuple[float, float] | None
) -> list[NDArray[np.float32]]:
    values = picture.values()
    if limits is not None:
        values = np.clip(values, *limits)
    # A picture's pixel is the mean of a square of voxels.
    voxels = np.array([1.0, *volume[1:]]) * -(-picture.full_size // picture.size) / picture.full_size
    edge = np.array([0.0, 0.5, 0.5])
    found = []
    for cut in cuts:
        if _along_row(cut):
            corner = (np.array(cut.corner) + edge) / voxels - edge
            down, across = (tuple((np.array(side) / voxels).tolist()) for side in (cut.down, cut.across))
            smaller = Cut(corner=(0.0, corner[1], corner[2]), down=down, across=across, shape=cut.shape)
            found += _cut(values[None, picture.rows.index(int(cut.corner[0]))], [smaller])
        else:
            found.append(np.full(cut.size, np.nan, np.float32))
    return found
