"""What projection looks up, computed on the GPU once per window: shifts of lines, where they lie in a tile, gains.

Angles are sorted: `steep` ones, whose rows are shifted, come first. Sizes are those of `GpuLayout`: half = (N - 1) / 2,
side = N rounded up, origin and length of the sheared coordinates. Arithmetic is float64, as on the CPU.
"""

from __future__ import annotations

import math

import numpy as np

from bluesky_streamrecon.recon.cuda.sizes import HALO, HEIGHT, REACH, SLOT, TILE, WIDTH
from bluesky_streamrecon.recon.cuda.toolkit import cuda, device, kernel, types
from bluesky_streamrecon.recon.cuda.vector import halves_of, peek

__all__ = ["PATH_THREADS", "gains", "inverse_paths", "near_bin", "share_of", "tables"]

PATH_THREADS = 256
_PITCH = TILE + 2 * HALO + 1


@kernel()
def tables(
    cosines, sines, angles: int, steep: int, half: float, axis: float, columns: int, size: int, side: int, origin:
    int, length: int, halves, seen, heights, offsets, evens, middles, back_offsets, back_starts,
) -> None:  # fmt: skip
    """Fill the tables of both halves. Grid (side / threads, angles), a thread per line and angle.

    Parameters
    ----------
    cosines, sines : float64 (A,)
        Of the sorted angles.
    halves : int32 (A, side)
        Shift of each line in half pixels.
    seen : int32 (A, 2)
        Half-open range of sheared coordinates near the detector.
    heights : int32 (A,)
        Lines per group: as many as the slope lets the halo hold.
    offsets : int32 (A, side)
        Where the lines of each group begin in the forward tile, bytes, those of even shift first.
    evens, middles : int32 (A, side / 16)
        For each group, its lines of even shift, and the sheared coordinate of pixel 0 of its middle line.
    back_offsets : int32 (A, side)
        Where each line begins in the window of its band of the way back, bytes.
    back_starts : int32 (A, side / 32)
        Where that window begins; its width in the upper half of the word.
    """
    line = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    a = cuda.blockIdx.y
    if line >= side:
        return
    large = cosines[a] if a < steep else sines[a]
    slope = (sines[a] if a < steep else cosines[a]) / large
    h = halves_of(min(line, size - 1), half, slope)
    halves[a * side + line] = h

    band = HEIGHT if a < steep else WIDTH
    begin = line // band * band
    first = halves_of(min(begin, size - 1), half, slope) >> 1
    last = halves_of(min(begin + band, size) - 1, half, slope) >> 1
    start = min(first, last)
    back_offsets[a * side + line] = ((h & 1) * REACH + (h >> 1) - start) * 16
    if line % 32 == 0:
        span = abs(first - last) + (WIDTH if a < steep else HEIGHT)
        back_starts[a * (side // 32) + line // 32] = (start + origin) | (span << 16)

    count = 2 * HALO
    while count < TILE and count * abs(slope) <= HALO:
        count *= 2
    begin = line // count * count
    middle = halves_of(min(begin + count // 2, size - 1), half, slope) >> 1
    even = 0
    before = 0
    for i in range(count):
        other = halves_of(min(begin + i, size - 1), half, slope)
        if (other & 1) == 0:
            even += 1
        if begin + i < line and ((other ^ h) & 1) == 0:
            before += 1
    rank = before + (even if h & 1 else 0)
    across = line % TILE + HALO
    pixel = HALO - ((h >> 1) - middle)
    offsets[a * side + begin + rank] = (across * _PITCH + pixel if a < steep else pixel * _PITCH + across) * 16
    if line % SLOT == 0:
        evens[a * (side // SLOT) + line // SLOT] = even
        middles[a * (side // SLOT) + line // SLOT] = middle + origin
    if line == 0:
        heights[a] = count
        cell = abs(large)
        one = (-0.5 - cell / 2 - axis) / large + half + origin
        two = (columns - 0.5 + cell / 2 - axis) / large + half + origin
        seen[2 * a] = max(0, int(math.floor(min(one, two))) - 1)
        seen[2 * a + 1] = max(0, min(length, int(math.ceil(max(one, two))) + 2))


@device
def share_of(place, cell, low, high):
    """Return the part of a cell of this width, centred at `place`, that lies between `low` and `high`."""
    return max(0.0, min(place + cell / 2, high) - max(place - cell / 2, low)) / cell


@device
def near_bin(c, large, half, axis, origin, length):
    """Return the first of three even and of three odd coordinates near detector bin `c`, and where coordinate 0 is."""
    cell = abs(large)
    near = (1 + cell) / (2 * cell)
    middle = (c - axis) / large + half + origin
    even = max(0, min(length - 3, int(math.floor(middle - near)) + 1))
    odd = max(0, min(length - 3, int(math.floor(middle - 0.5 - near)) + 1))
    return even, odd, axis - (origin + half) * large


@kernel()
def gains(
    larges, weights, angles: int, total: float, steep: int, half: float, axis: float, columns: int, size: int,
    side: int, radius: float, halves, chords, least: float, result,
) -> None:  # fmt: skip
    """Invert the sensitivity A' w, (N, N): NaN for pixels that are not seen or not reconstructed.

    Grid (N / threads, N). `larges` holds the larger of cosine and sine of each angle, `weights` how much it counts,
    and `total` is their sum; pixels closer than `radius` to
    the rotation axis are seen completely from everywhere.
    """
    x = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    y = cuda.blockIdx.y
    if x >= size:
        return
    gain = np.float32(np.nan)
    if chords[2 * y] <= x < chords[2 * y + 1]:
        if (x - half) * (x - half) + (y - half) * (y - half) < radius * radius:
            gain = np.float32(1) / np.float32(total)
        else:
            seen = np.float32(0)
            for a in range(angles):
                line = y if a < steep else x
                pixel = x if a < steep else y
                large = peek(larges, a)
                cell = abs(large)
                place = axis + (pixel - half + 0.5 * peek(halves, a * side + line)) * large
                inside = min(np.float32(place + (cell / 2 + 0.5)), np.float32(columns - 0.5 + cell / 2 - place))
                share = max(np.float32(0), min(np.float32(1), inside / np.float32(cell)))
                seen += np.float32(peek(weights, a)) * share
            if seen > np.float32(least):
                gain = np.float32(1) / seen
    result[y * size + x] = gain


@kernel()
def inverse_paths(
    larges, half: float, axis: float, columns: int, size: int, side: int, origin: int, length: int, halves, chords,
    least: float, result,
) -> None:  # fmt: skip
    """Invert the path of each ray through the image, A 1, (A, C): 0 where it is not above `least`.

    Grid (C / 32, A), `PATH_THREADS` threads: a warp takes every eighth line for 32 columns. A line of ones, shifted, is
    a box: it covers a coordinate or it does not.
    """
    parts = cuda.shared.array(PATH_THREADS, types.float64)
    thread = cuda.threadIdx.x
    lane, warp = thread & 31, thread >> 5
    c = cuda.blockIdx.x * 32 + lane
    a = cuda.blockIdx.y
    large = larges[a]
    cell = abs(large)
    even, odd, step = near_bin(c, large, half, axis, origin, length)
    total = 0.0
    line = warp
    while line < size:
        h = peek(halves, a * side + line)
        late = h & 1
        shift = (h >> 1) + origin
        first = peek(chords, 2 * line) + shift
        stop = peek(chords, 2 * line + 1) + shift
        begin = odd if late else even
        for j in range(begin, begin + 3):
            if first <= j and j < stop:
                total += share_of(step + (j + 0.5 * late) * large, cell, c - 0.5, c + 0.5)
        line += PATH_THREADS // 32
    parts[thread] = total
    cuda.syncthreads()
    if warp == 0 and c < columns:
        total = 0.0
        for part in range(PATH_THREADS // 32):
            total += parts[part * 32 + lane]
        result[a * columns + c] = np.float32(1 / total) if total > least else np.float32(0)
