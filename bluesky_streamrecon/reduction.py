"""From the exposures of an event to the frame that is reconstructed: their mean, a region of rows, mean of blocks.

Everything after this, settings and results too, counts rows and columns of the reduced frame; what has a unit of length
stays the detector's. Counts stay counts: a block has their mean, not their sum, so that flats and darks of another
number of exposures, saturation, and what is known of the detector's noise floor stay comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.data_keys import FrameLayout
from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.pixels import exactly
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["Reduction", "binned", "detector_axis", "of_reduced_frames"]

EXACT = 2**24
"""Integers up to this are exact in float32."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """What is made of the exposures of one event.

    Parameters
    ----------
    frames : FrameLayout
        As the detector has them.
    bin : int
        Side of the blocks whose mean is a pixel; rows and columns that are left over at the end are left out.
    rows : (int, int) or None
        Detector rows ``[first, stop)`` that are used; None: all.

    Raises
    ------
    ConfigError
        If the rows are not the detector's, or there are less than two blocks across.

    Examples
    --------
    >>> Reduction(FrameLayout(1, 2048, 2050), bin=4, rows=(100, 203)).shape
    (25, 512)
    """

    frames: FrameLayout
    bin: int = 1
    rows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        height, columns = self.frames.shape
        if self.rows is not None and self.rows[1] > height:
            raise ConfigError(f"rows: got {self.rows}, expected detector rows (first, stop) with stop <= {height}")
        rows, columns = self.shape
        if self.bin > 1 and (rows < 1 or columns < 2):
            first, stop = self.rows or (0, height)
            raise ConfigError(
                f"bin={self.bin}: got frames of {stop - first} rows and {self.frames.columns} columns, expected at "
                f"least {self.bin} rows and {2 * self.bin} columns"
            )

    @classmethod
    def wanted(cls, frames: FrameLayout, recon: ReconSettings) -> Reduction:
        """Return the reduction that the settings ask for; raises what the class does."""
        return cls(frames, recon.bin, recon.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are left."""
        first, stop = self.rows or (0, self.frames.rows)
        return (stop - first) // self.bin, self.frames.columns // self.bin

    @property
    def averages(self) -> bool:
        """Whether a pixel is the mean of several."""
        return self.bin > 1 or self.frames.exposures > 1

    def rows_of(self, first: int, stop: int) -> slice:
        """Return the detector rows of the rows ``[first, stop)`` of a reduced frame.

        Examples
        --------
        >>> Reduction(FrameLayout(1, 64, 64), bin=2, rows=(10, 31)).rows_of(3, 5)
        slice(16, 20, None)
        """
        top = self.rows[0] if self.rows is not None else 0
        return slice(top + first * self.bin, top + stop * self.bin)

    def of_event(self, pixels: NDArray[Any], dtype: str, where: str) -> NDArray[Any]:
        """Return the reduced frame of one event.

        Parameters
        ----------
        pixels : ndarray, shape (exposures, rows, columns), or (rows, columns) where there is one
            As the detector has them.
        dtype : str
            Type to return.
        where : str
            What they come from, for errors.

        Raises
        ------
        DataError
            If they have another shape, or values that do not fit the type.
        """
        exposures, shape = self.frames.exposures, self.frames.shape
        if pixels.shape[-2:] != shape or pixels.size != exposures * shape[0] * shape[1]:
            announced = shape if exposures == 1 else (exposures, *shape)
            raise DataError(
                f"{where}: got shape {pixels.shape}, expected {announced} as announced; was the detector's "
                "region of interest or its number of exposures changed during the run?"
            )
        stack = pixels.reshape((-1, *shape))[:, self.rows_of(0, self.shape[0])]
        frame = stack[0] if exposures == 1 else stack.mean(axis=0, dtype=np.float64)
        return exactly(binned(frame, self.bin), np.dtype(dtype), where)


def binned(frames: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the mean of blocks of pixels; what is left over at the ends is left out.

    Parameters
    ----------
    frames : ndarray, shape (..., rows, columns)
        Of any type.
    side : int
        Of the blocks, pixels; 1 returns `frames`.

    Examples
    --------
    >>> binned(np.arange(15, dtype=np.uint16).reshape(3, 5), 2)
    array([[3., 5.]], dtype=float32)
    """
    if side == 1:
        return frames
    rows, columns = (length // side * side for length in frames.shape[-2:])
    kind = frames.dtype
    small = kind.kind in "biu" and kind.itemsize <= 2 and side * side << (8 * kind.itemsize) <= EXACT
    sums = np.float32 if small else np.float64
    blocks = frames[..., :rows, :columns].reshape((*frames.shape[:-2], rows // side, side, columns))
    lines: NDArray[Any] = blocks.sum(axis=-2, dtype=sums)
    # Adding whole strides is several times as fast as a sum over an axis as short as this.
    total = lines[..., 0::side] + lines[..., 1::side]
    for column in range(2, side):
        total += lines[..., column::side]
    total /= side**2
    return np.asarray(total)


def detector_axis(axis: float, side: int) -> float:
    """Return the detector column of an axis that was found in frames of which blocks were averaged.

    Examples
    --------
    >>> detector_axis(511.5, 2), detector_axis(511.5, 1)
    (1023.5, 511.5)
    """
    return (axis + 0.5) * side - 0.5


def of_reduced_frames(steering: SteeringSettings, side: int) -> SteeringSettings:
    """Return settings whose option ``pixel_size`` is that of frames of which blocks were averaged, not the detector's.

    Examples
    --------
    >>> of_reduced_frames(SteeringSettings(options={"pixel_size": 0.65}), 2).options
    {'pixel_size': 1.3}
    """
    size = steering.options.get("pixel_size")
    if side == 1 or not isinstance(size, int | float):  # what is no number is refused by those who use it
        return steering
    return msgspec.structs.replace(steering, options={**steering.options, "pixel_size": size * side})
