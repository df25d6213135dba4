"""Hangs every subcommand on the program. What a command needs is imported when it runs."""

from __future__ import annotations

import typer

from bluesky_streamrecon.cli import (
    _advise,
    _bench,
    _check,
    _demo,
    _evaluate,
    _files,
    _follow,
    _orders,
    _processes,
    _profile,
    _replay,
    _runs,
    _steer,
    _view,
)
from bluesky_streamrecon.cli._options import ListCommand

__all__ = ["register"]

MINUS_ONE = {"ignore_unknown_options": True}
"""Lets -1 be a RUN; an option that does not exist is then one argument too many."""


def register(app: typer.Typer) -> None:
    """Add the subcommands to `app`; once is enough, twice does no harm."""
    if app.registered_commands:
        return
    app.command("demo", cls=ListCommand)(_demo.demo)
    app.command("orders")(_orders.orders)
    app.command("job")(_processes.job)
    app.command("control")(_processes.control)
    app.command("keygen")(_processes.keygen)
    app.command("check")(_check.check)
    app.add_typer(_check.app, name="config")
    app.command("advise")(_advise.advise)
    app.command("runs")(_runs.runs)
    app.command("last")(_runs.last)
    app.command("replay", context_settings=MINUS_ONE)(_replay.replay)
    app.command("export", context_settings=MINUS_ONE)(_files.export_stored)
    app.command("import")(_files.import_recorded)
    app.command("resubmit")(_files.resubmit_kept)
    app.command("view", context_settings=MINUS_ONE)(_view.view)
    app.command("follow")(_follow.follow)
    app.add_typer(_steer.app, name="steer")
    app.add_typer(_bench.app, name="bench")
    app.add_typer(_evaluate.app, name="evaluate")
    app.add_typer(_profile.app, name="profile")
