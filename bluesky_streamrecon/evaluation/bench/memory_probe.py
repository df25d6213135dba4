"""Reconstructs a little and prints by how many bytes this process has grown at its peak (Linux)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from bluesky_streamrecon.evaluation.bench.sample import scan_angles
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon import Engine, warm_up

__all__ = ["main"]


def main(task: str) -> None:
    """Do what `task` (JSON) says, and print the growth."""
    asked = json.loads(task)
    columns, window, rows, threads = (int(asked[key]) for key in ("columns", "window", "rows", "threads"))
    algorithm = str(asked["algorithm"])
    geometry = TomoGeometry(columns)
    angles = scan_angles(max(180, window + 1))
    warm_up(geometry, rows, algorithm=algorithm, threads=threads)
    projection = np.ones((rows, columns), np.float32)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kibibytes("VmRSS")
    with Engine(geometry, rows, algorithm=algorithm, window=window, window_policy="newest", threads=threads) as engine:
        for angle in angles[:window]:
            engine.append(projection, float(angle))
        engine.update()
        engine.append(projection, float(angles[window]))
        engine.update()
        print((_kibibytes("VmHWM") - before) * 1024)


def _kibibytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main(sys.argv[1])
