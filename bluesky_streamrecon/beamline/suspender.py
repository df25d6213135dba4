"""Suspenders that also watch ophyd-async signals, and the exception that ends a run because its image is good enough.

`QualitySuspender` does not suspend: it ends the run. By default it only arms, and the streaming wrapper raises
`QualityReached` at the plan's next checkpoint, so that nothing half-taken is lost. `BacklogSuspender` really
suspends. Nothing here knows what made the signal change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Literal

from bluesky.suspenders import SuspenderBase
from bluesky.utils import Msg

from bluesky_streamrecon.beamline.event_loop import call_in_loop
from bluesky_streamrecon.errors import ConfigError, StreamReconError

if TYPE_CHECKING:
    from bluesky import RunEngine

__all__ = ["BacklogSuspender", "QualityReached", "QualitySuspender", "SuspendMode"]

logger = logging.getLogger(__name__)

SuspendMode = Literal["after-projection", "at-once"]
CALL_TIMEOUT = 5.0  # seconds that the RunEngine's loop may take to (un)subscribe a signal


class QualityReached(StreamReconError):  # noqa: N818 - it is news, not an error
    """The image is good enough: ends a run as a success, from inside.

    Parameters
    ----------
    reason : str
        For the stop document.
    """

    def __init__(self, reason: str = "the image is good enough") -> None:
        super().__init__(reason)
        self.reason = reason


class _SignalSuspender(SuspenderBase):
    """What stock suspenders lack: ophyd-async signals, and any thread to install them from.

    A stock suspender passes ``event_type`` to ``subscribe``, which ophyd-async refuses, and subscribes in the
    caller's thread, where ophyd-async finds no event loop.
    """

    def install(self, RE: RunEngine, *, event_type: str | None = None) -> None:
        """Watch the signal on behalf of this RunEngine.

        Parameters
        ----------
        RE : RunEngine
            Who is asked to suspend.
        event_type : str, optional
            As for the stock suspenders; only classic ophyd signals take it.
        """
        if not _is_async(self._sig):
            super().install(RE, event_type=event_type)  # type: ignore[no-untyped-call]
            return
        self.RE = RE
        call_in_loop(RE.loop, lambda: self._sig.subscribe(self), CALL_TIMEOUT)

    def remove(self) -> None:
        """Stop watching the signal, and release the plan if it is held."""
        if self.RE is not None and _is_async(self._sig):
            call_in_loop(self.RE.loop, super().remove, CALL_TIMEOUT)
        elif self.RE is not None:
            super().remove()  # type: ignore[no-untyped-call]

    def __call__(self, value: Any = None, **kwargs: Any) -> None:  # noqa: ARG002 - classic ophyd sends its all
        """Take a new value; ophyd-async sends ``{name: reading}``, classic ophyd ``value=...``."""
        if (RE := self.RE) is not None:
            self._update(RE, next(iter(value.values()))["value"] if isinstance(value, dict) else value)

    def _update(self, RE: RunEngine, value: Any) -> None:  # noqa: ARG002 - for subclasses
        """Take a new value of the signal."""
        super().__call__(value)  # type: ignore[no-untyped-call]

    def _get_justification(self) -> str:
        return f"{type(self).__name__} on {self._sig.name}: {self._tripped_message}" if self._tripped else ""


class QualitySuspender(_SignalSuspender):
    """End the run when a signal says that the image is good enough.

    Parameters
    ----------
    signal : Signal of bool
        ``ReconJob.finalize_requested``, or any signal (ophyd-async or ophyd) that turns true.
    mode : {"after-projection", "at-once"}
        ``"after-projection"``: only arm; `streaming_wrapper` raises `QualityReached` at the plan's next
        checkpoint. ``"at-once"``: have the RunEngine raise `QualityReached` at the plan's current message, in
        the middle of a move if need be; the event in flight is lost. That is the one for plans outside our
        wrapper, and it fires once per run. Where the plan has cleared its checkpoint (fly scans) it only arms,
        because a suspension would fail the run.
    reached : callable, optional
        Makes the exception when it is needed.
    when : callable, optional
        Whether a value of the signal says so; by default whether it is true.
    once_is_enough : bool, optional
        A signal that has said so counts, whatever it says later.

    Raises
    ------
    ConfigError
        If the mode is unknown.
    """

    def __init__(
        self,
        signal: Any,
        *,
        mode: SuspendMode = "after-projection",
        reached: Callable[[], QualityReached] = QualityReached,
        when: Callable[[Any], bool] = bool,
        once_is_enough: bool = False,
    ) -> None:
        if mode not in ("after-projection", "at-once"):
            raise ConfigError(f"suspender mode: got {mode!r}, expected 'after-projection' or 'at-once'")
        super().__init__(signal, tripped_message="the image is good enough")  # type: ignore[no-untyped-call]
        self.mode: SuspendMode = mode
        self.reached = reached
        self._when, self._once_is_enough = when, once_is_enough
        self._fired = False
        self._in_run = False
        self._token: int | None = None

    @property
    def armed(self) -> bool:
        """The signal is true: the plan should end at its next checkpoint."""
        return bool(self._tripped)

    def install(self, RE: RunEngine, *, event_type: str | None = None) -> None:
        """Watch the signal on behalf of this RunEngine; a signal that is true already counts."""
        super().install(RE, event_type=event_type)
        if self.mode == "at-once" and self._token is None:
            self._token = RE.subscribe(self._document)

    def remove(self) -> None:
        """Watch no more."""
        if self.RE is not None and self._token is not None:
            self.RE.unsubscribe(self._token)
        self._token = None
        super().remove()

    def get_futures(self) -> tuple[list[Callable[[], Any]], str]:
        """Return what a plan has to wait for before it may start; nothing here."""
        return [], ""

    def _should_suspend(self, value: Any) -> bool:
        return bool(self._when(value)) or (self._once_is_enough and bool(self._tripped))

    def _should_resume(self, value: Any) -> bool:
        return not self._should_suspend(value)

    def _update(self, RE: RunEngine, value: Any) -> None:
        self._tripped = self._should_suspend(value)
        if self._tripped:
            self._fire(RE)

    def _document(self, name: str, doc: dict[str, Any]) -> None:  # noqa: ARG002
        """Follow the runs: a signal that tripped before the run fires with the run's first event."""
        if name == "start":
            self._fired, self._in_run = False, True
        elif name == "stop":
            self._in_run = False
        elif name in ("event", "event_page") and self._tripped and self.RE is not None:
            self._fire(self.RE)

    def _fire(self, RE: RunEngine) -> None:
        if self.mode != "at-once" or self._fired or not self._in_run or RE.state not in ("running", "paused"):
            return
        if not RE.resumable:
            logger.info("image good enough, but the plan has no checkpoint: left to the plan to end the run")
            return
        self._fired = True
        RE.request_suspend(
            asyncio.Event().wait, pre_plan=lambda: self._raise(RE.rewindable), justification=self._get_justification()
        )

    def _raise(self, rewindable: bool) -> Generator[Msg, Any, None]:
        """Raise from inside the plan; the RunEngine has made itself non-rewindable and would stay so for ever."""
        yield Msg("rewindable", None, rewindable)
        raise self.reached()


