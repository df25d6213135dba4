"""The connecting end of a link without sockets: hello, the run that is received, and what is sent surely.

A rank, the controller and an operator each have a `Connector` to the beamline's `Listener`; a rank has another one to
the controller's, which it brings previews. Time is passed in.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bluesky_streamrecon.errors import LocalProtocolError, RemoteProtocolError
from bluesky_streamrecon.logs import RateLimitedWarning, set_run
from bluesky_streamrecon.wire import events as ev
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.channel import MessageMissingError, MessageSender, Receiver
from bluesky_streamrecon.wire.codec import Buffer, UnknownVersionError, decode
from bluesky_streamrecon.wire.link import LinkEnd, SendNow, Sent

__all__ = ["LINK_MOVES", "Connector", "ConnectorEvent", "LinkState"]

log = logging.getLogger(__name__)

ConnectorEvent = ev.RankEvent | ev.ControllerEvent | ev.OperatorEvent

SIZE_TRIES: Final = 3
CREDITS: Final = {"answers": 256}
REFUSALS: Final = frozenset({"hello", "version", "superseded"})


class LinkState(enum.Enum):
    """Where a link is.

    ``DOWN``: the connection is to be thrown away and made anew. ``GREETING``: hello is on its way. ``REFUSED``: the
    other end will not have us.
    """

    DOWN = "down"
    GREETING = "greeting"
    LINKED = "linked"
    REFUSED = "refused"


_CONNECTED: Final = {
    "welcome": LinkState.LINKED,
    "refuse": LinkState.REFUSED,
    "lose": LinkState.DOWN,
    "redirect": LinkState.DOWN,
}

LINK_MOVES: Final[dict[LinkState, dict[str, LinkState]]] = {
    LinkState.DOWN: {"connect": LinkState.GREETING, "redirect": LinkState.DOWN},
    LinkState.GREETING: _CONNECTED,
    LinkState.LINKED: _CONNECTED,
    LinkState.REFUSED: {"redirect": LinkState.DOWN},
}
"""Legal moves of a link: state, then what happens, then the state after it."""


class Connector(LinkEnd):
    """State of a connecting end.

    When it is ``DOWN``, the connection is to be made anew, and `connected` called; that was done last at `since`.

    Parameters
    ----------
    hello : Hello
        What to say first; the run is filled in.
    credit : int
        Least credit given for items of a run.
    resume : (str, int), optional
        Run uid and last applied item of a checkpoint.
    greeting_seconds : float
        After how long without a welcome the connection is made anew.
    channel : str, optional
        On which `send` sends; None: on none.
    to : str
        What the other end is, for the log.
    wall : callable
        Seconds since the epoch, for heartbeats.
    """

    def __init__(
        self,
        hello: m.Hello,
        *,
        credit: int = 64,
        resume: tuple[str, int] | None = None,
        greeting_seconds: float = 5.0,
        channel: str | None = "reports",
        to: str = "the beamline",
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.state = LinkState.DOWN
        self.target: tuple[str, str | None] | None = None
        self.events: deque[ConnectorEvent] = deque()
        self.garbage = RateLimitedWarning(log, f"malformed message of {to}")
        self.run: m.OpenRun | None = None
        self.preview_at: m.PreviewAt | None = None
        self.reports = MessageSender(channel or "", hello.instance)
        if channel is not None:
            self.senders[channel] = self.reports
        self._hello = hello
        self._name = f"{hello.role} {hello.rank}"
        self._to = to
        self._credit = credit
        self._resume = resume
        self._greeting_seconds = greeting_seconds
        self._wall = wall
        self._heartbeat = 1.0
        self._timeout = 10.0
        self.since = 0.0
        self._done = False
        self._gone: set[int] = set()
        self._turned_away = 0

    # ------------------------------------------------------------------ asked by the user

    def send(self, message: msgspec.Struct) -> None:
        """Send a message surely if it is one of a channel; another one if anyone is listening."""
        if isinstance(message, m.RunDone):
            self._finish(message)
        elif type(message) in m.CHANNELS:
            self.reports.send(message)
        elif self.state is LinkState.LINKED:
            self.send_plain(message)

    def applied(self, run_uid: str | None, seq: int) -> None:
        """All items of the run up to `seq` are applied (nothing happens if the run is not ours any more)."""
        receiver = self.receiver
        if receiver is not None and receiver.stream == run_uid:
            if seq > receiver.applied:
                receiver.apply(seq)
            self._pass_over(receiver)

    @property
    def receiver(self) -> Receiver | None:
        """Receiving half of the run's channel."""
        return self.receivers.get("run")

    @property
    def has_no_peer(self) -> bool:
        """No address to connect to is known, or the other end has refused us."""
        return self.target is None or self.state is LinkState.REFUSED

    @property
    def settled(self) -> bool:
        """Nothing is left that should be sent, or there is nobody to send it to."""
        return self.has_no_peer or super().settled

    # ------------------------------------------------------------------ from the transport

    def connected(self, now: float) -> None:
        """There is a fresh connection: say hello."""
        self._move("connect")
        self.break_off()
        self.since = now
        uid = None if self.run is None else self.run.run_uid
        self.send_plain(msgspec.structs.replace(self._hello, run_uid=uid))

    def go_to(self, address: str | None, server: str | None) -> None:
        """Take this address (with this CURVE public key) as the other end's from now on; None: there is none."""
        target = None if address is None else (address, server)
        if target != self.target:
            self._move("redirect")
            self.break_off()
            self.target = target

    def lose(self, reason: str) -> None:
        """Break the connection off, and go on without it."""
        self._move("lose")
        log.warning("%s: link to %s lost: %s", self._name, self._to, reason)
        self.break_off()
        self.events.append(ev.LinkLost(reason))

    def receive(self, link: bytes, frames: Sequence[Buffer], now: float) -> None:  # noqa: ARG002 - as a listener's
        """Take one message; whatever it is, nothing is raised."""
        if self.state in (LinkState.DOWN, LinkState.REFUSED):
            return
        try:
            self._receive(decode(frames), now)
        except UnknownVersionError as error:
            if self.state is LinkState.GREETING:
                self._refuse(str(error))
            else:
                self.garbage.add(error)
        except MessageMissingError as error:
            self.lose(str(error))
        except RemoteProtocolError as error:
            self.garbage.add(error)

    def tick(self, now: float) -> None:
        """Look at what should have happened by now. Call after what has arrived was received."""
        if self.state is LinkState.GREETING and now - self.since > self._greeting_seconds:
            self._move("lose")
        elif self.state is LinkState.LINKED:
            silent = self.keep_alive(now, self._timeout, self._heartbeat, m.Heartbeat(time=self._wall()))
            if silent:
                self.lose(f"nothing heard for {silent:.1f} s")

    def pump(self, send: SendNow, now: float, budget: int = 64) -> bool:
        """Send what is due; return whether more is ready."""
        return all(self.send_next(send, now) is Sent.DONE for _ in range(budget))

    # ------------------------------------------------------------------ what the other end says

    def _receive(self, message: m.Message, now: float) -> None:
        if isinstance(message, m.Welcome):
            self._welcome(message, now)
        elif isinstance(message, m.Problem):
            self._problem(message)
        if self.state is not LinkState.LINKED:
            return
        self.seen = now
        if isinstance(message, m.OpenRun):
            self._open_run(message)
        elif isinstance(message, m.Item | m.ItemGone | m.ChangeRun | m.CloseRun):
            self._item(message)
        elif isinstance(message, m.AbandonRun):
            if self.run is not None and self.run.run_uid == message.run_uid:
                self._abandon(message.reason)
        elif isinstance(message, m.Ack | m.OpenChannel):
            self.take(message, CREDITS)
        elif isinstance(message, m.PreviewAt):
            self.preview_at = message
        elif isinstance(message, m.Answer | m.ShowCuts | m.Cuts | m.Shutdown):
            if self.take(message, CREDITS):
                self.events.append(message)
            if isinstance(message, m.Answer):
                answers = self.receivers["answers"]
                answers.apply(answers.received)
        elif not isinstance(message, m.Heartbeat | m.Welcome | m.Problem):
            raise RemoteProtocolError(f"{type(message).__name__} is not for the other end to send")

    def _welcome(self, message: m.Welcome, now: float) -> None:
        if message.job_id != self._hello.job_id:
            self._refuse("we were welcomed with another job id than ours")
            return
        restored = self.state is not LinkState.LINKED
        self._turned_away = 0
        self._move("welcome")
        self._heartbeat, self._timeout = message.heartbeat_seconds, message.peer_timeout
        self.begin(now)
        if restored:
            log.info("%s: linked to %s", self._name, self._to)
            self.events.append(ev.LinkRestored())

    def _problem(self, message: m.Problem) -> None:
        if message.where in REFUSALS:
            self._refuse(message.text)
        elif message.where == "size" and self.state is LinkState.GREETING:
            self._turned_away += 1  # ranks of a job that has just died may be taken for linked
            if self._turned_away >= SIZE_TRIES:
                self._refuse(message.text)
        elif message.where == "link":
            if self.state is LinkState.LINKED:
                self.lose(f"{self._to} does not know this link any more")
        else:
            log.warning(
                "%s reports a problem in %s (run %s): %s", self._to, message.where, message.run_uid, message.text
            )
            self.events.append(message)

    def _open_run(self, run: m.OpenRun) -> None:
        receiver = self.receiver
        if self.run is not None and receiver is not None and self.run.run_uid == run.run_uid:
            if run.block != self.run.block:
                raise RemoteProtocolError(f"run {run.run_uid[:8]}: got {run.block} now, expected {self.run.block}")
            receiver.open()
            return
        if self.run is not None:
            self._abandon("the beamline opened another run")
        applied = self._resume[1] if self._resume is not None and self._resume[0] == run.run_uid else 0
        credit = max(self._credit, 2 * max(run.recon.window or 0, run.recon.step))
        self.run = run
        self.receivers["run"] = Receiver("run", run.run_uid, credit=credit, applied=applied)
        self._done = False
        self._gone = set()
        set_run(run.run_uid)
        log.info("opened, rows %d to %d", *run.rows)
        self.events.append(run)

    def _item(self, message: m.Item | m.ItemGone | m.ChangeRun | m.CloseRun) -> None:
        if self.run is None or self.run.run_uid != message.run_uid:
            return  # left over from a run that is not ours any more
        if isinstance(message, m.Item):
            self._check_item(message, self.run)
        if not self.take(message, CREDITS):
            return
        if isinstance(message, m.ItemGone):
            log.warning("item %d is lost: %s", message.seq, message.why)
        elif isinstance(message, m.CloseRun):
            log.info("closed after %d projections", message.projections)
        if not isinstance(message, m.Item):
            self._gone.add(message.seq)
        self.events.append(message)
        self._pass_over(self.receivers["run"])

    def _check_item(self, item: m.Item, run: m.OpenRun) -> None:
        if item.rows != run.rows or item.dtype != run.dtype or item.shape[1] != run.detector_shape[1]:
            raise RemoteProtocolError(
                f"item {item.seq} of run {run.run_uid[:8]}: got rows {item.rows}, {item.dtype} {item.shape}, expected "
                f"rows {run.rows}, {run.dtype} with {run.detector_shape[1]} columns, as the run was opened"
            )

    def _pass_over(self, receiver: Receiver) -> None:
        """Take what is no item as applied as soon as all before it is."""
        while receiver.applied < receiver.received and receiver.applied + 1 in self._gone:
            receiver.apply(receiver.applied + 1)

    def _finish(self, report: m.RunDone) -> None:
        """Report a run as done, with the last acknowledgement of it."""
        receiver = self.receiver
        if self.run is None or receiver is None or self.run.run_uid != report.run_uid:
            log.warning("run %s is done, but not ours any more; not reported", report.run_uid)
            return
        if not receiver.complete:
            raise LocalProtocolError(f"run {report.run_uid[:8]}: reported as done before its end has come")
        self._done = True
        self.reports.send(msgspec.structs.replace(report, ack=receiver.present_ack()))

    def _abandon(self, reason: str) -> None:
        if self.run is None:
            return
        if not self._done:
            log.warning("run %s was abandoned: %s", self.run.run_uid, reason)
            kept = [event for event in self.events if not isinstance(event, m.Item | m.ItemGone)]
            self.events.clear()
            self.events.extend([*kept, m.AbandonRun(run_uid=self.run.run_uid, reason=reason)])
        self.run = None
        self.receivers.pop("run", None)

    # ------------------------------------------------------------------ insides

    def _refuse(self, text: str) -> None:
        self._move("refuse")
        log.error("%s: refused by %s: %s", self._name, self._to, text)
        self.break_off()
        self.events.append(ev.Refused(text))

    def _move(self, what: str) -> None:
        try:
            self.state = LINK_MOVES[self.state][what]
        except KeyError:
            raise LocalProtocolError(f"link: {what!r} is not allowed in state {self.state.value!r}") from None
