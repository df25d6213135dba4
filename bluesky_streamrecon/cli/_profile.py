"""``streamrecon profile``: write an IPython profile in which ``RE(stream_tomo_plan())`` just works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bluesky_streamrecon.cli._options import Json
from bluesky_streamrecon.cli._output import console, print_json

if TYPE_CHECKING:
    from bluesky_streamrecon.profile import ProfileReport

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Install or remove the IPython profile of the beamline.")

Name = Annotated[str, typer.Argument(help="Profile name, as in `ipython --profile=NAME`.")]
Directory = Annotated[
    Path | None, typer.Option("--ipython-dir", help="IPython's directory, if not the usual one ($IPYTHONDIR).")
]


@app.command("install")
def install(
    name: Name,
    ipython_dir: Directory = None,
    queueserver: Annotated[
        bool, typer.Option("--queueserver", help="Also write who may run what from the queue server.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the profile's startup files; a file that was changed by hand is never overwritten.

    Example: `streamrecon profile install tomo && ipython --profile=tomo`
    """
    from bluesky_streamrecon.profile import install_profile

    done = install_profile(name, ipython_dir, queueserver=queueserver)
    _print_files(name, done, as_json=json)
    if not json:
        print(f"profile ready: ipython --profile={name}")


@app.command("remove")
def remove(name: Name, ipython_dir: Directory = None, json: Json = False) -> None:
    """Take the profile's startup files away; files that were changed or added by hand stay.

    Example: `streamrecon profile remove tomo`
    """
    from bluesky_streamrecon.profile import remove_profile

    done = remove_profile(name, ipython_dir)
    _print_files(name, done, as_json=json)
    if json:
        return
    if done.directory.exists():
        print(f"{done.directory} still holds files that are not ours")
    else:
        print(f"profile {name} removed")


def _print_files(name: str, done: ProfileReport, *, as_json: bool) -> None:
    for path, what in done.files.items():
        console().print(f"{what:>9}  {path}", highlight=False, soft_wrap=True)
    if as_json:
        files = {str(path): what for path, what in done.files.items()}
        print_json({"profile": name, "directory": str(done.directory), "files": files})
