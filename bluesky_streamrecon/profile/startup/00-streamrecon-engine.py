"""RunEngine, the table and plots of each run, and a progress bar for moves and exposures.

Written by `streamrecon profile install`; change it as you like: a changed file is never overwritten.
"""

import os

from bluesky import RunEngine
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.utils import ProgressBarManager

RE = RunEngine({})

bec = BestEffortCallback()
if not os.environ.get("DISPLAY"):
    bec.disable_plots()
RE.subscribe(bec)

RE.waiting_hook = ProgressBarManager()
