"""How many GPUs a job will see, without using one: what is here, or what Slurm is asked for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

from bluesky_streamrecon.errors import DeviceError

__all__ = ["open_driver", "slurm_gpus", "usable_gpus", "visible_gpus"]

_UUID_BYTES = 16
_LONG = {"-G": "--gpus", "-N": "--nodes", "-n": "--ntasks"}


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


def usable_gpus() -> int:
    """Return how many GPUs processes of this computer can be expected to compute on; none without `numba-cuda`."""
    return len(visible_gpus()) if find_spec("numba_cuda") else 0


def slurm_gpus(options: Sequence[str]) -> int:
    """Return how many GPUs options of ``sbatch`` ask for; 0 if they do not say.

    Examples
    --------
    >>> slurm_gpus(["--partition=gpu-n2", "--gpus=a100:4"]), slurm_gpus(["--nodes=2", "--gres=gpu:4"])
    (4, 8)
    >>> slurm_gpus(["-N", "2", "--gpus-per-node", "h100:2"]), slurm_gpus(["--time=02:00:00"])
    (4, 0)
    >>> slurm_gpus(["--ntasks=4", "--gpus-per-task=1"]), slurm_gpus(["-N2 --ntasks-per-node=4", "--gpus-per-task=1"])
    (4, 8)
    >>> slurm_gpus(["-G4"]), slurm_gpus(["--gpus=a100:2,h100:1"]), slurm_gpus(["--gres=lustre:3,gpu"])
    (4, 3, 1)
    """
    given = _given(options)
    nodes = _number(given.get("--nodes", ""), 1)  # which of a range is not known yet
    tasks = _number(given.get("--ntasks", ""), nodes * _number(given.get("--ntasks-per-node", ""), 0))
    of_a_node = [part for part in given.get("--gres", "").split(",") if part.partition(":")[0] == "gpu"]
    for asked, times in (
        (given.get("--gpus", ""), 1),
        (given.get("--gpus-per-node", ""), nodes),
        (given.get("--gpus-per-task", ""), tasks),
        (",".join(of_a_node), nodes),
    ):
        if asked:
            return times * sum(_number(part.rpartition(":")[2], 1) for part in asked.split(","))
    return 0


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isdigit() else otherwise


def _given(options: Sequence[str]) -> dict[str, str]:
    """Return options of ``sbatch`` with their values, by their long names."""
    found: dict[str, str] = {}
    name = ""
    for word in " ".join(options).split():
        if word.startswith("--"):
            name, _, value = word.partition("=")
        elif word.startswith("-"):
            name, value = _LONG.get(word[:2], word[:2]), word[2:].removeprefix("=")
        else:
            value = word
        found[name] = value
    return found
