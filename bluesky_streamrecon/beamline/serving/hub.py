"""The beamline's end of all links, without sockets: the run that is served to ranks and controller, and operators."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from bluesky_streamrecon.beamline.serving import events as ev
from bluesky_streamrecon.beamline.serving.cut_wishes import CutWishes
from bluesky_streamrecon.beamline.serving.run import Run
from bluesky_streamrecon.logs import set_run
from bluesky_streamrecon.run_record import Ledger
from bluesky_streamrecon.wire import messages as m
from bluesky_streamrecon.wire.channel import MessageSender
from bluesky_streamrecon.wire.events import PeerInfo
from bluesky_streamrecon.wire.listener import Listener, MaySend, Peer

__all__ = ["Hub"]

log = logging.getLogger(__name__)

REPORTS_AT_ONCE = 1024
MOST_OPERATORS = 16
ASKS_AT_ONCE = 40
ASKS_PER_SECOND = 20.0
ROLES: Final = {
    "rank": MaySend((m.Status, m.RunDone, m.VolumeDone, m.Problem, m.Cuts), {"reports": REPORTS_AT_ONCE}),
    "controller": MaySend((m.Score, m.Problem), {"reports": REPORTS_AT_ONCE}),
    "operator": MaySend((m.Ask, m.ShowCuts), {"orders": ASKS_AT_ONCE}),
}


class Hub(Listener):
    """State of the beamline's end; parameters as for `Listener`."""

    roles = ROLES

    def __init__(self, **listening: Any) -> None:
        super().__init__(**listening)
        self.events: deque[tuple[ev.BeamlineEvent, PeerInfo | None]] = deque()
        self.run: Run | None = None
        self.size: int | None = None
        self._shutdown: str | None = None
        self._ready = False
        self._cuts = CutWishes()
        self._paced_at = 0.0

    # ------------------------------------------------------------------ asked by the user

    def open_run(self, run: Run) -> None:
        """Make `run` the one that is served; an unfinished earlier one is abandoned."""
        if self.run is not None and not self.run.finished:
            self.abandon_run("another run was opened before this one was finished")
        self.run = run
        if self.size is not None:
            run.partition(self.size)
        set_run(run.uid)
        log.info("opened, %d projections planned", run.spec.planned)
        for peer in self._links.values():
            self._serve(peer)

    def close_run(self, run: Run, exit_status: str, reason: str) -> None:
        """Close a run after its last item, unless it is over."""
        log.info("closed after %d items: %s %s", len(run.log), exit_status, reason)
        if not run.finished:
            run.finish_log(exit_status, reason)

    def abandon_run(self, reason: str) -> None:
        """Forget the run, and tell the peers so."""
        run = self.run
        if run is None or run.finished:
            return
        log.warning("run %s was abandoned: %s", run.uid, reason)
        run.finish()
        for peer in self._links.values():
            if peer.senders.pop("run", None) is not None:
                peer.send_plain(m.AbandonRun(run_uid=run.uid, reason=reason))

    def shutdown(self, reason: str) -> None:
        """Ask everyone, now and later, to end."""
        self._shutdown = reason
        for peer in self._links.values():
            peer.send_plain(m.Shutdown(reason=reason))

    def answer(self, operator: PeerInfo, answer: m.Answer) -> None:
        """Answer an operator, now or when it is linked again; nothing happens if it was forgotten."""
        peer = self._peers.get(("operator", operator.instance))
        sender = None if peer is None else peer.senders.get("answers")
        if isinstance(sender, MessageSender):
            sender.send(answer)

    @property
    def operators(self) -> int:
        """People's programs that are connected."""
        return sum(peer.hello.role == "operator" for peer in self._links.values())

    def peers(self) -> tuple[PeerInfo, ...]:
        """Every rank and controller that was ever welcomed, ranks first."""
        infos = [peer.info for peer in self._peers.values() if peer.hello.role != "operator"]
        return tuple(sorted(infos, key=lambda info: (info.role != "rank", info.rank)))

    def ledger(self) -> dict[int, Ledger]:
        """Ledger of each rank for the newest run."""
        return {} if self.run is None else self.run.ledger()

    # ------------------------------------------------------------------ of every turn

    def tick(self, now: float) -> None:
        """Look at what should have happened by now. Call after what has arrived was received."""
        super().tick(now)
        if self.run is not None:
            for text in self.run.frames.failures():
                self._report_failure(self.run, text)
        self._let_ask(now)
        if self.run is not None and not self.run.finished and (cuts := self._cuts.wish(now)) is not None:
            for peer in self._links.values():
                if peer.hello.role == "rank":
                    peer.send_plain(cuts)

    def _let_ask(self, now: float) -> None:
        """Let every operator ask more, at a limited pace."""
        more = int((now - self._paced_at) * ASKS_PER_SECOND)
        if more:
            self._paced_at = now
            for peer in self._links.values():
                if (receiver := peer.receivers.get("orders")) is not None:
                    receiver.apply(min(receiver.received, receiver.applied + more))

    # ------------------------------------------------------------------ peers come and go

    def refusal(self, hello: m.Hello) -> tuple[str, str] | None:
        """Return what of this hello can not be accepted, and why."""
        if hello.role == "operator":
            linked = self.operators
            if linked < MOST_OPERATORS or ("operator", hello.instance) in self._peers:
                return None
            text = f"operators: {linked} are connected, expected at most {MOST_OPERATORS}; close one of them"
            return ("hello", text)
        others = [p for p in self._links.values() if p.hello.role == "rank" and p.hello.size != hello.size]
        if hello.role == "rank" and others:
            text = (
                f"size: got a rank of {hello.size}, expected {self.size}, as its {len(others)} linked ranks say; "
                "does another job still run?"
            )
            return ("size", text)
        return None

    def joined(self, peer: Peer, before: Peer | None) -> None:
        """Note that a peer was welcomed."""
        hello = peer.hello
        if hello.role == "operator":
            if before is None:
                peer.serve(MessageSender("answers", hello.instance))
            self._forget_operators()
        else:
            self._emit(ev.PeerJoined(peer.info), peer)
        if hello.role == "rank":
            self._rank_joined(peer, before)
        elif hello.role == "controller":
            for other in self._links.values():
                if other.hello.role == "rank":
                    other.send_plain(self._preview_at())
        self._serve(peer)
        if hello.run_uid is not None and (self.run is None or self.run.uid != hello.run_uid or self.run.abandoned):
            text = "the beamline does not serve this run"
            peer.send_plain(m.AbandonRun(run_uid=hello.run_uid, reason=text))
        if self._shutdown is not None:
            peer.send_plain(m.Shutdown(reason=self._shutdown))

    def left(self, peer: Peer, reason: str) -> None:
        """Note that a peer's link is gone."""
        role = peer.hello.role
        if role == "rank":
            self._ready = False
        if role == "operator":
            self._cuts.leave(peer)
        if reason:
            if self._shutdown is None and role != "operator":
                log.warning("%s: lost: %s", peer, reason)
            else:
                log.info("%s: gone: %s", peer, reason)
            if role != "operator":
                self._emit(ev.PeerLost(peer.info, reason), peer)

    def _rank_joined(self, peer: Peer, before: Peer | None) -> None:
        hello = peer.hello
        if self.size != hello.size:
            for key in [k for k, p in self._peers.items() if k[0] == "rank" and p is not peer]:
                del self._peers[key]
            self.size = hello.size
            self._ready = False
            if self.run is not None and not self.run.finished:
                self.run.partition(hello.size)
        elif self.run is not None and before is not None:
            self.run.came_back(hello.rank, restarted=before is not peer)
        if ("controller", 0) in self._peers:
            peer.send_plain(self._preview_at())
        linked = sum(p.hello.role == "rank" for p in self._links.values())
        if linked == self.size and not self._ready:
            self._ready = True
            self._emit(ev.AllRanksReady(linked))

    def _serve(self, peer: Peer) -> None:
        """Begin to send the run to a rank or the controller."""
        run, hello = self.run, peer.hello
        if hello.role == "operator":
            return
        peer.senders.pop("run", None)
        if run is not None and not run.abandoned and (hello.role == "controller" or not run.finished):
            peer.serve(run.sender(hello.role, hello.rank))

    def _preview_at(self) -> m.PreviewAt:
        hello = self._peers[("controller", 0)].hello
        return m.PreviewAt(address=hello.preview_address, key=hello.preview_key)

    def _forget_operators(self) -> None:
        """Keep no more operators that are not linked than may be linked."""
        gone = [key for key, peer in self._peers.items() if key[0] == "operator" and peer.link is None]
        for key in gone[:-MOST_OPERATORS]:
            del self._peers[key]

    # ------------------------------------------------------------------ what peers send

    def received(self, peer: Peer, message: m.Message) -> None:
        """Take a message: a plain one, the next of a channel, or an acknowledgement of something new."""
        run = self.run
        if (reports := peer.receivers.get("reports")) is not None:
            reports.apply(reports.received)
        match message:
            case m.Ack():
                if run is not None and message.channel == "run" and peer.hello.role == "rank":
                    applied = message.applied if run.close is None else min(message.applied, len(run.log) - 1)
                    self._emit(ev.Acked(run.uid, peer.hello.rank, applied, run.projections_up_to(applied)), peer)
            case m.ShowCuts():
                self._cuts.want(peer, message)
            case m.Cuts():
                self._cuts.show(message)
            case m.Score() | m.RunDone() if run is None or run.uid != message.run_uid or run.abandoned:
                log.warning("%s of %s ignored: run %s is not open", type(message).__name__, peer, message.run_uid)
            case m.RunDone() if run is not None:
                self._rank_done(peer, run, message)
            case m.Status() if run is not None and run.uid == message.run_uid:
                run.note(message)
                self._emit(message, peer)
            case m.Problem():
                log.info("%s reports a problem in %s (run %s): %s", peer, message.where, message.run_uid, message.text)
                self._emit(message, peer)
            case m.Score() | m.Status() | m.VolumeDone() | m.Ask():  # also of a run before, whose volume is finished
                self._emit(message, peer)

    def _rank_done(self, peer: Peer, run: Run, report: m.RunDone) -> None:
        if report.rank != peer.hello.rank or run.close is None:
            log.warning("%s reports the run as done for rank %d, or it is open; ignored", peer, report.rank)
        elif results := run.done(report):
            log.info("finished by all %d ranks", len(results))
            for other in self._links.values():  # the controller still hears of its end
                if other.hello.role == "rank":
                    other.senders.pop("run", None)
            self._emit(ev.RunFinished(run.uid, results))

    def _report_failure(self, run: Run, text: str) -> None:
        """Report, here and to ranks and controller, that items of the run can not be sent."""
        log.error("the stream is not complete: %s", text)
        problem = m.Problem(fault="local", where="streaming", text=text[:4096], run_uid=run.uid)
        self._emit(problem)
        for peer in self._links.values():
            if peer.hello.role != "operator":
                peer.send_plain(problem)

    def _emit(self, event: ev.BeamlineEvent, peer: Peer | None = None) -> None:
        self.events.append((event, None if peer is None else peer.info))
