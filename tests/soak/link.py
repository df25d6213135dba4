"""Beamline and job on two hosts, with a slow link that loses packets and is cut for 30 s in the middle. Needs root.

What must hold: the scan is a success at its own pace, the ledger adds up, the final image is that of the undisturbed
run (1e-4 relative).

    python tests/soak/link.py --directory soak-data --runs 5
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from common import LEAST_ERROR, end, parser, say

sys.path.insert(0, str(Path(__file__).parent.parent / "distributed"))
import hosts

from bluesky_streamrecon.wire import generate_keys


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--runs", type=int, default=5)
    given.add_argument("--cut", type=float, default=30.0, help="seconds")
    given.add_argument("--loss", type=float, default=0.01, help="fraction of packets, each way")
    given.add_argument("--delay", type=float, default=0.05, help="seconds, each way")
    given.add_argument("--rate", type=float, default=0.0, help="bits per second, each way; 0: no limit")
    given.add_argument("--projections", type=int, default=200)
    given.add_argument("--exposure", type=float, default=0.25)
    arguments = given.parse_args()
    kind = "netem" if hosts.why_not("netem") is None else "tun"
    refused = hosts.why_not(kind)
    if refused is not None:
        raise SystemExit(f"not possible here: {refused}")
    chance = random.Random(arguments.seed)
    keys = arguments.directory / "keys"
    arguments.directory.mkdir(parents=True, exist_ok=True)
    if not keys.exists():
        for name in ("beamline", "cluster"):
            generate_keys(keys, name)
    link = {"delay": arguments.delay, "loss": arguments.loss, "rate": arguments.rate}
    results: list[bool] = []
    with hosts.TwoHosts(kind, **link) as pair:
        for number in range(arguments.runs):
            at = chance.randint(5, max(5, arguments.projections // 3))
            folder = arguments.directory / f"run-{number}"
            folder.mkdir(exist_ok=True)
            told = scan(pair, keys, folder, at, arguments)
            undisturbed, disturbed = told
            good = all(line["ledger"]["balanced"] and line["used"] == line["taken"] for line in told)
            good = good and disturbed["error"] is not None and disturbed["error"] <= LEAST_ERROR
            results.append(good)
            say(run=number, good=good, cut_at=at, undisturbed=undisturbed, disturbed=disturbed)
    end(results, what=f"link of kind {kind}, cut for {arguments.cut:g} s", **link)


def scan(pair: Any, keys: Path, folder: Path, at: int, arguments: Any) -> list[dict[str, Any]]:
    """Scan twice, the second time with a cut; give what is told of both."""
    command = [sys.executable, str(Path(hosts.__file__).with_name("scan_host.py"))]
    command += ["--address", f"tcp://{hosts.BEAMLINE}:*", "--directory", str(folder), "--keys", str(keys)]
    command += ["--projections", str(arguments.projections), "--exposure", str(arguments.exposure)]
    mended = threading.Timer(arguments.cut, pair.mend)
    results: list[dict[str, Any]] = []
    with (folder / "beamline.log").open("w") as errors:
        process = subprocess.Popen(
            pair.on(pair.beamline, command), stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
        )
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        with hosts.job_processes(pair, address, "far-away", keys, 2, folder):
            for line in process.stdout:
                told = json.loads(line)
                if "scan" in told:
                    results.append(told)
                elif len(results) == 1 and told.get("projection") == at:
                    pair.cut()
                    mended.start()
        process.wait()
    mended.join()
    if len(results) != 2:
        raise SystemExit(f"the scan ended with status {process.returncode}; see {folder / 'beamline.log'}")
    return results


if __name__ == "__main__":
    main()
