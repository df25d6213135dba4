"""Check what a scan with a reconstruction job needs, piece by piece, and what to do about what does not work.

Nothing is changed: what is started is ended again, what is written is removed. Times are seconds, rates bytes per
second.
"""

from __future__ import annotations

import platform
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bluesky_streamrecon.check_item import CheckItem
from bluesky_streamrecon.config_file import ConfigFile, load_config_file
from bluesky_streamrecon.errors import ConfigError, DeviceError, JobError, StorageError, StreamReconError

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.job_link import JobLink
    from bluesky_streamrecon.beamline.run_state import JobEvent
    from bluesky_streamrecon.wire import PeerInfo

__all__ = ["CheckItem", "check_setup"]

PACKAGES: Final = ("bluesky", "ophyd-async", "event-model", "tiled", "databroker", "pyzmq", "msgspec", "h5py", "numpy")
JOB_PACKAGES: Final = ("mpi4py", "numba")
LEAST_DISK: Final = 2**30
CLOCK_SECONDS: Final = 1.0
HEARTBEATS_SECONDS: Final = 20.0
"""In which a peer that has nothing to say sends a heartbeat or two."""
ROUND_TRIPS: Final = 20
BULK_FRAMES: Final = 16
BULK_SHAPE: Final = (1024, 2048)  # 4 MiB each as uint16


class _TimeoutError(StreamReconError):
    """It took too long."""


def check_setup(
    path: str | Path | None = None, *, patience: float = 60.0, on_begin: Callable[[str], None] | None = None
) -> Iterator[CheckItem]:
    """Check a configuration.

    Parameters
    ----------
    path : str or path, optional
        Of the configuration file; see `configuration_path`.
    patience : float, optional
        Longest wait for any one thing.
    on_begin : callable, optional
        Called with the name of each check before it begins.

    Yields
    ------
    CheckItem
        As soon as it is known; what depends on something that does not work is left out.
    """

    def tried(name: str, check: Callable[[], str]) -> CheckItem:
        if on_begin is not None:
            on_begin(name)
        return _tried(name, check)

    yield tried("packages", _packages)
    configuration = ConfigFile()

    def read() -> str:
        nonlocal configuration
        configuration = load_config_file(path)
        return f"{configuration.path}" if configuration.path else "no file: all settings have their defaults"

    item = tried("configuration", read)
    yield item
    if item.status != "OK":
        return
    yield tried("keys", lambda: _keys(configuration))
    yield tried("disk", lambda: _disk(configuration))
    yield tried("gpu", lambda: _gpu(configuration))
    launchable = True
    if configuration.job.launcher == "mpi":
        item = tried("mpi", lambda: _mpi(configuration, patience))
        yield item
        launchable = item.status == "OK"
    probe = _JobProbe(configuration, patience)
    try:
        item = tried("port", probe.bind)
        yield item
        if item.status == "OK" and launchable:
            item = tried("job", probe.start)
            yield item
            if item.status == "OK":
                yield tried("versions", probe.versions)
                yield tried("clocks", probe.clocks)
                yield tried("round trip", probe.round_trip)
                yield tried("rate", probe.rate)
    finally:
        probe.close()
    yield tried("tiled", lambda: _tiled(configuration))


def _tried(name: str, check: Callable[[], str]) -> CheckItem:
    try:
        return CheckItem(name, "OK", check())
    except _TimeoutError as error:
        return CheckItem(name, "TIMEOUT", str(error))
    except StreamReconError as error:
        return CheckItem(name, "ERROR", str(error))
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, and the next one is still of use
        return CheckItem(name, "ERROR", f"{type(error).__name__}: {error}")


def _packages() -> str:
    found, missing = [f"python {platform.python_version()}"], []
    for name in ("bluesky-streamrecon", *PACKAGES, *JOB_PACKAGES):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise ConfigError(f"not installed: {', '.join(missing)}; `pip install bluesky-streamrecon` brings them")
    return ", ".join(found)


