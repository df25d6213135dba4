"""When the next image is due, and which of its slices are shown. Arithmetic, the same on every rank."""

from __future__ import annotations

from bluesky_streamrecon.partition import choose_preview_rows
from bluesky_streamrecon.wire import OpenRun

__all__ = ["USUAL_WINDOW", "shown_rows", "step_size"]

USUAL_WINDOW = 24


def step_size(pending: int, *, step: int, window: int | None, coalesce: bool, closed: bool) -> int:
    """Return how many projections the next update takes in; 0 if it is not due.

    A job that is more than a window behind takes as many whole steps at once as fit into the window, so every
    projection is in the window of at least one update.

    Parameters
    ----------
    pending : int
        Projections that have arrived on all ranks and are not in the image.
    step, window, coalesce
        Of the settings. An endless window coalesces as one of 24.
    closed : bool
        No more will come: what is left over makes the last step.

    Examples
    --------
    >>> step_size(30, step=4, window=24, coalesce=True, closed=False)
    24
    >>> step_size(24, step=4, window=24, coalesce=True, closed=False)
    4
    >>> step_size(3, step=4, window=24, coalesce=True, closed=False)
    0
    >>> step_size(3, step=4, window=24, coalesce=True, closed=True)
    3
    """
    whole = pending // step * step
    if whole == 0:
        return pending if closed else 0
    length = USUAL_WINDOW if window is None else window
    if coalesce and pending > length:
        return min(whole, max(length // step * step, step))
    return step


def shown_rows(run: OpenRun, selected: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the detector rows that this rank shows, those of the run by default; of ranks that share rows one does."""
    block = run.block
    shown = selected or run.preview_rows or choose_preview_rows(run.detector_shape[0])
    return tuple(row for row in shown if block.first <= row < block.stop and block.member == 0)
