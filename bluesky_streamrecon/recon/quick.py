"""Images finished from all projections so far, quick enough to be made again and again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.compiling import warm_up
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.recon.recipe import find_recipe, finish, subset_scales
from bluesky_streamrecon.settings import FINAL_AUTO

__all__ = ["QuickReconstructor"]


class QuickReconstructor:
    """The recipe ``"auto"``: 10 passes over 6 subsets, over fewer where one would have less than 4 views.

    Parameters
    ----------
    threads : int, optional
        Threads that compute.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def warm_up(self) -> None:
        """Compile the kernels for up to three rows, or load them from disk."""
        geometry = TomoGeometry(columns=8, disc=True)
        warm_up(geometry, 3, algorithm="osem", threads=self._threads)
        projectors.get("shear")(geometry, np.zeros(1)).forward(np.zeros((8, 8, 3), np.float32))

    def reconstruct(
        self,
        projections: NDArray[np.float32],
        angles: NDArray[np.float64],
        weights: NDArray[np.float64],
        *,
        axis: float,
        size: int,
    ) -> NDArray[np.float32]:
        """Reconstruct rows from weighted views.

        Parameters
        ----------
        projections : ndarray of float32, shape (m, rows, C)
            Line integrals, unitless.
        angles, weights : ndarray of float64, shape (m,)
            Radians, and how much each view counts; only ratios within a subset matter.
        axis : float
            Detector column of the rotation axis.
        size : int
            Side N of the image.

        Returns
        -------
        ndarray of float32, shape (rows, N, N)
            Attenuation, 1/pixel, zero outside the inscribed disc.
        """
        count, rows, columns = projections.shape
        recipe = find_recipe(FINAL_AUTO, count)
        assert recipe is not None  # noqa: S101
        scales = subset_scales(weights, angles, recipe.options["subsets"])
        geometry = TomoGeometry(columns, axis, size, disc=True)
        with Engine(
            geometry,
            rows,
            algorithm=recipe.algorithm,
            window=None,
            planned=count,
            threads=self._threads,
            options=recipe.options,
        ) as engine:
            for _ in finish(engine, recipe, zip(projections, angles.tolist(), strict=True), scales):
                pass
            return engine.image()

    def project(
        self, images: NDArray[np.float32], angles: NDArray[np.float64], *, axis: float, columns: int
    ) -> NDArray[np.float32]:
        """Return the line integrals, shape (m, rows, C), of images (rows, N, N)."""
        geometry = TomoGeometry(columns, axis, images.shape[1], disc=True)
        stacked = np.ascontiguousarray(np.moveaxis(images, 0, -1))
        return np.ascontiguousarray(np.moveaxis(projectors.get("shear")(geometry, angles).forward(stacked), -1, 1))
