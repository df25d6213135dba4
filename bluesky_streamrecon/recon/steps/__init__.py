"""Steps of the preparation after flats, darks and logarithm, each found by name, in the order that the settings say."""

from __future__ import annotations

from bluesky_streamrecon.preparation_steps import Step, halo_rows, make_step, preparation_steps
from bluesky_streamrecon.recon.steps.pipeline import Pipeline

__all__ = ["Pipeline", "Step", "halo_rows", "make_step", "preparation_steps"]
