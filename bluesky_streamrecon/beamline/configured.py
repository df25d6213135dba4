"""A reconstruction job as the configuration file describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bluesky_streamrecon.beamline.launcher import MpiLauncher
from bluesky_streamrecon.beamline.recon_job import ReconJob
from bluesky_streamrecon.beamline.slurm import SlurmLauncher

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.job_link import Launcher
    from bluesky_streamrecon.config_file import ConfigFile
    from bluesky_streamrecon.wire.security import ServerSecurity

__all__ = ["make_job", "make_launcher", "read_security"]

AS_THEY_ARE = (
    *("ranks", "address", "job_id", "insecure", "keep_alive", "wait_for_volume", "start_timeout", "finish_timeout"),
    *("restarts", "backoff", "memory_limit"),
)
"""Fields of ``[job]`` that are arguments of `ReconJob`."""


def make_job(configuration: ConfigFile, name: str = "recon_job", **changes: Any) -> ReconJob:
    """Make the device; nothing is started before it is staged.

    Parameters
    ----------
    configuration : ConfigFile
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
        "local": job.launcher != "none",
        "launcher": make_launcher(configuration),
        "security": read_security(configuration),
        "output": configuration.data / "reconstructions",
        **{field: getattr(job, field) for field in AS_THEY_ARE},
    }
    return ReconJob(name, **{**given, **changes})


def make_launcher(configuration: ConfigFile) -> Launcher | None:
    """Make what starts the job; None where somebody else does."""
    job = configuration.job
    more: dict[str, Any] = {"threads": job.threads, "checkpoints": job.checkpoints}
    if job.job_key is not None and job.server_key is not None:
        more["security_options"] = ("--key", str(job.job_key), "--server-key", str(job.server_key))
    if job.launcher == "slurm":
        slurm = msgspec.structs.asdict(job.slurm)
        return SlurmLauncher(control_options=slurm.pop("control"), **slurm, **more)
    if job.launcher == "mpi":
        return MpiLauncher(mpiexec=job.mpiexec, arguments=job.arguments, log_directory=job.logs, **more)
    return None


def read_security(configuration: ConfigFile) -> ServerSecurity | None:
    """Read the beamline's keys; None where there are none.

    Raises
    ------
    ConfigError
        If a file can not be used.
    """
    from bluesky_streamrecon.wire.security import ServerSecurity

    job = configuration.job
    return None if job.key is None else ServerSecurity.from_files(job.key, job.allowed)
