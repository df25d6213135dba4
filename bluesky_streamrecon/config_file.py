"""The configuration file: one TOML file that says where the job runs, how images are made, and where data go.

Tables are ``[job]`` (with ``[job.slurm]``), ``[recon]``, ``[steering]``, ``[storage]`` and ``[follow]``; what is left
out has its default. Paths in it are relative to the file. Nothing here starts or opens anything but the file. Times are
seconds.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import platformdirs

from bluesky_streamrecon.errors import ConfigError
from bluesky_streamrecon.geometry import check_range
from bluesky_streamrecon.gpus import slurm_gpus, usable_gpus
from bluesky_streamrecon.settings import Count, Positive, ReconSettings, SteeringSettings, data_directory, settings_from

__all__ = [
    "ConfigFile",
    "FollowSection",
    "JobSection",
    "SlurmSection",
    "StorageSection",
    "configuration_path",
    "load_config_file",
]

VARIABLE = "STREAMRECON_CONFIG"


class SlurmSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[job.slurm]``: how ranks are submitted.

    Parameters
    ----------
    options : tuple of str
        For ``sbatch``: ``["--partition=gpu", "--time=04:00:00"]``.
    setup : tuple of str
        Shell lines before the ranks are started: ``["module load mpi"]``.
    run : tuple of str
        What starts the ranks inside the job, and ends all of them when one dies.
    python : str
        Interpreter on the cluster that has this package.
    control : tuple of str
        More for the controller, as ``["--preview-bind", "tcp://*:*"]`` where ranks are on several hosts.
    directory : Path
        Shared by the beamline and the cluster: script and logs; the current directory by default.
    poll : float
        Between two looks at the queue.
    """

    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    run: tuple[str, ...] = ("srun", "--kill-on-bad-exit=1")
    python: str = "python3"
    control: tuple[str, ...] = ()
    directory: Path = Path()
    poll: float = 5.0


class JobSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[job]``: who starts the job, and how it connects.

    Parameters
    ----------
    launcher : {"mpi", "slurm", "none"}
        On this computer; by a batch system; by somebody else.
    ranks : int
        MPI ranks; by default one for each GPU that the job will see, if there is any, unless ``[recon] backend`` is
        ``"cpu"``; else 2.
    address : str
        Where the beamline listens.
    job_id : str or None
        What the job must say; None makes one up.
    key, allowed : Path, tuple of Path
        Our secret key file, and the public key files (or folders of them) that are let in.
    job_key, server_key : Path
        The job's secret key file and our public key file, as the job sees them; for a job that we start.
    insecure : bool
        Listen on the network without keys all the same.
    mpiexec, arguments : str, tuple of str
        Program that starts local ranks, and more arguments for it.
    threads : int or None
        Per rank.
    checkpoints, logs : Path or None
        Directories.
    restarts, backoff : int, float
        See `ReconJob`.
    keep_alive : bool or None
        See `ReconJob`.
    wait_for_volume : bool
        ``RE(...)`` returns only when the volume is finished; by default the job goes on with it in the background.
    start_timeout, finish_timeout : float
        See `ReconJob`.
    memory_limit : int
        Bytes of frames held in memory.
    slurm : SlurmSection
        For ``launcher = "slurm"``.
    """

    launcher: Literal["mpi", "slurm", "none"] = "mpi"
    ranks: Positive = 2
    address: str = "tcp://127.0.0.1:*"
    job_id: str | None = None
    key: Path | None = None
    allowed: tuple[Path, ...] = ()
    job_key: Path | None = None
    server_key: Path | None = None
    insecure: bool = False
    mpiexec: str | None = None
    arguments: tuple[str, ...] = ()
    threads: int | None = None
    checkpoints: Path | None = None
    logs: Path | None = None
    restarts: int = 3
    backoff: float = 1.0
    keep_alive: bool | None = None
    wait_for_volume: bool = False
    start_timeout: float = 60.0
    finish_timeout: float = 120.0
    memory_limit: int = 2**30
    slurm: SlurmSection = SlurmSection()

    def __post_init__(self) -> None:
        if (self.key is None) != (not self.allowed):
            raise ConfigError("key and allowed: got one of them, expected both or none (see `streamrecon keygen`)")
        if (self.job_key is None) != (self.server_key is None):
            raise ConfigError("job_key and server_key: got one of them, expected both or none")
        if self.launcher != "none" and (self.key is None) != (self.job_key is None):
            who = "the beamline has keys and the job" if self.key else "the job has keys and the beamline"
            raise ConfigError(
                f"launcher = {self.launcher!r}: {who} has none; expected key, allowed, job_key and server_key, or none"
            )


class StorageSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[storage]``: where data go.

    Parameters
    ----------
    directory : Path or None
        For everything that has no place of its own; None: the user's data directory.
    uri : str or None
        Of a Tiled server; None: one of our own.
    live_images : int
        Images of each run that are written to Tiled while it is taken, for clients to subscribe to; 0: none.
    """

    directory: Path | None = None
    uri: str | None = None
    live_images: Count = 0


class FollowSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[follow]``: the runs of another RunEngine that ``streamrecon follow`` reconstructs.

    A run is followed if all that is given here fits its start document.

    Parameters
    ----------
    plans : tuple of str
        Names of plans; empty: any.
    detector, angle : str or None
        Names of the detector and of the rotation axis, or their data keys. None: whatever the plan says.
    projections : int
        Planned; 0: what the plan says (``num_points``).
    start, stop : float or None
        Range of angles that the scan is going to cover, degrees; both or none.

    Raises
    ------
    ConfigError
        If that is no range.
    """

    plans: tuple[str, ...] = ()
    detector: str | None = None
    angle: str | None = None
    projections: Count = 0
    start: float | None = None
    stop: float | None = None

    def __post_init__(self) -> None:
        check_range(self.start, self.stop, "[follow]")

    def fits(self, start: Mapping[str, Any]) -> bool:
        """Return whether a run, by its start document, is one of those to follow.

        Examples
        --------
        >>> rule = FollowSection(plans=("tomo",), angle="rot")
        >>> rule.fits({"plan_name": "tomo", "motors": ["rot"]}), rule.fits({"plan_name": "tomo", "motors": ["x"]})
        (True, False)
        """
        if self.plans and start.get("plan_name") not in self.plans:
            return False
        for wanted, names in ((self.detector, start.get("detectors")), (self.angle, start.get("motors"))):
            # Plans of one's own may not say what they use; a data key begins with its device's name.
            if wanted is not None and names and not any(wanted.startswith(name) for name in names):
                return False
        return True


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "job": JobSection,
    "recon": ReconSettings,
    "steering": SteeringSettings,
    "storage": StorageSection,
    "follow": FollowSection,
}


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """What the configuration file says, with defaults where it says nothing.

    Parameters
    ----------
    job, recon, steering, storage, follow
        Its tables; paths are absolute.
    path : Path or None
        The file; None: there is none.
    given : frozenset of str
        What the file says itself, as ``"job.ranks"``.
    gpus : int
        GPUs of which each gets a rank, since the file does not say how many ranks; 0: it does, or it is not known.
    """

    job: JobSection = field(default_factory=JobSection)
    recon: ReconSettings = field(default_factory=ReconSettings)
    steering: SteeringSettings = field(default_factory=SteeringSettings)
    storage: StorageSection = field(default_factory=StorageSection)
    follow: FollowSection = field(default_factory=FollowSection)
    path: Path | None = None
    given: frozenset[str] = field(default_factory=frozenset)
    gpus: int = 0

    @property
    def data(self) -> Path:
        """Where data go."""
        return self.storage.directory if self.storage.directory is not None else data_directory()

    def plan_settings(self) -> dict[str, Any]:
        """Return what ``[recon]`` and ``[steering]`` say themselves, as keyword arguments of the plans."""
        settings = {}
        for full in sorted(self.given):
            section, _, name = full.partition(".")
            field = name.partition(".")[0]
            if section in ("recon", "steering"):
                argument = "policy_options" if (section, field) == ("steering", "options") else field
                settings[argument] = getattr(getattr(self, section), field)
        return settings

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Return every setting, its value, and where that came from, in order."""
        for section in SECTIONS:
            yield from self._rows(section, getattr(self, section))

    def _rows(self, prefix: str, values: msgspec.Struct) -> Iterator[tuple[str, Any, str]]:
        for name in values.__struct_fields__:
            value, full = getattr(values, name), f"{prefix}.{name}"
            if isinstance(value, msgspec.Struct):
                yield from self._rows(full, value)
            elif full == "recon.ranks" and full not in self.given and "job.ranks" in self.given:
                yield full, value, "job.ranks"
            elif full in ("job.ranks", "recon.ranks") and self.gpus:
                yield full, value, "one for each GPU"
            else:
                yield (
                    full,
                    msgspec.to_builtins(value, enc_hook=str),
                    str(self.path) if full in self.given else "default",
                )


