"""Sizes that kernels are compiled for, chosen from the properties of the current device. Lengths are pixels.

Select the device before this module is imported: its constants become part of the machine code.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from bluesky_streamrecon.recon.cuda.toolkit import SIMULATED, cuda

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

FORWARD_BLOCKS = 2
"""Blocks of the way forward on a multiprocessor."""

_RESERVED = 1024
"""Bytes of shared memory that the system takes for each block."""


class Chosen(NamedTuple):
    """What depends on the device.

    Parameters
    ----------
    tile : int
        Side of a forward tile: the larger if two blocks of it fit on a multiprocessor.
    forward_bytes, forward_threads : int
        Shared memory and threads of a forward block.
    smooth_blocks : int
        Blocks of the way back with a quadratic penalty that must fit on a multiprocessor: this bounds the registers.
    vector_additions : bool
        Whether four neighbouring floats can be added to global memory in one instruction.
    """

    tile: int
    forward_bytes: int
    forward_threads: int
    smooth_blocks: int
    vector_additions: bool


def chosen_for(capability: tuple[int, int], shared: int) -> Chosen:
    """Choose for a device of this compute capability, with so many bytes of shared memory per multiprocessor."""

    def forward_bytes(tile: int) -> int:
        span = tile + 2 * HALO
        return 16 * span * (span + 1) + 4 * FORWARD_CHUNK * (tile + 8)

    large = FORWARD_BLOCKS * (forward_bytes(64) + _RESERVED) <= shared
    tile, threads, blocks = (64, 384, 4) if large else (32, 256, 3)
    return Chosen(tile, forward_bytes(tile), threads, blocks, capability >= (9, 0))


def _chosen() -> Chosen:
    if SIMULATED:
        card = ((8, 0), 0) if os.environ.get("STREAMRECON_SIMULATED_GPU") == "old" else ((9, 0), 228 * 1024)
        return chosen_for(*card)._replace(forward_threads=64)
    device = cuda.get_current_device()
    return chosen_for(tuple(device.compute_capability), int(device.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR))


TILE, FORWARD_BYTES, FORWARD_THREADS, SMOOTH_BLOCKS, VECTOR_ADDITIONS = _chosen()

WIDTH, HEIGHT = 64, 32
"""Tile of the way back; each of its threads holds 8 pixels of 4 slices."""

REACH = WIDTH + HEIGHT
"""Longest piece of a sheared line that such a tile needs."""

BACK_THREADS = WIDTH * HEIGHT // 8
BACK_BLOCKS = 3

BACK_BYTES = 16 * max(CHUNK * 2 * REACH, HEIGHT * (WIDTH + 1))
"""Dynamic shared memory of a block on the way back."""
