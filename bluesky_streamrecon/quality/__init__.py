"""Image quality and when to stop: MS-SSIM, metrics, stopping policies, and the controller's loop.

Knows no Bluesky, and makes no images of its own: the controller is started with a `Reconstructor`. Images are float32
stacks ``(rows, N, N)`` in attenuation per pixel, line integrals unitless, angles radians, lengths pixels.
The controller itself is in ``bluesky_streamrecon.quality.controller``; Numba is imported with the first comparison.
"""

from __future__ import annotations

from bluesky_streamrecon.coverage import AngularRange
from bluesky_streamrecon.quality.data_checks import find_fault
from bluesky_streamrecon.quality.forecast import Forecast
from bluesky_streamrecon.quality.gain import Gain, predict_gain
from bluesky_streamrecon.quality.gain_policy import PredictedGainPolicy
from bluesky_streamrecon.quality.lines import ScanLines
from bluesky_streamrecon.quality.measurements import Measurement
from bluesky_streamrecon.quality.metrics import (
    ImageHistory,
    Metric,
    MsSsimMetric,
    PreviewImage,
    TrialMetric,
    make_metric,
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
    Combination,
    Evidence,
    MsSsimPolicy,
    Policy,
    Predicting,
    ScoredImage,
    Verdict,
    get_policy,
)
from bluesky_streamrecon.quality.trials import Reconstructor, TrialReconstruction

__all__ = [
    "AngularRange",
    "Combination",
    "Evidence",
    "Forecast",
    "Gain",
    "ImageHistory",
    "Measurement",
    "Metric",
    "MsSsimMetric",
    "MsSsimPolicy",
    "MsSsimTerms",
    "Policy",
    "PredictedGainPolicy",
    "Predicting",
    "PreviewImage",
    "Reconstructor",
    "ScanLines",
    "ScoredImage",
    "TrialMetric",
    "TrialReconstruction",
    "Verdict",
    "deepest_pyramid",
    "find_fault",
    "get_policy",
    "make_metric",
    "ms_ssim",
    "ms_ssim_terms",
    "predict_gain",
    "smallest_side",
    "warm_up",
]
