"""Sizes that kernels are compiled for fit each generation of cards; `test_compiled_for_gpus` compiles them."""

from __future__ import annotations

import pytest

KIBI = 1024
# Shared memory of a multiprocessor and of a block, and threads of a multiprocessor: CUDA's programming guide.
CARDS = {
    (8, 0): (164 * KIBI, 163 * KIBI, 2048),
    (8, 6): (100 * KIBI, 99 * KIBI, 1536),
    (8, 7): (164 * KIBI, 163 * KIBI, 1536),
    (8, 9): (100 * KIBI, 99 * KIBI, 1536),
    (9, 0): (228 * KIBI, 227 * KIBI, 2048),
    (10, 0): (228 * KIBI, 227 * KIBI, 2048),
    (12, 0): (100 * KIBI, 99 * KIBI, 1536),
}
REGISTERS = 65536
LEAST_REGISTERS = 64
"""Of a thread; with fewer, its sums would go through memory."""


@pytest.mark.parametrize("capability", CARDS)
def test_sizes_fit_each_generation_of_cards(capability):
    from bluesky_streamrecon.recon.cuda import sizes  # which asks for the device
    from bluesky_streamrecon.recon.cuda.back import TABLE

    shared, of_a_block, threads = CARDS[capability]
    chosen = sizes.chosen_for(capability, shared)
    assert chosen.tile == (64 if shared > 200 * KIBI else 32)
    assert chosen.vector_additions == (capability >= (9, 0))
    back_bytes = sizes.BACK_BYTES + 4 * TABLE
    for count, blocks, needed in (
        (chosen.forward_threads, sizes.FORWARD_BLOCKS, chosen.forward_bytes),
        (sizes.BACK_THREADS, 2, back_bytes),
    ):
        assert needed <= of_a_block
        assert blocks * (needed + KIBI) <= shared
        assert blocks * count <= threads
    for count, blocks in (
        (chosen.forward_threads, sizes.FORWARD_BLOCKS),
        (sizes.BACK_THREADS, sizes.BACK_BLOCKS),
        (sizes.BACK_THREADS, chosen.smooth_blocks),
    ):
        assert REGISTERS // (count * blocks) >= LEAST_REGISTERS
