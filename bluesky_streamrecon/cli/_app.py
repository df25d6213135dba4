"""The program itself: global options, the subcommands' registration, and what happens to errors."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

from bluesky_streamrecon.cli._imports import imports_kept
from bluesky_streamrecon.errors import ConfigError, StreamReconError
from bluesky_streamrecon.logs import set_up_logging

__all__ = ["app", "main"]


class LogLevel(StrEnum):
    """Levels of ``--log-level``."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


app = typer.Typer(
    name="streamrecon",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import bluesky_streamrecon

        typer.echo(f"streamrecon {bluesky_streamrecon.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    log_level: Annotated[
        LogLevel, typer.Option(help="What is logged to stderr; `debug` also shows tracebacks.")
    ] = LogLevel.WARNING,
    version: Annotated[  # noqa: ARG001 - typer needs the parameter, the callback uses it
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Reconstruct a sample while it is scanned, and end the scan when the image is good enough.

    `streamrecon demo` runs the whole loop on this computer: scan, stream, reconstruct, score, stop.
    """
    set_up_logging(log_level.upper())
    if log_level is not LogLevel.DEBUG:
        # The RunEngine logs a traceback of whatever ends a plan; we say it in one line.
        logging.getLogger("bluesky").setLevel(logging.CRITICAL)


def _fail(error: BaseException, code: int) -> NoReturn:
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger(__name__).debug("failed", exc_info=error)
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"streamrecon: {text}", file=sys.stderr)
    sys.exit(code)


def main() -> NoReturn:
    """Run the program and exit with 0 (success), 1 (failure) or 2 (wrong usage)."""
    with imports_kept():
        from bluesky_streamrecon.cli import _commands

        _commands.register(app)
    try:
        app(prog_name="streamrecon")
    except KeyboardInterrupt:
        _fail(KeyboardInterrupt("interrupted"), 1)
    except ConfigError as error:
        _fail(error, 2)
    except BrokenPipeError:  # `streamrecon orders | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (StreamReconError, OSError) as error:
        _fail(error, 1)
    except Exception as error:  # noqa: BLE001 - the last line of defence: one clear line, traceback on debug
        _fail(RuntimeError(f"unexpected {type(error).__name__}: {error} (run with --log-level debug for more)"), 1)
    sys.exit(0)
