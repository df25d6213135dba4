"""Preview slices of a few images of a run in a file, to see afterwards how the image developed."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import h5py
import numpy as np

from bluesky_streamrecon.quality.metrics import PreviewImage
from bluesky_streamrecon.wire.messages import OpenRun

__all__ = ["Snapshots", "snapshots_path"]

logger = logging.getLogger(__name__)

GROWTH = math.sqrt(2)
"""A further snapshot is kept when there are so many times more projections than at the last."""


def snapshots_path(directory: str | Path, recon_uid: str) -> Path:
    """Return the file in which the snapshots of a reconstruction are kept."""
    return Path(directory) / f"previews_{recon_uid}.h5"


class Snapshots:
    """Write preview slices into ``previews_<recon_uid>.h5`` beside the reconstruction.

    The file has ``projections`` (n,), ``image_number`` (n,), ``rows`` (k,), detector rows, and ``images``
    (n, k, N, N), float32, 1/pixel. It is complete after each snapshot.

    Parameters
    ----------
    run : OpenRun
        The run; nothing is kept if it has no output directory.
    """

    def __init__(self, run: OpenRun) -> None:
        self.path = snapshots_path(run.output, run.recon_uid) if run.output else None
        self._next = 0.0

    def offer(self, image: PreviewImage) -> None:
        """Keep this image if it is time for one. A file that can not be written is reported once, and left."""
        if self.path is None or image.projections < self._next:
            return
        try:
            self._append(self.path, image)
        except OSError as error:
            logger.error("snapshots can not be kept in %s: %s; is the disk full?", self.path, error)
            self.path = None
        self._next = image.projections * GROWTH

    @staticmethod
    def _append(path: Path, image: PreviewImage) -> None:
        with h5py.File(path, "a") as file:
            if "images" in file and file["images"].shape[1:] != image.stack.shape:
                file.clear()  # those were provisional, about another axis
            if "images" not in file:
                file["rows"] = np.asarray(image.rows)
                shape = image.stack.shape
                file.create_dataset(
                    "images", (0, *shape), np.float32, maxshape=(None, *shape), chunks=(1, 1, *shape[1:])
                )
                for name in ("projections", "image_number"):
                    file.create_dataset(name, (0,), np.int64, maxshape=(None,), chunks=(64,))
            if image.projections in file["projections"][:]:
                return
            for name, value in (
                ("images", image.stack),
                ("projections", image.projections),
                ("image_number", image.image_number),
            ):
                dataset = file[name]
                dataset.resize(len(dataset) + 1, axis=0)
                dataset[-1] = value