def _keys(configuration: ConfigFile) -> str:
    from bluesky_streamrecon.beamline.configured import read_security
    from bluesky_streamrecon.wire.security import check_bind, read_public_key, read_secret_key

    job = configuration.job
    security = read_security(configuration)
    check_bind(job.address, security, insecure=job.insecure)
    if security is None:
        return (
            "none; none are needed on loopback"
            if not job.insecure
            else "none (insecure): anyone who reaches the port can connect"
        )
    if job.job_key is not None and job.server_key is not None and job.job_key.exists():
        pair, server = read_secret_key(job.job_key), read_public_key(job.server_key)
        if pair.public not in security.allowed:
            raise ConfigError(f"job_key {job.job_key}: its public key is not among `allowed`; the job would be refused")
        if server != security.keys.public:
            raise ConfigError(f"server_key {job.server_key}: not the public half of {job.key}; copy the right one")
    return f"{job.key} (mode 600), {len(security.allowed)} public keys are accepted"


def _disk(configuration: ConfigFile) -> str:
    folders = {"data": configuration.data, "spill": Path(tempfile.gettempdir())}
    if configuration.job.logs is not None:
        folders["logs"] = configuration.job.logs
    found = []
    for what, folder in folders.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            text = f"{what} {there}: can not be written: {error.strerror}; choose another directory"
            raise ConfigError(text) from error
        if free < LEAST_DISK:
            raise ConfigError(f"{what} {there}: {free / 2**20:.0f} MiB free, expected 1 GiB; make room")
        found.append(f"{what} {folder}: {free / 2**30:.1f} GiB free")
    return ", ".join(found)


def _gpu(configuration: ConfigFile) -> str:
    """Try the GPU of this computer; the job's own may be on another."""
    from bluesky_streamrecon.recon.cuda.device import find_device

    wanted = configuration.recon.backend
    if wanted == "cpu":
        return "not asked for ([recon] backend = 'cpu')"
    if configuration.job.launcher != "mpi":
        return "ranks run elsewhere: each says at the start of a run what it computes on"
    try:
        return str(find_device())
    except DeviceError as error:
        if wanted == "cuda":
            raise
        return f"none here, so runs compute on the CPU: {error}"


def _mpi(configuration: ConfigFile, patience: float) -> str:
    from bluesky_streamrecon.beamline.launcher import find_mpiexec

    ranks = configuration.job.ranks
    mpiexec = find_mpiexec(configuration.job.mpiexec)
    # One write per rank, for what ranks print in pieces comes out mixed.
    source = "import os; from mpi4py import MPI; w = MPI.COMM_WORLD; w.barrier(); os.write(1, b'size %d\\n' % w.size)"
    command = [mpiexec, "-n", str(ranks), *configuration.job.arguments, sys.executable, "-c", source]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired as error:
        raise _TimeoutError(
            f"{mpiexec} -n {ranks}: nothing after {patience:g} s; does this computer's name resolve, and is there "
            "another MPI on the PATH?"
        ) from error
    sizes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("size ")]
    if done.returncode != 0 or not sizes:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise JobError(f"{mpiexec} -n {ranks}: exit status {done.returncode}: {''.join(last) or 'no output'}")
    if sizes != [str(ranks)] * ranks:
        raise JobError(
            f"{mpiexec} -n {ranks}: got ranks in worlds of {', '.join(sizes)}, expected {ranks} in one; mpi4py was "
            "built for another MPI than this mpiexec's: `pip install mpich`, or build mpi4py with your site's MPI"
        )
    return f"{ranks} ranks by {mpiexec}"


