"""What step and fly scans share: their checks before anything moves. Angles are degrees."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
from bluesky.utils import Msg, MsgGenerator, maybe_await

from bluesky_streamrecon.data_keys import FrameLayout
from bluesky_streamrecon.errors import ConfigError, StreamReconError
from bluesky_streamrecon.geometry import widest_image
from bluesky_streamrecon.preparation_steps import check_steps
from bluesky_streamrecon.reduction import Reduction
from bluesky_streamrecon.selection import check_region
from bluesky_streamrecon.settings import CHANGE, TOMOGRAPHY, ReconSettings, SteeringSettings

__all__ = [
    "UnansweredError",
    "answer",
    "attempt",
    "check_analysis",
    "check_frames",
    "check_metadata",
    "check_names",
    "check_turns",
    "checked_series",
    "connected",
    "read_signal",
    "wait_for_all",
]

OF_A_STILL_SAMPLE = {"predicted-gain", "measurement", "resolution"}
"""Policies that predict what the rest of a scan adds."""

LOOK_SECONDS = 0.01
"""Between two looks at statuses."""


class UnansweredError(StreamReconError, RuntimeError):
    """A plan needs the answer of a device, and no RunEngine is there to ask it."""


def check_names(recon: ReconSettings, steering: SteeringSettings) -> None:
    """Refuse what a job with our own installation could only refuse once it has been started."""
    from bluesky_streamrecon.quality.metrics import comparison_distance, make_metric
    from bluesky_streamrecon.quality.policy import NOT_OF_IMAGES, get_policy

    check_analysis(recon)
    for metric in get_policy(steering.rule)(steering).metrics:
        if metric not in NOT_OF_IMAGES:
            make_metric(metric, steering, comparison_distance(recon, steering))


def check_analysis(recon: ReconSettings) -> None:
    """Refuse an analysis that is not installed, and an algorithm, steps or options that can not work."""
    from bluesky_streamrecon.recon import check_algorithm
    from bluesky_streamrecon.recon.analysis import get_analysis
    from bluesky_streamrecon.recon.recipe import find_recipe

    if recon.analysis == TOMOGRAPHY:
        check_algorithm(recon.algorithm, recon.options)
        check_steps(recon.preparation)
        try:
            if (recipe := find_recipe(recon.final, 1, recon.final_iterations, recon.final_options)) is not None:
                check_algorithm(recipe.algorithm, recipe.options)
        except ConfigError as error:
            raise ConfigError(f"final={recon.final!r} (expected 'auto', 'none', or an algorithm): {error}") from None
    else:
        get_analysis(recon.analysis)


def checked_series(recon: ReconSettings, steering: SteeringSettings) -> SteeringSettings:
    """Return the rule of a time series: ``"change"``, where none was chosen. Nothing changes for other scans.

    Raises
    ------
    ConfigError
        If the rule is for one still sample, or one for time series is asked for in another scan.
    """
    names = set(re.split(r"[|+ ]+", steering.rule))
    if recon.turns == 1 and CHANGE in names:
        raise ConfigError(f"policy: got {steering.rule!r} with turns=1; expected turns=2 or more, a time series")
    if recon.turns == 1:
        return steering
    if steering.policy is None and steering.threshold is None:
        return SteeringSettings(**{**msgspec.structs.asdict(steering), "policy": CHANGE})
    if names & OF_A_STILL_SAMPLE:
        raise ConfigError(
            f"policy: got {steering.rule!r} with turns={recon.turns}: what the rest of a scan adds is predicted for a "
            "still sample; expected 'change', or 'ms-ssim'"
        )
    return steering


def check_turns(recon: ReconSettings, planned: int | None) -> None:
    """Refuse a time series of so many projections if they can not be dealt to its volumes."""
    if recon.turns > 1 and (planned is None or planned % recon.turns or planned < 2 * recon.turns):
        raise ConfigError(
            f"planned: got {planned} with turns={recon.turns}, expected the projections of the whole run, the same "
            "number (2 or more) in each half turn"
        )


def check_metadata(md: object) -> None:
    """Refuse metadata that no start document can have.

    Raises
    ------
    ConfigError
        If it is no mapping with names, or has a name that is the RunEngine's.
    """
    if md is None:
        return
    if not isinstance(md, Mapping) or not all(isinstance(name, str) for name in md):
        raise ConfigError(f"md: got {md!r}, expected names and values, as in md={{'sample': 'tooth'}}")
    if taken := sorted({"uid", "time"} & set(md)):
        raise ConfigError(f"md: got {taken[0]!r}, which the RunEngine gives to each run; expected another name")


def check_frames(layout: FrameLayout, recon: ReconSettings, steering: SteeringSettings, *, local: bool) -> None:
    """Refuse settings that can not work with frames of this shape; steps of one's own where the job has them, too.

    Raises
    ------
    ConfigError, GeometryError
        If there are any.
    """
    from bluesky_streamrecon.recon import check_shape

    rows, columns = Reduction.wanted(layout, recon).shape
    if recon.analysis == TOMOGRAPHY:
        check_shape(recon if local else msgspec.structs.replace(recon, preparation=()), rows, columns)
    beyond = [row for row in steering.preview_rows or () if row >= rows]
    if beyond:
        raise ConfigError(f"preview_rows: got {beyond[0]}, expected less than the {rows} rows of a frame")
    if steering.region is not None and recon.analysis == TOMOGRAPHY:
        check_region(steering.region, recon.size or widest_image(columns))


def answer(call: Callable[[], Any], **instead: Any) -> MsgGenerator[Any]:
    """Ask a device something in the RunEngine's loop; its error is raised here.

    Parameters
    ----------
    call : callable
        Returns the answer, or what can be awaited for it.
    **instead
        ``unanswered``: returned if the plan is not run by a RunEngine, but only looked at (`summarize_plan`).

    Raises
    ------
    UnansweredError
        If the plan is only looked at, and there is nothing else to return.
    """
    found, error = yield from attempt(call, **instead)
    if error is not None:
        raise error
    return found


def attempt(call: Callable[[], Any], **instead: Any) -> MsgGenerator[tuple[Any, Exception | None]]:
    """Ask a device something as `answer` does, and return its answer, or None, and its error, or None.

    A pause meanwhile asks it no second time. What is raised here ends the plan, and is not the device's.
    """
    tasks: list[asyncio.Future[Any]] = []

    async def asking() -> tuple[Any, Exception | None]:
        try:
            return await maybe_await(call()), None
        except Exception as error:  # noqa: BLE001 - out of the RunEngine's hands
            return None, error

    def begun() -> asyncio.Future[Any]:
        if not tasks or tasks[-1].done():  # again, where a plan is taken back to its checkpoint
            tasks.append(asyncio.ensure_future(asking()))
        return tasks[-1]

    yield Msg("wait_for", None, [begun])
    while tasks and not tasks[-1].done():  # a pause ends the waiting alone
        yield Msg("wait_for", None, [begun])
    if tasks:
        return tasks[-1].result()  # type: ignore[no-any-return]
    if "unanswered" in instead:
        return instead["unanswered"], None
    raise UnansweredError("a device was not asked: is the plan run by a RunEngine?")


async def read_signal(signal: Any) -> Any:
    """Return what a signal of either library has now; raises where it is not connected."""
    return await maybe_await(signal.get_value() if hasattr(signal, "get_value") else signal.get())


def wait_for_all(statuses: Collection[Any], seconds: float = math.inf) -> MsgGenerator[bool]:
    """Plan stub: wait for statuses, however often the plan is paused meanwhile; return whether all are done.

    A failure comes out of the RunEngine itself.

    Parameters
    ----------
    statuses : collection of Status or None
        None: the plan is only looked at.
    seconds : float, optional
        For which it waits at most.
    """
    deadline = time.monotonic() + seconds

    def over() -> bool:
        return all(status is None or status.done for status in statuses)

    async def look() -> None:
        while not over() and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)

    try:
        while not over() and time.monotonic() < deadline:
            yield Msg("wait_for", None, [look])
        return over()
    finally:
        deadline = 0.0  # the RunEngine cancels no look, not even of a plan that is ended


def connected(devices: Iterable[Any]) -> MsgGenerator[None]:
    """Connect devices that were made in this plan; does no harm to others."""

    async def connect() -> None:
        for device in devices:
            await device.connect()

    if devices:
        yield Msg("wait_for", None, [connect])
