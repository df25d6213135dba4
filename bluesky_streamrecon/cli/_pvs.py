"""The options that serve a run as PVs, of the commands that see one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bluesky_streamrecon.live_view import Source
    from bluesky_streamrecon.wire import OperatorEndpoint

__all__ = ["Pvs", "PvsAllow", "PvsInterface", "open_source", "serve_pvs", "view_extra"]

Pvs = Annotated[
    str | None, typer.Option(metavar="PREFIX", help="Serve the run as PVs (PV Access), with names that begin so.")
]
PvsInterface = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Address of this computer at which PVs are served; 0.0.0.0: all.")
]
PvsAllow = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="Address or network whose orders by PV are taken, beside this computer's."),
]


@contextmanager
def view_extra() -> Iterator[None]:
    """Turn an import that fails into an error that says what to install."""
    from bluesky_streamrecon.errors import ConfigError

    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}; pip install 'bluesky-streamrecon[view]'") from error


def open_source(connect: Callable[[], OperatorEndpoint], who: str | None) -> AbstractContextManager[Source]:
    """Follow the jobs that `connect` finds, until the source is left as a context manager.

    Raises
    ------
    ConfigError
        If what shows a run is not installed.
    """
    from bluesky_streamrecon.job_registration import own_name

    with view_extra():
        from bluesky_streamrecon.live_view import Source
    return closing(Source(connect, own_name() if who is None else who))


@contextmanager
def serve_pvs(source: Source, prefix: str | None, interface: str, allow: Sequence[str] | None) -> Iterator[None]:
    """Serve PVs until the end; without a prefix, none."""
    if prefix is None:
        yield
        return
    from bluesky_streamrecon.live_view.pvs import LOOPBACK, PvServer

    server = PvServer(source, prefix, interface=interface, allow=[*LOOPBACK, *(allow or ())])
    try:
        yield
    finally:
        server.close()
