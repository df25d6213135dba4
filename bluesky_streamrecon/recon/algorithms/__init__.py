"""Algorithms, each a few lines over the pair of forward and back projection."""

from __future__ import annotations

from bluesky_streamrecon.recon.algorithms.base import (
    Algorithm,
    algorithms,
    make_algorithm,
)

__all__ = ["Algorithm", "algorithms", "make_algorithm"]
