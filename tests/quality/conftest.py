"""Runs and previews made up for the quality room: images that settle down as projections come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.partition import RowBlock
from bluesky_streamrecon.wire import OpenRun, Preview

SIDE = 44


@pytest.fixture
def open_run() -> Callable[..., OpenRun]:
    def make(uid: str = "run-1", *, window=24, step=1, planned=180, rows=(3, 7), **steering) -> OpenRun:
        return OpenRun(
            run_uid=uid,
            recon_uid=f"recon-of-{uid}",
            planned=planned,
            detector_shape=(10, SIDE),
            dtype="<u2",
            block=RowBlock(0, 10, 0, 0, 1),
            recon=ReconSettings(window=window, step=step),
            steering=SteeringSettings(**({"minimum_projections": 0} | steering)),
            preview_rows=rows,
        )

    return make


@pytest.fixture
def image() -> Callable[..., np.ndarray]:
    """Give slices (rows, N, N) of a square with noise that fades as the number of projections grows."""

    def make(projections: int, rows: int = 2, noise: float = 1.0) -> np.ndarray:
        rng = np.random.default_rng(projections)
        stack = np.zeros((rows, SIDE, SIDE), np.float32)
        stack[:, 10:30, 12:28] = 1.0
        return stack + (noise / projections * rng.standard_normal(stack.shape)).astype(np.float32)

    return make


@pytest.fixture
def preview() -> Callable[..., Preview]:
    def make(number, projections=None, *, uid="run-1", rank=0, rows=(3, 7), size=SIDE, angles=(), final=False):
        return Preview(
            run_uid=uid,
            seq=max(number, 1),
            rank=rank,
            image_number=number,
            projections=number if projections is None else projections,
            final=final,
            rows=rows,
            size=size,
            angles_used=tuple(angles),
        )

    return make


@pytest.fixture
def installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a package that offers one entry point, as far as `importlib.metadata` can tell."""

    def install(group: str, name: str, module: str, source: str, attribute: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install
