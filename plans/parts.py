"""What step and fly scans share: their checks before anything moves, and the run around their projections.

Angles are degrees. Nothing here knows of streaming.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator

from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError, StreamReconError
from bluesky_streamrecon.ordering import AngleOrder, make_order

__all__ = [
    "TakeFrames",
    "UnansweredError",
    "about",
    "answer",
    "check_count",
    "check_frames",
    "check_names",
    "connected",
    "over_recording",
    "take_frames",
    "tomogram",
    "within_limits",
]

TakeFrames = Callable[[Sequence[Any], int], MsgGenerator[Any]]


class UnansweredError(StreamReconError, RuntimeError):
    """Nobody asked the device."""


def take_frames(detectors: Sequence[Any], stream: str, num: int) -> MsgGenerator[None]:
    """Plan stub: stage the detectors afresh, and take `num` frames into a stream of their own.

    Parameters
    ----------
    detectors : sequence of devices
        Staged here, so that each stream has a file of its own.
    stream : str
        ``"flat"`` or ``"dark"``.
    num : int
        Frames.
    """

    def frames() -> MsgGenerator[None]:
        for _ in range(num):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read(list(detectors), name=stream)

    yield from bpp.stage_wrapper(frames(), detectors)


def check_count(name: str, value: object) -> None:
    """Refuse what is not a number of frames."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name}: got {value!r}, expected an integer of 0 or more")


def check_names(recon: ReconSettings, steering: SteeringSettings) -> None:
    """Refuse what a job with our own installation could only refuse once it has been started."""
    from bluesky_streamrecon.quality.metrics import comparison_distance, make_metric
    from bluesky_streamrecon.quality.policy import PREDICTED_GAIN, get_policy
    from bluesky_streamrecon.recon import check_algorithm

    check_algorithm(recon.algorithm, recon.options)
    for metric in get_policy(steering.rule)(steering).metrics:
        if metric != PREDICTED_GAIN:
            make_metric(metric, steering, comparison_distance(recon, steering))


def check_frames(
    flats: tuple[int, TakeFrames | None], darks: tuple[int, TakeFrames | None], shutter: object, sample_table: object
) -> None:
    """Refuse flats and darks that can not be taken with what there is."""
    if flats[0] and flats[1] is None and (sample_table is None or shutter is None):
        raise ConfigError(
            f"flats={flats[0]}: need shutter= and sample_table=, or take_flats=; flats=0 if none are wanted"
        )
    if darks[0] and darks[1] is None and shutter is None:
        raise ConfigError(f"darks={darks[0]}: need shutter=, or take_darks=; darks=0 if none are wanted")


def tomogram(
    devices: Sequence[Any],
    staged: Sequence[Any],
    projections: Callable[[], MsgGenerator[None]],
    *,
    flats: tuple[int, TakeFrames | None],
    darks: tuple[int, TakeFrames | None],
    shutter: Any | None,
    sample_table: Any | None,
    md: Mapping[str, Any],
) -> MsgGenerator[str | None]:
    """One run: darks, flats, projections with all of `staged`; beam off and sample in at the end, whatever happens."""

    def run() -> MsgGenerator[None]:
        if darks[0]:
            if darks[1] is None:
                yield from bps.mv(shutter, "closed")
                yield from take_frames(devices, "dark", darks[0])
            else:
                yield from darks[1](devices, darks[0])
        if flats[0]:
            if flats[1] is None:
                yield from bps.mv(sample_table, "out", shutter, "open")
                yield from take_frames(devices, "flat", flats[0])
            else:
                yield from flats[1](devices, flats[0])
        yield from sample_in()
        yield from bpp.stage_wrapper(projections(), staged)

    def sample_in() -> MsgGenerator[None]:
        moves = [*((sample_table, "in") if sample_table is not None else ())]
        moves += [*((shutter, "open") if shutter is not None else ())]
        if moves:
            yield from bps.mv(*moves)

    def cleanup() -> MsgGenerator[None]:
        if shutter is not None:
            yield from bps.mv(shutter, "closed")
        if sample_table is not None:
            yield from bps.mv(sample_table, "in")

    uid: str | None = yield from bpp.finalize_wrapper(bpp.run_wrapper(run(), md=dict(md)), cleanup)
    return uid


def about(plan: str, devices: Sequence[Any], stage: Any, order: AngleOrder, stream: str) -> dict[str, Any]:
    """Give what Bluesky's callbacks look for in a start document; `stream` has an event per line of the table."""
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
    """Have the stage refuse now what it would refuse in the middle of the scan."""
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
