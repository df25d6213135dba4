"""Volumes that the job is finishing, of runs that are over. Pure: events and times go in. Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bluesky_streamrecon.run_record import RunRecord
from bluesky_streamrecon.wire.messages import Status, VolumeDone

__all__ = ["Volumes"]


@dataclass
class _Pending:
    record: RunRecord
    shares: dict[int, str]  # by rank, what it has reported


class Volumes:
    """Records of runs whose volumes are still to come, the oldest first.

    Attributes
    ----------
    heard_at : float
        When the job last got on with one of them, monotonic.
    text : str
        How the newest of them is, in words; empty before there was one.
    """

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}
        self._early: VolumeDone | None = None  # of a run whose record is not there yet
        self.heard_at = 0.0
        self.text = ""

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, run_uid: object) -> bool:
        return run_uid in self._pending

    def add(self, record: RunRecord, now: float) -> RunRecord | None:
        """Wait for the volume of a run that is over; return what `take` would have, if it has come already."""
        self._pending[record.run_uid] = _Pending(record, {})
        self.heard_at = now
        self.text = f"of {record.run_uid[:8]} is being finished"
        early, self._early = self._early, None
        return None if early is None else self.take(early, now)

    def take(self, event: Status | VolumeDone, now: float) -> RunRecord | None:
        """Take in an event; return the record of a run whose volume is there, or will never be."""
        if event.run_uid not in self._pending:
            # A small volume is finished before the last verdict has come, and with it the run's record.
            self._early = event if isinstance(event, VolumeDone) else self._early
            return None
        self.heard_at = now
        pending = self._pending[event.run_uid]
        if isinstance(event, Status):
            if event.state == "finishing":
                pending.shares[event.rank] = event.text
                least = min(pending.shares.values(), key=lambda text: (len(text), text))
                self.text = f"of {event.run_uid[:8]} is being finished: {least}"
            return None
        if event.result is None:
            return self._given_up(event.run_uid, event.text)
        self.text = f"of {event.run_uid[:8]} is finished, in {event.result}"
        if event.similarity is not None:
            self.text += f"; MS-SSIM of the live image to it {event.similarity:.4f}"
        del self._pending[event.run_uid]
        return replace(pending.record, volume=event.result, similarity=event.similarity)

    def give_up(self, why: str) -> list[RunRecord]:
        """Wait for none of them any more; return their records."""
        return [self._given_up(run_uid, why) for run_uid in list(self._pending)]

    def _given_up(self, run_uid: str, why: str) -> RunRecord:
        record = self._pending.pop(run_uid).record
        self.text = f"of {run_uid[:8]} was not finished: {why}"
        return replace(record, problems=(*record.problems, f"volume: not finished: {why}"))
