"""How many GPUs a job will see, without using one: what is here, or what Slurm is asked for."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from functools import cache

from bluesky_streamrecon.errors import DeviceError

__all__ = ["open_driver", "slurm_gpus", "visible_gpus"]

_UUID_BYTES = 16


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


@cache
def visible_gpus() -> tuple[bytes, ...]:
    """Return what tells the GPUs that this process sees from others; ``CUDA_VISIBLE_DEVICES`` and Slurm may hide some.

    Their numbers do not: where a batch system gives each process a GPU of its own, all of them see it as number 0.
    """
    try:
        driver = open_driver()
    except DeviceError:
        return ()
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    uuids = [ctypes.create_string_buffer(_UUID_BYTES) for _ in range(count.value)]
    for number, uuid in enumerate(uuids):
        driver.cuDeviceGetUuid_v2(uuid, number)
    return tuple(uuid.raw for uuid in uuids)


def slurm_gpus(options: Sequence[str]) -> int:
    """Return how many GPUs options of ``sbatch`` ask for; 0 if they do not say.

    Examples
    --------
    >>> slurm_gpus(["--partition=gpu", "--gpus=a100:4"]), slurm_gpus(["--nodes=2", "--gres=gpu:4"])
    (4, 8)
    >>> slurm_gpus(["-N", "2", "--gpus-per-node", "h100:2"]), slurm_gpus(["--time=02:00:00"])
    (4, 0)
    >>> slurm_gpus(["--ntasks=4", "--gpus-per-task=1"])
    4
    """
    text = " ".join(options)
    nodes = int(found[1]) if (found := re.search(r"(?:--nodes|-N)[ =]?(\d+)(?!\S*-)", text)) else 1
    tasks = int(found[1]) if (found := re.search(r"(?:--ntasks|-n)[ =]?(\d+)", text)) else 0
    for pattern, times in (
        (r"(?:--gpus|-G)[ =](?:[^\s:,]+:)?(\d+)", 1),
        (r"--gpus-per-node[ =](?:[^\s:,]+:)?(\d+)", nodes),
        (r"--gpus-per-task[ =](?:[^\s:,]+:)?(\d+)", tasks),
        (r"--gres[ =](?:\S*,)?gpu(?::[^\s:,]*[^\s:,\d][^\s:,]*)?:(\d+)", nodes),
    ):
        if found := re.search(pattern, text):
            return times * int(found[1])
    return 0
