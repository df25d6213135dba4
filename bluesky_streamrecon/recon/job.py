"""The reconstruction job: what each MPI rank does from its start until the beamline asks it to end.

Ranks receive on their own and compute together. Between them there is one agreement at a time, the minimum over
ranks of how much has arrived, and after it all ranks do the same work, whatever has come to one of them since.
Whoever has more than was last agreed asks for the next agreement, so ranks that wait for the detector exchange
nothing and use no core.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from bluesky_streamrecon.errors import DeviceError, StorageError, StreamReconError
from bluesky_streamrecon.logs import set_role, set_run
from bluesky_streamrecon.recon.analysis import get_analysis
from bluesky_streamrecon.recon.checkpoint import Checkpoint, CheckpointStore, run_key
from bluesky_streamrecon.recon.communicator import Communicator, MpiCommunicator
from bluesky_streamrecon.recon.finishing import Compare, Finishing
from bluesky_streamrecon.recon.parent_watch import Interrupted, ShutdownMonitor
from bluesky_streamrecon.recon.rank_run import RankRun
from bluesky_streamrecon.registry import format_error
from bluesky_streamrecon.wire import (
    ClientSecurity,
    OpenRun,
    Problem,
    RankEndpoint,
    Refused,
    Shutdown,
    VolumeDone,
)

__all__ = ["run_job"]

log = logging.getLogger(__name__)

_SHORTEST_WAIT = 2e-4
_LONGEST_WAIT = 5e-3
_LOOKS = 50  # MPI gets on with an agreement only while it is looked at, one stage at a look
_IDLE_WAIT = 0.1
_AT_ONCE_SECONDS, _WATCHED_SECONDS = 0.5, 0.1
"""In which as many images are made between two agreements as fit, at least one: viewers' wishes are heard in them."""


def run_job(
    address: str,
    job_id: str,
    *,
    security: ClientSecurity | None = None,
    threads: int | None = None,
    watch_parent: bool = False,
    communicator: Communicator | None = None,
    link_limit: float = 300.0,
    checkpoints: str | Path | None = None,
    compare: Compare | None = None,
) -> int:
    """Be one rank of a reconstruction job: serve run after run until the beamline asks to end.

    Parameters
    ----------
    address : str
        Of the beamline, ``tcp://host:port``.
    job_id : str
        The beamline's name for this job.
    security : ClientSecurity, optional
        Keys, needed where the beamline is not on this host.
    threads : int, optional
        Threads of this rank where a run's settings do not say; the cores that it may use by default.
    watch_parent : bool, optional
        End when the standard input of rank 0 is closed, as happens when the process that started the job dies.
    communicator : Communicator, optional
        To the other ranks; the MPI job that this process belongs to by default.
    link_limit : float, optional
        Seconds without a word from the beamline after which the job ends.
    checkpoints : path, optional
        Directory for checkpoints, which runs ask for by ``checkpoint_every``. A job of the same name and size that
        is started again goes on from there. All projections of a run lie here, too, until its volume is finished.
    compare : callable, optional
        Returns how similar a live image is to the finished one, both of shape (N, N).

    Returns
    -------
    int
        Exit status: 0 if the beamline asked for the end.

    Notes
    -----
    A run that can not be reconstructed (settings, data) is reported and the job goes on with the next one. Anything
    else that goes wrong on one rank is reported, and ends all ranks.
    """
    ranks = MpiCommunicator() if communicator is None else communicator
    set_role(f"rank-{ranks.rank}")
    endpoint: RankEndpoint | None = None
    code = 1
    try:
        store = None if checkpoints is None else CheckpointStore(Path(checkpoints), job_id, ranks.rank, ranks.size)
        saved = None if store is None else store.newest_common(ranks)
        unfinished = [] if store is None else store.unfinished(ranks)
        endpoint = RankEndpoint(
            address,
            job_id=job_id,
            rank=ranks.rank,
            size=ranks.size,
            security=security,
            resume=None if saved is None else (saved.run_uid, saved.seq),
        )
        monitor = ShutdownMonitor(endpoint.unlinked_seconds, link_limit)
        ranks.check = monitor.check
        with monitor.signals():
            if watch_parent and ranks.rank == 0:
                monitor.follow(0)
            if communicator is None:
                # While we wait for the first run: all kernels need Numba, which takes longer to import than the rest.
                from bluesky_streamrecon.jit import leave_extensions_out

                leave_extensions_out()
            job = _Job(ranks, endpoint, monitor, job_id, threads or ranks.cores, store, saved, compare)
            try:
                for run, last in unfinished:
                    job.finish_again(run, last)
                code = job.serve()
            finally:
                monitor.ended()
    except Interrupted as interruption:
        log.warning("rank %d ends: %s", ranks.rank, interruption.reason)
        code = interruption.code
    except BaseException as error:  # an algorithm of somebody's own may raise SystemExit, too
        log.error("rank %d failed: %s", ranks.rank, error, exc_info=not isinstance(error, DeviceError))
        if endpoint is not None:
            endpoint.send(Problem(fault="local", where="reconstruction job", text=_text_of(error)))
    finally:
        if endpoint is not None:
            endpoint.close(linger_s=1.0 if code == 0 else 3.0)
    if code != 0 and ranks.size > 1:
        # The others may be waiting for this rank; without it there is nothing left for them to do.
        ranks.abort(code)
    return code


