"""The long-running processes (``job``, ``control``) and the keys that they connect with (``keygen``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bluesky_streamrecon.cli._imports import imports_kept
from bluesky_streamrecon.cli._options import Json
from bluesky_streamrecon.cli._output import print_answer

if TYPE_CHECKING:
    from bluesky_streamrecon.wire import ClientSecurity, ServerSecurity

__all__ = ["KeyFile", "ServerKey", "client_security", "control", "job", "keygen"]

Address = Annotated[str, typer.Option(help="The beamline's address, as in tcp://beamline:5555.")]
JobId = Annotated[str, typer.Option(help="Id of the job, as the beamline shows it.")]
KeyFile = Annotated[Path | None, typer.Option(help="Our secret key file (see `streamrecon keygen`).")]
ServerKey = Annotated[Path | None, typer.Option(help="The beamline's public key file.")]
LinkLimit = Annotated[float, typer.Option(min=1, help="Seconds without the beamline after which it gives up.")]
WatchParent = Annotated[bool, typer.Option(help="Exit when standard input is closed (set by the launcher).")]


def job(
    address: Address,
    job_id: JobId,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per rank; default: its cores.")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Directory for checkpoints, from which a restarted job goes on.")
    ] = None,
    link_limit: LinkLimit = 300.0,
    key: KeyFile = None,
    server_key: ServerKey = None,
    watch_parent: WatchParent = False,
) -> None:
    """Reconstruct what a beamline streams; this is what `mpiexec` starts, once per rank.

    Example: `mpiexec -n 16 streamrecon job --address tcp://beamline:5555 --job-id tomo-1`
    """
    with imports_kept():
        from bluesky_streamrecon.quality.trials import similarity_to_finished
        from bluesky_streamrecon.recon.job import run_job

    raise typer.Exit(
        run_job(
            address,
            job_id,
            security=client_security(key, server_key),
            threads=threads,
            watch_parent=watch_parent,
            link_limit=link_limit,
            checkpoints=checkpoints,
            compare=similarity_to_finished,
        )
    )


def control(
    address: Address,
    job_id: JobId,
    preview_bind: Annotated[
        str, typer.Option(help="Where ranks bring their previews; tcp://*:* where they are on other hosts.")
    ] = "tcp://127.0.0.1:*",
    preview_allow: Annotated[
        list[Path] | None,
        typer.Option(help="Public key file (or folder of such) of the ranks; needed with keys and other hosts."),
    ] = None,
    link_limit: LinkLimit = 300.0,
    key: KeyFile = None,
    server_key: ServerKey = None,
    watch_parent: WatchParent = False,
) -> None:
    """Score the images of a running job and tell the beamline when they are good enough.

    Example: `streamrecon control --address tcp://beamline:5555 --job-id tomo-1`
    """
    with imports_kept():
        from bluesky_streamrecon.quality.controller import run_controller
        from bluesky_streamrecon.recon.quick import QuickReconstructor

    raise typer.Exit(
        run_controller(
            address,
            job_id,
            security=client_security(key, server_key),
            preview_bind=preview_bind,
            preview_security=_preview_security(key, preview_allow),
            link_limit=link_limit,
            watch_parent=watch_parent,
            reconstructor=QuickReconstructor(),
        )
    )


def keygen(
    name: Annotated[str, typer.Argument(help="Whose keys: for instance 'beamline' or 'cluster'.")],
    directory: Annotated[Path, typer.Option(help="Where the two files go.")] = Path(),
    json: Json = False,
) -> None:
    """Make a pair of CURVE keys: NAME.public and NAME.secret (mode 0600).

    Existing files are never overwritten.

    Example: `streamrecon keygen beamline --directory ~/.streamrecon`
    """
    from bluesky_streamrecon.wire import generate_keys

    public, secret = generate_keys(directory, name)
    text = f"public key (give it to the other side): {public}\nsecret key (keep it here):              {secret}"
    print_answer({"public": str(public), "secret": str(secret)}, text, json=json)


def _preview_security(key: Path | None, allowed: list[Path] | None) -> ServerSecurity | None:
    from bluesky_streamrecon.errors import ConfigError

    if not allowed:
        return None
    if key is None:
        raise ConfigError("--preview-allow: got it without --key, expected both: the controller needs keys of its own")
    from bluesky_streamrecon.wire import ServerSecurity

    return ServerSecurity.from_files(key, allowed)


def client_security(key: Path | None, server_key: Path | None) -> ClientSecurity | None:
    """Read the keys that two options name; None if there are none.

    Raises
    ------
    ConfigError
        If only one is given, or a file can not be used.
    """
    from bluesky_streamrecon.errors import ConfigError

    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise ConfigError("--key and --server-key: got one of them, expected both or none")
    from bluesky_streamrecon.wire import ClientSecurity

    return ClientSecurity.from_files(key, server_key)
