"""Asks a policy of whatever origin for its verdict: an error in it must end neither scan nor controller."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from bluesky_streamrecon.errors import DataError
from bluesky_streamrecon.quality.policy import Evidence, Policy, Verdict, at_budget

__all__ = ["ask_policy"]

logger = logging.getLogger(__name__)


def ask_policy(policy: Policy, evidence: Evidence) -> Verdict:
    """Return a policy's verdict, with what it predicts for the end of a budget; an error becomes its text."""
    try:
        verdict = policy.judge(evidence)
        if verdict.verdict not in ("continue", "enough"):
            raise DataError(f"got verdict {verdict.verdict!r}, expected 'continue' or 'enough'")
        if not isinstance(verdict.text, str):
            raise DataError(f"got text {verdict.text!r} with verdict {verdict.verdict!r}, expected a string")
        if verdict.score is not None and not math.isfinite(verdict.score):
            raise DataError(f"got score {verdict.score} with verdict {verdict.verdict!r}, expected a finite number")
        if not all(isinstance(value, float) for value in dict(verdict.metrics).values()):
            raise DataError(f"got metrics {verdict.metrics!r:.100}, expected floats by name")
        if verdict.verdict == "enough":
            return verdict
        return replace(verdict, text=verdict.text + at_budget(policy, evidence))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        logger.exception("policy %r failed on image %d", policy.name, evidence.newest.image_number)
        text = f"policy {policy.name!r} failed at {evidence.progress}: {type(error).__name__}: {error}"
        return Verdict("continue", None, text)
