"""Kernels are compiled, or loaded from disk, before projections come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.backends import Demand, make_backend, projector_of
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.options import understood

__all__ = ["warm_up"]


def warm_up(
    geometry: TomoGeometry,
    rows: int,
    *,
    algorithm: str = "mlem",
    options: Mapping[str, Any] | None = None,
    threads: int = 1,
    shared: bool = False,
    backend: str = "cpu",
    host_rank: int = 0,
) -> float:
    """Compile, or load from disk, the kernels that such an `Engine` uses, on an image of a few pixels.

    Parameters
    ----------
    geometry, rows, algorithm, options, threads, backend, host_rank
        As for `Engine`; how large the image is does not matter.
    shared : bool, optional
        Whether rows will be shared with other members (a reducer).

    Returns
    -------
    float
        Seconds it took.
    """
    start = time.perf_counter()
    small = TomoGeometry(columns=8, disc=geometry.disc)
    reducer = _Alone() if shared else None
    if backend == "cpu":
        demand = Demand(small, rows, understood(algorithm, options)[0], projector_of(options))
        layout = make_backend("cpu", demand).layout(rows)
        counts = list({part.width: part.count for part in layout}.values())
    else:
        counts = [1]
    for count in counts:
        with Engine(
            small,
            count,
            algorithm=algorithm,
            window=2,
            threads=threads,
            options=options,
            reducer=reducer,
            backend=backend,
            host_rank=host_rank,
        ) as engine:
            for angle in (0.0, 1.5):
                engine.append(np.ones((count, 8), np.float32), angle)
            engine.update()
            engine.image()
    return time.perf_counter() - start


class _Alone:
    """The first of two members, the other of which adds nothing."""

    member = 0
    members = 2

    def sum(self, array: NDArray[np.float32]) -> None:
        """Leave the array."""
