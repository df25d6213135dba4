"""The volume that is being made as a layer in napari: coarse, as many voxels as can be asked for at once.

All of it is of one image, and it is asked for again when there is a newer one. Scale and place are those of the volume:
napari's world is in voxels, or in micrometres where the run says how large its pixels are.
"""

from __future__ import annotations

import math
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bluesky_streamrecon.errors import ConfigError, StreamReconError
from bluesky_streamrecon.wire import Cut, Cuts
from bluesky_streamrecon.wire.cuts import MOST_CUT_PIXELS

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.source import Source

__all__ = ["VolumeLayer", "coarse_volume", "open_napari"]

VIEWER: Final = "napari"
LOOK_MILLISECONDS: Final = 500
LIMITS = (0.5, 99.8)
"""Percentiles of the values that are black and white at first."""

FINER: Final = 1.01
"""Steps in which voxels are made larger until there are few enough."""

_PROBE = Cut(corner=(-0.5, -0.5, -0.5), down=(0, 1, 0), across=(0, 0, 1), shape=(1, 1))


def coarse_volume(volume: tuple[int, int, int], most: int = MOST_CUT_PIXELS) -> Cut:
    """Return the whole of a volume as one box of at most `most` voxels.

    Examples
    --------
    >>> coarse_volume((512, 512, 512), 10**6).size
    (100, 100, 100)
    """
    coarser, numbers = 1.0, list(volume)
    while math.prod(numbers) > most:  # a volume of few rows has no fewer
        coarser *= FINER
        numbers = [max(1, int(length / coarser)) for length in volume]
    (layers, height, width), (rows, down, across) = numbers, volume
    return Cut(
        corner=(-0.5, -0.5, -0.5),
        through=(rows, 0, 0),
        down=(0, down, 0),
        across=(0, 0, across),
        layers=layers,
        shape=(height, width),
    )


class VolumeLayer:
    """A layer of one viewer, for one run after the other.

    Parameters
    ----------
    viewer : napari.Viewer
        That it is added to, once there is an image.
    source : Source
        Closed by the caller.
    """

    def __init__(self, viewer: Any, source: Source) -> None:
        self._viewer = viewer
        self._source = source
        self._layer: Any = None
        self._shown: tuple[str | None, int] = (None, 0)  # run, and number of its image
        self._volume: tuple[int, int, int] | None = None
        self._wished: Future[Cuts] | None = None

    def update(self) -> None:
        """Show what has come, and ask for what is newer; in the window's own thread, every now and then."""
        if self._wished is not None and self._wished.done():
            wished, self._wished = self._wished, None
            try:
                self._take(wished.result())
            except (StreamReconError, CancelledError) as error:
                self._viewer.status = f"streamrecon: {error}"
        status = self._source.snapshot.status
        if self._wished is not None or not status.image_number or (status.run_uid, status.image_number) == self._shown:
            return
        if status.run_uid != self._shown[0]:
            self._volume = None
        cut = _PROBE if self._volume is None else coarse_volume(self._volume)
        try:
            self._wished = self._source.show_cuts([cut], VIEWER)
        except StreamReconError as error:
            self._viewer.status = f"streamrecon: {error}"

    def _take(self, cuts: Cuts) -> None:
        (cut,), (values,) = cuts.cuts, cuts.values()
        if cut == _PROBE or cuts.run_uid != self._shown[0]:  # how large the volume is comes first
            self._volume, self._shown = cuts.volume, (cuts.run_uid, 0)
        if cut != coarse_volume(cuts.volume):
            return
        self._shown = (cuts.run_uid, cuts.image_number)
        size = self._source.snapshot.status.pixel_size or 1.0
        values = values.reshape(cut.layers, *cut.shape)
        steps = [length / number for length, number in zip(cuts.volume, values.shape, strict=True)]
        about = {
            "name": f"run {cuts.run_uid[:8]}, {cuts.projections} projections",
            "scale": [size * step for step in steps],
            "translate": [size * (step - 1) / 2 for step in steps],
        }
        if self._layer is None or self._layer not in self._viewer.layers:  # somebody has removed it
            limits = np.percentile(values, LIMITS).tolist()
            self._layer = self._viewer.add_image(values, contrast_limits=limits, rendering="mip", **about)
            return
        self._layer.data = values
        for name, value in about.items():
            setattr(self._layer, name, value)


def open_napari(source: Source) -> None:
    """Open a window of napari with the volume that is being made, and return when it is closed.

    Raises
    ------
    ConfigError
        If napari is not installed, or there is no display.
    """
    try:
        import napari
        from qtpy.QtCore import QTimer
    except ImportError as error:
        raise ConfigError(f"{error}; pip install 'bluesky-streamrecon[napari]'") from error
    viewer = napari.Viewer(title="streamrecon", ndisplay=3)
    layer, timer = VolumeLayer(viewer, source), QTimer()
    timer.timeout.connect(layer.update)
    timer.start(LOOK_MILLISECONDS)
    napari.run()
    timer.stop()
