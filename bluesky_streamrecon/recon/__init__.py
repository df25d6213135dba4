"""Reconstruction: from line integrals to images, updated while projections arrive.

Knows no Bluesky and no sockets. Importing this package compiles nothing, and imports neither numba nor MPI.
"""

from __future__ import annotations

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