class BacklogSuspender(_SignalSuspender):
    """Hold the scan while the reconstruction is too far behind, and let it go on when it has caught up.

    Parameters
    ----------
    signal : Signal of number
        ``ReconJob.lag``: projections that were taken and are not in the image yet.
    limit : float
        Suspend when the signal is above this.
    resume : float, optional
        Go on when it is at or below this; half the limit by default.

    Raises
    ------
    ConfigError
        If `resume` is above `limit`.
    """

    def __init__(self, signal: Any, limit: float, *, resume: float | None = None) -> None:
        resume = limit / 2 if resume is None else resume
        if not 0 <= resume <= limit:
            raise ConfigError(f"backlog: got resume={resume} and limit={limit}, expected 0 <= resume <= limit")
        behind = f"the reconstruction is more than {limit:g} projections behind"
        super().__init__(signal, tripped_message=behind)  # type: ignore[no-untyped-call]
        self.limit = limit
        self.resume = resume

    def _update(self, RE: RunEngine, value: Any) -> None:
        """Take a new value, unless the RunEngine could not be suspended now: the next one will be asked for then."""
        if RE.state == "idle" or not self._should_suspend(value):
            super()._update(RE, value)
        elif RE.state in ("running", "paused") and RE.resumable:
            with self._lock:
                self._tripped = True
                if self._ev is None:
                    # The stock suspender asks a turn of the loop later, when the run may be over, and not while paused.
                    self._ev = asyncio.Event()
                    RE.request_suspend(self._ev.wait, justification=self._get_justification())

    def _should_suspend(self, value: Any) -> bool:
        return bool(value > self.limit)

    def _should_resume(self, value: Any) -> bool:
        return bool(value <= self.resume)


def _is_async(signal: Any) -> bool:
    from ophyd_async.core import Device

    return isinstance(signal, Device)
