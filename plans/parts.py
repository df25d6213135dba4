"""What step and fly scans share: their checks before anything moves. Angles are degrees."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

from bluesky.utils import Msg, MsgGenerator

from bluesky_streamrecon.angle_units import degrees_per_unit
from bluesky_streamrecon.errors import ConfigError, DataError, StreamReconError
from bluesky_streamrecon.ordering import AngleOrder, make_order
from bluesky_streamrecon.settings import TOMOGRAPHY, ReconSettings, SteeringSettings

__all__ = [
    "UnansweredError",
    "about",
    "answer",
    "check_analysis",
    "check_names",
    "connected",
    "over_recording",
    "within_limits",
]


class UnansweredError(StreamReconError, RuntimeError):
    """Nobody asked the device."""


def check_names(recon: ReconSettings, steering: SteeringSettings) -> None:
    """Refuse what a job with our own installation could only refuse once it has been started."""
    from bluesky_streamrecon.quality.metrics import comparison_distance, make_metric
    from bluesky_streamrecon.quality.policy import PREDICTED_GAIN, get_policy

    check_analysis(recon)
    for metric in get_policy(steering.rule)(steering).metrics:
        if metric != PREDICTED_GAIN:
            make_metric(metric, steering, comparison_distance(recon, steering))


def check_analysis(recon: ReconSettings) -> None:
    """Refuse an analysis that is not installed, and an algorithm or options that can not work."""
    from bluesky_streamrecon.recon import check_algorithm
    from bluesky_streamrecon.recon.analysis import get_analysis

    if recon.analysis == TOMOGRAPHY:
        check_algorithm(recon.algorithm, recon.options)
    else:
        get_analysis(recon.analysis)


def about(plan: str, devices: Sequence[Any], stage: Any, order: AngleOrder, stream: str) -> dict[str, Any]:
    """Return what Bluesky's callbacks look for in a start document; `stream` has an event per line of the table."""
    return {
        "plan_name": plan,
        "detectors": [device.name for device in devices],
        "motors": [stage.name],
        "num_points": len(order),
        "num_intervals": len(order) - 1,
        "hints": {"dimensions": [(getattr(stage, "hints", {}).get("fields") or [stage.name], stream)]},
    }


def over_recording(order: str, recorded: tuple[float, ...]) -> AngleOrder:
    """Visit the angles of a recording in a named order."""
    if len(recorded) < 2:
        raise ConfigError(f"recorded scan: got {len(recorded)} angles, expected at least 2")
    angles = sorted(recorded)
    places = make_order(order, num=len(angles), start=0.0, stop=float(len(angles)))
    if any(place != int(place) or not 0 <= place < len(angles) for place in places):
        raise ConfigError(
            f"order: {order!r} is not on a grid, and a recorded scan has only its own {len(angles)} angles"
        )
    spacing = (angles[-1] - angles[0]) / (len(angles) - 1)
    return AngleOrder(places.name, tuple(angles[int(place)] for place in places), angles[0], angles[-1] + spacing)


def within_limits(stage: Any, angles: Collection[float]) -> MsgGenerator[None]:
    """Have the stage refuse now what it would refuse in the middle of the scan; refuse one that is not in degrees."""
    yield from _in_degrees(stage)
    check = getattr(stage, "check_value", None)
    if check is None:
        return
    for angle in (min(angles), max(angles)):
        failed: Exception | None = None
        try:
            yield from answer(partial(check, angle))
        except UnansweredError:
            pass
        except Exception as error:  # noqa: BLE001 - the stage's own kind of error
            failed = error
        if failed or not math.isfinite(angle):
            why = failed or "it is not a finite angle"
            raise ConfigError(f"angle {angle:g} degrees: {stage.name} can not go there: {why}")


def _in_degrees(stage: Any) -> MsgGenerator[None]:
    """Raise `ConfigError` for a stage whose readback has another unit than degrees: it would go elsewhere."""
    if not callable(getattr(stage, "describe", None)):
        return
    try:
        keys = yield from answer(stage.describe)
    except UnansweredError:
        return
    hinted = (getattr(stage, "hints", None) or {}).get("fields", ())
    for key in [name for name in keys if name in hinted] or list(keys):
        units = keys[key].get("units")
        try:
            degrees = degrees_per_unit(units, f"stage {stage.name}, {key}")
        except DataError as error:
            raise ConfigError(str(error)) from None
        if degrees not in (None, 1.0):
            raise ConfigError(
                f"stage {stage.name}: {key} is in {str(units).strip()}, expected degrees, as the plan's angles are; "
                "set its units (EGU), or scan it by a plan of your own in streaming_wrapper"
            )


def answer(call: Callable[[], Any]) -> MsgGenerator[Any]:
    """Have a device asked something in the RunEngine's loop; its error is raised here.

    Raises
    ------
    UnansweredError
        If the plan is not run by a RunEngine, but only looked at.
    """
    answers: list[Any] = []
    errors: list[Exception] = []

    async def ask() -> None:
        try:
            told = call()
            answers.append(await told if inspect.isawaitable(told) else told)
        except Exception as error:  # noqa: BLE001 - raised below, out of the RunEngine's hands
            errors.append(error)

    yield Msg("wait_for", None, [ask])
    if not (answers or errors):  # a pause cuts it short
        yield Msg("wait_for", None, [ask])
    if errors:
        raise errors[0]
    if not answers:
        raise UnansweredError("a device was not asked: is the plan run by a RunEngine?")
    return answers[0]


def connected(devices: Iterable[Any]) -> MsgGenerator[None]:
    """Connect devices that were made in this plan; does no harm to others."""

    async def connect() -> None:
        for device in devices:
            await device.connect()

    if devices:
        yield Msg("wait_for", None, [connect])
