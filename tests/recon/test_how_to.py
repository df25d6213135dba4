"""The how-to's algorithm works as printed, and is short; by name and as an entry point."""

import re
from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.recon import reconstruct
from bluesky_streamrecon.recon.algorithms import algorithms

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-algorithm.md"


def cylinder():
    """Return projections of a cylinder, and their angles."""
    columns = np.arange(48) - 23.5
    profile = 0.02 * 2 * np.sqrt(np.maximum(15.0**2 - columns**2, 0))
    return np.repeat(profile[None, None, :], 40, axis=0).astype(np.float32), np.linspace(0, np.pi, 40, endpoint=False)


def test_algorithm_of_the_how_to_is_under_30_lines_and_converges():
    definition, use, *_ = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    assert len(definition.splitlines()) < 30
    projections, angles = cylinder()
    names = {"projections": projections, "angles": angles}
    exec(compile(definition + use, str(HOW_TO), "exec"), names)
    assert "landweber" in algorithms.names()
    disc = names["volume"][0]
    assert abs(disc[20:28, 20:28].mean() - 0.02) < 0.002
    assert abs(disc[:4, :4]).max() < 0.004
    limited = reconstruct(projections, angles, algorithm="landweber", iterations=50, limit=0.01)
    assert limited.max() <= 0.01
    with pytest.raises(ConfigError, match="algorithm 'landweber': gain: got 'much'; expected `float`, got `str`"):
        reconstruct(projections, angles, algorithm="landweber", iterations=1, gain="much")
    assert reconstruct(projections, angles, algorithm="landweber", iterations=1, gain=np.float32(0.9)).max() > 0


def test_algorithm_of_an_installed_package_is_found_by_its_entry_point(installed_package):
    definition, *_ = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    group = re.search(r'entry-points\."(.*?)"', HOW_TO.read_text())[1]
    source = definition.replace('algorithms.add("landweber", Landweber)', "")
    installed_package(group, "landweber-of-a-package", "package_with_landweber", source, "Landweber")
    assert "landweber-of-a-package" in algorithms.names()
    projections, angles = cylinder()
    volume = reconstruct(projections, angles, algorithm="landweber-of-a-package", iterations=50, gain=0.9)
    assert abs(volume[0, 20:28, 20:28].mean() - 0.02) < 0.002
