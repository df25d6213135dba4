"""How much of what ZeroMQ can carry gets through the package's reliable link, with and without CURVE.

The same frames go to the same number of processes, in turns: by `BeamlineEndpoint` to `RankEndpoint`, which number,
acknowledge and keep everything, and by plain sockets. Nobody computes. A gigabyte is 1e9 bytes.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.config import ReconSettings, SteeringSettings
from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.bare_link import BareSender
from bluesky_streamrecon.evaluation.bench.links import START_SECONDS, receiving, receiving_ranks
from bluesky_streamrecon.evaluation.bench.listening import Ear
from bluesky_streamrecon.evaluation.bench.receiver import END_OF_ROUND
from bluesky_streamrecon.evaluation.bench.timing import Summary, Tell, check_repeats, silent
from bluesky_streamrecon.partition import partition_rows
from bluesky_streamrecon.wire import BeamlineEndpoint, OpenRunSpec

__all__ = ["WireResult", "measure_wire"]

Frame = NDArray[np.uint16]

DIFFERENT_FRAMES = 4
LEAST_RATE = 1e7
"""Bytes per second; a link that is slower counts as broken."""


@dataclass(frozen=True, slots=True)
class WireResult:
    """Rates of the link and of plain sockets.

    Parameters
    ----------
    share_of_bare : float
        The link's rate over the plain sockets' rate, median over turns.
    share_of_bare_curve : float
        The same, both encrypted.
    gigabytes_per_second : float
        Of the link, median.
    gigabytes_per_second_bare, gigabytes_per_second_curve, gigabytes_per_second_bare_curve : float
        Of plain sockets, and of both encrypted.
    spread : float
        Of the link's samples, as a fraction of the median.
    receivers, frames, frame_bytes : int
        Processes that receive, frames per sample, and bytes of one.
    """

    share_of_bare: float
    share_of_bare_curve: float
    gigabytes_per_second: float
    gigabytes_per_second_bare: float
    gigabytes_per_second_curve: float
    gigabytes_per_second_bare_curve: float
    spread: float
    receivers: int
    frames: int
    frame_bytes: int


def measure_wire(
    *,
    rows: int = 2048,
    columns: int = 2048,
    frames: int = 100,
    receivers: int = 2,
    repeats: int = 3,
    tell: Tell = silent,
) -> WireResult:
    """Measure over loopback.

    Parameters
    ----------
    rows, columns : int, optional
        Of a frame of uint16.
    frames : int, optional
        Per sample.
    receivers : int, optional
        Processes; each gets its share of the rows.
    repeats : int, optional
        Samples of each rate.
    tell : callable, optional
        Told how far it is.

    Raises
    ------
    ConfigError
        If a number can not work.
    JobError
        If a receiving process fails.
    """
    check_repeats(repeats)
    if min(frames, receivers, columns) < 1 or rows < receivers:
        raise ConfigError(
            f"frames={frames}, receivers={receivers}, frame {rows} x {columns}: expected 1 or more of each, "
            "and a row for every receiver"
        )
    random = np.random.default_rng(0)
    pool = [random.integers(0, 2**16, (rows, columns), np.uint16) for _ in range(DIFFERENT_FRAMES)]
    names = ("link", "bare", "link, CURVE", "bare, CURVE")
    rates: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrecon-bench-")))
        tell(f"{4 * receivers} receiving processes start")
        send: dict[str, Callable[[], float]] = {}
        for curve, (link, bare) in ((False, names[:2]), (True, names[2:])):
            send[link] = _link(stack, directory, pool, frames, receivers, curve=curve)
            send[bare] = _bare(stack, directory, pool, frames, receivers, curve=curve)
        for turn in range(repeats):
            for name in names:
                tell(f"turn {turn + 1} of {repeats}: {name}")
                rates[name].append(frames * pool[0].nbytes / send[name]() / 1e9)
    summaries = {name: Summary.of(values) for name, values in rates.items()}
    return WireResult(
        share_of_bare=_share(rates["link"], rates["bare"]),
        share_of_bare_curve=_share(rates["link, CURVE"], rates["bare, CURVE"]),
        gigabytes_per_second=summaries["link"].median,
        gigabytes_per_second_bare=summaries["bare"].median,
        gigabytes_per_second_curve=summaries["link, CURVE"].median,
        gigabytes_per_second_bare_curve=summaries["bare, CURVE"].median,
        spread=summaries["link"].spread,
        receivers=receivers,
        frames=frames,
        frame_bytes=pool[0].nbytes,
    )


def _share(ours: list[float], theirs: list[float]) -> float:
    return Summary.of([a / b for a, b in zip(ours, theirs, strict=True)]).median


def _timeout(frames: int, frame: Frame) -> float:
    return 30.0 + frames * frame.nbytes / LEAST_RATE


def _link(
    stack: ExitStack, directory: Path, pool: list[Frame], frames: int, receivers: int, *, curve: bool
) -> Callable[[], float]:
    """Start the package's link; give what sends all frames and tells the seconds until all were acknowledged."""
    memory = (frames + DIFFERENT_FRAMES) * pool[0].nbytes  # the frames are the same few arrays: nothing need be spilled
    endpoint, ear = stack.enter_context(receiving_ranks(receivers, directory, curve=curve, memory=memory))
    return lambda: _send(endpoint, ear, pool, frames)


def _send(endpoint: BeamlineEndpoint, ear: Ear, pool: list[Frame], frames: int) -> float:
    uid = uuid.uuid4().hex
    spec = OpenRunSpec(
        run_uid=uid,
        recon_uid=uuid.uuid4().hex,
        planned=frames,
        detector_shape=pool[0].shape,
        dtype="<u2",
        recon=ReconSettings(ranks=ear.ranks),
        steering=SteeringSettings(),
        metadata={},
    )
    timeout = _timeout(frames, pool[0])
    ear.begin(uid)
    endpoint.open_run(spec)
    start = time.perf_counter()
    for index in range(1, frames + 1):
        endpoint.append("projection", index, 0.0, pool[index % len(pool)])
    ear.wait(f"{frames} acknowledged frames", lambda: ear.used >= frames, timeout)
    seconds = time.perf_counter() - start
    endpoint.close_run()
    ear.wait("the end of a run", lambda: ear.finished, timeout)
    return seconds


def _bare(
    stack: ExitStack, directory: Path, pool: list[Frame], frames: int, receivers: int, *, curve: bool
) -> Callable[[], float]:
    """Start plain sockets; give what sends all frames and tells the seconds until all have arrived."""
    sender = stack.enter_context(BareSender(receivers, curve=curve))
    with_key = () if sender.server_key is None else (f"--server-key={sender.server_key}",)
    commands = [("bare", "--address", to, "--replies", sender.reply_address, *with_key) for to in sender.addresses]
    # One that ends early is missed when its reply, or its room for more frames, does not come.
    stack.enter_context(receiving(commands, directory, lambda _: None))
    sender.wait(START_SECONDS)
    blocks = partition_rows(len(pool[0]), receivers)
    parts = [[frame[block.first : block.stop] for block in blocks] for frame in pool]

    def send() -> float:
        start = time.perf_counter()
        for index in range(frames):
            sender.send(parts[index % len(parts)])
        sender.end(END_OF_ROUND)
        sender.wait(_timeout(frames, pool[0]))
        return time.perf_counter() - start

    return send
