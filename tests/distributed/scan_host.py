"""The beamline of the tests with two hosts: scans, and tells each projection and each result as a line of JSON."""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

import h5py
import numpy as np
from bluesky import RunEngine

from bluesky_streamrecon.beamline import ReconJob
from bluesky_streamrecon.plans import stream_tomo_plan
from bluesky_streamrecon.sim_devices import sim_beamline
from bluesky_streamrecon.wire import ServerSecurity


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--projections", type=int, default=60)
    parser.add_argument("--exposure", type=float, default=0.1, help="seconds; the first of several scans is quick")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--scans", type=int, default=2)
    given = parser.parse_args()
    engine = RunEngine({}, call_returns_result=True, context_managers=[])
    security = ServerSecurity.from_files(given.keys / "beamline.secret", given.keys / "cluster.public")
    job = ReconJob(
        "job",
        local=False,
        address=given.address,
        job_id="far-away",
        security=security,
        output=given.directory / "recon",
        start_timeout=60.0,
    )

    def tell_address() -> None:
        pause = threading.Event()
        while job.address is None:
            pause.wait(0.01)
        say(address=job.address)

    threading.Thread(target=tell_address, daemon=True).start()
    angle_key = "stage"
    engine.subscribe(
        lambda name, doc: angle_key in doc["data"] and say(projection=doc["seq_num"], at=time.monotonic()), "event"
    )
    images = []
    for number in range(given.scans):
        # The same scan each time, down to the noise.
        beamline = sim_beamline(
            rows=given.rows,
            columns=given.columns,
            directory=given.directory / f"detector-{number}",
            exposure=given.exposure if number or given.scans == 1 else 0.01,
            velocity=36000.0,
            acceleration_time=0.0,
        )
        result = engine(
            stream_tomo_plan(
                beamline.detector,
                beamline.stage,
                shutter=beamline.shutter,
                sample_table=beamline.table,
                job=job,
                num=given.projections,
                window=8,
                flats=2,
                darks=2,
                axis=(given.columns - 1) / 2 + 3.3,
                coalesce=False,
                threshold=1.0,
            )
        )
        record = job.last_run
        assert record is not None
        if record.result is not None:
            with h5py.File(record.result) as file:
                images.append(file["/exchange/data"][:])
        error = float(np.abs(images[-1] - images[0]).max() / images[0].max()) if images else None
        say(
            scan=number,
            exit_status=result.exit_status,
            reason=record.reason,
            taken=record.taken,
            used=record.used,
            images=record.image_number,
            error=error,
            seconds=record.seconds,
            ledger=record.ledger_totals(),
            reconnects=sum(entry.reconnects for entry in record.ledger.values()),
        )
    job.job.link.endpoint.shutdown_peers("the test is over")
    job.close()


if __name__ == "__main__":
    main()
