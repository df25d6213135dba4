"""Measures how long a cut takes from a page's wish to its pixels: on MPI ranks of this computer, through noise.

    pip install 'bluesky-streamrecon[view]'
    python docs/studies/cuts.py --size 512 --ranks 2

Prints the median and the largest of the seconds that an oblique cut takes (256 x 256 pixels, as while it is turned),
and all four cuts of a page, over HTTP: while the ranks wait, and while they make one image after the other.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from bluesky_streamrecon.beamline.serving import AllRanksReady, BeamlineEndpoint, QueuedFrame
from bluesky_streamrecon.live_view import Source, ViewServer
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import Answer, Ask, OpenRunSpec, OperatorEndpoint, RunStatus, Status

WAIT_S = 120.0
REPEATS = 15


class Beamline:
    """A beamline that streams noise to a job."""

    def __init__(self, size: int, ranks: int) -> None:
        self.size = size
        self._taken = 0
        self._events: queue.Queue[Any] = queue.Queue()
        self._rng = np.random.default_rng(0)
        self.endpoint = BeamlineEndpoint(on_event=self._hear)
        command = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks), sys.executable]
        command += ["-m", "bluesky_streamrecon", "job", "--address", self.endpoint.address]
        command += ["--job-id", self.endpoint.job_id, "--threads", "1", "--watch-parent"]
        self._job = subprocess.Popen(command, stdin=subprocess.PIPE)
        self._wait(AllRanksReady)
        recon = ReconSettings(window=8, step=1, axis=(size - 1) / 2, ranks=ranks, final="none")
        shape = (size, size)
        spec = OpenRunSpec(run_uid="run", recon_uid="recon", planned=60, detector_shape=shape, dtype="<u2", recon=recon)
        self.endpoint.open_run(spec)
        self.endpoint.append(QueuedFrame("dark", 1, 0.0, np.zeros(shape, np.uint16)))
        self.endpoint.append(QueuedFrame("flat", 1, 0.0, np.full(shape, 20_000, np.uint16)))

    def _hear(self, event: Any, sender: Any) -> None:
        if isinstance(event, Ask):
            self.endpoint.answer(sender, Answer(number=event.seq, status=RunStatus(state="running", run_uid="run")))
        else:
            self._events.put(event)

    def _wait(self, kind: type) -> Any:
        while not isinstance(event := self._events.get(timeout=WAIT_S), kind):
            pass
        return event

    def project(self, count: int = 1) -> None:
        """Take projections, and wait for the image of the last."""
        for _ in range(count):
            self._taken += 1
            pixels = self._rng.poisson(15_000, (self.size, self.size)).astype(np.uint16)
            self.endpoint.append(QueuedFrame("projection", self._taken, 0.3 * self._taken % np.pi, pixels))
        while self._wait(Status).projections < self._taken:
            pass

    def close(self) -> None:
        """End the job."""
        self.endpoint.abandon_run("measured")
        self.endpoint.shutdown_peers("measured")
        self._job.communicate(timeout=WAIT_S)
        self.endpoint.close()


def wishes(size: int, turn: float) -> list[dict[str, Any]]:
    """Return a row, two upright cuts and an oblique one, turned by so many radians."""
    across = np.array([0.6 * np.sin(turn), 0.8 * np.cos(turn), 0.6])
    across *= size / np.linalg.norm(across)
    down = np.cross(across, [0.1, 0.2, 1.0])
    down *= size / np.linalg.norm(down)
    middle, half = (size - 1) / 2, -0.5
    edges = (
        ([middle, half, half], [0, size, 0], [0, 0, size], 512),
        ([half, middle, half], [size, 0, 0], [0, 0, size], 256),
        ([half, half, middle], [size, 0, 0], [0, size, 0], 256),
        ((middle - (across + down) / 2).tolist(), down.tolist(), across.tolist(), 256),
    )
    return [{"corner": c, "down": d, "across": a, "shape": [n, n]} for c, d, a, n in edges]


def measure(url: str, size: int, first: int) -> list[float]:
    """Return the seconds that cuts took, from the wish to the last pixel."""
    parts = urlsplit(url)
    token, seconds = parse_qs(parts.query)["token"][0], []
    for number in range(REPEATS):
        body = json.dumps({"viewer": "study", "cuts": wishes(size, 0.1 * number)[first:]})
        with closing(HTTPConnection(parts.netloc, timeout=WAIT_S)) as connection:
            began = time.perf_counter()
            connection.request("POST", "/cuts", body, {"X-Streamrecon-Token": token})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--ranks", type=int, default=2)
    given = parser.parse_args()
    with ExitStack() as stack:
        beamline = stack.enter_context(closing(Beamline(given.size, given.ranks)))
        beamline.project(16)  # the first image takes some
        connected = threading.Event()
        source = Source(lambda: OperatorEndpoint(beamline.endpoint.address, job_id=beamline.endpoint.job_id), "study")
        stack.enter_context(closing(source))
        source.listen(connected.set)
        while source.snapshot.link:
            connected.wait(WAIT_S)
            connected.clear()
        server = ViewServer(source)
        serving = threading.Thread(target=server.run)
        serving.start()
        stack.callback(serving.join)
        stack.callback(server.stop)
        ending = threading.Event()

        def scan() -> None:
            while not ending.is_set():
                beamline.project()

        for state in ("waiting", "making images"):
            if state != "waiting":
                scanning = threading.Thread(target=scan)
                scanning.start()
                stack.callback(scanning.join)
                stack.callback(ending.set)
            for what, first in (("oblique", 3), ("all four", 0)):
                took = measure(server.url, given.size, first)
                print(f"{state}, {what}: median {np.median(took):.2f} s, largest {max(took):.2f} s", flush=True)


if __name__ == "__main__":
    main()
