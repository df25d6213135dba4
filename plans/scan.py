"""What a tomogram step by step and one on the fly have in common: who takes part, what is asked for, and the run.

All of it is checked before anything moves and before any process is started. Angles are degrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from bluesky.utils import MsgGenerator

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.ordering import AngleOrder, listed, make_order, places_in_order
from bluesky_streamrecon.plans.budget import Budget, find_budget
from bluesky_streamrecon.plans.defaults import Beamline, around_sample, current_job, devices_in_use, monitor_of
from bluesky_streamrecon.plans.device_check import judge_detectors
from bluesky_streamrecon.plans.parts import check_metadata, check_names, connected
from bluesky_streamrecon.plans.reference_frames import OWN, ReferenceFrames, tomogram
from bluesky_streamrecon.plans.signature import image_settings
from bluesky_streamrecon.plans.streaming import streaming_wrapper
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings

__all__ = ["TomoScan", "scan_of"]


@dataclass(frozen=True, kw_only=True)
class TomoScan:
    """A tomogram as it was asked for.

    Frames of the first of its `devices` are reconstructed; `beamline` is whose they are, if none were given; `order` is
    that of one volume, and of a recording (`recorded`), which has no other angles.
    """

    devices: list[Any]
    stage: Any
    beamline: Beamline | None
    job: ReconJob
    frames: ReferenceFrames
    recon: ReconSettings
    steering: SteeringSettings
    order: AngleOrder
    recorded: bool

    def judge(self) -> MsgGenerator[None]:
        """Plan stub: refuse detectors whose own descriptions say that their frames can not be reconstructed."""
        yield from judge_detectors(self.devices, self.recon, self.steering, local=self.job.local)

    def limits(self, planned: int, **known: float) -> MsgGenerator[Budget]:
        """Plan stub: return what the scan may use, or refuse it; `known` as for `find_budget`."""
        frames = self.frames
        before, after = (frames.flats or 0) + (frames.darks or 0), frames.flats_after + frames.darks_after
        camera, steering = self.devices[0], self.steering
        return (yield from find_budget(camera, steering, planned, before=before, after=after, **known))

    def run(
        self,
        plan: str,
        projections: MsgGenerator[None],
        visited: AngleOrder,
        *,
        staged: Sequence[Any],
        arguments: Mapping[str, Any] | None = None,
        block: Mapping[str, Any] | None = None,
        md: Mapping[str, Any] | None = None,
        signals_in: str = "primary",
        **streaming: Any,
    ) -> MsgGenerator[str | None]:
        """Plan: take darks, flats and projections in one run that is streamed.

        Parameters
        ----------
        plan : str
            Its name, for the start document; `arguments` are more of its arguments than those of all scans.
        projections : generator of messages
            Takes them, with the sample in the open beam and `staged` devices.
        visited : AngleOrder
            All angles, of each volume.
        block : mapping, optional
            More for the ``streamrecon`` block.
        signals_in, **streaming
            As for `streaming_wrapper`.
        """
        check_metadata(md)
        frames = yield from self.frames.with_words()
        recon, steering, stage = self.recon, self.steering, self.stage
        asked = {"order": visited.name, "start": visited.start, "stop": visited.stop, **frames.as_metadata()}
        chosen = ("window", "window_policy", "step", "algorithm", "pixel_values", *(("turns",) * (recon.turns > 1)))
        start = {
            "plan_name": plan,
            "detectors": [device.name for device in self.devices],
            "motors": [stage.name],
            "num_points": len(visited),
            "num_intervals": len(visited) - 1,
            "hints": {"dimensions": [(getattr(stage, "hints", {}).get("fields") or [stage.name], signals_in)]},
            "plan_args": {
                "detectors": [repr(device) for device in self.devices],
                "stage": repr(stage),
                "num": len(self.order),
                **(arguments or {}),
                **asked,
                "policy": steering.rule,
                "threshold": steering.least_score,
                "tolerance": steering.tolerance,
                **{name: getattr(recon, name) for name in chosen},
            },
            **(md or {}),
        }
        uid: str | None = yield from streaming_wrapper(
            tomogram(self.devices, frames, start, projections, staged, self.judge),
            job=self.job,
            detector=self.devices[0],
            references=OWN if frames.flats else frames.references,
            recon=recon,
            steering=steering,
            planned=len(visited),
            md={**asked, "angles": list(visited.angles), **(block or {})},
            signals_in=signals_in,
            devices=staged,
            **streaming,
        )
        return uid


def scan_of(
    detectors: Any,
    stage: Any,
    order: str | Sequence[float] | None,
    *,
    angles: tuple[int, float, float],
    reconstruct: str | None,
    job: ReconJob | None,
    settings: Mapping[str, Any],
) -> MsgGenerator[TomoScan]:
    """Plan stub: find out what a plan was asked for, and refuse what can not work; devices are connected then.

    Without an `order`, angles are visited as ``"interlaced(4)"``, and those of a time series as ``"fixed"``. `angles`
    are their number and range; `settings` are fields of `ReferenceFrames`, `ReconSettings` and `SteeringSettings`.
    """
    devices, stage, beamline, around = devices_in_use(detectors, stage, reconstruct)
    yield from connected(getattr(beamline, "devices", ()))
    job = job if job is not None else current_job(beamline)
    of_frames = {each.name for each in fields(ReferenceFrames)}
    given = {name: value for name, value in settings.items() if name in of_frames}
    recon, steering = image_settings(job.wanted_ranks, {k: v for k, v in settings.items() if k not in of_frames})
    devices += monitor_of(beamline) if recon.monitor is not None else []
    frames = ReferenceFrames(**around_sample(around, given)).resolved(recon.pixel_values)
    if job.local:
        check_names(recon, steering)
    if order is None:
        order = "interlaced(4)" if recon.turns == 1 else "fixed"
    num, start, stop = angles
    recorded = getattr(beamline, "angles", None) if angles == (180, 0.0, 180.0) else None
    if recorded is not None and isinstance(order, str):
        angles_of = np.asarray(recorded)
        name = make_order(order, num=len(angles_of)).name
        order = replace(listed(angles_of[places_in_order(order, angles_of)]), name=name)
    made = make_order(order, num=num, start=start, stop=stop)
    steering.check_planned(len(made) * recon.turns)
    scan = TomoScan(
        devices=devices, stage=stage, beamline=beamline, job=job,
        frames=frames, recon=recon, steering=steering, order=made, recorded=recorded is not None,
    )  # fmt: skip
    yield from scan.judge()
    return scan
