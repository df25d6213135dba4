"""Which frames of an HDF5 dataset were never written, or are kept where they can not be read any more.

HDF5 gives the fill value for both and raises nothing, so the dataset's layout has to be asked: its chunks, its
external files, the sources of a virtual dataset and the layout of each. The first axis counts frames; whatever else a
dataset has (rows and columns, or nothing) belongs to a frame.
"""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import DataError

__all__ = ["GAPS_ARE_FINAL", "DataLostError", "FrameLostError", "Gaps", "NotWrittenError", "find_gaps"]

GAPS_ARE_FINAL: Final = "gaps_are_final"
"""Attribute of a dataset whose frames come in order: what is missing before the last one will never come."""

_DEEPEST: Final = 8  # virtual datasets of virtual datasets
_UNLIMITED: Final = h5py.h5s.UNLIMITED
_MANY: Final = 16  # frames, above which all chunks are listed once rather than looked up one by one


class NotWrittenError(DataError):
    """Frames have not been written: the scan goes on, or was cut short."""


class DataLostError(DataError):
    """Frames were written, and can not be read: a file that they are kept in is gone or cut short."""


class FrameLostError(DataLostError):
    """Frames were lost on their way to the file, so that nobody need wait for them."""


@dataclass(slots=True)
class Gaps:
    """What is missing of frames ``[first, first + len(missing))`` of a dataset.

    Parameters
    ----------
    first : int
        First frame that was asked for.
    missing : ndarray of bool
        By frame: some of its pixels have no value.
    why : str
        Reason for the first that was found.
    lost : bool
        Frames are kept somewhere else that can not be read, rather than not written.
    """

    first: int
    missing: NDArray[np.bool_]
    why: str = ""
    lost: bool = False

    def add(self, frames: NDArray[np.intp] | slice | int, why: str, *, lost: bool = False) -> None:
        """Note that `frames` (counted from `first`) are missing."""
        selected = self.missing[frames]
        if np.size(selected):
            self.missing[frames] = True
            if not self.why or (lost and not self.lost):
                self.why = why
            self.lost |= lost

    def error(self, dataset: h5py.Dataset) -> DataError:
        """Return the error that says what is missing."""
        frames = self.first + np.flatnonzero(self.missing)
        kind: type[DataError] = DataLostError if self.lost else NotWrittenError
        why = self.why
        if dataset.attrs.get(GAPS_ARE_FINAL):
            kind, why = FrameLostError, "lost between detector and file"
        which = f"frame {frames[0]}" if frames.size == 1 else f"{frames.size} frames, the first of them {frames[0]},"
        return kind(
            f"{dataset.file.filename}: {dataset.name}: {which} of {dataset.shape[0]} "
            f"{'is' if frames.size == 1 else 'are'} missing: {why}"
        )


def find_gaps(dataset: h5py.Dataset, first: int, stop: int) -> Gaps:
    """Find frames in ``[first, stop)`` that have no values in the file, or in the files that it refers to.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of at least one dimension.
    first, stop : int
        Frames, within the dataset.
    """
    return _find(dataset, first, stop, 0)


def _find(dataset: h5py.Dataset, first: int, stop: int, depth: int) -> Gaps:
    gaps = Gaps(first, np.zeros(max(stop - first, 0), bool))
    if stop <= first or 0 in dataset.shape:
        return gaps
    layout = dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.VIRTUAL:
        _in_sources(dataset, gaps, depth)
    elif layout == h5py.h5d.CHUNKED:
        _in_chunks(dataset, gaps)
    elif dataset.external:
        _in_external_files(dataset, gaps)
    elif layout == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None:
            gaps.add(slice(None), "the dataset was made and never written")
        else:
            _beyond_the_end(gaps, dataset, Path(dataset.file.filename), offset, "the file is cut short")
    return gaps


def _frame_bytes(dataset: h5py.Dataset) -> int:
    return int(math.prod(dataset.shape[1:]) * dataset.id.get_type().get_size())


def _beyond_the_end(gaps: Gaps, dataset: h5py.Dataset, path: Path, offset: int, why: str) -> None:
    """Note frames that would lie, one after the other from `offset`, beyond the end of a file."""
    there = (path.stat().st_size - offset) // _frame_bytes(dataset)
    if there < gaps.first + gaps.missing.size:
        gaps.add(slice(max(there - gaps.first, 0), None), f"{why}: {path} holds {max(there, 0)} frames", lost=True)


