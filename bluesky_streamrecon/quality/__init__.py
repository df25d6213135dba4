"""How good an image is, and when that is enough: MS-SSIM, metrics, stopping policies, and the controller's loop.

Knows no Bluesky. Images are float32 stacks ``(rows, N, N)`` in attenuation per pixel, angles degrees, lengths pixels.
The controller itself is in ``bluesky_streamrecon.quality.controller``; Numba is imported with the first comparison.
"""

from __future__ import annotations

from bluesky_streamrecon.quality.metrics import (
    ImageHistory,
    Metric,
    MsSsimMetric,
    PreviewImage,
    make_metric,
    metric_names,
    register_metric,
)
from bluesky_streamrecon.quality.msssim import (
    MsSsimTerms,
    deepest_pyramid,
    ms_ssim,
    ms_ssim_terms,
    smallest_side,
    warm_up,
)
from bluesky_streamrecon.quality.policy import (
    Evidence,
    MsSsimPolicy,
    Policy,
    Reading,
    Verdict,
    get_policy,
    policy_names,
    register_policy,
)

__all__ = [
    "Evidence",
    "ImageHistory",
    "Metric",
    "MsSsimMetric",
    "MsSsimPolicy",
    "MsSsimTerms",
    "Policy",
    "PreviewImage",
    "Reading",
    "Verdict",
    "deepest_pyramid",
    "get_policy",
    "make_metric",
    "metric_names",
    "ms_ssim",
    "ms_ssim_terms",
    "policy_names",
    "register_metric",
    "register_policy",
    "smallest_side",
    "warm_up",
]
