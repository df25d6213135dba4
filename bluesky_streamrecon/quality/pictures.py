"""Preview slices as 8-bit pictures for viewers: drawn on demand, in a small share of the controller's time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality.metrics import PreviewImage
from bluesky_streamrecon.wire.images import LARGEST_PICTURE_SIDE, MOST_PICTURE_BYTES, Picture, ShowMe

__all__ = ["Pictures", "draw_picture"]

GREY_RANGE: Final = (0.5, 99.5)
"""Percentiles of all slices together that are shown black and white: a few hot pixels must not darken the rest."""
GREY_SIDE: Final = 256
"""Pixels along a slice's side, about, that these percentiles are taken of."""
PICTURE_SECONDS: Final = 0.25
"""Least time between two pictures."""
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
    """

    def __init__(
        self,
        send: Callable[[Picture], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
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
        self._send(draw_picture(run_uid, image, axis=self._axis, made=made))
        self._wish = None
        self._next = begun + max(PICTURE_SECONDS, (self._clock() - begun) / MOST_SHARE)


def draw_picture(run_uid: str, image: PreviewImage, *, axis: float | None = None, made: float = 0.0) -> Picture:
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