def _in_external_files(dataset: h5py.Dataset, gaps: Gaps) -> None:
    size = _frame_bytes(dataset)
    begin = 0  # bytes of the dataset in the files before
    prefix = (dataset.id.get_access_plist().get_efile_prefix() or b"").decode()
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX") or prefix
    home = Path(dataset.file.filename).resolve().parent
    prefix = str(home) + prefix.removeprefix("${ORIGIN}") if prefix.startswith("${ORIGIN}") else prefix
    for name, offset, length in dataset.external:
        path = Path(prefix) / os.fsdecode(name)
        most = math.inf if length == _UNLIMITED else length
        end = begin + most
        first, last = begin // size, math.inf if end == math.inf else -(-end // size)
        mine = slice(max(int(first) - gaps.first, 0), None if last == math.inf else max(int(last) - gaps.first, 0))
        if not path.is_file():
            gaps.add(mine, f"the external file {path} is not there", lost=True)
        else:
            there = min(max(path.stat().st_size - offset, 0), most)
            if there < most and (begin + there) // size < gaps.first + gaps.missing.size:
                whole = int((begin + there) // size)
                short = slice(max(whole - gaps.first, 0), mine.stop)
                gaps.add(short, f"the external file {path} ends after {there} bytes of them")
        if end == math.inf:
            return
        begin = int(end)


def _in_chunks(dataset: h5py.Dataset, gaps: Gaps) -> None:
    """Look for chunks that were never written, or lie beyond the end of the file."""
    deep, *rest = dataset.chunks
    per_frame = math.prod(-(-n // c) for n, c in zip(dataset.shape[1:], rest, strict=True))
    end = Path(dataset.file.filename).stat().st_size if Path(dataset.file.filename).is_file() else math.inf
    layers = range(gaps.first // deep, -(-(gaps.first + gaps.missing.size) // deep))
    found = np.zeros(len(layers), np.int64)
    cut = np.zeros(len(layers), bool)

    def note(info: h5py.h5d.StoreInfo) -> None:
        layer = info.chunk_offset[0] // deep - layers.start
        if 0 <= layer < len(layers):
            found[layer] += 1
            cut[layer] |= info.byte_offset + info.size > end

    if len(layers) * per_frame > _MANY:
        dataset.id.chunk_iter(note)
    else:
        for layer in layers:
            for place in np.ndindex(*(-(-n // c) for n, c in zip(dataset.shape[1:], rest, strict=True))):
                at = (layer * deep, *(k * c for k, c in zip(place, rest, strict=True)))
                info = dataset.id.get_chunk_info_by_coord(at)
                if info.byte_offset is not None:
                    note(info)
    for bad, why, lost in (
        (cut, f"the file is cut short, it ends after {end} bytes", True),
        (found < per_frame, "they were never written", False),
    ):
        for number in np.flatnonzero(bad).tolist():
            begin = (layers.start + number) * deep - gaps.first
            gaps.add(slice(max(begin, 0), max(begin + deep, 0)), why, lost=lost)


# ----------------------------------------------------------------------------------------- virtual datasets


@dataclass(slots=True)
class _Sources(AbstractContextManager["_Sources"]):
    """Source files of a virtual dataset, each opened once."""

    dataset: h5py.Dataset
    files: dict[str, h5py.File | str] = field(default_factory=dict)  # or why it can not be opened

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            if isinstance(file, h5py.File):
                file.close()

    def find(self, filename: str, name: str) -> h5py.Dataset | str:
        """Return a source, or why there is none."""
        if filename == ".":
            file: h5py.File | str = self.dataset.file
        else:
            if filename not in self.files:
                self.files[filename] = self._opened(filename)
            file = self.files[filename]
        if isinstance(file, str):
            return file
        try:
            found = file.get(name)
        except (OSError, KeyError, RuntimeError):
            found = None
        return found if isinstance(found, h5py.Dataset) else f"the source file {filename} has no dataset {name}"

    def _opened(self, filename: str) -> h5py.File | str:
        home = Path(self.dataset.file.filename)
        prefix = os.environ.get("HDF5_VDS_PREFIX") or (
            self.dataset.id.get_access_plist().get_virtual_prefix() or b""
        ).decode().replace("${ORIGIN}", str(home.resolve().parent))
        # Where HDF5 looks, in its order.
        places = [Path(filename)] if Path(filename).is_absolute() else []
        short = Path(filename).name if places else filename
        places += [Path(prefix) / short] if prefix else []
        places += [home.parent / short, Path(short), home.resolve().parent / short]
        for place in places:
            if place.is_file():
                try:
                    return h5py.File(place, "r", swmr=True, libver="latest")
                except OSError as error:
                    return f"the source file {place} can not be opened ({error})"
        return f"the source file {places[0]} is not there"


def _in_sources(dataset: h5py.Dataset, gaps: Gaps, depth: int) -> None:
    """Look at each source that has some of the frames, and for what no source has."""
    mapped = np.zeros(gaps.missing.size, np.int64)  # values, by frame
    first, stop = gaps.first, gaps.first + gaps.missing.size
    if depth >= _DEEPEST:
        gaps.add(slice(None), f"virtual datasets refer to each other more than {_DEEPEST} deep", lost=True)
        return
    with _Sources(dataset) as sources:
        for space, filename, name, theirs_space in dataset.virtual_sources():
            ours, per_frame = _frames_of(space, dataset.shape)
            inside = (ours >= first) & (ours < stop)
            if not inside.any():
                continue
            frames = ours[inside] - first
            mapped[frames] += per_frame
            if "%b" in filename + name:  # a file, or a dataset, for each block
                block = int(space.get_regular_hyperslab()[3][0])
                for frame, of_all in zip(frames, np.flatnonzero(inside), strict=True):
                    k = str(int(of_all) // block)
                    at = np.array([int(of_all) % block])
                    source = sources.find(*(text.replace("%b", k).replace("%%", "%") for text in (filename, name)))
                    _one_source(gaps, np.array([frame]), source, theirs_space, at, block, depth)
                continue
            source = sources.find(filename, name)
            _one_source(gaps, frames, source, theirs_space, np.flatnonzero(inside), ours.size, depth)
    gaps.add(
        np.flatnonzero(mapped < math.prod(dataset.shape[1:])), "no source of the virtual dataset has (all of) them"
    )


def _one_source(
    gaps: Gaps,
    frames: NDArray[np.intp],
    source: h5py.Dataset | str,
    space: h5py.h5s.SpaceID,
    which: NDArray[np.intp],
    count: int,
    depth: int,
) -> None:
    """Note frames that a source can not give.

    They are number `which` among the `count` frames that it is mapped to.
    """
    if isinstance(source, str):
        gaps.add(frames, source, lost=True)
        return
    if not source.shape:
        return
    theirs, _ = _frames_of(space, source.shape, count)
    one_to_one = theirs.size == count
    wanted = theirs[which] if one_to_one else theirs
    beyond = wanted >= source.shape[0]
    why = f"the source {source.file.filename}: {source.name} has only {source.shape[0]} frames"
    if beyond.any():
        gaps.add(frames[beyond] if one_to_one else frames, why)
    wanted = wanted[~beyond]
    if not wanted.size:
        return
    below = _find(source, int(wanted.min()), int(wanted.max()) + 1, depth + 1)
    bad = below.missing[wanted - below.first]
    if bad.any():
        why = f"{below.why} ({source.file.filename}: {source.name})"
        gaps.add(frames[~beyond][bad] if one_to_one else frames, why, lost=below.lost)


def _frames_of(
    space: h5py.h5s.SpaceID, shape: tuple[int, ...], as_many: int | None = None
) -> tuple[NDArray[np.intp], int]:
    """Return the frames that a selection touches, ascending, and how many values it has of each.

    A selection without end is taken to have `as_many` frames, or those that the dataset has.
    """
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        return np.arange(shape[0]), math.prod(shape[1:])
    if not space.is_regular_hyperslab():
        return _frames_of_any(space)
    start, stride, count, block = space.get_regular_hyperslab()
    times = count[0]
    if times == _UNLIMITED:
        times = max(-(-(shape[0] - start[0]) // stride[0]), 0) if as_many is None else as_many // block[0]
    length = block[0]
    if length == _UNLIMITED:
        length = max(shape[0] - start[0], 0) if as_many is None else as_many
    frames = (start[0] + stride[0] * np.arange(times)[:, None] + np.arange(length)).reshape(-1)
    each = math.prod(c * b for c, b in zip(count[1:], block[1:], strict=True))
    return frames.astype(np.intp), each


def _frames_of_any(space: h5py.h5s.SpaceID) -> tuple[NDArray[np.intp], int]:
    """Return the same of a selection that is no regular pattern."""
    low, high = space.get_select_bounds()
    sizes = {}
    for frame in range(low[0], high[0] + 1):
        part = space.copy()
        part.select_hyperslab(
            (frame, *low[1:]), (1, *(b - a + 1 for a, b in zip(low[1:], high[1:], strict=True))), op=h5py.h5s.SELECT_AND
        )
        if number := part.get_select_npoints():
            sizes[frame] = number
    return np.array(sorted(sizes), np.intp), min(sizes.values(), default=0)
