"""The installed profile for programs that run plans for people: queue server and blueapi, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bluesky_streamrecon.profile import install_profile

BOUND = 250.0


@dataclass(frozen=True)
class Installed:
    """A profile's startup files, and what a process needs to run them."""

    startup: Path
    data: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a program to its end, and return what it printed."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.data.parent,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """Install the profile beside a directory for its data."""
    report = install_profile("tomo", tmp_path / "ipython", queueserver=True)
    environment = os.environ | {"STREAMRECON_DATA": str(tmp_path / "data"), "PYTHONWARNINGS": "default"}
    environment["STREAMRECON_TILED_URI"] = "http://127.0.0.1:1/api/v1"  # nobody: a catalogue takes seconds to start
    environment["XDG_STATE_HOME"] = str(tmp_path / "state")  # where jobs are announced: only ours
    environment.pop("DISPLAY", None)
    (tmp_path / "data").mkdir()
    return Installed(report.directory / "startup", tmp_path / "data", environment)


@pytest.fixture
def program() -> Callable[[str], str]:
    """Find a program of this environment, or skip the test."""

    def find(name: str) -> str:
        path = Path(sys.executable).parent / name
        if not path.exists():
            pytest.skip(f"{name} is not installed here; it comes with the extra 'runners'")
        return str(path)

    return find
