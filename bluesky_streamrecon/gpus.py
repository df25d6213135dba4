"""How many GPUs a job will see, without using one: what is here, or what Slurm is asked for."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence

from bluesky_streamrecon.errors import DeviceError

__all__ = ["open_driver", "slurm_gpus", "visible_gpus"]


def open_driver() -> ctypes.CDLL:
    """Load NVIDIA's driver library.

    Raises
    ------
    DeviceError
        If there is none.
    """
    try:
        return ctypes.CDLL(os.environ.get("NUMBA_CUDA_DRIVER", "libcuda.so.1"))
    except OSError as error:
        raise DeviceError(f"there is no NVIDIA driver here ({error})") from error


def visible_gpus() -> int:
    """Return how many GPUs processes of this computer see: ``CUDA_VISIBLE_DEVICES`` counts; 0 without a driver."""
    try:
        driver = open_driver()
    except DeviceError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def slurm_gpus(options: Sequence[str]) -> int:
    """Return how many GPUs options of ``sbatch`` ask for; 0 if they do not say.

    Examples
    --------
    >>> slurm_gpus(["--partition=gpu", "--gpus=a100:4"]), slurm_gpus(["--nodes=2", "--gres=gpu:4"])
    (4, 8)
    >>> slurm_gpus(["-N", "2", "--gpus-per-node", "h100:2"]), slurm_gpus(["--time=02:00:00"])
    (4, 0)
    """
    text = " ".join(options)
    nodes = int(found[1]) if (found := re.search(r"(?:--nodes|-N)[ =]?(\d+)(?!\S*-)", text)) else 1
    for pattern, times in (
        (r"(?:--gpus|-G)[ =](?:[^\s:,]+:)?(\d+)", 1),
        (r"--gpus-per-node[ =](?:[^\s:,]+:)?(\d+)", nodes),
        (r"--gres[ =](?:\S*,)?gpu(?::[^\s:,]*[^\s:,\d][^\s:,]*)?:(\d+)", nodes),
    ):
        if found := re.search(pattern, text):
            return times * int(found[1])
    return 0
