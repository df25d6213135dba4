"""`stop_early_wrapper`: any plan ends as a success, with a reason, when a signal says so.

`EarlyEnding` drives a plan message by message: it raises `QualityReached` in it, at a checkpoint or where the plan
collects what was taken on the fly, and closes the run as a success. The streaming wrapper's ending is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, ensure_generator

from bluesky_streamrecon.beamline import QualityReached, QualitySuspender, SuspendMode
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.plans.parts import attempt, read_signal

__all__ = ["EarlyEnding", "Steps", "stop_early_wrapper"]

logger = logging.getLogger(__name__)

Steps = Generator[Msg, Any, Any]


class EarlyEnding:
    """Ends a plan as a success when its suspender is armed.

    Parameters
    ----------
    suspender : QualitySuspender
        Installed by whoever drives the plan.
    """

    def __init__(self, suspender: QualitySuspender) -> None:
        self.suspender = suspender
        self.run_uid: str | None = None
        self.reached: QualityReached | None = None
        self.shielded = False
        self._run_key: object = None
        self._open = False
        self._rewindable = True  # what the plan wants
        self._found_rewindable: bool | None = None  # as the RunEngine was
        self._bundle: str | None = None

    def drive(self, plan: MsgGenerator[Any]) -> Steps:
        """Run a plan to its end, or to where it is ended, and return what it returns."""
        inner = ensure_generator(plan)
        response: Any = None
        error: Exception | None = None
        while True:
            try:
                msg = inner.throw(error) if error is not None else inner.send(response)
            except StopIteration as stop:
                return stop.value
            error, response = None, None
            try:
                response = yield from self._handle(msg)
            except GeneratorExit:
                inner.close()
                raise
            except QualityReached as reached:
                self.reached = self.reached or reached
                if self.suspender.mode == "at-once" and self._rewindable and not self.shielded:
                    self._bundle = None  # the RunEngine has rewound, and dropped it
                error = reached
            except Exception as raised:  # noqa: BLE001 - the plan is to handle it
                error = raised

    def begin(self) -> Steps:
        """Note how the RunEngine is, before anything is waited for in which it may be suspended."""
        self._found_rewindable = yield Msg("rewindable", None, None)

    def run(self, plan: MsgGenerator[Any]) -> Steps:
        """Install the suspender and drive a plan; return what it returns, or the run's uid where it was ended."""
        yield Msg("install_suspender", None, self.suspender)
        try:
            return (yield from self.drive(plan))
        except QualityReached:
            return self.run_uid
        except GeneratorExit:
            self.abandon()
            raise

    def clean_up(self) -> Steps:
        """Undo what `run` has begun."""
        self.shielded = False
        yield Msg("remove_suspender", None, self.suspender)
        yield Msg("rewindable", None, self._found_rewindable)  # a suspension that the plan was ended in leaves it False

    def release(self) -> Steps:
        """Return the RunEngine to its rewindable state."""
        if self.shielded:
            self.shielded = False
            yield Msg("rewindable", None, True)

    def abandon(self) -> None:
        """Clean up where no message can be sent any more: the RunEngine was halted."""
        RE = self.suspender.RE
        if RE is not None:
            RE.rewindable = self._found_rewindable is not False
            RE.remove_suspender(self.suspender)

    def _handle(self, msg: Msg) -> Steps:
        if msg.command == "open_run" and not self._open:
            return (yield from self._open_run(msg))
        if msg.command == "rewindable" and msg.args and msg.args[0] is not None:
            self._rewindable = bool(msg.args[0])
        handler = getattr(self, f"_on_{msg.command}", None)
        if handler is None or not self._open or msg.run != self._run_key:
            return (yield msg)
        return (yield from handler(msg))

    def _open_run(self, msg: Msg) -> Steps:
        self.run_uid = yield msg
        # Where the plan is only looked at (`summarize_plan`, `check_limits`), nothing is answered and nothing happens.
        self._run_key, self._open, self._bundle = msg.run, self.run_uid is not None, None
        return self.run_uid

    def _between(self) -> Steps:
        """Write what there is to be written between two steps."""
        yield from ()

    def _ending(self, place: str) -> QualityReached | None:  # noqa: ARG002 - for subclasses
        """Return what ends the plan here; None: nothing does."""
        return self.suspender.reached() if self.suspender.armed else None

    def _on_checkpoint(self, msg: Msg) -> Steps:
        yield from self.release()
        yield from self._between()
        if self.reached is None and (reached := self._ending("checkpoint")) is not None:
            raise reached
        return (yield msg)

    def _on_collect(self, msg: Msg) -> Steps:
        """End a fly scan where its frames are collected: while it flies, it has no checkpoint."""
        response = yield msg
        yield from self._between()
        if (reached := self._ending("collect")) is not None:
            if self.reached is None:
                raise reached
            self.reached = reached  # now with the frames that have come since
        return response

    def _on_create(self, msg: Msg) -> Steps:
        self._bundle = msg.kwargs.get("name") or (msg.args[0] if msg.args else "")
        return (yield msg)

    def _on_save(self, msg: Msg) -> Steps:
        return (yield from self._end_bundle(msg))

    def _on_drop(self, msg: Msg) -> Steps:
        return None if self._bundle is None else (yield from self._end_bundle(msg))

    def _end_bundle(self, msg: Msg) -> Steps:
        self._bundle = None
        response = yield msg
        yield from self.release()
        return response

    def _on_close_run(self, msg: Msg) -> Steps:
        exit_status, reason = self._outcome(msg)
        if exit_status == "success":
            yield from self._drop_what_is_open()
        self._open = False
        response = yield msg._replace(kwargs={**msg.kwargs, "exit_status": exit_status, "reason": reason})
        if exit_status == "success":
            yield from self._leave_run()
        return response

    def _leave_run(self) -> Steps:
        """Forget what was done since the last checkpoint: a pause must not lead back into a run that is over."""
        if self._rewindable:
            yield Msg("rewindable", None, False)
            yield Msg("rewindable", None, True)

    def _outcome(self, msg: Msg) -> tuple[str, str | None]:
        """Return exit status and reason of a run that is to be closed."""
        exit_status = "success" if self.reached else msg.kwargs.get("exit_status") or "success"
        if self.reached:
            return exit_status, self.reached.reason
        reason = msg.kwargs.get("reason")
        if not reason and exit_status == "abort":  # bluesky's own plans lose it (seen with 1.15.1)
            reason = getattr(self.suspender.RE, "_reason", None)
        return exit_status, reason or None

    def _drop_what_is_open(self) -> Steps:
        """Drop the event that a plan was ended in."""
        if self._bundle is not None:
            yield Msg("drop", run=self._run_key)
            self._bundle = None
        yield from self.release()


