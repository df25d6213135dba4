"""What `streaming_wrapper` does to each message of a plan that it streams.

The plan is driven, not rewritten: every message passes through `StreamSession`, which adds to some, changes a few and
answers the plan. Nothing here talks to the job other than through its device.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
from bluesky.utils import Msg, MsgGenerator, RequestStop, maybe_await

from bluesky_streamrecon.acquisition import lacking
from bluesky_streamrecon.beamline import (
    BLOCK,
    QualityReached,
    QualitySuspender,
    ReconJob,
    RunRecord,
    SuspendMode,
)
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans import budget
from bluesky_streamrecon.plans.early_stop import EarlyEnding, Steps
from bluesky_streamrecon.plans.parts import attempt, wait_for_all
from bluesky_streamrecon.plans.reference_frames import OWN
from bluesky_streamrecon.plans.references import find_references, reference_documents
from bluesky_streamrecon.settings import CHANGE, TOMOGRAPHY, ReconSettings, SteeringSettings

__all__ = ["Compose", "StreamSession", "Streaming", "settle"]

logger = logging.getLogger(__name__)

Compose = Callable[[RunRecord], Any]
MOST_RANKS = 4  # whose ledgers stand in the stop document if they do not add up
MOST_PROBLEMS = 4  # in the stop document; all are in the record
EXPOSURE_SECONDS = 30.0  # that an exposure in flight may still take when the scan is ended in the middle of it


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """What the runs of a plan are streamed with: the fields are arguments of `streaming_wrapper`, explained there.

    Without `limits`, a budget is found from `steering`.
    """

    job: ReconJob
    recon: ReconSettings
    steering: SteeringSettings
    detector: Any = None
    angle: Any = None
    references: str | None = None
    planned: int | None = None
    suspend: SuspendMode = "after-projection"
    md: Mapping[str, Any] | None = None
    compose: Compose | None = None
    lengthens: bool = False
    signals_in: str = "primary"
    devices: Sequence[Any] = ()
    limits: budget.Budget | None = None


class StreamSession(EarlyEnding):
    """Streams the runs of one plan to a job, and ends the plan when the image is good enough.

    Parameters
    ----------
    asked : Streaming
        What is asked for in each run. Whoever runs the session stages its job.
    """

    def __init__(self, asked: Streaming) -> None:
        self.asked = asked
        job = self.job = asked.job
        super().__init__(QualitySuspender(job.finalize_requested, mode=asked.suspend, reached=job.runs.quality_reached))
        for role in ("detector", "angle"):
            if not hasattr(given := getattr(asked, role), "name") and not isinstance(given, str | None):
                raise ConfigError(f"{role}: got {given!r}, expected a device, or its name")
        self._detector, self._angle = _name(asked.detector), _name(asked.angle)
        named = (asked.detector, asked.angle, *asked.devices)
        self._devices = [each for each in named if not isinstance(each, str | None)]
        self._limits = asked.limits
        self._borrowed = ""  # flats and darks of which run are used
        self._saved = 0  # events of projections, of this run
        self._spent = False
        self._read: list[Any] = []  # in the open bundle
        self._triggered: dict[object, list[Any]] = {}  # statuses, by group

    # ------------------------------------------------------------------------------------- messages

    def _handle(self, msg: Msg) -> Steps:
        if msg.command == "stage":
            self._devices.append(msg.obj)
        return (yield from super()._handle(msg))

    def find_limits(self) -> Steps:
        """Find the budget, or refuse it, before anything moves."""
        if self._limits is None:
            asked = self.asked
            self._limits = yield from budget.find_budget(asked.detector, asked.steering, asked.planned or 0)

    @property
    def limits(self) -> budget.Budget:
        """Of the open run."""
        return self._limits if self._limits is not None else budget.Budget(0)

    def _open_run(self, msg: Msg) -> Steps:
        asked = self.asked
        planned = asked.planned if asked.planned is not None else int(msg.kwargs.get("num_points") or 0)
        asked.steering.check_planned(planned)
        if self._detector is None:
            self._detector = _only(msg.kwargs.get("detectors"))
        if self._angle is None and asked.recon.analysis == TOMOGRAPHY:
            self._angle = _only(msg.kwargs.get("motors"))
        block = {
            **(asked.md or {}),
            "recon_uid": str(uuid4()),
            "projections": planned,
            "detector": self._detector,
            "angle": self._angle,
            "recon": msgspec.to_builtins(asked.recon),
            "steering": msgspec.to_builtins(asked.steering),
            "suspend": self.suspender.mode,
            "job_ranks": asked.recon.ranks,
            "extendable": asked.lengthens,
        }
        self._saved = 0
        self.limits.begin(planned)
        if self.limits.limited:
            block["budget"] = self.limits.describe(0, budget.wall_clock(), planned)
            logger.info("%s", block["budget"])
        if asked.recon.turns > 1:  # projection n is of volume (n - 1) // per_volume + 1
            block["per_volume"] = planned // asked.recon.turns
        found = None
        if asked.references not in (None, OWN):
            camera = next((each for each in self._devices if _name(each) == self._detector), None)
            found = yield from find_references(str(asked.references), self._detector, camera, asked.recon.monitor)
            self._borrowed = found.describe(time.time())
            counts = {"flats": len(found.flats), "darks": len(found.darks)}
            block["references"] = {"uid": found.uid, "age": time.time() - found.time, **counts}
        self.job.prepare_run(asked.recon, asked.steering, block["recon_uid"], lengthens=asked.lengthens)
        yield from super()._open_run(msg._replace(kwargs={**msg.kwargs, BLOCK: block}))
        self._triggered = {}
        if self._open and any(lacking(step) for step in asked.recon.preparation):
            configuration = yield from _configuration(self._devices)
            self.job.publisher.take_configuration(configuration)
        if found is not None and self._open:
            for name, doc in reference_documents(found, str(self.run_uid), str(self._detector)):
                self.job.publisher(name, doc)
        return self.run_uid

    def _on_trigger(self, msg: Msg) -> Steps:
        """Shield an exposure from being rewound: its frame is in the file, and taken again it would be there twice."""
        if self._rewindable and not self.shielded and getattr(msg.obj, "name", None) == self._detector:
            yield Msg("rewindable", None, False)
            self.shielded = True
        statuses = self._triggered.setdefault(msg.kwargs.get("group"), [])
        statuses.append(None)  # until it is known: the plan may be ended here
        statuses[-1] = yield msg
        return statuses[-1]

    def _on_wait(self, msg: Msg) -> Steps:
        group = msg.args[0] if msg.args else msg.kwargs.get("group")
        response = yield msg
        if response is None and self.shielded:
            yield from settle(self._triggered.get(group, []))
            response = True
        self._triggered.pop(group, None)
        return response

    def _on_unstage(self, msg: Msg) -> Steps:
        """Let an exposure that was begun come to its end, where a plan is ended in the middle of it."""
        for group, statuses in self._triggered.items():
            if None in statuses:
                yield Msg("wait", None, group=group, timeout=EXPOSURE_SECONDS)
            yield from settle(statuses, EXPOSURE_SECONDS)
        self._triggered.clear()
        return (yield msg)

    def _on_create(self, msg: Msg) -> Steps:
        self._read = []
        return (yield from super()._on_create(msg))

    def _on_declare_stream(self, msg: Msg) -> Steps:
        """Repeat a declaration that a pause cut short, where the plan is not taken back to before it."""
        response = yield msg
        while response is None and not self._rewinds:
            response = yield msg
        return response

    def _on_read(self, msg: Msg) -> Steps:
        response = yield msg
        while response is None and not self._rewinds and self._bundle is not None:
            response = yield from self._read_again(msg)
        if self._bundle is not None:
            self._read.append(msg.obj)
        return response

    def _read_again(self, msg: Msg) -> Steps:
        """Repeat a reading that a pause cut short; one of a file writer may have got into the bundle already."""
        if hasattr(msg.obj, "collect_asset_docs"):
            yield Msg("drop", run=self._run_key)
            yield Msg("create", None, name=self._bundle, run=self._run_key)
            for obj in self._read:
                if (yield Msg("read", obj, run=self._run_key)) is None:
                    return None
        return (yield msg)

    def _on_save(self, msg: Msg) -> Steps:
        if self._bundle == self.asked.signals_in and self._read and self.job not in self._read:
            reading = None
            while reading is None:
                reading = yield Msg("read", self.job, run=self._run_key)
                if self._rewinds:
                    break
        self._saved += self._bundle == "primary" and self._detector in map(_name, self._read)
        return (yield from super()._on_save(msg))

    def _ending(self, place: str) -> QualityReached | None:
        """Return what ends the plan here: a policy's verdict, a person, or a budget that is used up."""
        if (reached := super()._ending(place)) is not None or not self.limits.limited:
            return reached
        run, now = self.job.runs.open, budget.wall_clock()
        taken = max(self._saved, run.taken if run is not None else 0)
        total = (self.asked.planned or 0) if run is None else run.override.total
        self.limits.note(place, taken, now)
        if run is not None and (allowed := self.limits.news(taken, now, total)) is not None:
            self.job.runs.note_budget(allowed, self.limits.describe(taken, now, total))
        why = self.limits.used_up(place, taken, now, total)
        if not why:
            return None
        self._spent = True
        if run is not None:
            run.ending = why
        return QualityReached(why)

    def _on_close_run(self, msg: Msg) -> Steps:
        exit_status, reason = self._outcome(msg)
        job = self.job
        streamed = job.publisher.end(exit_status, reason or "")
        if exit_status == "success":
            yield from self._drop_what_is_open()
            if streamed:
                try:
                    yield from self._until(job.runs.finished)
                except BaseException as ended:  # by people: nobody waits for the last image any more
                    job.runs.keep_record("success" if isinstance(ended, RequestStop) else "abort", reason)
                    raise
            yield from self._between()
            reason = self._reason(reason)
        elif streamed:
            # Nobody waits for the job any more: this is how far it was when the run ended.
            reason = "; ".join(([reason] if reason else []) + self._uneven_ledgers()) or None
        record = job.runs.keep_record(exit_status, reason)
        self._open = False
        response = yield msg._replace(kwargs={**msg.kwargs, "exit_status": exit_status, "reason": reason})
        if exit_status == "success":
            yield from self._leave_run()
        if exit_status == "success" and record is not None and self.asked.compose is not None:
            compose = self.asked.compose
            yield from self._until(lambda: job.publish_reconstruction(record, compose))
        return response

    # ------------------------------------------------------------------------------------- the insides

    @property
    def _rewinds(self) -> bool:
        """A pause takes the plan back to its last checkpoint."""
        return self._rewindable and not self.shielded

    def _between(self) -> Steps:
        if self._bundle is not None or not self._open:
            return
        for decision in self.job.runs.take_decisions():
            self.job.steering.show(decision)
            self._bundle = "steering"  # until it is saved: the plan may be stopped in it
            yield Msg("create", None, name="steering", run=self._run_key)
            yield Msg("read", self.job.steering, run=self._run_key)
            yield Msg("save", run=self._run_key)
            self._bundle = None

    @staticmethod
    def _until(work: Callable[[], Awaitable[Any]]) -> Steps:
        """Do `work` once, however often the plan is paused meanwhile."""
        tasks: list[asyncio.Future[Any]] = []

        def started() -> asyncio.Future[Any]:
            if not tasks:
                tasks.append(asyncio.ensure_future(work()))
            return tasks[0]

        while not (tasks and tasks[0].done()):
            yield Msg("wait_for", None, [started])

    def _reason(self, given: str | None) -> str:
        """Return how the run ended, and whatever went wrong with its reconstruction."""
        run = self.job.runs.open
        parts = [given] if given else []
        if self._spent:
            parts.append(self._quality_in_words())
        if run is not None:
            taken, planned = run.taken, run.spec.planned
            if not given and run.lost:
                parts.append(f"{taken} of {planned} projections streamed before the reconstruction job was lost")
            elif not given:
                # What was streamed: a scan whose streaming failed has taken more.
                every = f"all {taken} projections taken"
                parts.append(every if taken >= planned else f"{taken} of {planned} projections streamed")
                parts.append(self._quality_in_words())
            if self._borrowed:
                parts.append(f"with {self._borrowed}")
            if run.override.added:
                who = ", ".join(dict.fromkeys(o.who for o in run.override.orders if o.action == "extend"))
                parts.append(f"{planned} planned, extended to {run.override.total} by {who}")
            if run.override.held is not None and run.override.finish is None and not (run.kept_going and not given):
                parts.append(f"held by {run.override.held.who}")
            if run.results is None and not run.lost:
                parts.append("no final image")
            parts += self._uneven_ledgers()
            known = "; ".join(parts)
            problems = [problem.splitlines()[0] for problem in dict.fromkeys(run.problems)]
            parts += [text for text in problems if (text.partition(": ")[2] or text) not in known][:MOST_PROBLEMS]
        elif not parts:
            early = self.job.runs.problems_before_opening or ("no projections were streamed",)
            parts.append(f"not reconstructed: {early[-1].splitlines()[0]}")
        return "; ".join(parts)

    def _uneven_ledgers(self) -> list[str]:
        """Return which ranks' ledgers do not add up."""
        uneven = [(rank, entry) for rank, entry in self.job.runs.ledger().items() if not entry.balanced]
        parts = [f"ledger of rank {rank} {entry.explain()}" for rank, entry in uneven[:MOST_RANKS]]
        if len(uneven) > MOST_RANKS:
            parts.append(f"those of {len(uneven) - MOST_RANKS} more ranks do not balance either")
        return parts

    def _quality_in_words(self) -> str:
        run = self.job.runs.open
        if run is None or run.best is None:
            why = run.verdicts[-1].text if run is not None and run.verdicts else ""
            return f"no image was scored: {why}" if why else "no image was scored"
        enough = next((verdict for verdict in run.verdicts if verdict.verdict == "enough"), None)
        if run.verdicts and run.verdicts[-1].verdict == "invalid":
            return run.verdicts[-1].text
        if enough is None:
            steering = run.spec.steering
            if steering.rule == CHANGE:
                return run.verdicts[-1].text
            if steering.rule != "ms-ssim":
                return f"criterion of {steering.rule} not met: {run.verdicts[-1].text}"
            missed = "not reached" if run.best < steering.least_score else "reached, but not the other conditions"
            return f"best score {run.best:.3f}, threshold {steering.least_score:g} {missed}"
        if run.spec.steering.advisory:
            why = "advisory only"
        elif run.kept_going:
            why = f"but {run.kept_going}"
        else:
            why = "known too late to end the scan"
        return f"quality reached, {why}: {enough.text.removeprefix('advisory: ')}"


