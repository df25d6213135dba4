"""Images of 1 Mpixel at 100 a second over PV Access, from another process, into our file: does one get lost?

``python docs/studies/pva_rate.py [--images N] [--rate PER-SECOND] [--side PIXELS] [--codec NAME]``, with the extra
``pva``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PV = "RATE:Pva1:Image"


def serve(images: int, rate: float, side: int, codec: str) -> None:
    """Send images when a line comes in, at an even rate."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests/support"))
    from pva_camera import PvaCamera, image

    rng = np.random.default_rng(0)
    noise = [rng.poisson(1000, (side, side)).astype("<u2") for _ in range(8)]
    made = [image(each, 0, codec=codec) for each in noise]
    camera = PvaCamera(PV).start(image(noise[0], 0, codec=codec))

    def numbered(number: int):
        value = made[number % len(made)]
        value.uniqueId = number
        now = time.time()
        value.dataTimeStamp.secondsPastEpoch, value.dataTimeStamp.nanoseconds = int(now), int(now % 1 * 1e9)
        return value

    print("ready", flush=True)
    sys.stdin.readline()
    camera.play((numbered(number) for number in range(1, images + 1)), rate)
    print("sent", flush=True)
    sys.stdin.readline()
    camera.die()


async def receive(images: int, directory: Path, server: subprocess.Popen[str]) -> dict[str, float]:
    from ophyd_async.core import DetectorTrigger, StaticPathProvider, TriggerInfo, UUIDFilenameProvider, init_devices

    from bluesky_streamrecon.beamline.pva import PvaDetector

    async with init_devices():
        camera = PvaDetector(PV, StaticPathProvider(UUIDFilenameProvider(), directory))
    await camera.stage()
    await camera.prepare(TriggerInfo(trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=images))
    await camera.kickoff()
    cpu, began = time.process_time(), time.monotonic()
    print("go", file=server.stdin, flush=True)
    sent = asyncio.create_task(asyncio.to_thread(server.stdout.readline))
    await sent
    sending = time.monotonic() - began
    await camera.complete()
    lag = time.monotonic() - began - sending
    lost = await camera.frames_lost.get_value()
    await camera.unstage()
    used = time.process_time() - cpu
    print("over", file=server.stdin, flush=True)
    return {"lost": lost, "images_per_second": images / sending, "behind_s": lag, "core_share": used / (sending + lag)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--codec", default="")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.images, given.rate, given.side, given.codec)
        return
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "EPICS_PVA_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": str(port),
    }
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server, tempfile.TemporaryDirectory() as directory:
        assert server.stdout is not None
        server.stdout.readline()
        found = asyncio.run(receive(given.images, Path(directory), server))
    print(json.dumps({"images": given.images, "side": given.side, "codec": given.codec, **found}))


if __name__ == "__main__":
    main()
