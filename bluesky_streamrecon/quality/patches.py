"""What a tolerance means, in pictures: a patch of a sample's own image, and the same patch as much worse.

Images are two-dimensional, lengths pixels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality.trials import display_range, similarity

__all__ = ["patches_that_differ"]

SMALLEST, LARGEST = 32, 192
"""Sides of a patch."""

FURTHEST = 64.0
"""What a difference is enlarged by at most."""

Image = NDArray[np.float32]


def patches_that_differ(image: Image, worse: Image, tolerance: float) -> tuple[Image, Image] | None:
    """Return a patch of an image and the same patch with an MS-SSIM of 1 - `tolerance` to it.

    Parameters
    ----------
    image, worse : ndarray of float32, shape (N, N)
        The best image there is, and another one of the same slice, whose faults are enlarged or made smaller.
    tolerance : float
        Difference in MS-SSIM.

    Returns
    -------
    tuple of two ndarrays, or None
        None where the two images are alike, or too small.
    """
    where = _most_detail(image)
    shown = display_range(image)
    if where is None or image.shape != worse.shape or not shown > 0:
        return None
    patch, fault = image[where], worse[where] - image[where]

    def lost(share: float) -> float:
        return 1 - similarity(patch, patch + np.float32(share) * fault, shown)

    low, high = 0.0, 1.0
    while lost(high) < tolerance:
        low, high = high, 2 * high
        if high > FURTHEST:
            return None
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if lost(middle) > tolerance else (middle, high)
    return patch, patch + np.float32(high) * fault


def _most_detail(image: Image) -> tuple[slice, slice] | None:
    """Return the square within the inscribed disc whose values differ most; None where there is none."""
    size = len(image)
    side = min(max(size // 4, SMALLEST), LARGEST)
    corners = range(0, size - side + 1, max(side // 2, 1))
    found: list[tuple[float, tuple[slice, slice]]] = []
    for top in corners:
        for left in corners:
            aside = (max(size / 2 - first, first + side - size / 2) for first in (top, left))
            if math.hypot(*aside) <= size / 2:
                where = slice(top, top + side), slice(left, left + side)
                found.append((float(image[where].std()), where))
    return max(found, key=lambda each: each[0], default=(0.0, None))[1]
