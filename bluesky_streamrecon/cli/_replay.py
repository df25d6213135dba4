"""``streamrecon replay``: where another policy would have ended a past run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from bluesky_streamrecon.cli._options import RUN, AngleUnits, Directory, Json, Readable, Threads, Uri, option_from
from bluesky_streamrecon.cli._output import print_answer, show_progress

if TYPE_CHECKING:
    from bluesky_streamrecon.evaluation.replay import Recorded

__all__ = ["replay"]


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help=f"{RUN}, or a scan file.")],
    policy: Annotated[str | None, typer.Option(help="Stopping policy; default: that of the run.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Score at which the criterion of 'ms-ssim' is met.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Gain in MS-SSIM that 'predicted-gain' gives up for an earlier end.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Images or predictions in a row that must meet the criterion.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the policy, as measure=porosity; each by an --option of its own."),
    ] = None,
    order: Annotated[str | None, typer.Option(help="Scan file: take its projections in this order instead.")] = None,
    directory: Directory = None,
    uri: Uri = None,
    readable: Readable = None,
    out: Annotated[Path, typer.Option(help="Picture (PNG) of scores, predictions and the stop.")] = Path("replay.png"),
    threads: Threads = 1,
    angle_units: AngleUnits = None,
    json: Json = False,
) -> None:
    """Run a policy over a past run, from its stored data: where it would have stopped, and what would have been lost.

    Nothing is started: preparation, window and policy run here, on the run's preview rows.

    Example: `streamrecon replay 3f2a91 --policy ms-ssim --directory demo/catalogue --readable demo`
    """
    from bluesky_streamrecon.errors import ConfigError
    from bluesky_streamrecon.evaluation.replay import recorded_file, recorded_run
    from bluesky_streamrecon.evaluation.replay import replay as judge_again
    from bluesky_streamrecon.evaluation.report import new_directory, save_figure
    from bluesky_streamrecon.quality import get_policy

    show_progress()
    if policy is not None:
        get_policy(policy)  # known before frames are fetched
    changes: dict[str, Any] = {
        "policy": policy, "threshold": threshold, "tolerance": tolerance, "patience": patience
    }  # fmt: skip
    changes = {name: value for name, value in changes.items() if value is not None}
    if option:
        changes["options"] = dict(option_from(word, "--option") for word in option)
    path = Path(run)
    opened: AbstractContextManager[Recorded]
    if path.is_file():
        opened = nullcontext(recorded_file(path, order=order, angle_units=angle_units))
    elif path.suffix or path.parent != Path():
        raise ConfigError(f"{run}: no such file")
    elif order is not None:
        raise ConfigError("order: a stored run was taken in its own order; --order is for recorded scans")
    else:
        opened = recorded_run(run, uri=uri, directory=directory, readable=readable or (), angle_units=angle_units)
    with opened as recorded:
        if policy is not None and policy != recorded.steering.rule:
            changes = {"threshold": None, "options": {}} | changes  # those of the run were for its own policy
        steering = msgspec.structs.replace(recorded.steering, **changes)
        report = judge_again(recorded, steering, threads=threads)
    new_directory(out.resolve().parent)
    save_figure(report.figures["replay"], out)
    found, last = SimpleNamespace(**report.fields), ""
    lines = [f"problem: {problem}" for problem in found.problems]
    for row in found.verdicts:
        if row["verdict"] != last or row["projections"] == found.stopped_at:
            lines.append(f"{row['projections']:5d}  {row['verdict']:8s}  {row['text']}")
        last = row["verdict"]
    if found.stopped_at is None:
        lines.append(
            f"{found.policy} would not have ended the run: its criterion is not met by the {found.taken} of "
            f"{found.planned} projections that are stored"
        )
    else:
        lines.append(
            f"{found.policy} would have ended the run at {found.stopped_at} of {found.planned} projections; the "
            f"finished image of these differs from that of all {found.taken} by 1 - MS-SSIM = {found.lost:.3f}"
        )
    print_answer(report.fields | {"picture": str(out)}, "\n".join([*lines, f"picture: {out}"]), json=json)
