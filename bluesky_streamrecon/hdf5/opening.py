"""Opening HDF5 files and datasets, with errors that say what is there instead."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import h5py
import hdf5plugin

from bluesky_streamrecon.errors import DataError, StorageError

__all__ = ["HDF5_ERRORS", "MissingFilterError", "find_dataset", "open_hdf5", "require_filters"]

HDF5_ERRORS: Final = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises where a file is damaged, cut short or only partly there."""

_PLUGINS: Final = "install hdf5plugin (pip install hdf5plugin), or set HDF5_PLUGIN_PATH to where the plugin is"
_FILTERS: Final = {code: (name, _PLUGINS) for name, code in hdf5plugin.FILTERS.items()} | {
    4: ("szip", "install an h5py whose HDF5 was built with szip (conda-forge has one)"),
    32000: ("LZF", "install h5py from PyPI or conda-forge, which brings it"),
}
_REGISTRY: Final = "the list of registered filters is at https://github.com/HDFGroup/hdf5_plugins"


class MissingFilterError(DataError):
    """A dataset is compressed by a filter that this computer does not have."""


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, even while it is being written.

    Raises
    ------
    StorageError
        If there is no such file.
    DataError
        If it is not HDF5, or cut short.
    """
    if not path.is_file():
        raise StorageError(f"{path}: no such file")
    try:
        return h5py.File(path, "r", swmr=True, libver="latest")
    except (OSError, ValueError) as error:
        try:  # a writer in this process that has not begun to write in SWMR mode
            return h5py.File(path, "r")
        except (OSError, ValueError):
            raise DataError(f"{path}: not a readable HDF5 file ({error})") from error


def find_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return the dataset at `name`, through any links; raise `DataError` with what the file has instead."""
    found = _get(file, name)
    if isinstance(found, h5py.Dataset):
        return found
    group = file
    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True) if part in set(group) else None
        below = _get(group, part)
        if below is None and isinstance(link, h5py.ExternalLink):
            raise DataError(
                f"{file.filename}: no dataset {name}; {group.name.rstrip('/')}/{part} is a link to {link.path} in the "
                f"file {link.filename}, which is not there; was the file moved without it?"
            )
        if not isinstance(below, h5py.Group):
            break
        group = below
    raise DataError(f"{file.filename}: no dataset {name}; {group.name} has {sorted(group) or 'nothing'}")


def _get(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    try:
        return group.get(name)
    except HDF5_ERRORS:  # h5py raises for some of the ways in which a link can be broken
        return None


def require_filters(dataset: h5py.Dataset) -> None:
    """Raise `MissingFilterError` if the dataset is compressed by a filter that is not installed."""
    plist = dataset.id.get_create_plist()
    count = plist.get_nfilters()
    if not count or dataset.chunks is None or not dataset.id.get_num_chunks():
        return
    skipped = dataset.id.get_chunk_info(0).filter_mask
    for number in range(count):
        code, _, _, named = plist.get_filter(number)
        if skipped >> number & 1 or h5py.h5z.filter_avail(code):
            continue
        name, what_to_do = _FILTERS.get(code, (named.decode(errors="replace").split(";")[0] or "unknown", _REGISTRY))
        raise MissingFilterError(
            f"{dataset.file.filename}: {dataset.name} is compressed by the HDF5 filter {code} ({name}), which is not "
            f"installed here; {what_to_do}"
        )
