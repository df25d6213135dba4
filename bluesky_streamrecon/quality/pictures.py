"""Preview slices and sinograms as 8-bit pictures for viewers: on demand, in a small share of the controller's time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.metrics import PreviewImage
from bluesky_streamrecon.wire.images import (
    LARGEST_PICTURE_SIDE,
    MOST_DIRECTIONS,
    MOST_PICTURE_BYTES,
    MOST_SINOGRAM_BYTES,
    Picture,
    ShowMe,
    Sinogram,
)

__all__ = ["Pictures", "draw_picture", "draw_sinogram"]

GREY_RANGE: Final = (0.5, 99.5)
"""Percentiles of all slices together that are shown black and white: a few hot pixels must not darken the rest."""
GREY_SIDE: Final = 256
"""Pixels along a slice's side, about, that these percentiles are taken of."""
PICTURE_SECONDS: Final = 0.25
"""Least time between two pictures."""
SINOGRAM_COLUMNS: Final = 256
MOST_SHARE: Final = 0.05
"""Largest share of the controller's time that goes into pictures."""


class Pictures:
    """Keep the newest image, and draw it when one is wanted.

    Parameters
    ----------
    send : callable
        Takes each picture.
    clock, wall : callable, optional
        Monotonic seconds, and seconds since the epoch.

    Attributes
    ----------
    lines : callable or None
        Returns the line integrals so far, if there are any.
    """

    def __init__(
        self,
        send: Callable[[Picture], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.lines: Callable[[], ScanLines | None] | None = None
        self._send = send
        self._clock = clock
        self._wall = wall
        self._newest: tuple[str, PreviewImage, float] | None = None
        self._axis: float | None = None
        self._wish: ShowMe | None = None
        self._next = 0.0

    def begin(self) -> None:
        """Forget the images of the last run."""
        self._newest, self._axis = None, None

    def offer(self, run_uid: str, image: PreviewImage) -> None:
        """Keep an image in place of the one before."""
        self._newest = (run_uid, image, self._wall())

    def note_axis(self, axis: float | None) -> None:
        """Keep the rotation axis, detector column; None: nothing new."""
        self._axis = self._axis if axis is None else axis

    def wanted(self, wish: ShowMe) -> None:
        """Note that a viewer waits for a picture of another image than this."""
        self._wish = wish

    def turn(self) -> None:
        """Draw and send the newest image, if a viewer waits for it and it is not too soon."""
        if self._wish is None or self._newest is None or self._clock() < self._next:
            return
        run_uid, image, made = self._newest
        if (self._wish.run_uid, self._wish.image_number) == (run_uid, image.image_number):
            return
        begun = self._clock()
        self._send(draw_picture(run_uid, image, axis=self._axis, made=made, lines=self.lines and self.lines()))
        self._wish = None
        self._next = begun + max(PICTURE_SECONDS, (self._clock() - begun) / MOST_SHARE)


def draw_picture(
    run_uid: str,
    image: PreviewImage,
    *,
    axis: float | None = None,
    made: float = 0.0,
    lines: ScanLines | None = None,
) -> Picture:
    """Return an image's slices, reduced in size and to 8 bits.

    Parameters
    ----------
    run_uid : str
        Run of the image.
    image : PreviewImage
        Slices, shape (k, N, N), 1/pixel; others are stretched to a square. Of more than fit, as many as fit, evenly
        spread.
    axis, made : float, optional
        See `Picture`.
    lines : ScanLines, optional
        Of the same rows, among others.

    Returns
    -------
    Picture
        Each of its pixels is the mean of a square of the image's. What is not finite is shown as the lowest value.
    """
    stack = _squares(image.stack)
    size = stack.shape[-1]
    block = math.ceil(size / LARGEST_PICTURE_SIDE)
    side = math.ceil(size / block)
    kept = _spread(len(image.rows), MOST_PICTURE_BYTES // side**2)
    small = _block_means(stack[kept], block, side)
    some = small[:, :: 1 + side // GREY_SIDE, :: 1 + side // GREY_SIDE]
    finite = some[np.isfinite(some)]
    low, high = (float(v) for v in np.percentile(finite, GREY_RANGE)) if finite.size else (0.0, 0.0)
    scaled = np.clip((small - low) * (255.0 / (high - low) if high > low else 0.0), 0.0, 255.0)
    return Picture(
        run_uid=run_uid,
        image_number=image.image_number,
        projections=image.projections,
        rows=tuple(image.rows[i] for i in kept),
        size=side,
        full_size=size,
        low=low,
        high=high,
        pixels=np.nan_to_num(scaled, nan=0.0).astype(np.uint8).tobytes(),
        axis=axis,
        made=made,
        sinogram=None if lines is None else draw_sinogram(lines, [lines.rows.index(image.rows[i]) for i in kept]),
    )


def draw_sinogram(lines: ScanLines, places: list[int]) -> Sinogram:
    """Return projections sorted by direction, reduced in size and to 8 bits.

    Parameters
    ----------
    lines : ScanLines
        At least one projection.
    places : list of int
        Which of their rows.
    """
    over, columns = lines.over, lines.values.shape[2]
    share = over.span / (over.stop - over.start)  # of the projections that are planned
    count = min(MOST_DIRECTIONS, max(1, round(lines.planned * share) or MOST_DIRECTIONS))
    direction = np.rint(over.folded(lines.angles) / over.span * count).astype(int)
    direction = direction % count if over.whole else np.minimum(direction, count - 1)
    views = np.bincount(direction, minlength=count)
    every = max(math.ceil(columns / SINOGRAM_COLUMNS), math.ceil(len(places) * count * columns / MOST_SINOGRAM_BYTES))
    thin = lines.values[:, places, ::every]
    values = np.full((count, *thin.shape[1:]), np.nan, np.float32)
    values[direction] = thin
    finite = values[np.isfinite(values)]
    some = finite[:: 1 + finite.size // GREY_SIDE**2]
    low, high = (float(v) for v in np.percentile(some, GREY_RANGE)) if some.size else (0.0, 0.0)
    scaled = 1.0 + np.clip((values - low) * (254.0 / (high - low) if high > low else 0.0), 0.0, 254.0)
    newest = lines.one_by_one.angles
    return Sinogram(
        start=over.start,
        span=over.span,
        turn=over.turn,
        newest=float(newest[-1]) if len(newest) else over.start,
        counts=np.minimum(np.ceil(views * lines.per_view), 255).astype(np.uint8).tobytes(),
        columns=thin.shape[2],
        low=low,
        high=high,
        pixels=np.nan_to_num(scaled, nan=0.0).astype(np.uint8).swapaxes(0, 1).tobytes(),
    )


def _squares(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = stack.shape[1:]
    if height == width:
        return stack
    side = max(height, width)
    return stack[:, np.arange(side)[:, None] * height // side, np.arange(side) * width // side]


def _spread(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / max(1, most - 1)) for i in range(most)]


def _block_means(stack: NDArray[np.float32], block: int, side: int) -> NDArray[np.float32]:
    if block == 1:
        return stack
    missing = side * block - stack.shape[-1]
    padded = np.pad(stack, ((0, 0), (0, missing), (0, missing)), mode="edge")
    means: NDArray[np.float32] = padded.reshape(len(stack), side, block, side, block).mean(axis=(2, 4))
    return means
