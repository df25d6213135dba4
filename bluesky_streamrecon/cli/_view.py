"""``streamrecon view``: the live view of a run, as a web page on this computer."""

from __future__ import annotations

import os
import webbrowser
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from bluesky_streamrecon.cli._options import RUN, Directory, Readable, Uri
from bluesky_streamrecon.cli._output import print_answer
from bluesky_streamrecon.cli._processes import KeyFile, ServerKey
from bluesky_streamrecon.cli._pvs import Pvs, PvsAllow, PvsInterface, open_source, serve_pvs, view_extra
from bluesky_streamrecon.cli._steer import Address, JobId, Who, open_operator
from bluesky_streamrecon.errors import ConfigError

if TYPE_CHECKING:
    from bluesky_streamrecon.beamline.source import Source

__all__ = ["view"]

NICE = 10
"""The page gives way to everything else on its computer, which may be the beamline's."""


def view(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help=f"{RUN}; default: the run that is being taken.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    public_url: Annotated[
        str | None, typer.Option(help="Address with TLS under which a proxy serves the page to other computers.")
    ] = None,
    pvs: Pvs = None,
    pvs_interface: PvsInterface = "127.0.0.1",
    pvs_allow: PvsAllow = None,
    napari: Annotated[
        bool, typer.Option("--napari", help="Open the volume that is being made in napari, in place of the page.")
    ] = False,
    who: Who = None,
    address: Address = None,
    job_id: JobId = None,
    key: KeyFile = None,
    server_key: ServerKey = None,
    directory: Directory = None,
    uri: Uri = None,
    readable: Readable = None,
    json: Annotated[bool, typer.Option("--json", help="Print the page's address as a JSON object.")] = False,
) -> None:
    """Show a run while it goes on, and overrule it, in a web page on this computer, and by PVs; or a stored run.

    The page follows from one job to the next. Its address has a secret: who knows it can end the scan. So can
    who puts to the PVs, from this computer and from hosts that are allowed.

    Example: `streamrecon view --open --pvs BL:RECON:`, and of the last run, `streamrecon view -1 --open`
    """
    os.nice(NICE)
    with ExitStack() as opened:
        source: Source
        images = None
        if napari:
            if run is not None or pvs is not None:
                raise ConfigError("--napari: it shows the run that is being taken, without RUN and PVs")
            with view_extra():
                from bluesky_streamrecon.live_view.napari_layer import open_napari
            open_napari(opened.enter_context(open_source(lambda: open_operator(address, job_id, key, server_key), who)))
            return
        if run is None:
            source = opened.enter_context(open_source(lambda: open_operator(address, job_id, key, server_key), who))
            opened.enter_context(serve_pvs(source, pvs, pvs_interface, pvs_allow))
        elif pvs is not None:
            raise ConfigError("--pvs: PVs are served of the run that is being taken, without RUN")
        else:
            with view_extra():
                from bluesky_streamrecon.live_view import open_stored_run

            source, images = open_stored_run(run, uri, directory=directory, readable=readable or ())
        from bluesky_streamrecon.live_view import ViewServer

        server = ViewServer(source, port, public_url=public_url, images=images)
        at = {"url": server.url, "port": server.port}
        print_answer(at, f"live view: {server.url}  (Ctrl-C ends it)", json=json)
        if open_page:
            webbrowser.open(server.url)
        server.run()
