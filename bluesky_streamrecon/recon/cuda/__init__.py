"""Reconstruction on an NVIDIA GPU: the same projector and updates as on the CPU, as Numba CUDA kernels.

- `toolkit`, `sizes`, `vector`: how kernels are compiled, the sizes they are compiled for, four slices at once
- `tables`, `forward`, `detector`, `back`, `smooth`, `slices`: the kernels
- `layout`, `streams`, `store`, `slab`, `operators`, `passes`: memory, and what is launched when
- `backend`: all of it behind the engine's seam; `device`: which GPU there is

Arrays on the GPU are flat, and four neighbouring slices lie side by side, so that 16 bytes hold a pixel of all of them:
image (groups, N, N, 4), sheared lines (groups, A, 2, J, 4), sinogram (groups, A, C, 4). Line integrals stay as they
come, (slots, rows, C). Only `toolkit` imports `numba.cuda`; nothing here is imported unless a GPU is asked for.
"""

from __future__ import annotations
