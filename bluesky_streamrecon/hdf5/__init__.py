"""Reading what detectors wrote, and writing it where they do not: frames of HDF5 files are read and written here alone.

HDF5 reads whatever was never written, and whatever is kept in a file that is gone, as the fill value, mostly 0. Here
such values are found out: a frame is read whole or it is an error that names the file and the dataset. Importing this
package loads h5py, and hdf5plugin with the compression filters that detectors use.
"""

import hdf5plugin  # noqa: F401 (registers its filters with HDF5)

from bluesky_streamrecon.hdf5.frames import (
    ChosenFrames,
    FrameStack,
    LazyFrames,
    read_checked,
    read_numbers,
    usable_frames,
)
from bluesky_streamrecon.hdf5.gaps import DataLostError, FrameLostError, NotWrittenError, find_gaps
from bluesky_streamrecon.hdf5.opening import HDF5_ERRORS, MissingFilterError, find_dataset, open_hdf5, require_filters

__all__ = [
    "HDF5_ERRORS",
    "ChosenFrames",
    "DataLostError",
    "FrameLostError",
    "FrameStack",
    "LazyFrames",
    "MissingFilterError",
    "NotWrittenError",
    "find_dataset",
    "find_gaps",
    "open_hdf5",
    "read_checked",
    "read_numbers",
    "require_filters",
    "usable_frames",
]
