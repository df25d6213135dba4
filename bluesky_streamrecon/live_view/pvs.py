"""A run as PVs over PV Access: its verdict in numbers and words, its slices as one NTNDArray, and orders that are put.

Who may put is decided by the address that the connection comes from. PV Access has no passwords: the name of a user is
what the client says it is, and is written down as such. Times are seconds since the epoch (UTC).
"""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from bluesky_streamrecon.beamline.slices import grey_range, preview_slices
from bluesky_streamrecon.beamline.source import Snapshot, Source
from bluesky_streamrecon.errors import ConfigError, StreamReconError
from bluesky_streamrecon.wire import Cuts
from bluesky_streamrecon.wire.operator_messages import MOST_EXTRA, Order, OrderAction

__all__ = ["PvServer"]

log = logging.getLogger(__name__)

PLACE: Final = "PV"
LOOPBACK: Final = ("127.0.0.0/8", "::1")
LONGEST: Final = 4096  # characters of a reason

SHOWN: Final[dict[str, tuple[str, Callable[[Snapshot], Any]]]] = {
    "Finalize": ("?", lambda now: now.status.finalize and not now.unlinked),
    "Verdict": ("s", lambda now: now.status.verdict),
    "Text": ("s", lambda now: now.status.text),
    "Score": ("d", lambda now: _number(now.status.score)),
    "Gain": ("d", lambda now: _number(now.status.gain)),
    "GainLow": ("d", lambda now: _number(now.status.gain_low)),
    "GainHigh": ("d", lambda now: _number(now.status.gain_high)),
    "Tolerance": ("d", lambda now: _number(now.status.tolerance)),
    "Projections": ("i", lambda now: now.status.taken),
    "Planned": ("i", lambda now: now.status.total),
    "Used": ("i", lambda now: now.status.used),
    "ImageNumber": ("i", lambda now: now.status.image_number),
    "Lag": ("i", lambda now: now.status.lag),
    "Axis": ("d", lambda now: _number(now.status.axis)),
    "State": ("s", lambda now: now.unlinked or now.status.state),
    "Connected": ("?", lambda now: not now.unlinked),
    "Run": ("s", lambda now: now.status.run_uid or ""),
    "Held": ("s", lambda now: now.status.hold_text),
    "Ended": ("s", lambda now: now.status.ended),
    "Problem": ("s", lambda now: now.status.problem),
}
"""PVs that are read: type of NTScalar, and value."""

ORDERS: Final[dict[str, tuple[str, OrderAction]]] = {
    "Finish": ("s", "finish"),
    "Hold": ("s", "hold"),
    "Release": ("s", "release"),
    "Extend": ("i", "extend"),
    "SetAxis": ("d", "axis"),
}
"""PVs that are put: text is the reason, a number the projections to add, or the column of the axis."""

ANSWER: Final = "Answer"
IMAGE: Final = "Image"


