"""Sizes that kernels are compiled for, chosen from the properties of the current device. Lengths are pixels.

Select the device before this module is imported: its constants become part of the machine code.
"""

from __future__ import annotations

import os

from bluesky_streamrecon.recon.cuda.toolkit import SIMULATED, cuda

__all__ = [
    "BACK_BLOCKS",
    "BACK_BYTES",
    "BACK_THREADS",
    "CHUNK",
    "FORWARD_BLOCKS",
    "FORWARD_BYTES",
    "FORWARD_CHUNK",
    "FORWARD_THREADS",
    "HALO",
    "HEIGHT",
    "REACH",
    "REPEAT",
    "SIDE",
    "SLICES",
    "SLOT",
    "SMOOTH_BLOCKS",
    "TILE",
    "VECTOR_ADDITIONS",
    "WIDTH",
]


def _attributes() -> tuple[int, int]:
    """Return compute capability (90 for 9.0) and shared memory of a multiprocessor in bytes."""
    if SIMULATED:
        return (80, 0) if os.environ.get("STREAMRECON_SIMULATED_GPU") == "old" else (90, 228 * 1024)
    current = cuda.get_current_device()
    major, minor = current.compute_capability
    return 10 * major + minor, int(current.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)


_CAPABILITY, _SHARED = _attributes()

SLICES = 4
"""Slices that lie side by side: 16 bytes hold a pixel of all of them."""

SIDE = 64
"""Images are rounded up to whole multiples of this."""

HALO = 8
"""Margin of a forward tile: lines of a group may be shifted so far from its middle line."""

FORWARD_CHUNK = 32
"""Angles whose table is in shared memory at a time, on the way forward."""

CHUNK = 12
"""Angles whose sheared lines are in shared memory at a time, on the way back."""

SLOT = 16
"""Lines per entry of the forward tables."""

REPEAT = 4
"""Groups of slices per thread between lines and detector."""


def _forward_bytes(tile: int) -> int:
    span = tile + 2 * HALO
    return 16 * span * (span + 1) + 4 * FORWARD_CHUNK * (tile + 8)


TILE = 64 if 2 * (_forward_bytes(64) + 1024) <= _SHARED else 32
"""Side of a forward tile: the larger if two blocks of it fit on a multiprocessor."""

FORWARD_BYTES = _forward_bytes(TILE)
"""Shared memory of a forward block."""

FORWARD_THREADS = 64 if SIMULATED else 384 if TILE == 64 else 256
FORWARD_BLOCKS = 2

WIDTH, HEIGHT = 64, 32
"""Tile of the way back; each of its threads holds 8 pixels of 4 slices."""

REACH = WIDTH + HEIGHT
"""Longest piece of a sheared line that such a tile needs."""

BACK_THREADS = WIDTH * HEIGHT // 8
BACK_BLOCKS = 3
SMOOTH_BLOCKS = 4 if TILE == 64 else 3

BACK_BYTES = 16 * max(CHUNK * 2 * REACH, HEIGHT * (WIDTH + 1))
"""Dynamic shared memory of a block on the way back."""

VECTOR_ADDITIONS = _CAPABILITY >= 90
"""Whether four neighbouring floats can be added to global memory in one instruction."""
