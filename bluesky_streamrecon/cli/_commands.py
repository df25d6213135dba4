"""Hangs every subcommand on the program. What a command needs is imported when it runs."""

from __future__ import annotations

import typer

from bluesky_streamrecon.cli import _bench, _demo, _orders, _processes, _profile

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the subcommands to `app`; once is enough, twice does no harm."""
    if app.registered_commands:
        return
    app.command("demo")(_demo.demo)
    app.command("orders")(_orders.orders)
    app.command("job")(_processes.job)
    app.command("control")(_processes.control)
    app.command("keygen")(_processes.keygen)
    app.add_typer(_bench.app, name="bench")
    app.add_typer(_profile.app, name="profile")
