"""Compile all kernels for a card that is not here: ``compile_kernels.py CAPABILITY SHARED_BYTES FOLDER``.

A stand-in says what the card is; the compiler needs no more. What it makes goes to the folder, a file per kernel.
"""

from __future__ import annotations

import inspect
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from numba import cuda
from numba.cuda import api, compiler, dispatcher, types

INT_ARRAYS = {
    "tiles", "heights", "offsets", "evens", "middles", "halves", "seen", "back_offsets", "back_starts", "chords",
    "rows",
}  # fmt: skip
DOUBLE_ARRAYS = {"cosines", "sines", "larges", "slots"}


def signature(function):
    """Return the types of a kernel's arguments: numbers by their annotation, arrays by their name."""
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation in ("int", "float"):
            found.append(types.int64 if parameter.annotation == "int" else types.float64)
        elif name in DOUBLE_ARRAYS or (name == "weights" and function.__name__ == "gains"):
            found.append(types.float64[::1])
        else:
            found.append((types.int32 if name in INT_ARRAYS else types.float32)[::1])
    return tuple(found)


def main(capability, shared, folder):
    card = SimpleNamespace(compute_capability=capability, MAX_SHARED_MEMORY_PER_MULTIPROCESSOR=shared, id=0)
    for module in (cuda, api, compiler, dispatcher):
        module.get_current_device = lambda: card

    from bluesky_streamrecon.recon.cuda import back, detector, forward, slices, smooth, tables

    start, processor = time.perf_counter(), time.process_time()
    for module in (tables, forward, detector, back, smooth, slices):
        for kernel in vars(module).values():
            if not isinstance(kernel, dispatcher.CUDADispatcher) or kernel.targetoptions.get("device"):
                continue
            if kernel.py_func.__module__ == module.__name__:
                text, _ = compiler.compile(
                    kernel.py_func, signature(kernel.py_func), device=False, abi="numba", cc=capability, output="ptx",
                    launch_bounds=kernel.targetoptions.get("launch_bounds"),
                )  # fmt: skip
                (folder / f"{kernel.py_func.__name__}.ptx").write_text(text if isinstance(text, str) else text.decode())
    print(f"{time.perf_counter() - start:.1f} s, {time.process_time() - processor:.1f} s of a processor")


if __name__ == "__main__":
    main(tuple(int(part) for part in sys.argv[1].split(".")), int(sys.argv[2]), Path(sys.argv[3]))
