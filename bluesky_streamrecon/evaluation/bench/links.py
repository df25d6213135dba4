"""Endpoint and receiving processes of a link benchmark, begun and ended together."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bluesky_streamrecon.beamline.processes import Child, ProcessExit
from bluesky_streamrecon.evaluation.bench.listening import Ear
from bluesky_streamrecon.evaluation.bench.receiver import WIRE_KEYS
from bluesky_streamrecon.wire import BeamlineEndpoint, ServerSecurity, generate_keys

__all__ = ["START_SECONDS", "receiving", "receiving_ranks"]

START_SECONDS = 60.0
_GRACE = 2.0


@contextmanager
def receiving(
    commands: Sequence[Sequence[str]], directory: Path, on_exit: Callable[[ProcessExit], None]
) -> Iterator[None]:
    """Keep receiving processes, one per list of arguments; their output goes to `directory`."""
    children: list[Child] = []
    logs = Path(tempfile.mkdtemp(dir=directory))
    try:
        for number, arguments in enumerate(commands):
            log = logs / f"{arguments[0]}-{number}.log"
            command = (sys.executable, "-m", "bluesky_streamrecon.evaluation.bench.receiver", *arguments)
            children.append(Child(f"receiver {number}", command, log, on_exit=on_exit))
        yield
    finally:
        for child in children:
            child.release()
        for child in children:
            child.stop(_GRACE)


@contextmanager
def receiving_ranks(size: int, directory: Path, *, curve: bool, memory: int) -> Iterator[tuple[BeamlineEndpoint, Ear]]:
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
    keys, security = None, None
    if curve:
        keys = directory / "keys"
        ours, theirs = WIRE_KEYS
        allowed, _ = generate_keys(keys, ours)
        _, secret = generate_keys(keys, theirs)
        security = ServerSecurity.from_files(secret, allowed)
    ear = Ear()
    endpoint = BeamlineEndpoint(on_event=ear, security=security, memory_limit=memory)
    try:
        to = ("rank", "--address", endpoint.address, "--job-id", endpoint.job_id, "--size", str(size))
        with_keys = () if keys is None else ("--keys", str(keys))
        with receiving([(*to, "--rank", str(rank), *with_keys) for rank in range(size)], directory, ear):
            try:
                ear.wait(f"hello of {size} ranks", lambda: ear.ranks == size, START_SECONDS)
                yield endpoint, ear
            finally:
                endpoint.shutdown_peers("the benchmark is over")
                endpoint.close(0.5)
    finally:
        endpoint.close(0.0)
