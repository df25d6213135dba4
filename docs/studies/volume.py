"""How long a volume takes to be finished, next to one SIRT update over all projections, in turns.

python docs/studies/volume.py --rows 100 --columns 1024
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import typer

from bluesky_streamrecon.coverage import HALF_TURN
from bluesky_streamrecon.evaluation.bench.harness import take_turns
from bluesky_streamrecon.evaluation.bench.sample import sample_scan
from bluesky_streamrecon.evaluation.report import Report
from bluesky_streamrecon.recon.engine import Engine
from bluesky_streamrecon.recon.recipe import Recipe, find_recipe, finish
from bluesky_streamrecon.settings import FINAL_AUTO

__all__ = ["measure_volume"]

YARDSTICK = "sirt"


def measure_volume(
    *, rows: int = 100, columns: int = 1024, num: int = 180, threads: int = 1, repeats: int = 3, backend: str = "cpu"
) -> Report:
    """Measure the volume by the recipe ``"auto"``, by FBP, and one SIRT update.

    Parameters
    ----------
    rows, columns, num : int, optional
        Of the scan: detector rows and columns, projections.
    threads : int, optional
        That compute.
    repeats : int, optional
        Samples of each figure.
    backend : str, optional
        What computes.

    Returns
    -------
    Report
        ``rows``: for each of ``final`` the median of its ``seconds`` with their ``spread``, ``iterations``, and
        ``per_update``, the same in SIRT updates of its own turn; ``device``.
    """
    scan = sample_scan(columns, rows, num)
    recipes = {YARDSTICK: Recipe(YARDSTICK, 1)}
    for final in ("fbp", FINAL_AUTO):
        recipe = find_recipe(final, num)
        assert recipe is not None
        recipes[final] = recipe
    with ExitStack() as stack:
        engines = {}
        for final, recipe in recipes.items():
            engine = Engine(
                scan.geometry, rows, algorithm=recipe.algorithm, window=None, planned=num, threads=threads,
                options=recipe.options, backend=backend,
            )  # fmt: skip
            engines[final] = stack.enter_context(engine)
            scales = recipe.scales(scan.angles, HALF_TURN)
            views = zip(scan.integrals, scan.angles.tolist(), strict=True)
            next(finish(engine, recipe, views, scales))  # which compiles the kernels, too
            engine.finish()

        def turn() -> dict[str, float]:
            found = {}
            for final, engine in engines.items():
                before = time.perf_counter()
                engine.update(recipes[final].iterations)
                engine.finish()
                found[final] = time.perf_counter() - before
            return found | {f"{final} / update": seconds / found[YARDSTICK] for final, seconds in found.items()}

        summary = take_turns(repeats, turn)
        device = engines[YARDSTICK].choice.device
    table = [
        {
            "final": final,
            "iterations": recipe.iterations,
            "rows": rows,
            "columns": columns,
            "projections": num,
            "threads": threads,
            "seconds": summary[final].median,
            "spread": summary[final].spread,
            "per_update": summary[f"{final} / update"].median,
        }
        for final, recipe in recipes.items()
    ]
    return Report({"rows": table, "device": device})


def main(
    rows: int = 100, columns: int = 1024, num: int = 180, threads: int = 1, repeats: int = 3, backend: str = "cpu"
) -> None:
    """Print the seconds, also in updates of their own turn, by the recipe of the default policy and by FBP."""
    found = measure_volume(rows=rows, columns=columns, num=num, threads=threads, repeats=repeats, backend=backend)
    for row in found.fields["rows"]:
        print("{final:6} {seconds:8.2f} s  {per_update:6.2f} updates".format(**row))


if __name__ == "__main__":
    typer.run(main)