class PvServer:
    """Serve what a source knows as PVs, and pass on orders, until it is closed.

    Parameters
    ----------
    source : Source
        Closed by the caller.
    prefix : str
        Of all names, such as ``"BL:RECON:"``.
    interface : str, optional
        Address of this computer at which PVs are served; ``"0.0.0.0"``: all.
    allow : sequence of str, optional
        Addresses and networks (``"10.1.2.0/24"``) from which orders are taken; this computer alone by default.

    Raises
    ------
    ConfigError
        If p4p is not installed, or an address is none.
    """

    def __init__(
        self, source: Source, prefix: str, *, interface: str = "127.0.0.1", allow: Sequence[str] = LOOPBACK
    ) -> None:
        try:
            from p4p.nt import NTNDArray, NTScalar
            from p4p.server import Server
            from p4p.server.thread import SharedPV
        except ModuleNotFoundError as error:
            raise ConfigError(f"PVs: {error}; pip install 'bluesky-streamrecon[pva]'") from error
        if not prefix or any(sign.isspace() for sign in prefix):
            raise ConfigError(f"prefix of PVs: got {prefix!r}, expected text without spaces, such as 'BL:RECON:'")
        self._allowed = [_network(each) for each in allow]
        self._source = source
        self._changed, self._ending = threading.Event(), threading.Event()
        self._posted: dict[str, Any] = {}
        self._images = NTNDArray()
        zeros = {"s": "", "d": math.nan, "i": 0, "?": False}
        kinds = {name: kind for name, (kind, _) in SHOWN.items()} | {ANSWER: "s"}
        pvs = {name: SharedPV(nt=NTScalar(kind), initial=zeros[kind]) for name, kind in kinds.items()}
        pvs |= {
            name: SharedPV(nt=NTScalar(kind), initial=zeros[kind], handler=_Put(self, name))
            for name, (kind, _) in ORDERS.items()
        }
        pvs[IMAGE] = SharedPV(initial=self._images.wrap(np.zeros((1, 1), np.float32)))
        self._pvs = pvs
        network = {"EPICS_PVAS_INTF_ADDR_LIST": interface}
        if ipaddress.ip_address(_address(interface)).is_loopback:
            network |= {"EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO", "EPICS_PVAS_BEACON_ADDR_LIST": interface}
        self._server = Server(providers=[{prefix + name: pv for name, pv in pvs.items()}], conf=network)
        self._unlisten = source.listen(self._changed.set)
        self._unwatch = source.watch(preview_slices, lambda cuts: pvs[IMAGE].post(self._as_image(cuts)))
        self._changed.set()
        self._thread = threading.Thread(target=self._post, name="streamrecon-pvs")
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._unlisten()
        self._unwatch()
        self._ending.set()
        self._changed.set()
        self._thread.join()
        self._server.stop()
        for pv in self._pvs.values():
            pv.close()

    def order(self, name: str, value: Any, account: str, peer: str) -> str:
        """Pass on an order that was put, and return what became of it.

        Raises
        ------
        StreamReconError
            If it is not allowed, or can not be done.
        """
        address = _address(peer.rpartition(":")[0])
        if not any(ipaddress.ip_address(address) in network for network in self._allowed):
            raise ConfigError(f"orders are not taken from {address}; the option --pvs-allow of the server names hosts")
        kind, action = ORDERS[name]
        given: dict[str, Any] = {"s": {"reason": str(value).strip()[:LONGEST]}, "i": {"count": value}}.get(
            kind, {"axis": value}
        )
        if action == "extend" and not 1 <= value <= MOST_EXTRA:
            raise ConfigError(f"{name}: got {value}, expected 1 to {MOST_EXTRA} projections")
        run = self._source.snapshot.status.run_uid
        who = f"{account or 'somebody'}@{address}"
        return self._source.order(Order(action=action, who=who, place=PLACE, **given), run_uid=run).text

    def answer(self, text: str) -> None:
        """Show what became of the last order."""
        self._pvs[ANSWER].post(text, timestamp=time.time())

    def _post(self) -> None:
        """Post what has changed; states that come faster than they can be posted are left out."""
        while True:
            self._changed.wait()
            if self._ending.is_set():
                return
            self._changed.clear()
            try:
                self._post_changes(self._source.snapshot)
            except Exception:
                log.exception("PVs: could not be posted; going on")

    def _post_changes(self, now: Snapshot) -> None:
        for name, (_, value_of) in SHOWN.items():
            value = value_of(now)
            known = self._posted.get(name)
            if value != known and not (value != value and known != known):  # noqa: PLR0124 - NaN is as it was
                self._posted[name] = value
                self._pvs[name].post(value, timestamp=time.time())

    def _as_image(self, cuts: Cuts) -> Any:
        """Return the slices side by side, as an NTNDArray."""
        pixels = np.hstack(cuts.values())
        low, high = grey_range(pixels)
        attributes = {
            "ColorMode": 0,
            "Run": cuts.run_uid,
            "Projections": cuts.projections,
            "Rows": ", ".join(f"{cut.corner[0]:g}" for cut in cuts.cuts),
            "Low": low,
            "High": high,
            "FullSize": cuts.volume[2],
        }
        value = self._images.wrap(pixels, attrib=attributes)
        value.uniqueId = cuts.image_number
        stamp = {"secondsPastEpoch": int(cuts.made), "nanoseconds": int(cuts.made % 1 * 1e9)}
        value.timeStamp = value.dataTimeStamp = stamp
        return value


class _Put:
    """Takes what is put to one PV."""

    def __init__(self, server: PvServer, name: str) -> None:
        self._server, self._name = server, name

    def put(self, pv: Any, op: Any) -> None:
        value, peer = op.value().raw.value, op.peer()
        try:
            text = self._server.order(self._name, value, op.account(), peer)
        except (StreamReconError, ValueError) as error:
            log.warning("PV %s from %s: %s", self._name, peer, error)
            self._server.answer(f"refused: {error}")
            op.done(error=str(error))
            return
        pv.post(value, timestamp=time.time())
        self._server.answer(text)
        op.done()


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _address(text: str) -> str:
    """Return an address without brackets and scope."""
    return text.strip("[]").partition("%")[0].removeprefix("::ffff:")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"hosts that may put: {error}; expected an address or a network, as in 10.1.2.0/24"
        ) from error
