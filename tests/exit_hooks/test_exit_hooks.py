"""What is open when a program ends is closed, and the program waits for it."""

from __future__ import annotations

import subprocess
import sys

# As in a session: what opens is a thread of the RunEngine's loop, whose threads are daemons.
PROGRAM = """
import subprocess, sys, threading
from bluesky_streamrecon.exit_hooks import close_at_end

class Job:
    def __init__(self, name):
        self.name = name

    def close(self):
        subprocess.run([sys.executable, "-c", ""])  # takes its time
        print("closed", self.name, flush=True)

jobs = [Job("first"), Job("second")]
opening = threading.Thread(target=lambda: [close_at_end(job) for job in jobs], daemon=True)
opening.start()
opening.join()
"""


def test_all_that_is_open_is_closed_to_its_end_and_the_newest_first() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines() == ["closed second", "closed first"]
