"""The process at the other end of a link benchmark: it takes what comes and computes nothing.

It is a rank of a job, or the other end of a `BareSender`. It ends when it is asked to, and when its standard input is
closed, as it is when the process that started it is gone.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["RECEIVER", "SENDER", "main"]

RECEIVER, SENDER = "receiver", "sender"
"""Names of the key files."""

LOOK_SECONDS = 0.2


def _be_rank(address: str, job_id: str, number: int, size: int, keys: Path | None, stop: threading.Event) -> None:
    """Acknowledge every item at once, and report every run as done."""
    from bluesky_streamrecon.wire import (
        ClientSecurity,
        CloseRun,
        Item,
        RankEndpoint,
        Refused,
        RunDone,
        Shutdown,
    )

    security = None
    if keys is not None:
        security = ClientSecurity.from_files(keys / f"{RECEIVER}.secret", keys / f"{SENDER}.public")
    endpoint = RankEndpoint(address, job_id=job_id, rank=number, size=size, security=security)
    try:
        while not stop.is_set():
            match endpoint.next(LOOK_SECONDS):
                case Item(seq=seq):
                    endpoint.applied(seq)
                case CloseRun(run_uid=uid):
                    endpoint.send(RunDone(run_uid=uid, rank=number, image_number=0))
                case Shutdown() | Refused():
                    return
    finally:
        endpoint.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and receive until told to end."""
    parser = argparse.ArgumentParser(prog="receiver")
    parser.add_argument("kind", choices=("rank", "bare"))
    parser.add_argument("address")
    parser.add_argument("--job-id", default="")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--size", type=int, default=1)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--server-key")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    threading.Thread(target=_stop_at_end_of_input, args=(stop,), name="watch-input", daemon=True).start()
    if given.kind == "rank":
        _be_rank(given.address, given.job_id, given.rank, given.size, given.keys, stop)
    else:
        from bluesky_streamrecon.evaluation.bench.bare_sockets import receive_bare

        receive_bare(given.address, given.server_key, stop, LOOK_SECONDS)
    return 0


def _stop_at_end_of_input(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