def _configuration(devices: Iterable[Any]) -> MsgGenerator[dict[str, Any]]:
    """Return what devices are configured to, as event descriptors have it."""
    found: dict[str, Any] = {}
    for device in devices:
        if callable(getattr(device, "read_configuration", None)):
            configuration, error = yield from attempt(partial(_configuration_of, device), unanswered=None)
            if error is not None:  # a device of anybody's, which need not know anything of the scan
                logger.info("%s: its configuration can not be read now: %s", device.name, error)
            elif configuration is not None:
                found[device.name] = configuration
    return found


async def _configuration_of(device: Any) -> dict[str, Any]:
    values = await maybe_await(device.read_configuration())
    keys = await maybe_await(device.describe_configuration())
    return {"data": {key: each["value"] for key, each in values.items()}, "data_keys": keys}


def _name(device: Any) -> str | None:
    return device if device is None or isinstance(device, str) else str(device.name)


def _only(names: Any) -> str | None:
    """Return the name if there is one and no other."""
    listed = [str(name) for name in names or ()]
    return listed[0] if len(listed) == 1 else None


def settle(statuses: list[Any], timeout: float = math.inf) -> Steps:
    """Wait until statuses are done, however often the plan is paused meanwhile; at most `timeout` seconds."""
    if not (yield from wait_for_all(statuses, timeout)):
        logger.warning("not done within %s s, left to itself: %r", timeout, statuses)