def _tiled(configuration: ConfigFile) -> str:
    """Write a run with frames and read them back, where reconstructions are written: the server has to read those."""
    from bluesky_streamrecon.storage import open_catalog, open_storage
    from bluesky_streamrecon.storage.proxies import proxy_for
    from bluesky_streamrecon.storage.trial_run import try_catalog

    uri = configuration.storage.uri
    if uri is not None:
        where, proxy = uri.partition("?")[0], proxy_for(uri)
        through = f" through the proxy {proxy}" if proxy is not None else ""
        catalog = open_catalog(uri)
        try:
            left = try_catalog(catalog, configuration.data / "reconstructions")
        except StorageError as error:
            raise StorageError(f"Tiled at {where}{through}: {error}") from error
        finally:
            catalog.context.close()
        return "; ".join(filter(None, (f"{where} takes a run with frames and reads them back{through}", left)))
    with tempfile.TemporaryDirectory(prefix="streamrecon-check-") as folder:
        began = time.monotonic()
        with open_storage(directory=folder) as storage:
            took = time.monotonic() - began
            try_catalog(storage.catalog, storage.detector_directory)
        return f"an embedded server starts in {took:.1f} s, takes a run with frames and reads them back"


class _JobProbe:
    """A job that is started, or waited for, and a run of flats through its link that is then given up."""

    def __init__(self, configuration: ConfigFile, patience: float) -> None:
        self._configuration = configuration
        self._patience = patience
        self._events: queue.Queue[JobEvent] = queue.Queue()
        self._link: JobLink | None = None
        self._applied: dict[int, int] = {}
        self._finished = False
        self._changed = threading.Condition()

    def bind(self) -> str:
        """Listen."""
        from bluesky_streamrecon.beamline.configured import make_launcher, read_security
        from bluesky_streamrecon.beamline.job_link import JobLink
        from bluesky_streamrecon.beamline.serving import BeamlineEndpoint

        job = self._configuration.job
        self._link = JobLink(
            lambda on_event: BeamlineEndpoint(
                job.address,
                on_event=on_event,
                security=read_security(self._configuration),
                insecure=job.insecure,
                job_id=job.job_id,
            ),
            make_launcher(self._configuration),
            self._take,
        )
        return f"listening at {self._link.endpoint.address}"

    def start(self) -> str:
        """Start the job and wait for all of it."""
        link, job = self._the_link(), self._configuration.job
        began = time.monotonic()
        link.launch(job.ranks)
        self._wait(
            lambda: link.complete,
            lambda: (
                f"not all processes of the job have connected; {link.peers_in_words()}; "
                + ("look at the logs" if link.local else f"start the job with --job-id {link.endpoint.job_id}")
            ),
        )
        return f"{len(self._ranks())} ranks and the controller after {time.monotonic() - began:.1f} s"

    def versions(self) -> str:
        """Compare versions on both sides."""
        ours = f"bluesky-streamrecon {metadata.version('bluesky-streamrecon')}"
        others = {peer.software for peer in self._the_link().endpoint.peers()} - {ours}
        if others:
            raise JobError(f"here {ours}, there {', '.join(sorted(others))}; install the same version on both sides")
        return f"{ours} on both sides"

    def clocks(self) -> str:
        """Compare clocks."""
        began, endpoint = time.monotonic(), self._the_link().endpoint
        peers = endpoint.peers()
        while any(peer.ahead is None for peer in peers):
            if time.monotonic() > began + HEARTBEATS_SECONDS:
                raise JobError(f"no heartbeat within {HEARTBEATS_SECONDS:g} s from every process; is one overloaded?")
            with self._changed:
                self._changed.wait(0.1)
            peers = endpoint.peers()
        farthest = max(peers, key=lambda peer: abs(peer.ahead or 0.0))
        host, ahead = farthest.host, farthest.ahead or 0.0
        if abs(ahead) > CLOCK_SECONDS:
            raise JobError(
                f"the clock of {host} differs by {ahead:+.1f} s from ours, expected less than "
                f"{CLOCK_SECONDS:g} s; times in logs will not fit together: set both by NTP"
            )
        return f"largest difference {1e3 * ahead:+.0f} ms ({host}), the time that its message took included"

    def round_trip(self) -> str:
        """Send frames one by one, and wait for the acknowledgement of each."""
        times = self._flats((2 * len(self._ranks()), 64), ROUND_TRIPS, together=False)
        middle = 1e3 * statistics.median(times)
        return f"{middle:.1f} ms from a frame to its acknowledgement by every rank (median of {len(times)})"

    def rate(self) -> str:
        """Send large frames as fast as they go."""
        (seconds,) = self._flats(BULK_SHAPE, BULK_FRAMES, together=True)
        rate = 2 * BULK_SHAPE[0] * BULK_SHAPE[1] * BULK_FRAMES / seconds
        frames = rate / (2 * 2048 * 2048)
        return (
            f"{rate / 1e6:.0f} MB/s, the averaging on the ranks included: {frames:.1f} frames of 2048 x 2048 uint16 "
            "per second"
        )

    def close(self) -> None:
        """End the job and close the port."""
        if self._link is not None:
            self._link.close("the check is over")

    def _flats(self, shape: tuple[int, int], count: int, *, together: bool) -> list[float]:
        """Send flats, which ranks only average, in a run of their own; give the seconds of each, or of all together."""
        from bluesky_streamrecon.beamline.serving import QueuedFrame
        from bluesky_streamrecon.settings import ReconSettings
        from bluesky_streamrecon.wire import OpenRunSpec

        endpoint = self._the_link().endpoint
        frame = np.zeros(shape, np.uint16)
        uid = f"check-{uuid.uuid4()}"
        self._applied.clear()
        self._finished = False
        spec = OpenRunSpec(
            run_uid=uid,
            recon_uid=f"{uid}-recon",
            planned=0,
            detector_shape=shape,
            dtype="<u2",
            recon=ReconSettings(ranks=len(self._ranks()), size=16, axis=0.0),
            preview_rows=(0,),
        )
        endpoint.open_run(spec)
        seconds = []
        try:
            endpoint.append(QueuedFrame("flat", 1, 0.0, frame))  # before this one is taken, ranks get ready
            self._wait(partial(self._all_have, 1), _no_acknowledgement)
            began = time.monotonic()
            for number in range(2, count + 2):
                endpoint.append(QueuedFrame("flat", number, 0.0, frame))
                if not together or number == count + 1:
                    self._wait(partial(self._all_have, number), _no_acknowledgement)
                    seconds.append(time.monotonic() - began)
                    began = time.monotonic()
            endpoint.close_run("success", "the check is over")
            self._wait(lambda: self._finished, _no_acknowledgement)
        except BaseException:
            endpoint.abandon_run("the check has failed")
            raise
        return seconds

    def _take(self, event: JobEvent, sender: PeerInfo | None = None) -> None:  # noqa: ARG002
        from bluesky_streamrecon.beamline.processes import ProcessExit
        from bluesky_streamrecon.beamline.serving import Acked, RunFinished

        with self._changed:
            if isinstance(event, Acked):
                self._applied[event.rank] = event.applied
            elif isinstance(event, RunFinished):
                self._finished = True
            elif isinstance(event, ProcessExit):
                self._events.put(event)
            self._changed.notify_all()

    def _wait(self, done: Callable[[], bool], why_not: Callable[[], str]) -> None:
        with self._changed:
            fine = self._changed.wait_for(lambda: not self._events.empty() or done(), self._patience)
        if not self._events.empty():
            raise JobError(str(self._events.get()))
        if not fine:
            raise _TimeoutError(f"after {self._patience:g} s: {why_not()}")

    def _all_have(self, number: int) -> bool:
        return all(self._applied.get(peer.rank, 0) >= number for peer in self._ranks())

    def _ranks(self) -> list[PeerInfo]:
        return [peer for peer in self._the_link().endpoint.peers() if peer.role == "rank"]

    def _the_link(self) -> JobLink:
        if self._link is None:
            raise JobError("the port could not be bound")
        return self._link


def _no_acknowledgement() -> str:
    return "a frame was not acknowledged by every rank; is a firewall or a slow link between the two?"
