"""How much of what ZeroMQ can carry gets through the package's reliable link, with and without CURVE.

The same frames go to the same number of processes, in turns: by `BeamlineEndpoint` to `RankEndpoint`, which number,
acknowledge and keep everything, and by plain sockets. Nobody computes. A gigabyte is 1e9 bytes.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from bluesky_streamrecon.beamline.serving import BeamlineEndpoint, QueuedFrame
from bluesky_streamrecon.evaluation.bench.harness import take_turns
from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
from bluesky_streamrecon.evaluation.bench.receivers import bare_receivers, receiving_ranks
from bluesky_streamrecon.evaluation.bench.sample import random_frames
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.partition import partition_rows
from bluesky_streamrecon.settings import ReconSettings, SteeringSettings
from bluesky_streamrecon.wire import OpenRunSpec

__all__ = ["measure_wire"]

Frame = NDArray[np.uint16]

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
    pool = random_frames(rows, columns, num=frames, receivers=receivers)
    sample = frames * pool[0].nbytes
    timeout = 30.0 + sample / LEAST_RATE
    memory = (frames + len(pool)) * pool[0].nbytes  # the frames are the same few arrays: nothing need be spilled
    blocks = partition_rows(rows, receivers)
    parts = [[frame[block.first : block.stop] for block in blocks] for frame in pool]
    with ExitStack() as stack:
        logger.info("%d receiving processes start", 4 * receivers)
        links = {
            ending: (
                stack.enter_context(receiving_ranks(receivers, memory=memory, curve=curve)),
                stack.enter_context(bare_receivers(receivers, curve=curve)),
            )
            for ending, curve in (("", False), ("_curve", True))
        }

        def rate(work: Callable[..., object], *arguments: object) -> float:
            start = time.perf_counter()
            work(*arguments)
            return sample / (time.perf_counter() - start) / 1e9

        def turn() -> dict[str, float]:
            rates: dict[str, float] = {}
            for ending, ((endpoint, events), send_bare) in links.items():
                _open_run(endpoint, events, frames, (rows, columns))
                ours = rate(_send, endpoint, events, pool, frames, timeout)
                endpoint.close_run()
                events.wait("the end of a run", lambda: events.finished, timeout)  # noqa: B023
                bare = rate(send_bare, islice(cycle(parts), frames))
                rates |= {ending: ours, f"_bare{ending}": bare, f"share{ending}": ours / bare}
            return rates

        found = take_turns(repeats, turn)
    return Report(
        {
            "share_of_bare": found["share"].median,
            "share_of_bare_curve": found["share_curve"].median,
            **{f"gigabytes_per_second{end}": found[end].median for end in ("", "_curve", "_bare", "_bare_curve")},
            "spread": found[""].spread,
            "receivers": receivers,
            "frames": frames,
            "frame_bytes": pool[0].nbytes,
        }
    )


def _open_run(endpoint: BeamlineEndpoint, events: EventRecorder, frames: int, shape: tuple[int, int]) -> None:
    spec = OpenRunSpec(
        run_uid=uuid.uuid4().hex,
        recon_uid=uuid.uuid4().hex,
        planned=frames,
        detector_shape=shape,
        dtype="<u2",
        recon=ReconSettings(ranks=events.ranks),
        steering=SteeringSettings(),
        metadata={},
    )
    events.begin(spec.run_uid)
    endpoint.open_run(spec)


def _send(endpoint: BeamlineEndpoint, events: EventRecorder, pool: list[Frame], frames: int, timeout: float) -> None:
    """Send a run's frames by the package's link, until all are acknowledged."""
    for index in range(1, frames + 1):
        endpoint.append(QueuedFrame("projection", index, 0.0, pool[index % len(pool)]))
    events.wait(f"{frames} acknowledged frames", lambda: events.used >= frames, timeout)
