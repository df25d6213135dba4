"""The process at the other end of a link benchmark: it takes what comes and computes nothing.

It ends when it is asked to, and when its standard input is closed, as it is when the process that started it is gone.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["END_OF_ROUND", "WIRE_KEYS", "bare", "main", "rank"]

END_OF_ROUND = b"."
WIRE_KEYS = ("receiver", "sender")
"""Names of the key files, of this end and of the other."""

_LOOK = 0.2


def rank(address: str, job_id: str, number: int, size: int, keys: Path | None, stop: threading.Event) -> None:
    """Be one rank of a job: acknowledge every item at once, and report every run as done."""
    from bluesky_streamrecon.wire import (
        ClientSecurity,
        ItemReceived,
        RankEndpoint,
        Refused,
        RunClosed,
        ShutdownRequested,
    )

    security = None
    if keys is not None:
        ours, theirs = WIRE_KEYS
        security = ClientSecurity.from_files(keys / f"{ours}.secret", keys / f"{theirs}.public")
    endpoint = RankEndpoint(address, job_id=job_id, rank=number, size=size, security=security)
    try:
        while not stop.is_set():
            match endpoint.next(_LOOK):
                case ItemReceived(item=item):
                    endpoint.applied(item.seq)
                case RunClosed():
                    endpoint.done(image_number=0)
                case ShutdownRequested() | Refused():
                    return
    finally:
        endpoint.close()


def bare(address: str, replies: str, server_key: str | None, stop: threading.Event) -> None:
    """Take frames from a plain socket; answer each end of a round, and one frame at first."""
    from bluesky_streamrecon.evaluation.bench.bare_link import BareReceiver

    with BareReceiver(address, replies, server_key) as receiver:
        receiver.reply()
        while not stop.is_set():
            frame = receiver.take(_LOOK)
            if frame is not None and len(frame) == len(END_OF_ROUND):
                receiver.reply()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and receive until told to end."""
    parser = argparse.ArgumentParser(prog="receiver")
    kinds = parser.add_subparsers(dest="kind", required=True)
    a_rank = kinds.add_parser("rank")
    a_rank.add_argument("--address", required=True)
    a_rank.add_argument("--job-id", required=True)
    a_rank.add_argument("--rank", type=int, required=True)
    a_rank.add_argument("--size", type=int, required=True)
    a_rank.add_argument("--keys", type=Path)
    a_bare = kinds.add_parser("bare")
    a_bare.add_argument("--address", required=True)
    a_bare.add_argument("--replies", required=True)
    a_bare.add_argument("--server-key")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    threading.Thread(target=_follow, args=(stop,), name="lifeline", daemon=True).start()
    if given.kind == "rank":
        rank(given.address, given.job_id, given.rank, given.size, given.keys, stop)
    else:
        bare(given.address, given.replies, given.server_key, stop)
    return 0


def _follow(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
