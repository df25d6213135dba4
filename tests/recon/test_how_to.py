"""The how-to's algorithm works as printed, and is short."""

import re
from pathlib import Path

import numpy as np

from bluesky_streamrecon.recon import algorithm_names, reconstruct

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-algorithm.md"


def test_algorithm_of_the_how_to_is_under_30_lines_and_converges():
    definition, use, *_ = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    assert len(definition.splitlines()) < 30
    angles = np.linspace(0, np.pi, 40, endpoint=False)
    columns = np.arange(48) - 23.5
    profile = 0.02 * 2 * np.sqrt(np.maximum(15.0**2 - columns**2, 0))
    projections = np.repeat(profile[None, None, :], 40, axis=0).astype(np.float32)
    names = {"projections": projections, "angles": angles}
    exec(compile(definition + use, str(HOW_TO), "exec"), names)
    assert "landweber" in algorithm_names()
    disc = names["volume"][0]
    assert abs(disc[20:28, 20:28].mean() - 0.02) < 0.002
    assert abs(disc[:4, :4]).max() < 0.004
    limited = reconstruct(projections, angles, algorithm="landweber", iterations=50, limit=0.01)
    assert limited.max() <= 0.01
