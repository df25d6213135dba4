"""``streamrecon view``: the live view of a run, as a web page on this computer."""

from __future__ import annotations

import os
import webbrowser
from typing import Annotated

import typer

from bluesky_streamrecon.cli._output import print_json
from bluesky_streamrecon.cli._processes import KeyFile, ServerKey
from bluesky_streamrecon.cli._steer import Address, JobId, Who, open_operator

__all__ = ["view"]

NICE = 10
"""The page gives way to everything else on its computer, which may be the beamline's."""


def view(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    pvs: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Serve the run as PVs, too (PV Access), with this prefix.")
    ] = None,
    pvs_interface: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address of this computer at which PVs are served; 0.0.0.0: all.")
    ] = "127.0.0.1",
    pvs_allow: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Address or network whose orders by PV are taken, beside this computer's."),
    ] = None,
    who: Who = None,
    address: Address = None,
    job_id: JobId = None,
    key: KeyFile = None,
    server_key: ServerKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print the page's address as a JSON object.")] = False,
) -> None:
    """Show a run while it goes on, and overrule it, in a web page on this computer, and by PVs.

    The page follows from one job to the next. Its address has a secret: who knows it can end the scan. So can
    who puts to the PVs, from this computer and from hosts that are allowed.

    Example: `streamrecon view --open --pvs BL:RECON:`
    """
    from bluesky_streamrecon.errors import ConfigError

    os.nice(NICE)
    try:
        from bluesky_streamrecon.live_view import PvServer, Source, ViewServer
        from bluesky_streamrecon.live_view.pvs import LOOPBACK
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}; pip install 'bluesky-streamrecon[view]'") from error
    from bluesky_streamrecon.job_registration import own_name

    source = Source(lambda: open_operator(address, job_id, key, server_key), own_name() if who is None else who)
    served = None
    try:
        server = ViewServer(source, port)
        if pvs is not None:
            served = PvServer(source, pvs, interface=pvs_interface, allow=[*LOOPBACK, *(pvs_allow or ())])
        if json:
            print_json({"url": server.url, "port": server.port})
        else:
            print(f"live view: {server.url}  (Ctrl-C ends it)", flush=True)
        if open_page:
            webbrowser.open(server.url)
        server.run()
    finally:
        if served is not None:
            served.close()
        source.close()
