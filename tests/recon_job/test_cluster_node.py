"""What a node of a cluster installs (requirements/job.txt) is enough for ranks and controller, whatever they import."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import h5py
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bluesky_streamrecon
from bluesky_streamrecon.settings import ReconSettings

PACKAGE = Path(bluesky_streamrecon.__file__).parent
ROOMS = ("recon", "quality", "wire", "hdf5")
OPTIONAL = {"cuda", "numba_cuda"}  # of the extra cuda, which a node with a GPU installs as well

BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"not on a node of a cluster: {{name}}")

sys.meta_path.insert(0, Missing())
"""

CONTROLLER = """
import bluesky_streamrecon.cli._commands
from bluesky_streamrecon.cli._app import app
from bluesky_streamrecon.quality import controller, get_policy, metrics
from bluesky_streamrecon.recon.quick import QuickReconstructor

bluesky_streamrecon.cli._commands.register(app)
get_policy("predicted-gain"), QuickReconstructor()
"""


def listed() -> list[Requirement]:
    lines = (PACKAGE / "requirements" / "job.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed_with(requirements: list[Requirement]) -> set[str]:
    """Names of what these bring, themselves among them."""
    found: set[str] = set()
    todo = [(requirement, "") for requirement in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found.add(name)
        try:
            todo += [(Requirement(line), each) for line in requires(name) or () for each in (*requirement.extras, "")]
        except PackageNotFoundError:
            continue
    return found


@pytest.fixture(scope="module")
def on_the_node() -> set[str]:
    """Modules that a node has; of those, none that is brought by another package alone."""
    present = installed_with(listed())
    return {
        module
        for module, distributions in packages_distributions().items()
        if present & {canonicalize_name(name) for name in distributions}
    }


@pytest.fixture
def node(on_the_node, tmp_path, monkeypatch) -> None:
    """Processes that are started have nothing but what a node has."""
    ours = {name for name in packages_distributions() if name.startswith(("bluesky_streamrecon", "__editable__"))}
    blocked = set(packages_distributions()) - on_the_node - ours - OPTIONAL - {"bluesky_streamrecon"}
    assert {"bluesky", "tiled", "databroker", "IPython", "ophyd_async", "matplotlib"} <= blocked
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(blocked=sorted(blocked)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_of_a_job_imports_what_a_node_has_not(on_the_node, room):
    missing = {}
    for path in (PACKAGE / room).rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            if isinstance(statement, ast.ImportFrom) and statement.level == 0:
                names = [statement.module]
            for top in {name.partition(".")[0] for name in names}:
                known = top in sys.stdlib_module_names or top in on_the_node or top in OPTIONAL
                if not known and top != "bluesky_streamrecon":
                    missing.setdefault(top, []).append(path.name)
    assert not missing


@pytest.mark.mpi
def test_job_runs_where_nothing_else_is_installed(node, beamline, mpi_job, scan, tmp_path):
    started = mpi_job(2)
    settings = ReconSettings(axis=scan.axis, window=8, step=2, preparation=("zingers", "rings"))
    finished = beamline.feed(scan, settings, tmp_path)
    with h5py.File(finished.results[0].result) as file:
        assert np.isfinite(file["/exchange/data"][:]).all()
    beamline.endpoint.shutdown_peers("the test is over")
    assert started.wait() == 0


def test_controller_and_commands_start_where_nothing_else_is_installed(node):
    done = subprocess.run([sys.executable, "-c", CONTROLLER], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
