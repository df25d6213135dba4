"""Scans whose truth is known, on which stopping policies are tried. Noise is photons per pixel of the open beam."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bluesky_streamrecon.evaluation.images import with_best_image
from bluesky_streamrecon.evaluation.scans import LineScan, measured_scan, simulated_scan
from bluesky_streamrecon.ordering import make_order
from bluesky_streamrecon.sim_devices import KINDS, Discs, Foam, Kind, Sample, SheppLogan

__all__ = ["held_out_cases", "interior_cases", "kind_cases", "required_cases"]

NOISE = (1e3, 1e4, 1e5)
PORES = 90
"""Of the foam: as many as in the study that the tolerance comes from."""

HELD_OUT = ((160, 120), (224, 200), (256, 240), (320, 160))
"""Detector columns and projections of the scans that nothing was tuned on."""

HELD_OUT_SEED = 7001

INTERIOR_FILL, INTERIOR_NOISE, INTERIOR_RINGS = 1.5, 5e3, 0.02
"""Width of interior samples over that of the view, photons, and spread of the pixels' gains that flats do not show."""

FRINGES = 4.0
"""Squared pixels."""

FILTER = {"step": "paganin", "energy": 1.239842, "distance": 4 * math.pi, "pixel_size": 1, "delta_beta": 0.6 * FRINGES}
"""Phase retrieval that leaves two fifths of the fringes."""

REMOVED = ("zingers", "rings")

OF_EACH_KIND: tuple[tuple[str, int, int, float, Mapping[str, Any]], ...] = (
    ("", 192, 180, 1e3, {}),
    ("", 192, 180, 1e4, {}),
    ("", 192, 180, 1e5, {}),
    ("", 192, 180, 1e6, {}),
    ("", 128, 240, 1e4, {}),
    ("", 256, 150, 1e5, {}),
    (", golden", 160, 200, 3e4, {"order": "golden"}),
    (", rings and zingers removed", 192, 180, 2e4, {"rings": 0.02, "zingers": 1e-3, "preparation": REMOVED}),
    (", fringes left", 192, 180, 1e5, {"fringes": FRINGES, "preparation": (FILTER,)}),
    (", interior", 160, 240, 2e4, {"fill": INTERIOR_FILL}),
    (", half acquisition", 128, 300, 5e4, {"axis": 20.0, "stop": 360.0}),
    ("", 576, 300, 1e5, {}),
)  # fmt: skip
"""What is added to a kind's name, detector columns, projections, photons, and what else is unusual."""


def required_cases(
    *, columns: int = 192, seeds: Iterable[int] = range(5), num: int = 180, data: Path | None = None
) -> list[LineScan]:
    """Return foam and discs at every seed and noise level, Shepp-Logan at each, and a measured scan as it is."""
    cases = []
    for seed in seeds:
        for i, noise in enumerate(NOISE):
            for name, sample in (("foam", Foam(pores=PORES, seed=seed)), ("discs", Discs(seed=seed))):
                cases.append(_case(name, sample, noise, seed, columns, num, 1000 * seed + i))
    cases += [_case("shepp-logan", SheppLogan(), noise, 0, columns, num, 7 + i) for i, noise in enumerate(NOISE)]
    if data is not None:
        cases.append(with_best_image(measured_scan(data)))
    return cases


def held_out_cases() -> list[LineScan]:
    """Return other seeds, pore sizes, absorptions, image sizes and numbers of projections than `required_cases`."""
    seed = HELD_OUT_SEED
    samples: dict[str, Sample] = {
        "foam, 30 pores": Foam(pores=30, absorption=2.5, seed=seed),
        "foam, 200 pores": Foam(pores=200, absorption=1.0, seed=seed + 1),
        "discs, 60 balls": Discs(balls=60, absorption=3.0, seed=seed + 2),
    }
    return [
        _case(name, sample, noise, seed, columns, num, seed + 10 * i)
        for columns, num in HELD_OUT
        for i, noise in enumerate(NOISE)
        for name, sample in samples.items()
    ]


def interior_cases(*, columns: int = 192, num: int = 360, seeds: Iterable[int] = range(2)) -> list[LineScan]:
    """Return scans of samples that reach out of view on both sides: without rings, with them, and with them removed."""
    return [
        _case(
            f"interior {name}{kind}",
            sample,
            INTERIOR_NOISE,
            seed,
            columns,
            num,
            100 + seed,
            fill=INTERIOR_FILL,
            rings=rings,
            preparation=steps,
        )
        for seed in seeds
        for name, sample in (("grains", Discs(balls=60, seed=seed)), ("foam", Foam(pores=PORES, seed=seed)))
        for kind, rings, steps in (
            ("", 0.0, ()),
            (", rings", INTERIOR_RINGS, ()),
            (", rings removed", INTERIOR_RINGS, ("rings",)),
        )
    ]


def kind_cases(
    kind: str, *, columns: int | None = None, seed: int = 0, only: Collection[int] = range(len(OF_EACH_KIND))
) -> list[LineScan]:
    """Return scans of a kind of sample: several sizes, views and photons, and with what preparation leaves.

    Parameters
    ----------
    kind : str
        A key of `KINDS`.
    columns : int, optional
        Widest detector.
    seed : int, optional
        Of sample and noise.
    only : collection of int, optional
        Which of `OF_EACH_KIND`, counted from 0.
    """
    seed += 100 * list(KINDS).index(kind)
    return [
        _case(f"{kind}{what}", Kind(kind, seed), noise, seed, width, num, seed + number, **unusual)
        for number, (what, width, num, noise, unusual) in enumerate(OF_EACH_KIND)
        if number in only and (columns is None or width <= columns)
    ]


def _case(
    name: str,
    sample: Sample,
    noise: float,
    seed: int,
    columns: int,
    num: int,
    noise_seed: int,
    *,
    order: str = "optimized-interleaved",
    stop: float = 180.0,
    **unusual: Any,
) -> LineScan:
    angles = make_order(order, num=num, stop=stop)
    scan = simulated_scan(name, sample, columns=columns, order=angles, counts=noise, seed=noise_seed, **unusual)
    return replace(scan, seed=seed)
