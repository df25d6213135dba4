"""Modules that several tests use, loaded by path: tests are no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from study import load_study

from bluesky_streamrecon.recon.projector import projectors

if "line-integrals" not in projectors.names():  # one of somebody's own
    projectors.add("line-integrals", load_study("siddon").SiddonProjector)


def _load(name):
    key = f"recon_tests_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


@pytest.fixture(scope="session")
def reference():
    """Plain NumPy float64 version of projector and algorithms."""
    return _load("reference")


@pytest.fixture(scope="session")
def phantoms():
    """Phantoms with exact line integrals."""
    return _load("phantoms")
