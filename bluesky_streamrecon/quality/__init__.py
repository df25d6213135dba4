"""Image quality and when to stop: MS-SSIM, metrics, stopping policies, and the controller's loop.

Knows no Bluesky, and makes no images of its own: the controller is started with a `Reconstructor`. Images are float32
stacks ``(rows, N, N)`` in attenuation per pixel, line integrals unitless, angles radians, lengths pixels.
The controller itself is in ``bluesky_streamrecon.quality.controller``; Numba is imported with the first comparison.
"""

from __future__ import annotations

from bluesky_streamrecon.quality.gain import predict_gain
from bluesky_streamrecon.quality.gain_policy import PredictedGainPolicy
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.metrics import (
    ImageHistory,
    Metric,
    MsSsimMetric,
    PreviewImage,
    TrialMetric,
    make_metric,
)
from bluesky_streamrecon.quality.msssim import (
    deepest_pyramid,
    ms_ssim,
    ms_ssim_terms,
    smallest_side,
)
from bluesky_streamrecon.quality.policy import (
    Evidence,
    MsSsimPolicy,
    Policy,
    ScoredImage,
    Verdict,
    get_policy,
)
from bluesky_streamrecon.quality.trials import TrialReconstruction

__all__ = [
    "Evidence",
    "ImageHistory",
    "Metric",
    "MsSsimMetric",
    "MsSsimPolicy",
    "Policy",
    "PredictedGainPolicy",
    "PreviewImage",
    "ScanLines",
    "ScoredImage",
    "TrialMetric",
    "TrialReconstruction",
    "Verdict",
    "deepest_pyramid",
    "get_policy",
    "make_metric",
    "ms_ssim",
    "ms_ssim_terms",
    "predict_gain",
    "smallest_side",
]
