"""A reconstruction job that follows the runs of another RunEngine by their documents alone, and only reports.

The documents take the way that they take beside a RunEngine: publisher, job, controller. Nothing is sent back. Runs are
followed one at a time, in the order in which they began. Counts are projections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from bluesky_streamrecon.beamline.documents import BLOCK
from bluesky_streamrecon.beamline.operator_status import as_judged
from bluesky_streamrecon.beamline.recon_job import ReconJob
from bluesky_streamrecon.config_file import FollowSection
from bluesky_streamrecon.errors import ConfigError, JobError
from bluesky_streamrecon.file_uris import file_path
from bluesky_streamrecon.run_record import RunRecord
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire.messages import Score

__all__ = ["FollowedRun", "Follower"]

logger = logging.getLogger(__name__)

AHEAD = 4
"""Images that the job may be behind: fewer than the controller would leave unjudged."""

PARENTS = {"descriptor": "run_start", "event": "descriptor", "event_page": "descriptor", "stream_datum": "descriptor"}


class FollowedRun(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about one run.

    Parameters
    ----------
    run_uid : str
        Its uid.
    verdict : str
        ``"enough"`` if the criterion was met at some image, else that of the last image; empty: none was judged.
    projections : int
        In the image that the verdict is about.
    score, gain, low, high : float or None
        Its score, and the gain that was predicted for the projections that were left, with its band.
    text : str
        Why.
    taken : int
        Projections that came.
    problems : tuple of str
        What went wrong.
    """

    run_uid: str
    verdict: str = ""
    projections: int = 0
    score: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    text: str = ""
    taken: int = 0
    problems: tuple[str, ...]

    @classmethod
    def of(cls, record: RunRecord) -> FollowedRun:
        """Return what the record of a run says."""
        judged = {}
        if record.verdicts:
            score = next((each for each in record.verdicts if each.verdict == "enough"), record.verdicts[-1])
            numbers = as_judged(score)
            judged = {name: getattr(numbers, name) for name in ("verdict", "projections", "score", "gain")}
            judged |= {"low": numbers.gain_low, "high": numbers.gain_high, "text": score.text}
        return cls(run_uid=record.run_uid, taken=record.taken, problems=record.problems, **judged)


