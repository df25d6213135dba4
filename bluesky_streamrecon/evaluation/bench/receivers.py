"""Processes that take what a beamline sends (`receiver`), started and ended together with what they are linked to."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bluesky_streamrecon.beamline.processes import Child, ProcessExit
from bluesky_streamrecon.evaluation.bench import receiver
from bluesky_streamrecon.evaluation.bench.bare_sockets import BareSender
from bluesky_streamrecon.evaluation.bench.jobs import EventRecorder
from bluesky_streamrecon.wire import BeamlineEndpoint, ServerSecurity, generate_keys

__all__ = ["bare_receivers", "receiving_ranks"]

START_SECONDS = 60.0
GRACE_SECONDS = 2.0


@contextmanager
def receiving_ranks(
    size: int, directory: Path, *, curve: bool, memory: int
) -> Iterator[tuple[BeamlineEndpoint, EventRecorder]]:
    """Keep an endpoint with `size` linked ranks that compute nothing.

    Parameters
    ----------
    size : int
        Ranks, a process each.
    directory : Path
        For keys and output.
    curve : bool
        Encrypt.
    memory : int
        Bytes of frames that the endpoint may hold.

    Raises
    ------
    JobError
        If the ranks do not come.
    """
    security, with_keys = None, tuple[str, ...]()
    if curve:
        keys = directory / "keys"
        allowed, _ = generate_keys(keys, receiver.RECEIVER)
        _, secret = generate_keys(keys, receiver.SENDER)
        security, with_keys = ServerSecurity.from_files(secret, allowed), (f"--keys={keys}",)
    events = EventRecorder()
    endpoint = BeamlineEndpoint(on_event=events, security=security, memory_limit=memory)
    try:
        to = ("rank", endpoint.address, *with_keys, f"--job-id={endpoint.job_id}", f"--size={size}")
        with _processes([(*to, f"--rank={rank}") for rank in range(size)], directory, events):
            try:
                events.wait(f"hello of {size} ranks", lambda: events.ranks == size, START_SECONDS)
                yield endpoint, events
            finally:
                endpoint.shutdown_peers("the benchmark is over")
                endpoint.close(0.5)
    finally:
        endpoint.close(0.0)


@contextmanager
def bare_receivers(size: int, directory: Path, *, curve: bool) -> Iterator[BareSender]:
    """Keep plain sockets with `size` processes at their other ends.

    Raises
    ------
    JobError
        If the processes do not come.
    """
    with BareSender(size, curve=curve) as sender:
        with_key = () if sender.server_key is None else (f"--server-key={sender.server_key}",)
        commands = [("bare", address, *with_key) for address in sender.addresses]
        # One that ends early is missed when its reply, or its room for more frames, does not come.
        with _processes(commands, directory, lambda _: None):
            sender.wait(START_SECONDS)
            yield sender


@contextmanager
def _processes(
    commands: Sequence[Sequence[str]], directory: Path, on_exit: Callable[[ProcessExit], None]
) -> Iterator[None]:
    """Keep receivers, one per list of arguments; their output goes to `directory`."""
    children: list[Child] = []
    logs = Path(tempfile.mkdtemp(dir=directory))
    try:
        for number, arguments in enumerate(commands):
            command = (sys.executable, "-m", receiver.__name__, *arguments)
            children.append(Child(f"receiver {number}", command, logs / f"{number}.log", on_exit=on_exit))
        yield
    finally:
        for child in children:
            child.release()
        for child in children:
            child.stop(GRACE_SECONDS)
