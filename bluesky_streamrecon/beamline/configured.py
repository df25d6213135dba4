"""A reconstruction job as the configuration file describes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bluesky_streamrecon.beamline.launcher import MpiLauncher
from bluesky_streamrecon.beamline.recon_job import ReconJob
from bluesky_streamrecon.beamline.slurm import SlurmLauncher
from bluesky_streamrecon.errors import JobError

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.job_link import Launcher
    from bluesky_streamrecon.config_file import Configuration
    from bluesky_streamrecon.wire import OperatorEndpoint
    from bluesky_streamrecon.wire.security import ServerSecurity

__all__ = ["make_job", "make_launcher", "operator_of", "read_security"]


def make_job(configuration: Configuration, name: str = "recon_job", **changes: Any) -> ReconJob:
    """Make the device; nothing is started before it is staged.

    Parameters
    ----------
    configuration : Configuration
        See `load_config_file`.
    name : str, optional
        Of the device.
    **changes
        Arguments of `ReconJob` that are to be others.

    Raises
    ------
    ConfigError
        If a key file can not be used, or a number can not work.
    """
    job = configuration.job
    given: dict[str, Any] = {
        "ranks": job.ranks,
        "local": job.launcher != "none",
        "launcher": make_launcher(configuration),
        "address": job.address,
        "job_id": job.job_id,
        "security": read_security(configuration),
        "insecure": job.insecure,
        "output": configuration.data / "reconstructions",
        "keep_alive": job.keep_alive,
        "wait_for_volume": job.wait_for_volume,
        "start_timeout": job.start_timeout,
        "finish_timeout": job.finish_timeout,
        "restarts": job.restarts,
        "backoff": job.backoff,
        "memory_limit": job.memory_limit,
    }
    return ReconJob(name, **{**given, **changes})


def make_launcher(configuration: Configuration) -> Launcher | None:
    """Make what starts the job; None where somebody else does."""
    job = configuration.job
    security: tuple[str, ...] = ()
    if job.job_key is not None and job.server_key is not None:
        security = ("--key", str(job.job_key), "--server-key", str(job.server_key))
    if job.launcher == "slurm":
        return SlurmLauncher(
            options=job.slurm.options,
            setup=job.slurm.setup,
            run=job.slurm.run,
            python=job.slurm.python,
            threads=job.threads,
            directory=job.slurm.directory,
            security_options=security,
            control_options=job.slurm.control,
            checkpoints=job.checkpoints,
            poll=job.slurm.poll,
        )
    if job.launcher == "mpi":
        return MpiLauncher(
            mpiexec=job.mpiexec,
            arguments=job.arguments,
            threads=job.threads,
            log_directory=job.logs,
            security_options=security,
            checkpoints=job.checkpoints,
        )
    return None


def read_security(configuration: Configuration) -> ServerSecurity | None:
    """Read the beamline's keys; None where there are none.

    Raises
    ------
    ConfigError
        If a file can not be used.
    """
    from bluesky_streamrecon.wire.security import ServerSecurity

    job = configuration.job
    return None if job.key is None else ServerSecurity.from_files(job.key, job.allowed)


def operator_of(job: ReconJob) -> Callable[[], OperatorEndpoint]:
    """Return what connects to a job of this process as people do; where it has keys, with its own."""
    from bluesky_streamrecon.wire import ClientSecurity, OperatorEndpoint

    keys = None if job.security is None else ClientSecurity(job.security.keys, job.security.keys.public)

    def connect() -> OperatorEndpoint:
        if job.address is None or job.job_id is None:
            raise JobError("the job has not been started yet")
        return OperatorEndpoint(job.address, job_id=job.job_id, security=keys)

    return connect
