"""How like the truth an image is. Both measures have the truth's own range as their unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.quality import deepest_pyramid, ms_ssim
from bluesky_streamrecon.quality.study import display_range

__all__ = ["Truth"]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What images are compared with.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, N, N)
        Attenuation, 1/pixel.
    value_range : float
        Attenuation between its darkest and brightest parts, 1/pixel.
    """

    image: NDArray[np.float32]
    value_range: float

    @classmethod
    def known(cls, image: NDArray[np.float32]) -> Truth:
        """Take a sample's own image, which has no noise."""
        return cls(image, float(image.max() - image.min()))

    @classmethod
    def measured(cls, image: NDArray[np.float32]) -> Truth:
        """Take the best image that there is, which has some."""
        return cls(image, max(display_range(piece) for piece in image))

    def similarity(self, image: NDArray[np.float32], *, scales: int = 5) -> float:
        """Give MS-SSIM to the truth, mean over slices; images below 176 pixels have a pyramid of fewer levels."""
        levels = deepest_pyramid(self.image.shape)
        return ms_ssim(image, self.image, scales=min(scales, levels), levels=levels, data_range=self.value_range)

    def rmse(self, image: NDArray[np.float32]) -> float:
        """Give the root mean square difference, as a fraction of the truth's range."""
        difference = image.astype(np.float64) - self.image
        return float(np.sqrt(np.mean(difference**2))) / self.value_range
