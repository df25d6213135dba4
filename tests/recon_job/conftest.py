"""A beamline's end without a beamline: it feeds projections to real jobs and listens to what they say."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.serving import (
    AllRanksReady,
    BeamlineEndpoint,
    BeamlineEvent,
    QueuedFrame,
    RunFinished,
)
from bluesky_streamrecon.cuts import Cut
from bluesky_streamrecon.ordering import optimized_interleaved
from bluesky_streamrecon.preparation_steps import halo_rows
from bluesky_streamrecon.settings import ReconSettings
from bluesky_streamrecon.wire import ChangeRun, OpenRunSpec, OperatorEndpoint, Problem, Status

E = TypeVar("E")

WAIT_S = 50.0


@dataclass
class Scan:
    """Counts of a small phantom: flats, darks and projections in the order in which they are taken."""

    flats: NDArray[np.uint16]
    darks: NDArray[np.uint16]
    projections: NDArray[np.uint16]
    angles: NDArray[np.float64]
    axis: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.projections.shape[1:]  # type: ignore[return-value]

    def line_integrals(self) -> NDArray[np.float64]:
        """What a few lines of float64 NumPy make of the counts."""
        dark = self.darks.mean(axis=0)
        gain = self.flats.mean(axis=0) - dark
        return -np.log(np.clip((self.projections - dark) / gain, 1e-6, None))


def discs(columns: int, angles: NDArray[np.float64], axis: float, rows: int, scale: float) -> NDArray[np.float64]:
    """Line integrals (A, rows, columns) of a few discs that differ from row to row."""
    t = np.arange(columns) - axis
    image = np.zeros((len(angles), rows, columns))
    for row in range(rows):
        parts = [(0.0, 0.0, 0.8, 1.0), (0.3, 0.2, 0.15, 1.0), (-0.4, 0.1 * row, 0.2, -0.7), (0.1, -0.45, 0.1, 1.5)]
        for x, y, radius, value in parts:
            centre = scale * (x * np.cos(angles) + y * np.sin(angles))
            inside = (scale * radius) ** 2 - (t[None, :] - centre[:, None]) ** 2
            image[:, row] += value * 2 * np.sqrt(np.maximum(inside, 0))
    return 2.0 * image / image.max()


def make_scan(rows: int = 4, columns: int = 40, num: int = 24, seed: int = 0, counts: float = 2e4) -> Scan:
    rng = np.random.default_rng(seed)
    axis = (columns - 1) / 2 + 1.3
    order = np.array(optimized_interleaved(num))
    angles = np.deg2rad(order)
    clean = discs(columns, angles, axis, rows, scale=columns / 2 - 3)
    gain = counts * (1 + 0.2 * np.sin(np.arange(columns) / 7))
    return Scan(
        flats=rng.poisson(gain, (3, rows, columns)).astype(np.uint16) + np.uint16(100),
        darks=np.full((2, rows, columns), 100, np.uint16),
        projections=rng.poisson(gain * np.exp(-clean)).astype(np.uint16) + np.uint16(100),
        angles=angles,
        axis=axis,
    )


@dataclass
class Beamline:
    """A `BeamlineEndpoint` whose events can be waited for."""

    events: queue.Queue[BeamlineEvent] = field(default_factory=queue.Queue)
    seen: list[BeamlineEvent] = field(default_factory=list)
    uid: str = ""

    def __post_init__(self) -> None:
        self.endpoint = BeamlineEndpoint(on_event=lambda event, _: self.events.put(event))

    def forget(self) -> None:
        """Leave out what earlier runs have said."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.events.get_nowait()

    def wait_for(self, kind: type[E], accept: Callable[[Any], bool] = lambda event: True) -> E:
        """Return the next event of a kind; a problem that is not waited for fails the test."""
        deadline = time.monotonic() + WAIT_S
        while True:
            event = self.events.get(timeout=max(deadline - time.monotonic(), 0.01))
            self.seen.append(event)
            if isinstance(event, kind) and accept(event):
                return event
            assert not isinstance(event, Problem), event

    def listen(self, seconds: float) -> None:
        """Take what comes for so long."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Empty):
            while (left := deadline - time.monotonic()) > 0:
                self.seen.append(self.events.get(timeout=left))

    def wait_for_images(self, ranks: int, number: int) -> None:
        """Wait until every rank has made so many images."""
        reached = dict.fromkeys(range(ranks), 0)
        while min(reached.values()) < number:
            status = self.wait_for(Status)
            reached[status.rank] = status.image_number

    def wait_for_ranks(self, size: int) -> None:
        self.wait_for(AllRanksReady, lambda event: event.size == size)

    def ranks(self) -> list[int]:
        """Return the process ids of the ranks."""
        return [peer.pid for peer in self.endpoint.peers() if peer.role == "rank"]

    def open(
        self, scan: Scan, settings: ReconSettings, output: Path | None, uid: str = "run-1", **metadata: str
    ) -> None:
        self.uid = uid
        self.endpoint.open_run(
            OpenRunSpec(
                run_uid=uid,
                recon_uid=f"recon-of-{uid}",
                planned=len(scan.angles),
                detector_shape=scan.shape,
                dtype="<u2",
                recon=settings,
                output=None if output is None else str(output),
                halo=halo_rows(settings.preparation),
                metadata=metadata,
            )
        )

    def references(self, scan: Scan) -> None:
        for index, dark in enumerate(scan.darks, 1):
            self.endpoint.append(QueuedFrame("dark", index, 0.0, dark))
        for index, flat in enumerate(scan.flats, 1):
            self.endpoint.append(QueuedFrame("flat", index, 0.0, flat))

    def projections(self, scan: Scan, first: int = 0, stop: int | None = None) -> None:
        for index in range(first, len(scan.angles) if stop is None else stop):
            angle, pixels = float(scan.angles[index]), scan.projections[index]
            self.endpoint.append(QueuedFrame("projection", index + 1, angle, pixels))

    def correct_axis(self, axis: float) -> None:
        self.endpoint.change_run(ChangeRun(run_uid=self.uid, axis=axis))

    def finish(self) -> RunFinished:
        self.endpoint.close_run()
        return self.wait_for(RunFinished)

    def feed(self, scan: Scan, settings: ReconSettings, output: Path | None, uid: str = "run-1") -> RunFinished:
        """Send a whole scan to a job."""
        self.open(scan, settings, output, uid)
        self.references(scan)
        self.projections(scan)
        return self.finish()


@pytest.fixture
def beamline() -> Iterator[Beamline]:
    made = Beamline()
    yield made
    made.endpoint.close()


class ThreadJob:
    """A job of one rank in a thread of this process."""

    def __init__(self, beamline: Beamline) -> None:
        from bluesky_streamrecon.recon.communicator import Communicator
        from bluesky_streamrecon.recon.job import run_job

        self.code: int | None = None

        def work() -> None:
            self.code = run_job(
                beamline.endpoint.address,
                beamline.endpoint.job_id,
                threads=1,
                communicator=Communicator(),
                link_limit=WAIT_S,
            )

        self._beamline = beamline
        self._thread = threading.Thread(target=work)
        self._thread.start()

    def end(self) -> int | None:
        self._beamline.endpoint.shutdown_peers("the test is over")
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.code


@pytest.fixture
def job(beamline: Beamline) -> Iterator[ThreadJob]:
    started = ThreadJob(beamline)
    beamline.wait_for_ranks(1)
    yield started
    started.end()


class MpiJob:
    """A job under mpiexec, that ends when its standard input is closed."""

    def __init__(self, beamline: Beamline, ranks: int, *arguments: str) -> None:
        mpiexec = Path(sys.executable).with_name("mpiexec")
        self._handles: list[int] = []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        earlier = beamline.ranks()
        self.process = subprocess.Popen(
            [
                *(str(mpiexec) if mpiexec.exists() else "mpiexec", "-n", str(ranks)),
                *(sys.executable, "-m", "bluesky_streamrecon", "--log-level", "info", "job"),
                *("--address", beamline.endpoint.address, "--job-id", beamline.endpoint.job_id),
                *("--threads", "1", "--watch-parent", *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        with contextlib.ExitStack() as failed:
            failed.callback(self.kill)
            beamline.wait_for_ranks(ranks)
            # One that was killed counts until its link is found to be gone.
            while not set(earlier).isdisjoint(beamline.ranks()):
                beamline.wait_for_ranks(ranks)
            self.pids = beamline.ranks()
            # A handle that becomes readable when the process ends; unlike a number it can not come to mean another one.
            self._handles = [os.pidfd_open(pid) for pid in self.pids]
            failed.pop_all()

    def wait(self) -> int:
        """Wait for the end of mpiexec, and see that no rank outlives it."""
        self.process.wait(WAIT_S)
        for handle in self._handles:
            ended, _, _ = select.select([handle], [], [], WAIT_S)
            assert ended, f"a rank outlives mpiexec:\n{self.said}"
        return self.process.returncode

    @property
    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode()

    def hang_up(self) -> None:
        """Close the job's standard input, as the death of the process that started it does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        self.hang_up()
        self._errors.close()
        for handle in self._handles:
            os.close(handle)