class _State(NamedTuple):
    """What a rank puts into an agreement; of each the minimum over ranks counts."""

    run: int = 0
    minus_run: int = 0
    prepared: int = 0
    corrections: int = 0
    closed: int = 0
    shutdown: int = 0
    abandoned: int = 0
    failed: int = 0
    finished: int = 0
    cuts: int = 0
    images: int = 1

    @property
    def same_run(self) -> bool:
        return self.run == -self.minus_run


class _Job:
    """The loop of one rank."""

    def __init__(
        self,
        communicator: Communicator,
        endpoint: RankEndpoint,
        monitor: ShutdownMonitor,
        job_id: str,
        threads: int,
        checkpoints: CheckpointStore | None,
        saved: Checkpoint | None,
        compare: Compare | None,
    ) -> None:
        self._checkpoints = checkpoints
        self._saved = saved
        self._communicator = communicator
        self._endpoint = endpoint
        self._monitor = monitor
        self._job_id = job_id
        self._threads = threads
        self._compare = compare
        self._finishing: deque[Finishing] = deque()
        self._run: RankRun | None = None
        self._next: OpenRun | None = None
        self._dropping = False
        self._shutdown: str | None = None
        self._image_seconds = _AT_ONCE_SECONDS  # that the last image took

    def serve(self) -> int:
        """Serve run after run; return the exit status."""
        log.info("rank %d of %d serves job %s", self._communicator.rank, self._communicator.size, self._job_id)
        agreed = _State()
        while True:
            self._hear(0.0)
            if self._dropping:
                self._drop_rest()
                agreed = _State()
                continue
            if not self._has_news(agreed):
                self._hear(_IDLE_WAIT)
                continue
            agreed = self._agree()
            if agreed.shutdown:
                for unfinished in self._finishing:
                    log.warning("the volume of run %s is not finished: the job ends", unfinished.run.run_uid)
                    self._forget(unfinished)
                log.info("rank %d ends: %s", self._communicator.rank, self._shutdown or "another rank was asked to")
                return 0
            if not agreed.same_run:
                # One of us has not heard yet that a run was abandoned, or that the next one began.
                if self._run is not None and self._run.superseded:
                    self._leave()
                self._hear(_IDLE_WAIT)
                agreed = _State()
            elif agreed.run and self._run is not None:
                if self._finishing:
                    self._finishing[0].interrupt()  # here, where all ranks do so: they may be computing it together
                agreed = self._work(self._run, agreed)
            elif self._finishing:  # no rank had a run when this was agreed, whichever has one by now
                self._finish(self._finishing[0], bool(agreed.finished))

    def _work(self, run: RankRun, agreed: _State) -> _State:
        """Do what was agreed; return what the next agreement has to go beyond."""
        if agreed.abandoned:
            run.release()
            self._leave()
            return _State()
        left = 0 if agreed.failed else agreed.images
        began = time.monotonic()
        while left and run.advance(agreed.prepared, agreed.corrections, bool(agreed.closed)):
            self._monitor.check()
            left, before, began = left - 1, began, time.monotonic()
            self._image_seconds = max(began - before, 1e-3)
        if agreed.failed or run.broken:
            run.fail("another rank could not go on; its own report says why", here=False)
            run.release()
            self._dropping = True
            return _State()
        run.cuts.advance(agreed.cuts)
        if not left:
            return agreed._replace(prepared=-1)  # more images may be due
        if not agreed.closed:
            return agreed
        wanted = self._report(run)
        if self._communicator.minimum([int(wanted)])[0]:
            self._finishing.append(run.finishing(self._compare))
        else:  # some may know already that the beamline has given this run up
            if self._checkpoints is not None:
                self._checkpoints.forget(run.run.run_uid)
            run.release()
        self._leave()
        return _State()

    def _finish(self, volume: Finishing, finished: bool) -> None:
        """Do the next part of finishing a run that is over; between parts, the next run may begin."""
        if not finished:
            volume.advance()
            return
        volume.conclude()
        self._finishing.popleft()
        self._forget(volume)

    def _forget(self, volume: Finishing) -> None:
        volume.release()
        if self._checkpoints is not None:
            self._checkpoints.forget(volume.run.run_uid)

    def finish_again(self, run: OpenRun, last: Checkpoint | None) -> None:
        """Finish a run that a job before this one was to finish; all ranks call this together.

        `last` is None where a rank has lost what the volume was to be made from.
        """
        set_run(run.run_uid)
        try:
            if last is None:
                raise StorageError(
                    "what a rank kept of the run for it is gone or damaged since the job was started again; look at "
                    "the disk of the job's scratch directory"
                )
            analysis = get_analysis(run.recon.analysis)(run, self._communicator, run.recon.threads or self._threads)
        except StreamReconError as error:
            text = f"it can not be finished: {error}"
            log.warning("the volume of run %s: %s", run.run_uid, text)
            self._endpoint.send(VolumeDone(run_uid=run.run_uid, rank=self._communicator.rank, text=text[:4096]))
            return
        log.info("goes on with finishing")
        if self._checkpoints is not None:
            analysis.scratch = self._checkpoints.scratch(run.run_uid)
        analysis.restore(last)
        self._finishing.append(
            Finishing(run, analysis, last.projections, self._communicator, self._endpoint, self._compare)
        )

    def _agree(self) -> _State:
        """Find what all ranks have; keep on listening meanwhile."""
        agreement = self._communicator.begin_minimum(self._state())
        wait = _SHORTEST_WAIT
        while not any(agreement.done() for _ in range(_LOOKS)):
            wait = _SHORTEST_WAIT if self._hear(wait) else min(2 * wait, _LONGEST_WAIT)
        least = _State(*agreement.values)
        return least._replace(shutdown=-least.shutdown, abandoned=-least.abandoned, failed=-least.failed)

    def _state(self) -> _State:
        run = self._run
        if run is None:
            finished = bool(self._finishing) and self._finishing[0].done
            return _State(shutdown=-int(self._shutdown is not None), finished=int(finished))
        key = run_key(run.run.run_uid)
        return _State(
            run=key,
            minus_run=-key,
            prepared=run.prepared,
            corrections=len(run.axes),
            closed=int(run.closed is not None),
            shutdown=-int(self._shutdown is not None),
            abandoned=-int(run.superseded),
            failed=-int(run.failure is not None),
            cuts=run.cuts.due(),
            images=max(1, int((_WATCHED_SECONDS if run.cuts.done else _AT_ONCE_SECONDS) / self._image_seconds)),
        )

    def _has_news(self, agreed: _State) -> bool:
        if self._shutdown is not None:
            return True
        run = self._run
        if run is None:
            return bool(self._finishing)
        if run.superseded or run.failure is not None:
            return True
        more = run.prepared > agreed.prepared or len(run.axes) > agreed.corrections
        return more or (run.closed is not None) > agreed.closed or run.cuts.due() > run.cuts.done

    def _hear(self, timeout: float) -> bool:
        """Take all events that have come, waiting for the first; return whether there was one."""
        self._monitor.check()
        if self._next is not None:
            # Events from here on belong to the next run, which begins when all ranks have left this one.
            if timeout:
                time.sleep(timeout)
            return False
        heard = False
        while (event := self._endpoint.next(0.0 if heard else timeout)) is not None:
            heard = True
            run = self._run
            match event:
                case OpenRun():
                    if run is None:
                        self._open(event)
                    else:
                        self._next = event
                        run.superseded = True
                    break
                case Shutdown(reason=reason):
                    self._shutdown = reason or "the beamline asked for it"
                case Refused(text=text):
                    raise Interrupted(f"the beamline refuses this rank: {text}", 1)
                case _ if run is not None:
                    run.take(event)
        return heard

    def _open(self, run: OpenRun) -> None:
        set_run(run.run_uid)
        log.info("rows %d to %d of %s", *run.rows, run.detector_shape)
        saved, self._saved = self._saved, None
        self._run = RankRun(
            run,
            self._communicator,
            self._endpoint,
            threads=self._threads,
            checkpoints=self._checkpoints,
            resume=saved if saved is not None and saved.run_uid == run.run_uid else None,
        )

    def _drop_rest(self) -> None:
        """Take the rest of a run that can not be reconstructed, and report it when it is over."""
        run = self._run
        if run is None or run.superseded or self._shutdown is not None:
            self._leave()
        elif run.closed is not None:
            self._report(run)
            self._leave()
        else:
            self._hear(_IDLE_WAIT)

    def _report(self, run: RankRun) -> bool:
        """Report a run as done; return whether its volume is to be finished."""
        done = run.finish()
        if run.superseded:
            return False
        self._endpoint.send(done)
        if self._checkpoints is not None:
            self._checkpoints.clear()
        log.info("run %s is done: %s", run.run.run_uid, done)
        return done.finishing

    def _leave(self) -> None:
        """Forget the run; begin the next one if it has already been opened."""
        self._run = None
        self._dropping = False
        following, self._next = self._next, None
        if following is not None:
            self._open(following)


def _text_of(error: BaseException) -> str:
    """Return an error as one text: what it says, and where it was raised unless it is one of ours."""
    return (str(error) if isinstance(error, StreamReconError) else format_error(error))[:4000]
