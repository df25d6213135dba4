"""A crowd of connections that say nothing, as fast as programs can open them, while a rank is linked.

What must hold: the rank stays linked, a controller that comes in the middle is let in, libzmq closes all of them by
itself, and in the end no descriptor is left over. What does not hold: with more connections than descriptors, this
process has none left until libzmq has closed the first of them (``left`` says how many there were at worst).
``--busy``: beside a thread that keeps Python's lock.

    python tests/soak/crowd.py --connections 800
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import end, parser, say

from bluesky_streamrecon.beamline.serving import AllRanksReady, BeamlineEndpoint, PeerJoined, PeerLost
from bluesky_streamrecon.wire import RankEndpoint

CROWD = """
import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
begun = time.monotonic()
crowd = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
print(time.monotonic() - begun, flush=True)
for silent in crowd:
    try:
        while silent.recv(4096):
            pass
    except ConnectionResetError:
        pass
"""

CONTROLLER = """
import sys
from bluesky_streamrecon.wire import ControllerEndpoint, LinkRestored
controller = ControllerEndpoint(sys.argv[1], job_id=sys.argv[2])
sys.exit(not isinstance(controller.next(60.0), LinkRestored) or controller.close(0))
"""


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--connections", type=int, default=800)
    given.add_argument("--programs", type=int, default=4, help="that share them")
    given.add_argument("--limit", type=int, default=1024, help="descriptors that this process may have")
    given.add_argument("--busy", action="store_true")
    arguments = given.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.limit, hard))
    ready, joined, over = threading.Event(), threading.Event(), threading.Event()
    lost: list[str] = []
    counts: list[int] = []

    def noted(event: object, sender: object) -> None:
        if isinstance(event, AllRanksReady):
            ready.set()
        elif isinstance(event, PeerJoined) and event.peer.role == "controller":
            joined.set()
        elif isinstance(event, PeerLost) and event.peer.role == "rank":
            lost.append(event.reason)

    def sample() -> None:
        while not over.wait(0.005):
            counts.append(descriptors())

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    beamline = BeamlineEndpoint(on_event=noted)
    rank = RankEndpoint(beamline.address, job_id=beamline.job_id, rank=0, size=1)
    watchers = [threading.Thread(target=sample), *([threading.Thread(target=compute)] if arguments.busy else [])]
    controller_program = [sys.executable, "-c", CONTROLLER, beamline.address, beamline.job_id]
    try:
        ready.wait(30.0)
        subprocess.run(controller_program, timeout=60.0, check=True)
        over.wait(1.0)  # the rank has by now opened its socket to a controller, which it keeps
        joined.clear()
        before = descriptors()
        for watcher in watchers:
            watcher.start()
        port = beamline.address.rpartition(":")[2]
        words = [sys.executable, "-c", CROWD, port, str(arguments.connections // arguments.programs)]
        crowds = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(arguments.programs)]
        over.wait(1.0)
        begun = time.monotonic()
        with subprocess.Popen(controller_program) as controller:
            joined.wait(60.0)
            joined_in = time.monotonic() - begun
            controller.wait(60.0)
        opened_in = max(float(made.communicate()[0]) for made in crowds)
        for _ in range(500):  # libzmq closes them in threads of its own
            if descriptors() <= before:
                break
            over.wait(0.02)
        after = descriptors()
        linked = next(peer.linked for peer in beamline.peers() if peer.role == "rank") and not lost
    finally:
        over.set()
        for watcher in watchers:
            if watcher.ident is not None:
                watcher.join()
        rank.close(0)
        beamline.close(0)
    say(connections=arguments.connections, per_second=arguments.connections / opened_in, busy=arguments.busy)
    say(joined_in=joined_in)
    say(before=before, left=arguments.limit - max(counts), after=after, lost=lost, load=os.getloadavg()[0])
    good = [after <= before, linked, joined.is_set()]
    end(good, what="silent connections")


def descriptors() -> int:
    """Return the open descriptors of this process; all of them if there is none left to count them with."""
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


if __name__ == "__main__":
    main()