def configuration_path(given: str | Path | None = None) -> Path | None:
    """Find the configuration file.

    Parameters
    ----------
    given : str or path, optional
        What the user wants; else ``$STREAMRECON_CONFIG``; else ``bluesky-streamrecon/config.toml`` in the user's
        configuration directory (XDG), if it is there.

    Returns
    -------
    Path or None
        None: there is none, and defaults hold.
    """
    chosen = given or os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    usual = platformdirs.user_config_path("bluesky-streamrecon", appauthor=False) / "config.toml"
    return usual if usual.is_file() else None


def load_config_file(path: str | Path | None = None) -> ConfigFile:
    """Read the configuration file.

    Parameters
    ----------
    path : str or path, optional
        See `configuration_path`.

    Raises
    ------
    ConfigError
        If it can not be read, is not TOML, or says something that is not known or can not work.
    """
    found = configuration_path(path)
    try:
        tables = {} if found is None else msgspec.toml.decode(found.read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        raise ConfigError(f"configuration {found}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {found}: not TOML: {error}") from error
    unknown = sorted(set(tables) - set(SECTIONS))
    if unknown:
        raise ConfigError(f"configuration {found}: unknown table [{unknown[0]}]; known: {', '.join(SECTIONS)}")
    given = frozenset(_names(tables))
    gpus = 0 if given & {"job.ranks", "recon.ranks"} else _gpus(tables)
    if gpus:
        tables.setdefault("job", {})["ranks"] = gpus
    if (gpus or "job.ranks" in given) and "recon.ranks" not in given:
        tables.setdefault("recon", {})["ranks"] = tables["job"]["ranks"]
    sections: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        try:
            sections[name] = settings_from(kind, tables.get(name, {}), beside=found and found.resolve().parent)
        except ConfigError as error:
            raise ConfigError(f"configuration {found}, [{name}]: {error}") from error
    return ConfigFile(**sections, path=found, given=given, gpus=gpus)


def _gpus(tables: dict[str, Any]) -> int:
    """Return how many GPUs the job will see, if it may compute on GPUs; 0 if that can not be known here."""
    recon, job = tables.get("recon", {}), tables.get("job", {})
    if not isinstance(recon, dict) or not isinstance(job, dict):
        return 0
    if recon.get("backend") == "cpu" or recon.get("share", 1) != 1:  # rows are not shared on GPUs
        return 0
    slurm = job.get("slurm", {})
    match job.get("launcher", "mpi"):
        case "mpi":
            return usable_gpus()
        case "slurm":
            return slurm_gpus([str(option) for option in slurm.get("options", ())] if isinstance(slurm, dict) else ())
    return 0


def _names(tables: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tables.items():
        if isinstance(value, dict) and name != "options":
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
