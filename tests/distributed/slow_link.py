"""A network cable in user space: packets between TUN devices of two network namespaces, late, and not all of them.

For kernels without netem. Run as ``python slow_link.py NAMESPACE DEVICE NAMESPACE DEVICE --delay S --loss F --rate B``;
each line on standard input (``cut``, ``mend``) is answered by itself on standard output, and it ends with the input.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
CLONE_NEWNET = 0x40000000
LONGEST_QUEUE = 1000  # packets each way, as of a router


def open_tun(namespace: str, device: str) -> int:
    """Attach to a device of another namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as there:  # noqa: PTH123 - wanted for its descriptor
        if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
    return tun


class Way:
    """One direction of the cable."""

    def __init__(self, out: int, delay: float, loss: float, rate: float, seed: int) -> None:
        self._out, self._delay, self._loss, self._rate = out, delay, loss, rate
        self._random = random.Random(seed)
        self._queue: collections.deque[tuple[float, bytes]] = collections.deque()
        self._free = 0.0

    def take(self, packet: bytes, now: float) -> None:
        if self._random.random() < self._loss or len(self._queue) >= LONGEST_QUEUE:
            return
        self._free = max(self._free, now) + (8 * len(packet) / self._rate if self._rate else 0.0)
        self._queue.append((self._free + self._delay, packet))

    def give(self, now: float) -> float | None:
        """Deliver what is due; give the seconds until the next packet is."""
        while self._queue and self._queue[0][0] <= now:
            _, packet = self._queue.popleft()
            with contextlib.suppress(OSError):  # the device is down, or full: a packet that is lost
                os.write(self._out, packet)
        return self._queue[0][0] - now if self._queue else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("namespace_a", "device_a", "namespace_b", "device_b"):
        parser.add_argument(name)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, each way")
    parser.add_argument("--loss", type=float, default=0.0, help="fraction of packets, each way")
    parser.add_argument("--rate", type=float, default=0.0, help="bits per second, each way; 0: no limit")
    given = parser.parse_args()
    ends = open_tun(given.namespace_a, given.device_a), open_tun(given.namespace_b, given.device_b)
    ways = {
        end: Way(other, given.delay, given.loss, given.rate, seed)
        for seed, (end, other) in enumerate(zip(ends, reversed(ends), strict=True))
    }
    whole = True
    print("ready", flush=True)
    waits: list[float] = []
    while True:
        ready, _, _ = select.select([0, *ends], [], [], min(waits) if waits else None)
        now = time.monotonic()
        if 0 in ready:
            words = sys.stdin.readline().split()
            if not words:
                return
            whole = words[0] != "cut"
            print(words[0], flush=True)
        for end in ends:
            for _ in range(64 if end in ready else 0):
                try:
                    packet = os.read(end, 65536)
                except BlockingIOError:
                    break
                if whole:
                    ways[end].take(packet, now)
        left = [way.give(now) for way in ways.values()]
        waits = [max(0.0, wait) for wait in left if wait is not None]


if __name__ == "__main__":
    main()
