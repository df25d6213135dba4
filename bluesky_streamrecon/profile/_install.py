"""Writes and removes the startup files of an IPython profile, and never touches what a person changed.

What was written is kept as checksums in ``streamrecon-files.json`` inside the profile, so a file that was edited
is recognized.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import msgspec

from bluesky_streamrecon.errors import ConfigError

__all__ = ["ProfileReport", "install_profile", "remove_profile"]

PERMISSIONS = "user_group_permissions.yaml"
"""The queue server's name for it."""

_MANIFEST = "streamrecon-files.json"
_IPYTHON_LEAVES = {"db", "log", "pid", "security", "history.sqlite", "history.sqlite-journal", "startup", "README"}


@dataclass(frozen=True)
class ProfileReport:
    """What was done to each startup file.

    Parameters
    ----------
    directory : Path
        The profile's directory.
    files : dict
        Path of each startup file, and one of "written", "updated", "unchanged", "kept" (was changed by hand;
        our version lies beside it with the suffix ``.new``), "removed".
    """

    directory: Path
    files: dict[Path, str] = field(default_factory=dict)


def profile_directory(name: str, ipython_dir: Path | None = None) -> Path:
    """Return where the profile `name` lives; refuses names that are no plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"profile: got the name {name!r}, expected letters, digits, '.', '_' and '-'")
    if ipython_dir is None:
        from IPython.paths import get_ipython_dir

        ipython_dir = Path(get_ipython_dir())
    return ipython_dir / f"profile_{name}"


def install_profile(name: str, ipython_dir: Path | None = None, *, queueserver: bool = False) -> ProfileReport:
    """Write the profile's startup files, or bring them up to date.

    Parameters
    ----------
    name : str
        Profile name, as in ``ipython --profile=NAME``.
    ipython_dir : Path, optional
        IPython's directory; the usual one by default.
    queueserver : bool, optional
        Write the queue server's file of permissions, too; one that is there is brought up to date in any case.

    Returns
    -------
    ProfileReport
        What was done to each file. Installing twice changes nothing.

    Raises
    ------
    ConfigError
        If the name is not a plain file name.
    """
    report = ProfileReport(profile_directory(name, ipython_dir))
    startup = report.directory / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    known = _read_manifest(report.directory)
    for ours in sorted(files(__package__).joinpath("startup").iterdir(), key=lambda item: item.name):
        wanted = ours.name.endswith(".py") or (ours.name == PERMISSIONS and (queueserver or ours.name in known))
        if not wanted:
            continue
        content = ours.read_bytes()
        target = startup / ours.name
        aside = _aside(target)
        if not target.exists():
            what = "written"
        elif target.read_bytes() == content:
            what = "unchanged"
        elif known.get(ours.name) == _checksum(target.read_bytes()):
            what = "updated"
        else:
            what = "kept"
        if what in ("written", "updated"):
            target.write_bytes(content)
        if what == "kept":
            aside.write_bytes(content)
        else:
            aside.unlink(missing_ok=True)
            known[ours.name] = _checksum(content)
        report.files[target] = what
    (report.directory / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=2) + b"\n")
    return report


def remove_profile(name: str, ipython_dir: Path | None = None) -> ProfileReport:
    """Remove the startup files that still are as we wrote them, and the profile if nothing of a person's is left.

    Raises
    ------
    ConfigError
        If there is no such profile, or it was not installed by us.
    """
    report = ProfileReport(profile_directory(name, ipython_dir))
    if not (report.directory / _MANIFEST).exists():
        raise ConfigError(
            f"profile {name!r}: {report.directory} has no {_MANIFEST}; expected a profile made by "
            "'streamrecon profile install'"
        )
    startup = report.directory / "startup"
    for filename, checksum in _read_manifest(report.directory).items():
        target = startup / filename
        _aside(target).unlink(missing_ok=True)
        if not target.exists():
            continue
        if _checksum(target.read_bytes()) == checksum:
            target.unlink()
            report.files[target] = "removed"
        else:
            report.files[target] = "kept"
    (report.directory / _MANIFEST).unlink()
    left = [p for p in report.directory.iterdir() if p.name not in _IPYTHON_LEAVES]
    left += [p for p in startup.iterdir() if p.name not in ("README", "__pycache__")] if startup.exists() else []
    if not left:
        shutil.rmtree(report.directory)
    return report


def _aside(target: Path) -> Path:
    """Return where our version of a changed file lies."""
    return target.with_name(f"{target.name}.new")


def _read_manifest(directory: Path) -> dict[str, str]:
    path = directory / _MANIFEST
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}; expected file names with checksums. Was it edited?") from error


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
