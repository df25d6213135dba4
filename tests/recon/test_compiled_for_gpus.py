"""NVIDIA's compiler takes every kernel for each generation of cards, and makes of them what they are written for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "cuda" / "compile_kernels.py"
SHARED = {(8, 0): 164, (8, 6): 100, (8, 9): 100, (9, 0): 228, (12, 0): 100}
"""KiB of shared memory of a multiprocessor, from which tile sizes follow."""
PACKAGES = [folder / "nvidia" for folder in map(Path, sys.path) if (folder / "nvidia").is_dir()]


def installed(pattern):
    return next((path for folder in PACKAGES for path in folder.rglob(pattern)), None)


def rounding(text):
    """Return what follows the products that shifts of lines are rounded from."""
    lines = text.splitlines()
    found = [number for number, line in enumerate(lines) if "mul.rn.f64" in line]
    assert found
    return "\n".join(line for number in found for line in lines[number : number + 3])


@pytest.mark.nightly
@pytest.mark.timeout(580)
@pytest.mark.skipif(not installed("libnvvm.so*"), reason="needs a compiler: pip install 'bluesky-streamrecon[cuda13]'")
@pytest.mark.parametrize("capability", SHARED)
def test_kernels_compile_for_each_generation_of_cards(capability, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    shared = str(1024 * SHARED[capability])
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "{}.{}".format(*capability), shared, str(tmp_path)],
        env=environment | {"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    made = {path.stem: path.read_text() for path in tmp_path.glob("*.ptx")}
    assert {"forward", "compare", "spread", "back_update", "back_quadratic", "back_hybrid", "tables"} <= made.keys()
    architecture = "sm_{}{}".format(*capability)
    assert all(re.search(rf"\.target {architecture}\b", text) for text in made.values())
    for name in ("forward", "back_update"):
        assert re.search(r"ld\.shared\.v4\.[bf]32", made[name])  # four slices at once, whatever the compiler calls them
    assert ("red.global.add.v4.f32" in made["forward"]) == (capability >= (9, 0))
    assert "fma" not in rounding(made["tables"])  # as on the CPU, ties too
    if (assembler := installed("ptxas")) is not None:
        for path in tmp_path.glob("*.ptx"):
            command = [str(assembler), f"-arch={architecture}", str(path), "-o", os.devnull]
            subprocess.run(command, check=True, timeout=200)
