"""RunEngine, a table of each streamed run, table and plots of every other run, and a progress bar for long moves.

Written by `streamrecon profile install`; change it as you like: a changed file is never overwritten.
"""

import os
from functools import partial

from bluesky import RunEngine
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.utils import ProgressBarManager, TerminalProgressBar
from event_model import RunRouter

from bluesky_streamrecon.beamline import BLOCK, RunTable
from bluesky_streamrecon.profile import end_scan_with_session, shorten_errors

RE = RunEngine({})

bec = BestEffortCallback()
if not os.environ.get("DISPLAY"):
    bec.disable_plots()


def table_and_plots(name, start):  # noqa: ARG001 - as RunRouter calls it
    """Return what follows a run: our table where it is reconstructed, with the score over projections, else `bec`."""
    if BLOCK not in start:
        return [bec], []
    figure = globals().get("reconstruction_figure")  # made in 25-streamrecon-job.py, where there is a display
    return [RunTable()] if figure is None else [RunTable(), figure], []


RE.subscribe(RunRouter([table_and_plots]))

RE.waiting_hook = ProgressBarManager(partial(TerminalProgressBar, delay_draw=5.0))

end_scan_with_session(RE)  # by `exit`, Ctrl-D, a closed terminal or SIGTERM: its plan cleans up
shorten_errors()  # those of bluesky_streamrecon are a line; %tb shows more
