"""Machine code on disk: found by the next process, safe when several start at once, and never needed."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from numba.core import caching

from bluesky_streamrecon.jit import cache_directory
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.kernels.probes import multiply_add_rate

PROGRAM = """
import json, numpy as np
from bluesky_streamrecon import jit
from bluesky_streamrecon.recon.kernels.tables import sensitivity_gains
before = jit.kernels_on_disk()
share = np.zeros((8, 24), np.float32)
sensitivity_gains(1.0, 3.5, 2.0, np.zeros((8, 2), np.int64), share, share, 1e-3, share.copy())
stats = sensitivity_gains.stats
found = before, jit.kernels_on_disk(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values())
print(json.dumps([*found, str(jit.cache_directory())]))
"""


def start(**environment):
    inherited = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**inherited, **environment}, stdout=subprocess.PIPE, text=True
    )


def finish(process):
    import json

    output, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    return json.loads(output)


def test_second_process_does_not_compile_and_simultaneous_ones_agree(tmp_path):
    first = [finish(process) for process in [start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]]
    for _, after, hits, misses, directory in first:
        assert after
        assert hits + misses == 1
        assert directory == str(tmp_path / "bluesky-streamrecon")
    assert any(not before and misses for before, _, _, misses, _ in first)  # of whichever looked first
    assert finish(start(XDG_CACHE_HOME=str(tmp_path)))[:4] == [True, True, 1, 0]
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_file_that_is_imported_by_two_names_has_machine_code_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_streamrecon.jit.cache_directory", lambda: tmp_path)
    path = tmp_path / "twice.py"
    path.write_text("from bluesky_streamrecon.jit import kernel\n\n@kernel\ndef twice(x):\n    return 2 * x\n")

    def found(name):
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        assert module.twice(2.0) == 4.0
        return sum(module.twice.stats.cache_hits.values())

    assert [found(name) for name in ("first", "second", "first")] == [0, 0, 1]


@pytest.fixture
def twice(tmp_path, monkeypatch):
    """Import a file with one kernel as often as it is called, as processes do; return the kernel."""
    monkeypatch.setattr("bluesky_streamrecon.jit.cache_directory", lambda: tmp_path)
    path = tmp_path / "twice.py"
    path.write_text("from bluesky_streamrecon.jit import kernel\n\n@kernel\ndef twice(x):\n    return 2 * x\n")

    def imported():
        spec = importlib.util.spec_from_file_location("twice", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "twice", module)
        spec.loader.exec_module(module)
        return module.twice

    return imported


def test_kernel_runs_where_the_disk_for_machine_code_is_full(twice, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert twice()(2.0) == 4.0
    assert f"compiled kernels in {tmp_path}: a file could not be written (No space left on device)" in caplog.text


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 40])
def test_kernel_whose_machine_code_is_damaged_is_compiled_and_kept_anew(twice, tmp_path, suffix, left):
    assert twice()(2.0) == 4.0
    (damaged,) = tmp_path.glob(f"*.{suffix}")
    os.truncate(damaged, left)  # as after a power cut
    assert twice()(2.0) == 4.0
    kernel = twice()
    assert kernel(2.0) == 4.0
    assert sum(kernel.stats.cache_hits.values()) == 1


LIGHT_START = """
import sys
import numba, numpy as np
from bluesky_streamrecon.jit import leave_extensions_out
from bluesky_streamrecon.quality.trials import similarity_to_finished
import bluesky_streamrecon.quality.controller
import bluesky_streamrecon.recon.job
import bluesky_streamrecon.recon.tomography
leave_extensions_out()
image = np.tri(44, dtype=np.float32)
assert similarity_to_finished(image, image) == 1
assert not {"asyncio", "scipy.linalg", "scipy.fft", "scipy.ndimage", "scipy.special"} & set(sys.modules)
np.testing.assert_array_equal(numba.njit(lambda a, b: a @ b)(np.eye(3), np.eye(3)), np.eye(3))
"""


def test_rank_and_controller_start_without_asyncio_and_scipy_and_a_kernel_that_needs_it_has_it():
    subprocess.run([sys.executable, "-c", LIGHT_START], check=True, timeout=50)


@pytest.mark.parametrize(
    ("home", "numba", "found"),
    [
        ("home", "numba", "numba/bluesky-streamrecon"),
        ("home", None, "home/bluesky-streamrecon"),
        ("/proc/none", None, f"tmp/bluesky-streamrecon-{os.getuid()}"),
    ],
    ids=["numba", "home", "unwritable"],
)
def test_cache_goes_where_it_can(tmp_path, monkeypatch, home, numba, found):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    if numba:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / numba))
    assert cache_directory.__wrapped__() == tmp_path / found


OLD_PROCESSOR = """
import sys
import numpy as np
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.kernels.simd import widest_lanes
assert widest_lanes() == 8
with np.load(sys.argv[1]) as data:
    image = reconstruct(data["projections"], data["angles"], algorithm="pml-hybrid", iterations=3, threads=1)
np.save(sys.argv[2], image)
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="the plain processor is one of this kind")
def test_processor_without_wide_vectors_gives_the_same_image(tmp_path):
    projections = np.random.default_rng(0).random((7, 9, 30)).astype(np.float32)
    angles = np.linspace(0, 3, 7)
    np.savez(tmp_path / "scan.npz", projections=projections, angles=angles)
    plain = {**os.environ, "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-c", OLD_PROCESSOR, str(tmp_path / "scan.npz"), str(tmp_path / "image.npy")]
    subprocess.run(command, env=plain, check=True, timeout=240)
    expected = reconstruct(projections, angles, algorithm="pml-hybrid", iterations=3, threads=1)
    np.testing.assert_allclose(np.load(tmp_path / "image.npy"), expected, atol=1e-5 * expected.max(), rtol=0)


def test_yardstick_measures_something():
    assert multiply_add_rate(seconds=0.002) > 0.1