class _Watched(EarlyEnding):
    """Says in the stop document of a run that ran its course if its signal was not there to be heard."""

    def __init__(self, suspender: QualitySuspender, signal: Any) -> None:
        super().__init__(suspender)
        self._signal = signal

    def _on_close_run(self, msg: Msg) -> Steps:
        if self.reached is None:
            _, error = yield from attempt(partial(read_signal, self._signal), unanswered=None)
            if error is not None:
                text = f"{self._signal.name} could not be read at the end, and may have wanted an earlier one: {error}"
                logger.warning("run %s: %s", self.run_uid, text)
                reason = "; ".join(filter(None, (msg.kwargs.get("reason"), text)))
                msg = msg._replace(kwargs={**msg.kwargs, "reason": reason})
        return (yield from super()._on_close_run(msg))


# No generator function, and not annotated as a plan: it takes a plan, which no queue server and no blueapi can send.
def stop_early_wrapper(
    plan: MsgGenerator[Any],
    signal_or_device: Any,
    *,
    reason: str,
    when: Callable[[Any], bool] = bool,
    suspend: SuspendMode = "after-projection",
) -> Generator[Any, Any, Any]:
    """End a plan as a success, with a reason, when a signal says so.

    `QualityReached` is raised in the plan at its next checkpoint, or where it collects what was taken on the fly, so
    that what was begun is kept and the plan's own clean-up runs. A signal that has said so once is not asked again; one
    that says so from the beginning ends the run at its first checkpoint. If it can not be read any more, the plan runs
    its course, and the stop document says that the signal was gone.

    Parameters
    ----------
    plan : generator of messages
        For instance ``bluesky.plans.scan([detector], stage, 0, 179, 180)``.
    signal_or_device : signal or device
        A signal of ophyd-async or classic ophyd, or a device that has ``finalize_requested`` (as `ReconJob`).
    reason : str
        For the stop document.
    when : callable, optional
        Whether a value of the signal ends the plan; by default whether it is true.
    suspend : {"after-projection", "at-once"}, optional
        ``"after-projection"`` loses nothing that was begun; ``"at-once"`` interrupts even a move, and the event
        in flight is lost.

    Returns
    -------
    generator of messages
        For the RunEngine. It returns what the plan returns; the uid of its last run if it was ended.

    Raises
    ------
    ConfigError
        If the signal can not be read, or `when` not be asked about its value, before anything moves.

    Examples
    --------
    At the prompt: ``RE(stop_early_wrapper(bp.scan([det], motor, 0, 10, 101), counts, when=lambda n: n > 1e6,
    reason="enough counts"))``.
    """
    signal = getattr(signal_or_device, "finalize_requested", signal_or_device)
    if not callable(getattr(signal, "subscribe", None)):
        raise ConfigError(f"signal_or_device: got {signal_or_device!r}, expected a signal that can be subscribed to")
    suspender = QualitySuspender(
        signal, mode=suspend, reached=lambda: QualityReached(reason), when=when, once_is_enough=True
    )
    ending = _Watched(suspender, signal)

    async def judged() -> None:
        when(await read_signal(signal))

    def body() -> Steps:
        yield from ending.begin()
        _, error = yield from attempt(judged, unanswered=None)
        if error is not None:
            raise ConfigError(f"signal {signal.name}: can not be read and judged: {error!r}") from error
        return (yield from ending.run(plan))

    return bpp.finalize_wrapper(body(), ending.clean_up)  # type: ignore[no-any-return]