@pytest.fixture
def mpi_job(beamline: Beamline) -> Iterator[Callable[..., MpiJob]]:
    started: list[MpiJob] = []

    def start(ranks: int, *arguments: str) -> MpiJob:
        started.append(MpiJob(beamline, ranks, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="module")
def kept_mpi_job() -> Iterator[Callable[[int], tuple[Beamline, MpiJob]]]:
    """Yield a job of so many ranks that goes from test to test, and its beamline: for what is no matter of its end."""
    kept: dict[int, tuple[Beamline, MpiJob]] = {}
    with contextlib.ExitStack() as stack:

        def get(ranks: int) -> tuple[Beamline, MpiJob]:
            if ranks not in kept or kept[ranks][1].process.poll() is not None:
                beamline = Beamline()
                stack.callback(beamline.endpoint.close)
                kept[ranks] = beamline, MpiJob(beamline, ranks)
                stack.callback(kept[ranks][1].kill)
            kept[ranks][0].forget()
            return kept[ranks]

        yield get


@pytest.fixture(scope="session")
def scan() -> Scan:
    return make_scan()


@pytest.fixture(scope="session")
def tall_scan() -> Scan:
    """Return one of more rows than the steps of the preparation look at around each."""
    return make_scan(rows=24)


@pytest.fixture(scope="session")
def low_scan() -> Scan:
    """Return one of fewer rows than three ranks are."""
    return make_scan(rows=2)


@pytest.fixture
def seen_through() -> Callable[..., Scan]:
    """Make a scan of a phantom that is too wide for the detector, or turns about an axis near its end."""

    def make(columns: int, axis: float, scale: float, turn: float, num: int = 48) -> Scan:
        angles = np.deg2rad(np.array(optimized_interleaved(num, 0, turn)))
        clean = discs(columns, angles, axis, 2, scale)
        rng = np.random.default_rng(1)
        return Scan(
            flats=rng.poisson(2e4, (3, 2, columns)).astype(np.uint16) + np.uint16(100),
            darks=np.full((2, 2, columns), 100, np.uint16),
            projections=rng.poisson(2e4 * np.exp(-clean)).astype(np.uint16) + np.uint16(100),
            angles=angles,
            axis=axis,
        )

    return make


def _oblique_cut(scan: Scan, size: int = 48) -> Cut:
    """Make a square plane through the middle of the volume, turned about two axes."""
    rows, columns = scan.shape
    across, down = np.array([0.04, 0.6, 0.8]), np.array([0.09, -0.8, 0.6])
    middle = np.array([rows - 1, columns - 1, columns - 1]) / 2
    side = 0.9 * columns
    corner = middle - side * (across + down) / 2
    corner, down, across = (tuple(edge.tolist()) for edge in (corner, side * down, side * across))
    return Cut(corner=corner, down=down, across=across, shape=(size, size))


@pytest.fixture
def oblique_cut() -> Callable[..., Cut]:
    """Return an oblique cut through the middle of a scan's volume."""
    return _oblique_cut


@pytest.fixture
def viewer() -> Iterator[Callable[[Beamline], OperatorEndpoint]]:
    """Connect a person's program to a beamline."""
    opened: list[OperatorEndpoint] = []

    def connect(beamline: Beamline) -> OperatorEndpoint:
        opened.append(OperatorEndpoint(beamline.endpoint.address, job_id=beamline.endpoint.job_id))
        return opened[-1]

    yield connect
    for one in opened:
        one.close(0)


@pytest.fixture
def reference_mlem() -> Callable[..., NDArray[np.float64]]:
    """Return MLEM over a sliding window, in dense float64 NumPy; only the matrix is the package's own."""
    return _reference_mlem


def _window_of(angles: NDArray[np.float64], window: int, step: int, number: int, policy: str) -> list[int]:
    """Return which projections update `number` uses: the newest, or some and one from each stratum of angles."""
    total = len(angles)
    if policy == "newest" or total <= window:
        return list(range(max(0, total - window), total))
    newest = max(window - window // (2 if step == 1 else 4), step)
    older = sorted(range(total - newest), key=lambda i: float(angles[i] % np.pi))
    strata = window - newest
    turn = number * (5**0.5 - 1) / 2 % 1
    chosen = []
    for k in range(strata):
        stratum = older[k * len(older) // strata : (k + 1) * len(older) // strata]
        chosen.append(stratum[int(turn * len(stratum))])
    return [*chosen, *range(total - newest, total)]


def _reference_mlem(
    scan: Scan, *, window: int, step: int, initial: float, policy: str = "spread", projector: str = "shear"
) -> NDArray[np.float64]:
    from bluesky_streamrecon.geometry import TomoGeometry
    from bluesky_streamrecon.recon.projector import projectors

    rows, columns = scan.shape
    pixels = columns**2
    unit_images = np.eye(pixels, dtype=np.float32).reshape(columns, columns, pixels)
    matrix = projectors.get(projector)(TomoGeometry(columns, scan.axis), scan.angles).forward(unit_images)
    matrix = matrix.reshape(len(scan.angles), columns, pixels).astype(np.float64)
    measured = scan.line_integrals()
    image = np.full((rows, pixels), initial)
    for number, stop in enumerate(range(step, len(scan.angles) + 1, step)):
        chosen = _window_of(scan.angles[:stop], window, step, number, policy)
        a = matrix[chosen].reshape(-1, pixels)
        p = np.maximum(measured[chosen].transpose(1, 0, 2).reshape(rows, -1), 0)
        seen = a.sum(axis=0)
        correction = (p / np.maximum(image @ a.T, 1e-6)) @ a
        image = np.where(seen > 1e-3, np.maximum(image * correction / np.maximum(seen, 1e-3), 1e-12), image)
    return image.reshape(rows, columns, columns)
