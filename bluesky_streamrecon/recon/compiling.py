"""Kernels are compiled, or loaded from disk, before projections come."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.backends import Choice, Demand, choose_backend, projector_of
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.options import understood
from bluesky_streamrecon.settings import ReconSettings

__all__ = ["prepare_backend", "warm_up"]

log = logging.getLogger(__name__)

_WIDEST = 16  # rows of a slab
_FIRST_OF_TWO: Any = SimpleNamespace(  # the other member adds nothing
    member=0, members=2, sum=lambda _: None, exchange=lambda *_: (None, None)
)


def prepare_backend(
    recon: ReconSettings,
    geometry: TomoGeometry,
    rows: int,
    *,
    planned: int = 0,
    threads: int = 1,
    shared: bool = False,
    host: tuple[int, int] = (0, 1),
) -> tuple[Choice, float]:
    """Choose what computes a block of rows, and have its kernels ready.

    A GPU on which ``"auto"`` can not compile is not taken.

    Parameters
    ----------
    recon : ReconSettings
        Algorithm, window and backend.
    geometry, rows, planned, threads, shared
        Of the block, see `Engine` and `warm_up`.
    host : tuple of int, optional
        Number of this rank among those of its host, and how many these are.

    Returns
    -------
    choice : Choice
        What computes.
    seconds : float
        That compiling, or loading from disk, took.
    """
    demand = Demand(
        geometry,
        rows,
        understood(recon.algorithm, recon.options)[0],
        projector_of(recon.options),
        recon.window,
        recon.window_policy,
        planned,
        shared,
        host,
    )
    choice = choose_backend(recon.backend, demand)

    def compiled(name: str) -> float:
        return warm_up(
            geometry,
            rows,
            algorithm=recon.algorithm,
            options=recon.options,
            threads=threads,
            shared=shared,
            backend=name,
            host=host,
        )

    try:
        return choice, compiled(choice.name)
    except Exception as error:
        if choice.name == "cpu" or recon.backend != "auto":
            raise
        log.exception("the GPU can not be used")
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        choice = choose_backend("cpu", demand)
        note = f"on the CPU: no kernels for the GPU: {why}"
        return replace(choice, note=note, broken=True), compiled("cpu")


def warm_up(
    geometry: TomoGeometry,
    rows: int,
    *,
    algorithm: str = "mlem",
    options: Mapping[str, Any] | None = None,
    threads: int = 1,
    shared: bool = False,
    backend: str = "cpu",
    host: tuple[int, int] = (0, 1),
) -> float:
    """Compile, or load from disk, the kernels that such an `Engine` uses, on an image of a few pixels.

    Parameters
    ----------
    geometry, rows, algorithm, options, threads, backend, host
        As for `Engine`; how large the image is does not matter.
    shared : bool, optional
        Whether rows will be shared with other members.

    Returns
    -------
    float
        Seconds it took.
    """
    start = time.perf_counter()
    # Slabs of the last rows may be narrower, for which there are kernels of their own.
    count = min(rows, _WIDEST + rows % _WIDEST) if backend == "cpu" else 1
    with Engine(
        TomoGeometry(columns=8, disc=geometry.disc),
        count,
        algorithm=algorithm,
        window=2,
        threads=threads,
        options=options,
        group=_FIRST_OF_TWO if shared else None,
        backend=backend,
        host=host,
    ) as engine:
        for angle in (0.0, 1.5):
            engine.append(np.ones((count, 8), np.float32), angle)
        engine.update()
        engine.image()
    return time.perf_counter() - start
