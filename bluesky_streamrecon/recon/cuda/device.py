"""Which GPU there is, what it is called, and whether a block of rows fits its memory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bluesky_streamrecon.errors import DeviceError
from bluesky_streamrecon.gpus import open_driver

__all__ = ["CudaDevice", "find_device"]

LEAST_CAPABILITY = (8, 0)
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A GPU that works.

    Parameters
    ----------
    number : int
        Among those that this process sees (``CUDA_VISIBLE_DEVICES``).
    name, driver, library : str
        What it and its software are called.
    capability : tuple of int
        Compute capability.
    total, free : int
        Bytes of its memory.
    visible : int
        GPUs that this process sees.
    simulated : bool
        Whether it is Numba's simulator.
    """

    number: int
    name: str
    capability: tuple[int, int]
    driver: str
    library: str
    total: int
    free: int
    visible: int = 1
    simulated: bool = False

    def __str__(self) -> str:
        major, minor = self.capability
        return (
            f"GPU {self.number}: {self.name}, compute capability {major}.{minor}, {self.free:,} of {self.total:,} "
            f"bytes free, driver {self.driver}, {self.library}"
        )

    def free_for(self, sharers: int) -> int:
        """Return the free bytes for a rank, where so many of a host use its GPUs in turn."""
        return self.free // -(-sharers // self.visible)


def find_device(host_rank: int = 0) -> CudaDevice:
    """Select the GPU for a rank, and try whether it works.

    Parameters
    ----------
    host_rank : int, optional
        Number of the rank among those of this host: ranks take the GPUs that they see in turn.

    Returns
    -------
    CudaDevice
        The GPU, which is now the one of this thread.

    Raises
    ------
    DeviceError
        If there is none that works; the message says why in one line.
    """
    if find_spec("numba_cuda") is None:
        raise DeviceError("numba-cuda is not installed: pip install 'bluesky-streamrecon[cuda]'")
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "1":
        open_driver()
    from bluesky_streamrecon.recon.cuda.toolkit import SIMULATED, cuda, version

    if SIMULATED:
        return CudaDevice(0, "CUDA simulator of Numba", (9, 0), "none", version(), 2**40, 2**40, simulated=True)
    try:
        found = len(cuda.gpus)
        if found == 0:
            raise DeviceError("the driver finds no GPU; is CUDA_VISIBLE_DEVICES empty?")
        number = host_rank % found
        cuda.select_device(number)
        device = cuda.get_current_device()
        capability = tuple(device.compute_capability)
        name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
        if capability < LEAST_CAPABILITY:
            raise DeviceError(
                f"{name} has compute capability {capability[0]}.{capability[1]}, expected at least "
                f"{LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}"
            )
        context = cuda.current_context()
        for unused in (context.deallocations, context.memory_manager.deallocations):
            unused.clear()  # what engines before this one had, which Numba gives back now and then
        free, total = context.get_memory_info()
    except DeviceError:
        raise
    except Exception as error:  # the driver's errors have no common root
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DeviceError(f"no GPU can be used: {why}") from error
    return CudaDevice(number, name, capability, _driver(), version(), int(total), int(free), found)


def _driver() -> str:
    """Return the version of the driver, and the newest CUDA that it knows."""
    from bluesky_streamrecon.recon.cuda.toolkit import cuda

    major, minor = cuda.cudadrv.driver.driver.get_version()
    try:
        found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", _KERNEL_MODULE.read_text())
    except OSError:
        found = None
    return f"{found.group(1) if found else 'unknown'} (CUDA {major}.{minor})"
