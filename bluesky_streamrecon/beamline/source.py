"""Where page, PVs and figures have their contents from: one operator's connection, used by two threads.

Only the newest state is kept. When a job ends, the source waits for the next one. Times are seconds of a monotonic
clock.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bluesky_streamrecon.cuts import Cut, cut_volume
from bluesky_streamrecon.errors import ConfigError, JobError, StreamReconError
from bluesky_streamrecon.hdf5.results import IMAGES, result_images
from bluesky_streamrecon.wire import (
    Answer,
    Ask,
    Cuts,
    Judged,
    OperatorEndpoint,
    Order,
    RunStatus,
)

__all__ = ["Snapshot", "Source", "Volume"]

log = logging.getLogger(__name__)

STATUS_SECONDS = 0.3
LOOK_SECONDS = 5.0
"""Longest wait for cuts."""
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 5.0
CLOSED = "no run is open"
VIEWER = "watch-"
OF_THE_END = ("state", "ended", "volume", "result", "verdict", "checks")
COUNTS = ("taken", "image_number", "used")


NOTHING = RunStatus()
PROBE = Cut(corner=(0, 0, 0), down=(0, 1, 0), across=(0, 0, 1), shape=(1, 1))
"""Which shows how large the volume is."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run, and of the connection, at one moment.

    Parameters
    ----------
    version : int
        Counts up with each change.
    unlinked : str
        Why there is no link to a job, in words; empty while there is one.
    status : RunStatus
        Of the open run, or of the last one.
    judged : tuple of Judged
        All verdicts of that run.
    first : (int, float)
        Projections that were taken when the run was first seen, and when that was.
    """

    version: int = 0
    unlinked: str = "looking for a job"
    status: RunStatus = NOTHING
    judged: tuple[Judged, ...] = ()
    first: tuple[int, float] = (0, 0.0)

    @property
    def counted(self) -> tuple[Judged, ...]:
        """Verdicts about what counts by now."""
        return tuple(each for each in self.judged if each.selection == self.status.selection)

    @property
    def seconds_left(self) -> float | None:
        """Time to the last projection, at the pace since the run was first seen; None: not known."""
        taken, since = self.first
        if self.unlinked or not taken or not self.status.last or self.status.taken <= taken:
            return None
        pace = (time.monotonic() - since) / (self.status.taken - taken)
        return pace * max(self.status.last - self.status.taken, 0)


NOT_CONNECTED = Snapshot()

Volume = tuple[int, int, int]
"""Rows, height and width."""


@dataclass(eq=False, slots=True)
class _Watch:
    """What one viewer wishes to see of each image, and the newest image that it has seen."""

    viewer: str
    cuts: Callable[[RunStatus, Volume], Sequence[Cut]]
    take: Callable[[Cuts], None]
    pause: float
    after: float = 0.0
    seen: tuple[str | None, int, bool] = (None, 0, False)


class Source:
    """Keep a `Snapshot` up to date.

    Parameters
    ----------
    connect : callable or None
        Finds the job and connects to it; a `JobError` says that there is none. None: the run is a stored one, of which
        nothing changes, and which nobody can overrule.
    who : str, optional
        Name under which orders are sent.
    snapshot : Snapshot, optional
        The first.
    """

    def __init__(
        self, connect: Callable[[], OperatorEndpoint] | None, who: str = "", *, snapshot: Snapshot = NOT_CONNECTED
    ) -> None:
        self._who = who
        self._snapshot = snapshot
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._operator: OperatorEndpoint | None = None
        self._watches: list[_Watch] = []
        self._volume: tuple[str | None, Volume] = (None, (1, 1, 1))  # of which run it was seen
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        works = {} if connect is None else {"follow": partial(self._follow, connect), "look": self._look}
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"streamrecon-view-{name}")
            for name, work in works.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def snapshot(self) -> Snapshot:
        """The newest; a value that does not change any more."""
        return self._snapshot

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, in another thread, after each change, until the returned function is called."""
        with self._changed:
            self._listeners.append(listener)

        def end() -> None:
            with self._changed, contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return end

    def order(self, order: Order, *, run_uid: str | None) -> Answer:
        """Overrule the run, as the source's own user if the order names nobody.

        Raises
        ------
        JobError, SteeringError
            If there is no job, or it can not be done.
        """
        order = msgspec.structs.replace(order, who=order.who or self._who)
        return self._connected().ask(Ask(order=order, run_uid=run_uid), timeout=ANSWER_SECONDS)

    def show_cuts(self, cuts: Sequence[Cut], viewer: str) -> Future[Cuts]:
        """Wish to see cuts through the newest image; see `OperatorEndpoint.show_cuts`.

        Raises
        ------
        JobError
            If there is no job.
        ConfigError
            If they can not be sent.
        """
        return self._connected().show_cuts(cuts, viewer=viewer)

    def watch(
        self,
        cuts: Callable[[RunStatus, Volume], Sequence[Cut]],
        take: Callable[[Cuts], None],
        *,
        pause: float = 0.25,
    ) -> Callable[[], None]:
        """Wish for cuts of each new image, one wish at a time, until the returned function is called.

        The last are those of the image that is stored when the run is over, where its file can be read.

        Parameters
        ----------
        cuts : callable
            Returns what to wish for, of a run with this status whose volume has so many rows and this height and width.
        take : callable
            Is given the answers, in a thread of the source; it is to be quick.
        pause : float, optional
            Least seconds between two wishes; images in between are left out.
        """
        watch = _Watch(f"{VIEWER}{next(self._numbers)}", cuts, take, pause)
        with self._changed:
            self._watches.append(watch)
            self._changed.notify_all()

        def end() -> None:
            with self._changed, contextlib.suppress(ValueError):
                self._watches.remove(watch)

        return end

    def _connected(self) -> OperatorEndpoint:
        operator = self._operator
        if not self._threads:
            raise JobError("the run is over")
        if operator is None:
            raise JobError(self._snapshot.unlinked or "no job is connected")
        return operator

    def close(self) -> None:
        """End the threads and the connection; idempotent."""
        self._stop.set()
        operator = self._operator
        if operator is not None:
            operator.close()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if self._operator is not None:
            self._operator.close()

    # ------------------------------------------------------------------------------------------ threads

    def _guarded(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except StreamReconError as error:
                if not self._stop.is_set():
                    self._update(unlinked=str(error))
            except Exception as error:
                log.exception("live view: unexpected error; going on")
                self._update(unlinked=f"unexpected {type(error).__name__}: {error}")
            self._stop.wait(RETRY_SECONDS)

    def _follow(self, connect: Callable[[], OperatorEndpoint]) -> None:
        """Stay with one job until it ends."""
        try:
            operator = connect()
        except ConfigError:
            raise
        except JobError:
            ended = self._snapshot.status.run_uid is not None
            self._update(
                unlinked="the job has ended; waiting for the next one" if ended else "waiting for a job to start"
            )
            return
        with self._changed:
            self._operator = operator
            self._changed.notify_all()
        try:
            while not self._stop.is_set() and not operator.ending.is_set():
                self._ask_status(operator)
                self._stop.wait(STATUS_SECONDS)
        finally:
            self._operator = None
            operator.close()

    def _ask_status(self, operator: OperatorEndpoint) -> None:
        now = self._snapshot
        known = now.judged[-1].image_number if now.judged else 0
        answer = operator.ask(Ask(run_uid=now.status.run_uid, after=known), timeout=ANSWER_SECONDS)
        status = answer.status
        if status is None:
            return
        if status.run_uid is None and (status.last_run or now.status.run_uid):  # the last run stays on show
            if status.last_run in (None, now.status.run_uid):
                names = OF_THE_END + (COUNTS if status.last_run else ())
                changed = {name: getattr(status, name) or getattr(now.status, name) for name in names}
                self._update(
                    unlinked=CLOSED,
                    status=msgspec.structs.replace(now.status, **changed),
                    judged=now.judged + answer.judged,
                )
            else:  # it was over before anybody looked
                shown = msgspec.structs.replace(status, run_uid=status.last_run)
                self._update(unlinked=CLOSED, status=shown, judged=answer.judged)
            return
        same = status.run_uid == now.status.run_uid
        first = now.first if same and now.first[0] else (status.taken, time.monotonic())
        self._update(
            unlinked="", status=status, first=first, judged=now.judged + answer.judged if same else answer.judged
        )

    def _look(self) -> None:
        """Fetch what is watched of one new image after the other."""
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._stop.is_set() or any(map(self._due, self._watches)), 0.5)
                due = [watch for watch in self._watches if self._due(watch)]
            for watch in due:
                now = self._snapshot
                watch.after = time.monotonic() + watch.pause
                try:
                    cuts = self._cut_stored(watch, now.status) if now.unlinked else self._cut(watch, now.status)
                except (StreamReconError, TimeoutError, CancelledError) as error:
                    log.debug("live view: no cuts: %s", error)
                    continue
                watch.seen = _image(now)
                try:
                    watch.take(cuts)
                except Exception:
                    log.exception("live view: an image could not be shown; going on")

    def _due(self, watch: _Watch) -> bool:
        status, unlinked = self._snapshot.status, self._snapshot.unlinked
        there = bool(status.result) if unlinked else status.image_number > 0
        return there and watch.seen != _image(self._snapshot) and time.monotonic() >= watch.after

    def _cut(self, watch: _Watch, status: RunStatus) -> Cuts:
        """Return cuts of the newest image; how large its volume is may have to be seen first."""
        while True:
            run_uid, volume = before = self._volume
            wished = watch.cuts(status, volume) if run_uid == status.run_uid else [PROBE]
            cuts = self.show_cuts(wished, watch.viewer).result(LOOK_SECONDS)
            self._volume = cuts.run_uid, cuts.volume
            if self._volume == before:
                return cuts
            if cuts.run_uid != status.run_uid:
                raise JobError("the run is another one by now")

    def _cut_stored(self, watch: _Watch, status: RunStatus) -> Cuts:
        """Return cuts of the last live image of a run that is over; its file is opened but once."""
        try:
            image = result_images(Path(status.result))[IMAGES[0]]
        except StreamReconError:  # it is on another computer
            watch.seen = _image(self._snapshot)
            raise
        rows, height, width = image.shape
        cuts = tuple(watch.cuts(status, (rows, height, width)))
        values = [cut_volume(image, [cut])[0] if cut.space == "volume" else np.full(cut.size, np.nan) for cut in cuts]
        return Cuts(
            run_uid=status.run_uid or "?",
            image_number=status.image_number,
            projections=status.used,
            number=1,
            cuts=cuts,
            volume=(rows, height, width),
            made=Path(status.result).stat().st_mtime,
            pixels=b"".join(part.astype("<f4", copy=False).tobytes() for part in values),
        )

    def _update(self, **changes: Any) -> None:
        with self._changed:
            following = replace(self._snapshot, **changes)
            if following == self._snapshot:
                return
            self._snapshot = replace(following, version=self._snapshot.version + 1)
            listeners = list(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener()


def _image(now: Snapshot) -> tuple[str | None, int, bool]:
    """Return which image is the newest: of a run, its number, and whether it is the stored one."""
    return now.status.run_uid, now.status.image_number, bool(now.unlinked)
