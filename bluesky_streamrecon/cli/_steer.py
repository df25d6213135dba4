"""``streamrecon steer``: ask how a running scan is, and overrule its automatic stop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bluesky_streamrecon.cli._options import Json
from bluesky_streamrecon.cli._output import print_json
from bluesky_streamrecon.cli._processes import KeyFile, ServerKey, client_security

if TYPE_CHECKING:
    from bluesky_streamrecon.wire import OperatorEndpoint, RunStatus

    Operator = OperatorEndpoint
else:
    Operator = Any  # the commands' annotations are evaluated

__all__ = ["Address", "JobId", "Who", "app", "open_operator"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Ask how a running scan is, and overrule its automatic stop.\n\n"
    "Without options, the one job of yours that runs on this computer is meant.",
)

Address = Annotated[str | None, typer.Option(help="The beamline's address, if it is another computer.")]
JobId = Annotated[str | None, typer.Option(help="Id of the job; its beginning is enough on this computer.")]
Run = Annotated[str | None, typer.Option(help="Uid of the run that is meant (its beginning is enough).")]
Why = Annotated[str, typer.Argument(help="Why.")]
Who = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who you are.  [default: user@computer]")]

PLACE = "command line"


def operator_command(function: Callable[..., None], name: str | None = None) -> None:
    """Register a command that gets a connection to the job, as `operator`, and has the options that name the job."""
    job = {"address": Address, "job_id": JobId, "key": KeyFile, "server_key": ServerKey}

    def command(**values: Any) -> None:
        with closing(open_operator(*(values.pop(each) for each in job))) as operator:
            function(operator, **values)

    app.command(name or function.__name__)(_with_options(command, function, job))


def order_command(function: Callable[..., dict[str, Any] | None]) -> None:
    """Register a command that gives the order of its name: with its arguments, or what it returns, as the fields."""

    def command(operator: Operator, *, run: str | None, who: str | None, json: bool | None, **values: Any) -> None:
        from bluesky_streamrecon.job_registration import own_name
        from bluesky_streamrecon.wire import Ask, Order

        fields: Any = function(**values) or values
        if run is None:  # the run that is open now, and no other that may be by the time this arrives
            now = operator.ask(Ask()).status
            run = None if now is None else now.run_uid
        action: Any = function.__name__
        order = Order(action=action, who=own_name() if who is None else who, place=PLACE, **fields)
        answer = operator.ask(Ask(order=order, run_uid=run))
        _print_status(answer.status, answer.text, as_json=bool(json))

    operator_command(_with_options(command, function, {"run": Run, "who": Who, "json": Json}), function.__name__)


def _with_options(command: Callable[..., None], function: Callable[..., Any], more: Mapping[str, Any]) -> Any:
    """Return `command` for typer: with the help and arguments of the function that it calls, and more options."""
    own = inspect.signature(function, eval_str=True)
    given = [each.replace(kind=each.KEYWORD_ONLY) for name, each in own.parameters.items() if name != "operator"]
    given += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=more[name]) for name in more
    ]
    command.__doc__ = function.__doc__
    command.__signature__ = own.replace(parameters=given)  # type: ignore[attr-defined]
    return command


@operator_command
def status(operator: Operator, json: Json = False) -> None:
    """Show how the run is: projections, image, score, predicted gain, who holds it, lag, frames sent and used.

    Example: `streamrecon steer status`
    """
    from bluesky_streamrecon.wire import Ask

    _print_status(operator.ask(Ask()).status, "", as_json=json)


@order_command
def finish(reason: Annotated[str, typer.Argument(help="Why, in a few words; stored with the run.")]) -> None:
    """End the run as a success at the next projection, even if it is held or only advisory.

    Example: `streamrecon steer finish "good enough for me"`
    """


@order_command
def hold(reason: Why = "") -> None:
    """Let nothing end the run automatically until it is released.

    Example: `streamrecon steer hold "look at the crack first"`
    """


@order_command
def release(reason: Why = "") -> None:
    """Undo a hold: if the image is still good enough at its next verdict, the run ends.

    Example: `streamrecon steer release`
    """


@order_command
def extend(
    count: Annotated[int, typer.Argument(min=1, metavar="N", help="Projections to take at least.")], reason: Why = ""
) -> None:
    """Take N more projections before the run may end, beyond the plan if need be (where the plan can).

    Example: `streamrecon steer extend 20`
    """


@order_command
def axis(
    column: Annotated[float, typer.Argument(metavar="COLUMN", help="Detector column of the rotation axis.")],
    reason: Why = "",
) -> dict[str, Any]:
    """Correct the rotation axis: images are made anew about it, and scores begin anew.

    Example: `streamrecon steer axis 511.5 "a doubled edge in slice 40"`
    """
    return {"axis": column, "reason": reason}


@order_command
def region(
    corners: Annotated[
        list[int] | None, typer.Argument(metavar="[LEFT TOP RIGHT BOTTOM]", help="Pixels of the slice; the whole view.")
    ] = None,
    row: Annotated[
        list[int] | None,
        typer.Option(
            min=0, metavar="ROW", help="Detector row that counts, each by a --row; default: those of the beginning."
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> dict[str, Any]:
    """Let only a part of some slices count, or all again: scores and predictions begin anew.

    Example: `streamrecon steer region 200 150 500 450 --row 431 --reason "the crack"`
    """
    from bluesky_streamrecon.selection import Selection

    if corners and len(corners) != 4:
        raise typer.BadParameter(f"got {len(corners)} numbers, expected LEFT TOP RIGHT BOTTOM, or none")
    region: Any = tuple(corners) if corners else None
    return {"selection": Selection(region, tuple(row or ())), "reason": reason}


def open_operator(
    address: str | None, job_id: str | None, key: Path | None, server_key: Path | None
) -> OperatorEndpoint:
    """Connect to the job that is meant, by default the one of this user on this computer.

    Raises
    ------
    ConfigError
        If options do not go together, or the job wants keys and there are none.
    JobError
        If there is no such job.
    """
    from bluesky_streamrecon.errors import ConfigError
    from bluesky_streamrecon.job_registration import find_job
    from bluesky_streamrecon.wire import OperatorEndpoint

    security = client_security(key, server_key)
    if address is not None and job_id is None:
        raise ConfigError("--address: got it without --job-id, expected both")
    if address is None:
        found = find_job(job_id)
        address, job_id = found.address, found.job_id
        if found.server is not None and security is None:
            raise ConfigError(f"job {job_id}: it accepts only the keys on its list; give --key and --server-key")
    return OperatorEndpoint(address, job_id=str(job_id), security=security)


def _print_status(status: RunStatus | None, text: str, *, as_json: bool) -> None:
    import msgspec

    if as_json:
        print_json({"text": text, **(msgspec.to_builtins(status) if status is not None else {})})
        return
    if text:
        print(text)
    if status is not None:
        print(repr(status))
