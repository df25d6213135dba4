"""Algorithms, each a few lines over the pair of forward and back projection."""

from __future__ import annotations

from bluesky_streamrecon.recon.algorithms.base import (
    Algorithm,
    algorithm_names,
    algorithms,
    get_algorithm,
    make_algorithm,
)

__all__ = ["Algorithm", "algorithm_names", "algorithms", "get_algorithm", "make_algorithm"]
