"""A scan that waits for its job, so that every image is judged however slow the computer is."""

from __future__ import annotations

from typing import Any

from bluesky.plan_stubs import wait_for
from bluesky.preprocessors import pchain, plan_mutator
from bluesky.utils import Msg, single_gen

__all__ = ["held_back"]

BOUND = 60.0


def held_back(plan: Any, job: Any, ahead: int = 8) -> Any:
    """Hold a plan at each checkpoint until the job has judged an image of all but the last `ahead` projections.

    The controller lets 8 images wait; the first one needs 4 projections.
    """

    def behind() -> bool:
        run = job.runs.open
        if run is None or run.exit_status or run.over or run.unjudged:
            return False
        judged = run.verdicts[-1].projections if run.verdicts else 0
        return bool(judged < run.taken - ahead)

    async def caught_up() -> None:
        while behind():
            await job.job.wait_for_news(BOUND)

    def look(msg: Msg) -> tuple[Any, Any]:
        if msg.command != "checkpoint":
            return None, None
        return pchain(wait_for([caught_up], timeout=BOUND), single_gen(msg)), None

    return plan_mutator(plan, look)
