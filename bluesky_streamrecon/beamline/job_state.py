"""The states of a reconstruction job, and what takes it from one to the next: a table, without any machinery."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum, auto

__all__ = ["Change", "JobState", "next_state"]


class JobState(StrEnum):
    """What the signal ``state`` can be."""

    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    RUNNING = "running"
    DISCONNECTED = "disconnected"
    RESTARTING = "restarting"
    FINISHING = "finishing"
    FINISHED = "finished"
    LOST = "lost"


class Change(Enum):
    """What can happen to a job."""

    LAUNCHED = auto()  # its processes are being started, or it is waited for
    STAGED = auto()  # everybody who is needed is linked
    UNSTAGED = auto()
    RUN_OPENED = auto()
    RUN_CLOSED = auto()  # no frames follow
    RANK_LOST = auto()  # the link to a rank is gone
    RANKS_JOINED = auto()  # all ranks are linked
    PROCESS_DIED = auto()  # it is started again
    RUN_DONE = auto()  # every rank has reported its result
    JOB_LOST = auto()  # it died too often


_ALWAYS: dict[Change, JobState] = {
    Change.LAUNCHED: JobState.STARTING,
    Change.STAGED: JobState.READY,
    Change.RUN_OPENED: JobState.RUNNING,
    Change.UNSTAGED: JobState.IDLE,
}
_IN_RUN: dict[Change, JobState] = {
    Change.RUN_CLOSED: JobState.FINISHING,
    Change.RANK_LOST: JobState.DISCONNECTED,
    Change.PROCESS_DIED: JobState.RESTARTING,
    Change.RUN_DONE: JobState.FINISHED,
    Change.JOB_LOST: JobState.LOST,
}

NEXT: Mapping[JobState, Mapping[Change, JobState]] = {
    JobState.IDLE: _ALWAYS,
    JobState.STARTING: _ALWAYS,
    JobState.READY: _ALWAYS,
    JobState.RUNNING: _ALWAYS | _IN_RUN,
    JobState.DISCONNECTED: _ALWAYS | _IN_RUN | {Change.RANKS_JOINED: JobState.RUNNING},
    # The link of a process that died is lost as well, which is no news.
    JobState.RESTARTING: _ALWAYS
    | _IN_RUN
    | {Change.RANKS_JOINED: JobState.RUNNING, Change.RANK_LOST: JobState.RESTARTING},
    JobState.FINISHING: _ALWAYS | _IN_RUN,
    JobState.FINISHED: _ALWAYS,
    JobState.LOST: _ALWAYS,
}


def next_state(state: JobState, change: Change) -> JobState:
    """Return the state after a change; one that means nothing in `state` leaves it as it is.

    Examples
    --------
    >>> next_state(JobState.RUNNING, Change.RANK_LOST)
    <JobState.DISCONNECTED: 'disconnected'>
    >>> next_state(JobState.LOST, Change.RANKS_JOINED)
    <JobState.LOST: 'lost'>
    """
    return NEXT[state].get(change, state)
