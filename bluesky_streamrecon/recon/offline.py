"""Reconstruction in one call, without sockets or MPI."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.cores import own_cores
from bluesky_streamrecon.coverage import HALF_TURN, AngularRange
from bluesky_streamrecon.errors import ConfigError, DataError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.projector import check_angles
from bluesky_streamrecon.recon.recipe import find_recipe, finish, log_photons, some_views
from bluesky_streamrecon.settings import FINAL_AUTO

__all__ = ["reconstruct"]

Option = float | int | str | bool


def reconstruct(
    projections: NDArray[np.float32],
    angles: NDArray[np.float64],
    *,
    axis: float | None = None,
    algorithm: str = "mlem",
    iterations: int | None = None,
    window: int | None = None,
    window_policy: str = "spread",
    step: int | None = None,
    size: int | None = None,
    disc: bool = False,
    span: tuple[float, float] | None = None,
    threads: int | None = None,
    backend: str = "auto",
    **options: Option,
) -> NDArray[np.float32]:
    """Reconstruct a scan, at once or as it would be done live.

    Parameters
    ----------
    projections : ndarray of float32, shape (n, rows, C)
        Line integrals (unitless), in the order in which they were taken. What is not finite counts as not measured.
    angles : ndarray of float64, shape (n,)
        Radians, any order and range.
    axis : float, optional
        Detector column of the rotation axis; the middle of the detector by default.
    algorithm : str, optional
        Registered name, as listed by ``algorithms.names()``; or ``"auto"``: the recipe by which volumes are finished.
    iterations : int, optional
        Times the algorithm goes over the projections. By default 20 where all are used at once, and 1 for each step
        of a live reconstruction and for FBP; 60 to 90 updates for ``"auto"``.
    window, step : int, optional
        Reconstruct as live: after every `step` projections (by default 1) from `window` projections (by default all).
    window_policy : str, optional
        Which these are, see `Engine`.
    size : int, optional
        Side N of the image in pixels; by default C.
    disc : bool, optional
        Update only the inscribed disc.
    span : (float, float), optional
        For ``"auto"``: angles that the scan was going to visit, radians; a half turn by default.
    threads : int, optional
        By default as many as this process may use.
    backend : {"auto", "cpu", "cuda"}, optional
        What computes: a GPU if there is one that works and has the memory, the CPU, a GPU or nothing.
    **options
        Options of the algorithm and of the engine.

    Returns
    -------
    ndarray of float32, shape (rows, N, N)
        Attenuation, 1/pixel.

    Raises
    ------
    DataError
        If `projections` is not three-dimensional or empty, or there are not as many angles.
    ConfigError
        If a setting can not work.
    """
    if projections.ndim != 3 or 0 in projections.shape:
        raise DataError(f"projections: got shape {projections.shape}, expected (projections, rows, columns)")
    count, rows, columns = projections.shape
    angles = check_angles(angles)
    if len(angles) != count:
        raise DataError(f"angles: got {len(angles)} for {count} projections, expected one each")
    live = window is not None or step is not None
    every = count if not live else (step or 1)
    if every < 1 or (window is not None and window < every):
        raise ConfigError(f"step={step}, window={window}: expected 1 <= step <= window")
    recipe = None
    if not live:
        photons = 0.0
        if algorithm == FINAL_AUTO:
            known = log_photons(projections[some_views(angles)])
            photons = float(np.exp(np.nanmean(known))) if np.isfinite(known).any() else 0.0
        recipe = find_recipe(algorithm, count, iterations, options, photons=photons)
    elif algorithm == FINAL_AUTO:
        raise ConfigError("algorithm='auto' with window or step: expected neither, it is made from all projections")
    geometry = TomoGeometry(columns, float("nan") if axis is None else axis, size or 0, disc)
    with Engine(
        geometry,
        rows,
        algorithm=algorithm if recipe is None else recipe.algorithm,
        window=window,
        window_policy=window_policy,
        planned=count,
        threads=threads or len(own_cores()),
        options=options if recipe is None else recipe.options,
        backend=backend,
    ) as engine:
        views = zip(projections, angles.tolist(), strict=True)
        if recipe is not None:
            over = HALF_TURN if span is None else AngularRange(*span).around(geometry.axis, columns)
            for _ in finish(engine, recipe, views, recipe.scales(angles, over)):
                pass
            return engine.image()
        for number, (projection, angle) in enumerate(views, 1):
            engine.append(projection, angle)
            if number % every == 0 or number == count:
                engine.update(iterations or 1)
        return engine.image()
