"""The volume that is being made as a layer in napari: coarse, as many voxels as can be asked for at once.

All of it is of one image. Scale and place are those of the volume:
napari's world is in voxels, or in micrometres where the run says how large its pixels are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bluesky_streamrecon.beamline.slices import coarse_volume, grey_range
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.wire import Cuts

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.source import Source

__all__ = ["VolumeLayer", "open_napari"]

LOOK_MILLISECONDS: Final = 500


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
        self._newest: Cuts | None = None
        self._shown: Cuts | None = None
        source.watch(lambda status, volume: [coarse_volume(volume)], self._take)  # noqa: ARG005

    def _take(self, cuts: Cuts) -> None:
        self._newest = cuts

    def update(self) -> None:
        """Show what has come; in the window's own thread, every now and then."""
        if (cuts := self._newest) is None or cuts is self._shown:
            return
        self._shown = cuts
        (cut,), (values,) = cuts.cuts, cuts.values()
        size = self._source.snapshot.status.pixel_size or 1.0
        values = values.reshape(cut.layers, *cut.shape)
        steps = [length / number for length, number in zip(cuts.volume, values.shape, strict=True)]
        about = {
            "name": f"run {cuts.run_uid[:8]}, {cuts.projections} projections",
            "scale": [size * step for step in steps],
            "translate": [size * (step - 1) / 2 for step in steps],
        }
        if self._layer is None or self._layer not in self._viewer.layers:  # somebody has removed it
            self._layer = self._viewer.add_image(values, contrast_limits=grey_range(values), rendering="mip", **about)
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
