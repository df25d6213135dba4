"""Reconstruction: from line integrals to images, updated while projections arrive.

Knows no Bluesky and no sockets. Importing this package compiles nothing, and imports neither numba nor MPI;
names are looked up when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bluesky_streamrecon.recon.algorithms import Algorithm
    from bluesky_streamrecon.recon.compiling import warm_up
    from bluesky_streamrecon.recon.engine import Engine
    from bluesky_streamrecon.recon.offline import reconstruct
    from bluesky_streamrecon.recon.options import check_algorithm, check_shape
    from bluesky_streamrecon.recon.projector import Projector
    from bluesky_streamrecon.recon.slab_update import SlabUpdate
    from bluesky_streamrecon.recon.steps import Step

__all__ = [
    "Algorithm",
    "Engine",
    "Projector",
    "SlabUpdate",
    "Step",
    "check_algorithm",
    "check_shape",
    "reconstruct",
    "warm_up",
]

_HOMES = {
    "Algorithm": "algorithms",
    "Engine": "engine",
    "SlabUpdate": "slab_update",
    "Step": "steps",
    "Projector": "projector",
    "check_algorithm": "options",
    "check_shape": "options",
    "reconstruct": "offline",
    "warm_up": "compiling",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
