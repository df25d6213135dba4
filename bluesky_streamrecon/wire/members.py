"""The connecting side of the protocol without sockets: hello, the run that is received, and reports.

A rank and the controller are both a `Member`; the controller is just never sent items. Time is passed in.
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
from bluesky_streamrecon.logs import set_run
from bluesky_streamrecon.wire import events as ev
from bluesky_streamrecon.wire.codec import Buffer, Pixels, UnknownVersionError, decode_down
from bluesky_streamrecon.wire.messages import (
    AbandonRun,
    Ack,
    CloseRun,
    DownMessage,
    Finalize,
    Heartbeat,
    Hello,
    Item,
    ItemGone,
    Noted,
    OpenRun,
    PreviewAt,
    Problem,
    Report,
    RunDone,
    Score,
    Shutdown,
    Status,
    Welcome,
)
from bluesky_streamrecon.wire.operator_messages import Answer, Ask, Picture, ShowMe
from bluesky_streamrecon.wire.sessions import ReceiverSession, Verdict
from bluesky_streamrecon.wire.tally import Tally

__all__ = ["LINK_MOVES", "LinkState", "Member", "MemberEvent"]

log = logging.getLogger(__name__)

MemberEvent = ev.RankEvent | ev.ControllerEvent | ev.OperatorEvent

REPORTS_KEPT: Final = 100_000
SIZE_TRIES: Final = 3
REFUSALS: Final = frozenset({"hello", "version", "superseded"})


class LinkState(enum.Enum):
    """Where a link is. ``GREETING``: hello is on its way. ``REFUSED``: the beamline will not have us."""

    DOWN = "down"
    GREETING = "greeting"
    LINKED = "linked"
    REFUSED = "refused"


LINK_MOVES: Final[dict[LinkState, dict[str, LinkState]]] = {
    LinkState.DOWN: {"connect": LinkState.GREETING},
    LinkState.GREETING: {
        "connect": LinkState.GREETING,
        "welcome": LinkState.LINKED,
        "refuse": LinkState.REFUSED,
    },
    LinkState.LINKED: {
        "connect": LinkState.GREETING,
        "welcome": LinkState.LINKED,
        "refuse": LinkState.REFUSED,
    },
    LinkState.REFUSED: {},
}
"""Legal moves of a link: state, then what happens, then the state after it."""


class Member:
    """State of a rank's or the controller's end.

    What is to be sent is in `outbox`. When `reconnect` is true, the connection is to be thrown away and made anew,
    and what was in the outbox before belongs to the old one (`connected` says hello and clears it).

    Parameters
    ----------
    hello : Hello
        What to say first; run and numbers are filled in.
    credit : int
        Least credit given.
    resume : (str, int), optional
        Run uid and last applied item of a checkpoint.
    greeting_seconds, resend_seconds : float
        After how long without a welcome the connection is made anew; after how long without a note reports are
        sent again.
    wall : callable
        Seconds since the epoch, for the hello.
    """

    def __init__(
        self,
        hello: Hello,
        *,
        credit: int = 64,
        resume: tuple[str, int] | None = None,
        greeting_seconds: float = 5.0,
        resend_seconds: float = 10.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.state = LinkState.DOWN
        self.reconnect = True
        self.outbox: deque[msgspec.Struct] = deque()
        self.events: deque[MemberEvent] = deque()
        self.garbage = Tally(log, "malformed message of the beamline")
        self.run: OpenRun | None = None
        self.receiver: ReceiverSession | None = None
        self.seen: float | None = None
        self._hello = hello
        self._credit = credit
        self._resume = resume
        self._greeting_seconds = greeting_seconds
        self._resend_seconds = resend_seconds
        self._wall = wall
        self._heartbeat = 1.0
        self._timeout = 10.0
        self._since = 0.0
        self._sent = 0.0
        self._reports: deque[Report] = deque()
        self._number = 0
        self._reported = 0.0
        self._done = False
        self._gone: set[int] = set()
        self._close: CloseRun | None = None
        self._preview: tuple[str | None, str | None] = (None, None)
        self._turned_away = 0
        self._asked: dict[int, Ask] = {}

    # ------------------------------------------------------------------ asked by the user

    def applied(self, run_uid: str, seq: int) -> None:
        """All items of the run up to `seq` are applied (nothing happens if the run is not ours any more)."""
        if self.run is not None and self.receiver is not None and self.run.run_uid == run_uid:
            if seq > self.receiver.applied:
                self.receiver.apply(seq)
            self._pass_over()

    def done(self, report: RunDone) -> None:
        """Report the run as done; `applied`, `received`, `duplicate` and `gaps` are filled in as counted here."""
        if self.run is None or self.receiver is None or self.run.run_uid != report.run_uid:
            log.warning("run %s: done, but not ours any more; not reported", report.run_uid)
            return
        if self._close is None:
            raise LocalProtocolError(f"run {report.run_uid[:8]}: reported as done before it was closed")
        applied = min(self.receiver.applied, self._close.seq - 1)
        count = applied - sum(seq <= applied for seq in self._gone)
        self._done = True
        ack = self._due_ack(again=False)
        if ack is not None and self.state is LinkState.LINKED:
            self.outbox.append(ack)
        receiver = self.receiver
        numbers = {"received": receiver.received, "duplicate": receiver.duplicate, "gaps": receiver.gaps}
        self.report(msgspec.structs.replace(report, applied=count, **numbers))

    def status(self, status: Status) -> None:
        """Say how far we are, if anyone is listening."""
        if self.state is LinkState.LINKED:
            self.outbox.append(status)

    def show(self, picture: Picture) -> None:
        """Send a picture, if anyone is listening."""
        if self.state is LinkState.LINKED:
            self.outbox.append(picture)

    def ask(self, ask: Ask) -> None:
        """Ask something; asked again on each new link until it is answered or forgotten."""
        self._asked[ask.number] = ask
        if self.state is LinkState.LINKED:
            self.outbox.append(ask)

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._asked.pop(number, None)

    def report(self, body: Score | Finalize | RunDone | Problem) -> None:
        """Say something that must not be lost."""
        self._number += 1
        report = Report(number=self._number, body=body)
        self._reports.append(report)
        if len(self._reports) > REPORTS_KEPT:
            self._reports.popleft()
        if self.state is LinkState.LINKED:
            self.outbox.append(report)

    @property
    def unsettled(self) -> int:
        """Reports that the beamline has not noted yet."""
        return len(self._reports)

    # ------------------------------------------------------------------ from the transport

    def connected(self, now: float) -> None:
        """There is a fresh connection: say hello."""
        self._move("connect")
        self.reconnect = False
        self.outbox.clear()
        self._since = now
        self._say(self._present_hello(), now)

    def receive(self, frames: Sequence[Buffer], now: float) -> None:
        """Take one message; whatever it is, nothing is raised."""
        if self.state is LinkState.REFUSED or self.reconnect:
            return
        try:
            message, pixels = decode_down(frames)
            self._from_beamline(message, pixels, now)
        except UnknownVersionError as error:
            if self.state is LinkState.GREETING:
                self._refuse(str(error))
            else:
                self.garbage.add(error)
        except RemoteProtocolError as error:
            self.garbage.add(error)

    def tick(self, now: float) -> None:
        """Look at what should have happened by now. Call after what has arrived was received."""
        if self.state is LinkState.GREETING and now - self._since > self._greeting_seconds:
            self.reconnect = True
        elif self.state is LinkState.LINKED:
            silent = now - (self.seen or 0.0)
            if silent > self._timeout:
                self._lost(f"nothing heard for {silent:.1f} s")
                return
            if self._reports and now - self._reported > self._resend_seconds:
                self._reported = now
                self.outbox.extend(self._reports)
            self.flush(now, again=now - self._sent >= self._heartbeat)

    def flush(self, now: float, *, again: bool = False) -> None:
        """Put the acknowledgement that is due into the outbox; with `again`, a sign of life in any case."""
        if self.state is not LinkState.LINKED:
            return
        ack = self._due_ack(again=again)
        if ack is not None:
            self._say(ack, now)
        elif again:
            self._say(Heartbeat(time=self._wall()), now)

    def _due_ack(self, *, again: bool) -> Ack | None:
        if self.run is None or self.receiver is None:
            return None
        numbers = self.receiver.ack(again=again)
        if numbers is None:
            return None
        return Ack(
            run_uid=self.run.run_uid,
            applied=numbers.applied,
            received=numbers.received,
            credit=numbers.credit,
            duplicate=self.receiver.duplicate,
            gaps=self.receiver.gaps,
            resend=numbers.resend,
        )

    # ------------------------------------------------------------------ what the beamline says

    def _from_beamline(self, message: DownMessage, pixels: Pixels | None, now: float) -> None:
        if isinstance(message, Welcome):
            self._welcome(message, now)
            return
        if isinstance(message, Problem):
            self._problem(message)
        if self.state is not LinkState.LINKED:
            return
        self.seen = now
        if isinstance(message, OpenRun):
            self._open(message)
        elif isinstance(message, Item | ItemGone | CloseRun):
            self._item(message, pixels)
        elif isinstance(message, Noted):
            self._settle(message.number)
            self._reported = now
        elif isinstance(message, AbandonRun):
            if self.run is not None and self.run.run_uid == message.run_uid:
                self._abandon(message.reason)
        elif isinstance(message, PreviewAt):
            self._preview_at(message.address, message.key)
        elif isinstance(message, ShowMe):
            self.events.append(ev.PictureWanted(message))
        elif isinstance(message, Answer):
            if self._asked.pop(message.number, None) is not None:
                self.events.append(ev.AnswerReceived(message))
        elif isinstance(message, Shutdown):
            self.events.append(ev.ShutdownRequested(message.reason))

    def _welcome(self, message: Welcome, now: float) -> None:
        if message.job_id != self._hello.job_id:
            self._refuse("the beamline welcomed us with another job id than ours")
            return
        restored = self.state is not LinkState.LINKED
        self._turned_away = 0
        self._move("welcome")
        self.seen = self._reported = now
        self._heartbeat, self._timeout = message.heartbeat_seconds, message.peer_timeout
        self._settle(message.noted)
        self.outbox.extend(self._reports)
        self.outbox.extend(self._asked.values())
        if restored:
            log.info("%s %d: linked to the beamline", self._hello.role, self._hello.rank)
            self.events.append(ev.LinkRestored(message.session))

    def _problem(self, message: Problem) -> None:
        if message.where in REFUSALS:
            self._refuse(message.text)
        elif message.where == "size" and self.state is LinkState.GREETING:
            self._turned_away += 1  # ranks of a job that has just died may be taken for linked
            if self._turned_away >= SIZE_TRIES:
                self._refuse(message.text)
        elif message.where == "link":
            if self.state is LinkState.LINKED:
                self._lost("the beamline does not know this link any more")
        else:
            log.warning(
                "run %s: the beamline reports a problem in %s: %s", message.run_uid, message.where, message.text
            )
            self.events.append(ev.ProblemReported(message))

    def _open(self, run: OpenRun) -> None:
        if self.run is not None and self.receiver is not None and self.run.run_uid == run.run_uid:
            if run.block != self.run.block:
                raise RemoteProtocolError(f"run {run.run_uid[:8]}: got {run.block} now, expected {self.run.block}")
            self.receiver.open()
            self._preview_at(run.preview_address, run.preview_key)
            if run.planned != self.run.planned and self._hello.role == "controller":
                self.run = msgspec.structs.replace(self.run, planned=run.planned)
                self.events.append(ev.PlanChanged(run.run_uid, run.planned))
            return
        if self.run is not None:
            self._abandon("the beamline opened another run")
        applied = self._resume[1] if self._resume is not None and self._resume[0] == run.run_uid else 0
        credit = max(self._credit, 2 * max(run.recon.window or 0, run.recon.step))
        self.run = run
        self.receiver = ReceiverSession(credit=credit, applied=applied)
        self._preview = (run.preview_address, run.preview_key)
        self._done = False
        self._gone = set()
        self._close = None
        set_run(run.run_uid)
        log.info("run %s: opened, rows %d to %d", run.run_uid, *run.rows)
        self.events.append(ev.RunOpened(run))

    def _item(self, message: Item | ItemGone | CloseRun, pixels: Pixels | None) -> None:
        if self.run is None or self.receiver is None or self.run.run_uid != message.run_uid:
            return  # left over from a run that is not ours any more
        if isinstance(message, Item):
            self._check_item(message, self.run)
        if self.receiver.offer(message.seq, last=isinstance(message, CloseRun)) is not Verdict.ACCEPT:
            return
        if isinstance(message, Item):
            if pixels is not None:  # the decoder saw to it
                self.events.append(ev.ItemReceived(message, pixels))
        elif isinstance(message, ItemGone):
            log.warning("run %s: item %d is lost: %s", message.run_uid, message.seq, message.why)
            self._gone.add(message.seq)
            self.events.append(ev.ItemLost(message))
        else:
            self._close = message
            log.info("run %s: closed after %d projections", message.run_uid, message.projections)
            self.events.append(ev.RunClosed(message))
        self._pass_over()

    def _check_item(self, item: Item, run: OpenRun) -> None:
        if item.rows != run.rows or item.dtype != run.dtype or item.shape[1] != run.detector_shape[1]:
            raise RemoteProtocolError(
                f"item {item.seq} of run {run.run_uid[:8]}: got rows {item.rows}, {item.dtype} {item.shape}, expected "
                f"rows {run.rows}, {run.dtype} with {run.detector_shape[1]} columns, as the run was opened"
            )

    def _pass_over(self) -> None:
        """Lost items and the closing mark are applied as soon as all before them are."""
        receiver = self.receiver
        if receiver is None:
            return
        close = None if self._close is None else self._close.seq
        while receiver.applied < receiver.received and (
            receiver.applied + 1 in self._gone or receiver.applied + 1 == close
        ):
            receiver.apply(receiver.applied + 1)

    def _abandon(self, reason: str) -> None:
        if self.run is None:
            return
        if not self._done:
            log.warning("run %s: abandoned: %s", self.run.run_uid, reason)
            self.events.append(ev.RunAbandoned(self.run.run_uid, reason))
        self.run = self.receiver = None

    def _preview_at(self, address: str | None, key: str | None) -> None:
        if (address, key) != self._preview:
            self._preview = (address, key)
            self.events.append(ev.PreviewMoved(address, key))

    # ------------------------------------------------------------------ insides

    def _present_hello(self) -> Hello:
        base = self._reports[0].number - 1 if self._reports else self._number
        uid, last = (None, 0)
        if self.run is not None and self.receiver is not None:
            uid, last = self.run.run_uid, self.receiver.applied
        return msgspec.structs.replace(self._hello, run_uid=uid, last_applied=last, noted=base, time=self._wall())

    def _settle(self, number: int) -> None:
        while self._reports and self._reports[0].number <= number:
            self._reports.popleft()

    def _say(self, message: msgspec.Struct, now: float) -> None:
        self.outbox.append(message)
        self._sent = now

    def _lost(self, reason: str) -> None:
        log.warning("%s %d: link lost: %s", self._hello.role, self._hello.rank, reason)
        self.events.append(ev.LinkLost(reason))
        self.reconnect = True

    def _refuse(self, text: str) -> None:
        self._move("refuse")
        log.error("%s %d: refused by the beamline: %s", self._hello.role, self._hello.rank, text)
        self.outbox.clear()
        self.events.append(ev.Refused(text))

    def _move(self, what: str) -> None:
        try:
            self.state = LINK_MOVES[self.state][what]
        except KeyError:
            raise LocalProtocolError(f"link: {what!r} is not allowed in state {self.state.value!r}") from None
