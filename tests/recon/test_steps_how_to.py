"""The how-to's step works as printed, by name and as an entry point."""

import re
from pathlib import Path

import numpy as np
import pytest

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.recon.steps import Pipeline, preparation_steps

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "rings-and-zingers.md"


def test_step_of_the_how_to_works_as_printed():
    definition, use = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    projections = np.random.default_rng(0).uniform(1, 1.05, (5, 2, 32)).astype(np.float32)
    names = {"projections": projections, "angles": np.linspace(0, np.pi, 5)}
    exec(compile(definition + use, str(HOW_TO), "exec"), names)
    assert "beam-hardening" in preparation_steps.names()
    np.testing.assert_allclose(names["corrected"], projections + 0.1 * projections**2, rtol=1e-6)


def test_step_of_an_installed_package_is_found_by_its_entry_point(installed_package):
    definition, _ = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    group = re.search(r'entry-points\."(.*?)"', HOW_TO.read_text())[1]
    source = definition.replace('preparation_steps.add("beam-hardening", BeamHardening)', "")
    installed_package(group, "hardening-of-a-package", "package_with_hardening", source, "BeamHardening")
    steps = Pipeline([{"step": "hardening-of-a-package", "a": 1.0}], 1, 8)
    np.testing.assert_array_equal(steps.first_part(np.full((1, 8), 2, np.float32), 0.0), 6)


def test_step_that_fails_on_a_blank_projection_is_reported_with_its_line(installed_package):
    definition, _ = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), flags=re.DOTALL)
    source = definition.replace('preparation_steps.add("beam-hardening", BeamHardening)', "")
    for name, line, words in (
        ("raises", "return projection / undefined", "NameError.*undefined.*line 17"),
        ("shrinks", "return projection[:, 1:]", r"got float32 of shape \(1, 7\)"),
        ("divides", "return 1 / projection", "not finite"),
    ):
        body = re.sub("return projection .*", line, source)
        installed_package("bluesky_streamrecon.preparation_steps", name, f"package_that_{name}", body, "BeamHardening")
        with np.errstate(divide="ignore"), pytest.raises(ConfigError, match=words):
            Pipeline([name], 1, 8)
