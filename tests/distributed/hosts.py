"""Two hosts made of network namespaces, and the cable between them. Needs root and iproute2.

The cable is a veth pair with ``tc netem``, or where the kernel has no netem, TUN devices with a process in between that
does the same (``slow_link.py``). Only namespaces and devices that were made here are touched, and they are removed
whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
BEAMLINE, CLUSTER = "10.177.0.1", "10.177.0.2"

Kind = Literal["veth", "netem", "tun"]


def why_not(kind: Kind) -> str | None:
    """Say why such hosts can not be made here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install iproute2)"
    if kind == "tun" and not Path("/dev/net/tun").exists():
        return "this kernel has no /dev/net/tun"
    name = f"srprobe{os.getpid()}"
    if (refused := attempt("ip", "netns", "add", name)) is not None:
        return f"network namespaces are not permitted here: {refused}"
    try:
        if kind != "netem":
            return None
        refused = attempt(
            "ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"
        )
        return None if refused is None else f"this kernel has no netem: {refused}"
    finally:
        attempt("ip", "netns", "del", name)


def attempt(*words: str) -> str | None:
    """Run a command; give what it said if it failed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"exit status {done.returncode}"


def command(*words: str) -> None:
    """Run a command that has to work."""
    refused = attempt(*words)
    if refused is not None:
        raise RuntimeError(f"{' '.join(words)}: {refused}")


class TwoHosts:
    """Use as a context manager.

    Parameters
    ----------
    kind : {"veth", "netem", "tun"}
        A plain cable, one with netem, or one in user space.
    delay, loss, rate : float
        Seconds, fraction of packets, and bits per second (0: no limit), each way.
    """

    def __init__(self, kind: Kind, *, delay: float = 0.0, loss: float = 0.0, rate: float = 0.0) -> None:
        self.kind, self.delay, self.loss, self.rate = kind, delay, loss, rate
        self.beamline, self.cluster = f"srbeam{os.getpid()}", f"srclus{os.getpid()}"
        self._devices = "srlink0", "srlink1"
        self._stack = contextlib.ExitStack()
        self._cable: subprocess.Popen[str] | None = None

    def __enter__(self) -> TwoHosts:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make(self) -> None:
        hosts = (self.beamline, self.cluster)
        for host in hosts:
            command("ip", "netns", "add", host)
            self._stack.callback(attempt, "ip", "netns", "del", host)
            self.at(host, "ip", "link", "set", "lo", "up")
        a, b = self._devices
        if self.kind == "tun":
            for host, device in zip(hosts, self._devices, strict=True):
                self.at(host, "ip", "tuntap", "add", "dev", device, "mode", "tun")
            ends = (self.beamline, a, self.cluster, b)
            limits = ("--delay", str(self.delay), "--loss", str(self.loss), "--rate", str(self.rate))
            self._cable = subprocess.Popen(
                [sys.executable, str(HERE / "slow_link.py"), *ends, *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._stack.callback(self._end_cable)
            self._answer("ready")
        else:
            command(
                "ip", "link", "add", a, "netns", self.beamline, "type", "veth", "peer", "name", b, "netns", self.cluster
            )
        for host, device, address in zip(hosts, self._devices, (BEAMLINE, CLUSTER), strict=True):
            self.at(host, "ip", "address", "add", f"{address}/24", "dev", device)
            self.at(host, "ip", "link", "set", device, "up")
            if self.kind == "netem":
                rate = ["rate", f"{self.rate:.0f}bit"] if self.rate else []
                shape = ["delay", f"{1e3 * self.delay:g}ms", "loss", f"{100 * self.loss:g}%", *rate]
                self.at(host, "tc", "qdisc", "add", "dev", device, "root", "netem", *shape)

    def at(self, host: str, *words: str) -> None:
        """Run a command on one of the hosts."""
        command("ip", "netns", "exec", host, *words)

    def on(self, host: str, words: Sequence[str]) -> list[str]:
        """Return the command line that runs something on one of the hosts."""
        return ["ip", "netns", "exec", host, *words]

    def cut(self) -> None:
        """Cut the cable; neither end is told."""
        self._switch("cut")

    def mend(self) -> None:
        """Mend the cable."""
        self._switch("mend")

    def _switch(self, word: str) -> None:
        if self._cable is not None:
            assert self._cable.stdin is not None
            self._cable.stdin.write(f"{word}\n")
            self._cable.stdin.flush()
            self._answer(word)
        else:
            self.at(self.cluster, "ip", "link", "set", self._devices[1], "down" if word == "cut" else "up")

    def _answer(self, expected: str) -> None:
        assert self._cable is not None
        assert self._cable.stdout is not None
        said = self._cable.stdout.readline().strip()
        if said != expected:
            raise RuntimeError(f"cable: got {said!r}, expected {expected!r}")

    def _end_cable(self) -> None:
        assert self._cable is not None
        assert self._cable.stdin is not None
        self._cable.stdin.close()
        try:
            self._cable.wait(5)
        except subprocess.TimeoutExpired:
            self._cable.kill()
            self._cable.wait()
        assert self._cable.stdout is not None
        self._cable.stdout.close()


@contextlib.contextmanager
def job_processes(
    hosts: TwoHosts, address: str, job_id: str, keys: Path, ranks: int, logs: Path
) -> Iterator[list[int]]:
    """Run ranks and controller on the cluster's host, as somebody there would; give their process ids."""
    us = [sys.executable, "-m", "bluesky_streamrecon"]
    common = ["--address", address, "--job-id", job_id, "--link-limit", "120"]
    common += ["--key", str(keys / "cluster.secret"), "--server-key", str(keys / "beamline.public")]
    mpiexec = Path(sys.executable).with_name("mpiexec")
    lines = {
        "job": [
            str(mpiexec if mpiexec.exists() else "mpiexec"),
            "-n",
            str(ranks),
            *us,
            "job",
            *common,
            "--threads",
            "1",
        ],
        "control": [*us, "control", *common],
    }
    made: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        for name, line in lines.items():
            log = stack.enter_context((logs / f"{name}.log").open("ab"))
            process = subprocess.Popen(
                hosts.on(hosts.cluster, line), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            made.append(process)
            stack.callback(_end, process)
        yield [process.pid for process in made]


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)  # the beamline has asked it to
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
