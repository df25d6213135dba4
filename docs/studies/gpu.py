"""What a GPU has to do, checked and then measured: minutes on a computer that has one.

python docs/studies/gpu.py --json gpu.json

Checks come first, and nothing is timed if one fails. What is slower than it should be is printed with what was expected
(docs/explanations/performance.md). ASTRA's code for GPUs is timed beside ours where `astra-toolbox` is installed.
A part that fails costs none of the others, and the file holds what was measured until then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from bluesky_streamrecon.evaluation.bench.kernels import measure_kernels
from bluesky_streamrecon.evaluation.bench.memory import measure_memory
from bluesky_streamrecon.evaluation.bench.peers import compare_peers
from bluesky_streamrecon.evaluation.bench.pipeline import measure_pipeline
from bluesky_streamrecon.evaluation.report import Report, Row

__all__ = ["ALGORITHMS", "EXPECTED", "measure_gpu", "run_checks"]

ALGORITHMS = ("mlem", "pml-quadratic", "pml-hybrid", "sirt")
EXPECTED = {
    "mlem, GUPS at l = 12": 3000.0,
    "mlem, GUPS at l = 24": 4000.0,
    "pml-quadratic, GUPS at l = 12": 2300.0,
    "sirt over ASTRA's at l = 12": 15.0,
    "sirt over ASTRA's at l = 24": 15.0,
    "mlem, host ms a step at l = 12": 0.15,
    "pml-quadratic, host ms a step at l = 12": 0.15,
    "whole road, projections/s at l = s = 12": 2000.0,
    "seconds until kernels are compiled": 10.0,
}
"""Of one H100 with 100 slices of 1024 x 1024 pixels; the rest has been seen, and is not promised."""

Rows = Iterator[tuple[str, float, float]]

_AT_MOST = ("host ms", "seconds")
_WARM_UP = """
import sys
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.recon.compiling import warm_up
print(warm_up(TomoGeometry(64), 16, algorithm="mlem", backend=sys.argv[1]))
"""


def run_checks() -> str:
    """Compare images with float64 and with the CPU's on this computer's GPU; return what is wrong, empty if nothing."""
    tests = Path(__file__).parents[2] / "tests" / "recon" / "cuda"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "cuda", str(tests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and " passed" in done.stdout:
        return ""
    return done.stdout[-4000:] + done.stderr[-2000:]


def measure_gpu(
    *,
    columns: int = 1024,
    slices: int = 100,
    windows: tuple[int, ...] = (12, 24),
    projections: int = 720,
    repeats: int = 5,
    seconds: float = 0.2,
    backend: str = "cuda",
    keep: Callable[[Report], object] = lambda _: None,
) -> Report:
    """Measure all that is expected of a GPU, and what else is in the tables of the documentation.

    Parameters
    ----------
    columns, slices, windows : optional
        Of the kernels.
    projections : int, optional
        Of the scans that take the whole road.
    repeats : int, optional
        Samples of each figure.
    seconds : float, optional
        Least length of a sample of the kernels.
    backend : str, optional
        What computes.
    keep : callable, optional
        Given the report as it is after each figure.

    Returns
    -------
    Report
        ``rows``: ``what``, ``found`` with its ``spread``, ``expected`` (None where nothing is) and whether that
        ``holds``; ``device``; the reports of each part that was measured, by its name; and ``failed``, names of parts.
    """

    def kernels() -> Rows:
        fields["kernels"] = []
        for algorithm in ALGORITHMS:
            measured = measure_kernels(
                columns=(columns,), windows=windows, slices=slices, algorithms=(algorithm,), repeats=repeats,
                seconds=seconds, backend=backend,
            ).fields  # fmt: skip
            fields["kernels"].append(measured)
            fields["device"] = measured["rows"][0]["device"]
            for row in measured["rows"]:
                at = f"at l = {row['window']}"
                yield f"{algorithm}, GUPS {at}", row["gups"], row["spread"]
                yield f"{algorithm}, host ms a step {at}", row["host_ms"], 0.0

    def pipeline() -> Rows:
        measured = fields["pipeline"] = measure_pipeline(
            rows=slices, columns=columns, window=windows[0], step=windows[0], ranks=1, projections=projections,
            repeats=repeats, latency=False, backend=backend,
        ).fields  # fmt: skip
        at = f"at l = s = {windows[0]}"
        yield f"whole road, projections/s {at}", measured["projections_per_second"], measured["spread"]
        yield f"engine alone, projections/s {at}", measured["kernel_projections_per_second"], 0.0

    def ready() -> Rows:
        cold, warm = fields["ready"] = _ready_seconds(backend)
        yield "seconds until kernels are compiled", cold, 0.0
        yield "seconds until they are loaded", warm, 0.0

    def peers() -> Rows:
        fields["peers"] = []
        for window in windows if backend == "cuda" and find_spec("astra") is not None else ():
            measured = compare_peers(columns=(columns,), window=window, backend=backend).fields
            fields["peers"].append(measured)
            for row in measured["rows"]:
                if row["code"] != "streamrecon":
                    yield f"sirt over ASTRA's at l = {window}", row["ratio"], row["spread"]

    def memory() -> Rows:
        algorithms = ("mlem", "pml-quadratic")
        fields["memory"] = measure_memory(columns=columns, algorithms=algorithms, backend=backend).fields
        yield from ()

    fields: dict[str, Any] = {"device": "", "rows": [], "failed": []}
    for part in (kernels, pipeline, ready, peers, memory):
        try:
            for found in part():
                fields["rows"].append(_row(*found))
                keep(Report(fields))
        except Exception:  # noqa: BLE001 - whatever it is: a card is not had again soon
            traceback.print_exc()
            fields["failed"].append(part.__name__)
        keep(Report(fields))
    return Report(fields)


def _row(what: str, found: float, spread: float) -> Row:
    expected = EXPECTED.get(what)
    holds = None
    if expected is not None:
        holds = found <= expected if any(word in what for word in _AT_MOST) else found >= expected
    return {"what": what, "found": found, "spread": spread, "expected": expected, "holds": holds}


def _ready_seconds(backend: str) -> list[float]:
    """Return how long it takes to have kernels, with none on disk and with all."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _WARM_UP, backend]
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        done = [subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True) for _ in range(2)]
    return [float(each.stdout.splitlines()[-1]) for each in done]


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all that was measured here.")] = None,
    checks: Annotated[bool, typer.Option(help="Check the images first.")] = True,
    repeats: int = 5,
    columns: Annotated[
        int, typer.Option(help="Other sizes only to try whether this runs: nothing is expected.")
    ] = 1024,
    slices: int = 100,
    projections: int = 720,
) -> None:
    """Check the images of this computer's GPU, then measure it."""
    if checks and (wrong := run_checks()):
        print(wrong)
        raise typer.Exit(1)

    def keep(report: Report) -> None:
        if json_file is not None:
            json_file.write_text(json.dumps(report.fields, indent=1))

    fields = measure_gpu(columns=columns, slices=slices, projections=projections, repeats=repeats, keep=keep).fields
    print(fields["device"])
    for row in fields["rows"]:
        verdict = {True: "holds", False: "MISSED", None: ""}[row["holds"]]
        expected = "" if row["expected"] is None else f"{row['expected']:10,.2f}"
        print(f"{row['what']:45} {row['found']:12,.2f} ({row['spread']:.0%}) {expected:>10} {verdict}")
    for name in fields["failed"]:
        print(f"{name}: FAILED, see above why")
    if fields["failed"] or any(row["holds"] is False for row in fields["rows"]):
        raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
