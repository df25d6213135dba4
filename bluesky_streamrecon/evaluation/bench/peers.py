"""The same work by other codes, on one core, in turns with ours.

The cost of an iteration is the difference between a longer and a shorter run, so that what a code does once per run is
not counted. The unit is GUPS, as in `kernels`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.peer_codes import PEERS, OurPeer, Peer, importable, make_peer
from bluesky_streamrecon.evaluation.bench.sample import disc_projections, scan_angles
from bluesky_streamrecon.evaluation.bench.timing import Summary, Tell, check_repeats, one_thread, silent
from bluesky_streamrecon.geometry import TomoGeometry

__all__ = ["PeerRow", "compare_peers", "ratio_to"]

OURS = ("sirt", "mlem")
SLICES = 16
SHORT, LONG = 1, 3
LEAST_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class PeerRow:
    """Speed of one code.

    Parameters
    ----------
    code, version : str
        Which.
    method : str
        Algorithm, and the projector where there is a choice.
    columns, window, slices, threads : int
        What was reconstructed; threads is 1.
    gups : float
        1e9 updates per second, median of extra iterations.
    spread : float
        Of the samples, as a fraction of the median.
    ratio : float
        Speed of our SIRT over this, median over the run's turns.
    """

    code: str
    version: str
    method: str
    columns: int
    window: int
    slices: int
    threads: int
    gups: float
    spread: float
    ratio: float


def compare_peers(
    *,
    columns: Sequence[int] = (512,),
    window: int = 24,
    codes: Sequence[str] | None = None,
    repeats: int = 3,
    tell: Tell = silent,
) -> tuple[PeerRow, ...]:
    """Measure ours and others in turns.

    Parameters
    ----------
    columns : sequence of int, optional
        Detector columns C; the image is C x C.
    window : int, optional
        Projections.
    codes : sequence of str, optional
        Of ``astra``, ``svmbir``, ``tomopy``; by default the first two, and TomoPy where it is installed.
    repeats : int, optional
        Turns.
    tell : callable, optional
        Told how far it is.

    Returns
    -------
    tuple of PeerRow
        For each number of columns: our SIRT, our MLEM, the others.

    Raises
    ------
    ConfigError
        If a code is unknown or not installed.
    """
    check_repeats(repeats)
    if window < 1:
        raise ConfigError(f"window: got {window}, expected at least 1")
    if codes is None:
        codes = ("astra", "svmbir", *(("tomopy",) if importable("tomopy") else ()))
    for code in codes:
        if code not in PEERS:
            raise ConfigError(f"code: got {code!r}, expected one of {', '.join(PEERS)}")
    rows: list[PeerRow] = []
    with one_thread():
        for c in columns:
            rows += _compare(c, window, codes, repeats, tell)
    return tuple(rows)


def ratio_to(rows: Sequence[PeerRow], code: str) -> dict[int, float]:
    """Give, by columns, how many times faster our SIRT is than the fastest method of `code`.

    Examples
    --------
    >>> row = PeerRow("astra", "2.5", "sirt, line", 512, 24, 1, 1, 0.2, 0.0, 80.0)
    >>> ratio_to([row], "astra")
    {512: 80.0}
    """
    return {
        columns: min(row.ratio for row in rows if row.code == code and row.columns == columns)
        for columns in dict.fromkeys(row.columns for row in rows if row.code == code)
    }


def _compare(columns: int, window: int, codes: Sequence[str], repeats: int, tell: Tell) -> list[PeerRow]:
    geometry = TomoGeometry(columns)
    angles = scan_angles(max(180, window))[:window]
    projections = disc_projections(geometry, angles, SLICES)
    with ExitStack() as stack:
        peers: list[Peer] = []
        wanted = [("ours", name) for name in OURS] + [(code, method) for code in codes for method in PEERS[code][1]]
        for code, method in wanted:
            peer = (
                OurPeer(method, geometry, angles, projections)
                if code == "ours"
                else make_peer(code, method, geometry, angles, projections)
            )
            stack.callback(peer.close)
            tell(f"{columns} columns: {peer.code} {peer.method} warms up")
            peer.iterate(SHORT)
            peers.append(peer)
        samples: list[list[float]] = [[] for _ in peers]
        for turn in range(repeats):
            tell(f"{columns} columns: turn {turn + 1} of {repeats}")
            for peer, taken in zip(peers, samples, strict=True):
                taken.append(peer.slices * window * columns**2 * 2 / 1e9 / _extra_iteration(peer))
        rows = []
        for peer, taken in zip(peers, samples, strict=True):
            speed = Summary.of(taken)
            rows.append(
                PeerRow(
                    code=peer.code,
                    version=peer.version,
                    method=peer.method,
                    columns=columns,
                    window=window,
                    slices=peer.slices,
                    threads=1,
                    gups=speed.median,
                    spread=speed.spread,
                    ratio=Summary.of([ours / theirs for ours, theirs in zip(samples[0], taken, strict=True)]).median,
                )
            )
        return rows


def _extra_iteration(peer: Peer) -> float:
    """Give the seconds that one iteration more costs."""
    runs = 0
    short = long = 0.0
    while long < LEAST_SECONDS or long <= short:
        start = time.perf_counter()
        peer.iterate(SHORT)
        middle = time.perf_counter()
        peer.iterate(LONG)
        end = time.perf_counter()
        short, long, runs = short + middle - start, long + end - middle, runs + 1
    return (long - short) / (LONG - SHORT) / runs
