"""Registration of running jobs, so that other programs of the same user find them: one small private file each.

A file is removed when its job ends. One that was left behind is known by its process, which is not there any more or
is another.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import logging
import os
import socket
import time
from pathlib import Path

import msgspec
import platformdirs

from bluesky_streamrecon.errors import JobError

__all__ = ["JobRegistration", "find_job", "own_name", "register_job", "registered_jobs", "unregister_job"]

log = logging.getLogger(__name__)


class JobRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """A job that runs, and where it can be reached.

    Parameters
    ----------
    address, job_id : str
        Where the beamline listens, and what a peer must say.
    server : str or None
        The beamline's public key (Z85); None: it uses no keys.
    host, pid : str, int
        Process of the RunEngine.
    started : float
        When that process was started, seconds since the computer was; 0: not known.
    since : float
        When the job was registered, seconds since the epoch (UTC).
    """

    address: str
    job_id: str
    server: str | None = None
    host: str
    pid: int
    started: float = 0.0
    since: float = 0.0

    @property
    def alive(self) -> bool:
        """Its process is on this computer and still runs."""
        return self.host == socket.gethostname() and _exists(self.pid) and self.started == _started(self.pid)


def register_job(address: str, job_id: str, server: str | None = None) -> Path | None:
    """Write the file of a job of this process, and return its path; None (and a warning) if it can not be written."""
    pid = os.getpid()
    registration = JobRegistration(
        address=address,
        job_id=job_id,
        server=server,
        host=socket.gethostname(),
        pid=pid,
        started=_started(pid),
        since=time.time(),
    )
    directory = _directory()
    path = directory / f"{pid}-{hashlib.sha256(job_id.encode()).hexdigest()[:16]}.json"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(registration))
        fresh.replace(path)
    except OSError as error:
        log.warning("the job is not registered in %s: %s; name it by --address and --job-id", directory, error)
        return None
    return path


def unregister_job(path: Path | None) -> None:
    """Remove a file of ours; one that is gone does no harm."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def own_name() -> str:
    """Return who we are to be known as: user and computer."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # the system knows no name for this user
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def registered_jobs() -> tuple[JobRegistration, ...]:
    """Return the jobs that run on this computer, newest first; files that were left behind are removed."""
    found = []
    for path in _directory().glob("*.json"):
        try:
            if path.stat().st_uid != os.getuid():
                continue
            job = msgspec.json.decode(path.read_bytes(), type=JobRegistration)
        except (OSError, msgspec.MsgspecError):
            continue
        if job.alive:
            found.append(job)
        elif job.host == socket.gethostname():
            unregister_job(path)
    return tuple(sorted(found, key=lambda job: -job.since))


def find_job(job_id: str | None = None) -> JobRegistration:
    """Return the job that runs on this computer.

    Parameters
    ----------
    job_id : str, optional
        Which one, if there are several; its beginning is enough.

    Raises
    ------
    JobError
        If there is none, or more than one.
    """
    found = [job for job in registered_jobs() if job_id is None or job.job_id.startswith(job_id)]
    if not found:
        which = "no job" if job_id is None else f"no job {job_id!r}"
        raise JobError(
            f"{which} of yours runs on this computer (looked in {_directory()}); on another one, name it by "
            "--address and --job-id"
        )
    if len(found) > 1:
        listed = ", ".join(f"{job.job_id} (pid {job.pid})" for job in found)
        raise JobError(f"{len(found)} jobs run on this computer: {listed}; name one by --job-id")
    return found[0]


def _directory() -> Path:
    return platformdirs.user_state_path("bluesky-streamrecon", appauthor=False) / "jobs"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _started(pid: int) -> float:
    """Return the clock ticks after the computer's start at which a process was started; 0 where /proc does not say."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0.0
