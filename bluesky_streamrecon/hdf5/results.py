"""The images in the file that a job has written, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.hdf5.opening import find_dataset, open_hdf5

__all__ = ["DATASET", "IMAGES", "VOLUME", "mapped", "result_images"]

DATASET: Final = "/exchange/data"
VOLUME: Final = "/exchange/volume"
"""Where the file of a reconstruction has the last live image, and what was finished from all projections."""
IMAGES: Final = ("image", "volume")
"""Their names; of the streams and data keys of a stored reconstruction, too."""


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
