"""How much of what ZeroMQ can carry gets through the package's reliable link, with and without CURVE.

The same frames go to the same number of processes, in turns: by `BeamlineEndpoint` to `RankEndpoint`, which number,
acknowledge and keep everything, and by plain sockets. Nobody computes. A gigabyte is 1e9 bytes.
"""

from __future__ import annotations

import logging
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.evaluation.bench.harness import check_repeats, take_turns
from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
from bluesky_streamrecon.evaluation.bench.receivers import BareSender, bare_receivers, receiving_ranks
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.partition import partition_rows
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import BeamlineEndpoint, OpenRunSpec

__all__ = ["measure_wire"]

Frame = NDArray[np.uint16]

DIFFERENT_FRAMES = 4
LEAST_RATE = 1e7
"""Bytes per second; a link that is slower counts as broken."""

logger = logging.getLogger(__name__)


def measure_wire(
    *, rows: int = 2048, columns: int = 2048, frames: int = 100, receivers: int = 2, repeats: int = 3
) -> Report:
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

    Returns
    -------
    Report
        ``gigabytes_per_second`` of the link (with its ``spread``) and, with the endings ``_bare``, ``_curve`` and
        ``_bare_curve``, of plain sockets, and of both encrypted; ``share_of_bare`` and ``share_of_bare_curve``, the
        link's rate over the plain sockets', median over turns; ``receivers``, ``frames``, and ``frame_bytes`` of one.

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
    sample = frames * pool[0].nbytes
    timeout = 30.0 + sample / LEAST_RATE
    memory = (frames + DIFFERENT_FRAMES) * pool[0].nbytes  # the frames are the same few arrays: nothing need be spilled
    send: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrecon-bench-")))
        logger.info("%d receiving processes start", 4 * receivers)
        for ending, curve in (("", False), ("_curve", True)):
            linked = receiving_ranks(receivers, directory, curve=curve, memory=memory)
            send[ending] = partial(_send, *stack.enter_context(linked), pool, frames, timeout)
            bare = stack.enter_context(bare_receivers(receivers, curve=curve))
            send[f"_bare{ending}"] = partial(_send_bare, bare, pool, frames, receivers, timeout)

        def turn() -> dict[str, float]:
            rates = {ending: sample / work() / 1e9 for ending, work in send.items()}
            shares = {"share": rates[""] / rates["_bare"], "share_curve": rates["_curve"] / rates["_bare_curve"]}
            return rates | shares

        found = take_turns(repeats, turn)
    rates = {ending: found[ending].median for ending in send}
    return Report(
        {
            "share_of_bare": found["share"].median,
            "share_of_bare_curve": found["share_curve"].median,
            **{f"gigabytes_per_second{ending}": rate for ending, rate in rates.items()},
            "spread": found[""].spread,
            "receivers": receivers,
            "frames": frames,
            "frame_bytes": pool[0].nbytes,
        }
    )


def _send(endpoint: BeamlineEndpoint, events: EventRecorder, pool: list[Frame], frames: int, timeout: float) -> float:
    """Send a run's frames by the package's link; return the seconds until all were acknowledged."""
    spec = OpenRunSpec(
        run_uid=uuid.uuid4().hex,
        recon_uid=uuid.uuid4().hex,
        planned=frames,
        detector_shape=pool[0].shape,
        dtype="<u2",
        recon=ReconSettings(ranks=events.ranks),
        steering=SteeringSettings(),
        metadata={},
    )
    events.begin(spec.run_uid)
    endpoint.open_run(spec)
    start = time.perf_counter()
    for index in range(1, frames + 1):
        endpoint.append("projection", index, 0.0, pool[index % len(pool)])
    events.wait(f"{frames} acknowledged frames", lambda: events.used >= frames, timeout)
    seconds = time.perf_counter() - start
    endpoint.close_run()
    events.wait("the end of a run", lambda: events.finished, timeout)
    return seconds


def _send_bare(sender: BareSender, pool: list[Frame], frames: int, receivers: int, timeout: float) -> float:
    """Send frames by plain sockets; return the seconds until all had arrived."""
    blocks = partition_rows(len(pool[0]), receivers)
    parts = [[frame[block.first : block.stop] for block in blocks] for frame in pool]
    start = time.perf_counter()
    for index in range(frames):
        sender.send(parts[index % len(parts)])
    sender.finish_round(timeout)
    return time.perf_counter() - start
