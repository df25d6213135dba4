"""What the user should know of a run on one rank, reported while the run goes on, each line once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bluesky_streamrecon.recon.axis import AxisEstimate
from bluesky_streamrecon.wire import Problem

__all__ = ["Findings"]

LONGEST = 4096


class Findings:
    """Collect what preparation and axis finder doubt, and send it to the beamline.

    Parameters
    ----------
    run_uid : str
        Of the run.
    send : callable
        Sends a problem.

    Attributes
    ----------
    lines : list of str
        All of it, in order; each begins with what it is about.
    doubt : str
        Why no image of the run is to be trusted; empty if they are.
    """

    def __init__(self, run_uid: str, send: Callable[[Problem], object]) -> None:
        self.lines: list[str] = []
        self.doubt = ""
        self._run_uid = run_uid
        self._send = send
        self._searching = False

    def add(self, line: str) -> None:
        """Report a line, unless it is empty or was reported before."""
        if not line or line in self.lines:
            return
        self.lines.append(line)
        where, _, text = line.partition(": ")
        self._send(Problem(fault="local", where=where, text=text[:LONGEST], run_uid=self._run_uid))

    def add_all(self, lines: Iterable[str]) -> None:
        """Report those lines that are new."""
        for line in lines:
            self.add(line)

    def add_search(self, newest: AxisEstimate | None) -> None:
        """Report, while it can be mended, why there is no image yet; once, for the words change with each view."""
        if newest is not None and newest.reaches_out and not self._searching:
            self._searching = True
            self.add(f"rotation axis: {newest.reaches_out}, so it is not certain, and there is no image; give axis=")

    def add_axis(self, axis: AxisEstimate, columns: int, size: int) -> None:
        """Report what is wrong with the axis that an image of `size` pixels is made with."""
        self.doubt = axis.doubt
        self.add(self.doubt or axis.notice(columns, size))
