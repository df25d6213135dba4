"""Numba's CUDA target, as all kernels here are compiled, and where their machine code is kept.

With ``NUMBA_ENABLE_CUDASIM=1`` in the environment before Numba is imported, kernels run as plain Python: slowly, but
without a GPU. Numba's own cache on disk does not notice changes of device functions in other files; as in `jit`, the
key covers the source of this whole folder, and here the compute capability, from which tile sizes follow.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np

from bluesky_streamrecon.jit import Dispensable, Locator, cache_directory

os.environ.setdefault("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "0")  # small images need few blocks
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1"

# numba-cuda 0.30 looks up functions that NumPy 2.5 no longer has, and compiles nothing without them.
for _gone, _now in (("row_stack", "vstack"), ("in1d", "isin"), ("trapz", "trapezoid")):
    if _gone not in vars(np):
        setattr(np, _gone, getattr(np, _now))

import numba  # noqa: E402
import numba_cuda  # noqa: E402
from numba import cuda  # noqa: E402
from numba.cuda import types  # noqa: E402

__all__ = ["SIMULATED", "cuda", "device", "device_with_cuda", "kernel", "types", "version"]

F = TypeVar("F", bound=Callable[..., Any])


def version() -> str:
    """Return the versions that machine code depends on."""
    return f"numba-cuda {numba_cuda.__version__}, numba {numba.__version__}"


def device(function: F) -> F:
    """Mark a function of kernels that itself uses nothing of `cuda`."""
    return function if SIMULATED else cuda.jit(device=True)(function)


def device_with_cuda(function: F) -> F:
    """Mark a function that kernels contain in full: registers stay registers across it."""
    options = {} if SIMULATED else {"forceinline": True}
    return cuda.jit(device=True, **options)(function)  # type: ignore[no-any-return]


def kernel(threads: int = 0, blocks: int = 1) -> Callable[[F], F]:
    """Compile a kernel when it is first launched, and keep its machine code on disk.

    Parameters
    ----------
    threads, blocks : int, optional
        Threads of a block, and blocks that must fit on a multiprocessor together: this bounds the registers.
    """

    def compiled(function: F) -> F:
        if SIMULATED:
            return cuda.jit(function)  # type: ignore[no-any-return]
        options = {"launch_bounds": (threads, blocks)} if threads else {}
        made = cuda.jit(**options)(function)
        if cache_directory() is not None:
            made._cache = _cache()(function)
        return made  # type: ignore[no-any-return]

    return compiled


@cache
def _cache() -> Any:
    """Return Numba's cache class for kernels with our directory and key; it does not exist in the simulator."""
    from numba.cuda.dispatcher import CUDACache, CUDACacheImpl

    class OfThisCard(Locator):
        target = "-{}.{}-{}".format(*cuda.get_current_device().compute_capability, numba_cuda.__version__)

    class Implementation(CUDACacheImpl):  # type: ignore[misc]
        _locator_classes = [OfThisCard]  # noqa: RUF012

    class KernelCache(Dispensable, CUDACache):  # type: ignore[misc]
        _impl_class = Implementation

    return KernelCache
