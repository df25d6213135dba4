"""Numba's CUDA simulator with its threads run in turn, from barrier to barrier, by greenlets: ten times faster.

Threads of a kernel without barriers are calls, one after the other. Import it before a kernel is launched. A block
whose threads do not all meet at each barrier is an error here. Which thread comes first is drawn anew between any two
barriers, so a barrier that is missing shows in the image.
"""

from __future__ import annotations

import random
import sys
import threading
from functools import cache
from types import FunctionType, SimpleNamespace

import greenlet
import numpy as np
from numba.cuda.simulator import kernel, kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeWithinKernelCUDAArray

_order = random.Random(1)


class _Thread:
    """One thread of a block, as the simulator asks for it."""

    def __init__(self, block_idx, thread_idx, number):
        self.blockIdx = block_idx
        self.threadIdx = thread_idx
        self.thread_id = number
        self.syncthreads = greenlet.getcurrent().switch


class _Alone:
    """One thread of a block without barriers."""

    def __init__(self, block_idx, thread_idx, number):
        self.blockIdx = block_idx
        self.threadIdx = thread_idx
        self.thread_id = number

    def syncthreads(self):
        raise AssertionError("a barrier in a kernel that was taken for one without")


@cache
def _has_barriers(function):
    """Return whether a kernel, or a function that it names, names barriers."""
    names = function.__code__.co_names
    known = (getattr(function.__globals__.get(name), "fn", function.__globals__.get(name)) for name in names)
    return "syncthreads" in names or any(_has_barriers(each) for each in known if isinstance(each, FunctionType))


class _Block:
    """Runs all threads of a block."""

    current = None

    def __init__(self, function, grid_dim, block_dim, _debug):
        self._function = function
        self._block_dim = block_dim

    def run(self, grid_point, *args):
        block_idx = kernelapi.Dim3(*grid_point)
        points = [kernelapi.Dim3(*point) for point in np.ndindex(*self._block_dim)]
        given = [arg._item._ary if isinstance(arg, FakeWithinKernelCUDAArray) else arg for arg in args]
        if not _has_barriers(self._function):
            alone = [_Alone(block_idx, point, number) for number, point in enumerate(points)]
            _order.shuffle(alone)
            for thread in alone:
                _Block.current = thread
                self._function(*given)
            return
        alive = [
            (_Thread(block_idx, point, number), greenlet.greenlet(self._function))
            for number, point in enumerate(points)
        ]
        while alive:
            _order.shuffle(alive)
            for thread, coroutine in alive:
                _Block.current = thread
                coroutine.switch(*given)
            given = ()
            left = [(thread, coroutine) for thread, coroutine in alive if not coroutine.dead]
            assert len(left) in {0, len(alive)}, f"block {grid_point}: {len(left)} of {len(alive)} threads at a barrier"
            alive = left


_array_of = kernelapi.FakeCUDAShared.array


def _shared_array(memory, shape, dtype, alignment=None):
    """Return the array of a block that a line asks for: the simulator reads the source of all callers to name it."""
    if shape == 0 or alignment is not None:
        return _array_of(memory, shape, dtype, alignment)
    caller = sys._getframe(1)
    line = caller.f_code, caller.f_lineno
    if line not in memory._allocations:
        known = isinstance(dtype, kernelapi.types.Type)
        memory._allocations[line] = np.empty(shape, kernelapi.numpy_support.as_dtype(dtype) if known else dtype)
    return memory._allocations[line]


kernel.BlockManager = _Block
kernelapi.FakeCUDAShared.array = _shared_array
kernelapi.threading = SimpleNamespace(current_thread=lambda: _Block.current, Lock=threading.Lock)
