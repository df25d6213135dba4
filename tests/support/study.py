"""Studies that are no part of the package: scripts in docs/studies, loaded as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

STUDIES = Path(__file__).parents[2] / "docs" / "studies"


def load_study(name: str) -> ModuleType:
    """Return a study's module."""
    if str(STUDIES) not in sys.path:
        sys.path.append(str(STUDIES))  # one imports another
    spec = importlib.util.spec_from_file_location(f"{name}_study", STUDIES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up where they are defined
    spec.loader.exec_module(module)
    return module