class Follower:
    """Reconstruct and judge the runs that a rule recognises.

    Parameters
    ----------
    job : ReconJob
        With ``keep_alive``; it is staged for each run.
    rule : FollowSection
        Which runs.
    recon, steering : ReconSettings, SteeringSettings
        What is made of them. They never end a run, and no image is left out where the job is slower than the scan, so
        that the verdicts are those of a job that keeps up.
    report : callable
        Called with a line of text about what happens.

    Raises
    ------
    ConfigError
        If the rule would follow every run.
    """

    def __init__(
        self,
        job: ReconJob,
        rule: FollowSection,
        recon: ReconSettings,
        steering: SteeringSettings,
        report: Callable[[str], object],
    ) -> None:
        if not (rule.plans or rule.detector or rule.angle):
            raise ConfigError(
                "follow: got no rule, expected a table [follow] in the configuration file with plans, detector or "
                'angle, as in plans = ["scan"], angle = "rotation"'
            )
        self._job, self._rule, self._report = job, rule, report
        self._recon = msgspec.structs.replace(recon, coalesce=False)
        self._steering = msgspec.structs.replace(steering, advisory=True)
        self._known: set[str] = set()  # runs that were seen from their start, and their descriptors
        self._missed = False  # documents of a run without a start have come, and were reported
        self._uid: str | None = None  # the run that is followed
        self._detector: str | None = None  # its detector, if known
        self._judged = 0
        self._reported = 0

    async def take(self, name: str, doc: Mapping[str, Any]) -> FollowedRun | None:
        """Take a document; return what was found out about the run that it ends, if it is one that is followed.

        It waits for the job where a run begins, and for the last verdict where it ends.
        """
        if name == "start":
            await self._begin(doc)
            return None
        self._look_for_start(name, doc)
        if self._uid is None:
            return None
        for each in _one_by_one(doc) if name == "stream_datum" else (doc,):
            self._job.publisher(name, each)
            await self._keep_pace()
        if name == "stream_resource":
            self._look_for_directory(doc)
        self.show_progress()
        if name == "stop" and doc["run_start"] == self._uid:
            return await self._end(doc)
        return None

    async def give_up(self) -> None:
        """Abandon the run that is followed, if there is one."""
        if self._uid is not None:
            self._uid = None
            await self._job.unstage()

    def show_progress(self) -> None:
        """Report what the job has said since the last time."""
        run = self._job.runs.open
        if run is None:
            return
        for score in run.verdicts[self._judged :]:
            self._report(f"run {run.spec.run_uid[:8]}: {_in_words(score, run.spec.planned)}")
        for problem in run.problems[self._reported :]:
            self._report(f"run {run.spec.run_uid[:8]}: {problem}")
        self._judged, self._reported = len(run.verdicts), len(run.problems)

    async def _keep_pace(self) -> None:
        """Wait for the job where it is behind, as in a run that has long begun: the controller judges every image."""
        run = self._job.runs.open
        if run is None:
            return

        def close_by() -> bool:
            self.show_progress()
            near = run.lag < AHEAD * run.spec.recon.step and run.image_number - run.judged < AHEAD
            return near or run.over or run.unjudged

        await self._job.runs.wait_for_verdicts(run, close_by)

    async def _begin(self, doc: Mapping[str, Any]) -> None:
        uid, self._missed = str(doc["uid"]), False
        self._known.add(uid)
        if not self._rule.fits(doc):
            logger.info("run %s: not one of those to follow", uid)
            return
        if self._uid is not None:
            self._report(f"run {uid[:8]}: not followed, since run {self._uid[:8]} has not ended")
            return
        try:
            start = {**doc, BLOCK: self._block(doc)}
            self._job.prepare_run(self._recon, self._steering, start[BLOCK]["recon_uid"])
            await self._job.stage()
        except (ConfigError, JobError) as error:
            self._report(f"run {uid[:8]}: not followed: {error}")
            return
        self._uid, self._judged, self._reported = uid, 0, 0
        self._detector = start[BLOCK]["detector"]
        self._job.publisher("start", start)
        self._report(f"run {uid[:8]}: followed; {doc.get('plan_name')}, scan {doc.get('scan_id', '?')}")

    def _block(self, start: Mapping[str, Any]) -> dict[str, Any]:
        rule, own = self._rule, start.get(BLOCK) or {}
        motors: Sequence[str] = start.get("motors") or ()
        angle = rule.angle or own.get("angle") or (motors[0] if len(motors) == 1 else None)
        if angle is None and not (start.get("hints") or {}).get("dimensions"):
            raise ConfigError(
                f"no rotation axis: its plan {start.get('plan_name')!r} moves {', '.join(motors) or 'nothing'}; "
                "expected its name as angle in the table [follow] of the configuration file"
            )
        block = {
            **own,
            "recon_uid": str(uuid4()),
            "projections": rule.projections or own.get("projections") or start.get("num_points") or 0,
            "detector": rule.detector or own.get("detector"),
            "angle": angle,
            "recon": msgspec.to_builtins(self._recon),
            "steering": msgspec.to_builtins(self._steering),
        }
        return block | {key: value for key in ("start", "stop") if (value := getattr(rule, key)) is not None}

    async def _end(self, stop: Mapping[str, Any]) -> FollowedRun:
        runs, uid, self._uid = self._job.runs, str(self._uid), None
        self._known.discard(uid)
        run = runs.open
        if run is not None:
            lost = (stop.get("num_events") or {}).get("primary", 0) - run.taken
            if lost > 0 and not run.problems:
                runs.report(f"{lost} of {stop['num_events']['primary']} projections of the run have not come here")
            if run.exit_status == "success":
                await runs.finished()
            self.show_progress()
        record = runs.keep_record()
        await self._job.unstage()
        if record is not None:
            return FollowedRun.of(record)
        problems = tuple(runs.problems_before_opening) or ("no projections have come",)
        for problem in problems:
            self._report(f"run {uid[:8]}: {problem}")
        return FollowedRun(run_uid=uid, problems=problems)

    def _look_for_directory(self, resource: Mapping[str, Any]) -> None:
        """Abandon the run at once where the detector's files are not, in place of waiting for one after the other."""
        folder = file_path(str(resource["uri"])).parent
        ours = self._detector is None or str(resource["data_key"]).startswith(self._detector)
        if ours and not folder.is_dir() and self._job.runs.open is not None:
            self._job.runs.report(
                f"detector file {resource['uri']}: {folder} is not there on this computer; is the detector's file "
                "system mounted here, under the same path?"
            )
            self._job.publisher.detach("the detector's files are not here")

    def _look_for_start(self, name: str, doc: Mapping[str, Any]) -> None:
        """Report a run whose start document never came: there is no way to know what it is."""
        parent = doc.get(PARENTS.get(name, ""))
        if parent is None:
            return
        if parent in self._known and name == "descriptor":
            self._known.add(str(doc["uid"]))
        elif parent not in self._known and not self._missed:
            self._missed = True
            self._report(
                "a run had begun before: its start document was missed, and without it the run can not be followed; "
                "the next one will be (with --tiled, a run is followed from its beginning at any time)"
            )


def _one_by_one(datum: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a StreamDatum for each of its frames."""
    indices, numbers = datum["indices"], datum["seq_nums"]
    for index, number in zip(
        range(indices["start"], indices["stop"]), range(numbers["start"], numbers["stop"]), strict=False
    ):
        ranges = {"indices": {"start": index, "stop": index + 1}, "seq_nums": {"start": number, "stop": number + 1}}
        yield {**datum, **ranges}


def _in_words(score: Score, planned: int) -> str:
    known = f"{score.projections} of {planned} projections" if planned else f"{score.projections} projections"
    compared = "" if score.score is None else f", score {score.score:.4f}"
    return f"{known}: {score.verdict}{compared}{f'; {score.text}' if score.text else ''}"
