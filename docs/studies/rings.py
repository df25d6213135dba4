"""How much of stripes and zingers is left, on measured sinograms with faults added, beside algotom's functions.

``python docs/studies/rings.py tooth.h5 rod.h5``, with the extra ``bench``. Figures are root mean squares over the
columns of a stripe and one to each side, against the sinogram before faults were added, relative to the fault; "sample"
is what a method changes where no fault was added, relative to the range of the sinogram; "gains" is what is left, what
the sample loses included, where all pixels' gains differ by 2 % and nothing else is wrong. "while it comes" is the mean
over the second half of a scan in golden order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import algotom.prep.removal as algotom
import numpy as np
from scipy.ndimage import median_filter

from bluesky_streamrecon.evaluation.scans import prepared
from bluesky_streamrecon.recon.steps import Pipeline
from bluesky_streamrecon.storage import read_scan


def kinds(columns: int) -> dict[str, slice]:
    """Return which columns have which fault."""
    places = np.linspace(0.3, 0.7, 4) * columns
    names = ("small", "large", "dead", "fluctuating")
    widths = (1, 7, 1, 1)
    return {name: slice(int(at), int(at) + width) for name, at, width in zip(names, places, widths, strict=True)}


def with_faults(clean: np.ndarray, where: dict[str, slice]) -> np.ndarray:
    """Return a sinogram with a stripe of each kind."""
    span = float(np.ptp(clean))
    faulty = clean.copy()
    faulty[:, where["small"]] += 0.05 * span
    faulty[:, where["large"]] *= 1.15
    faulty[:, where["dead"]] = 0.3 * span
    faulty[:, where["fluctuating"]] += np.random.default_rng(0).normal(0, 0.2 * span, (len(clean), 1))
    return faulty.astype(np.float32)


def with_gains(clean: np.ndarray) -> np.ndarray:
    """Return a sinogram of pixels whose gains differ by 2 %, which flats do not show."""
    return (clean + np.random.default_rng(1).normal(0, 0.02, clean.shape[1])).astype(np.float32)


def live(sinogram: np.ndarray, angles: np.ndarray, step: str) -> np.ndarray:
    """Return the sinogram as a step leaves it while projections come in golden order."""
    order = np.argsort(np.mod(np.arange(len(angles)) * 0.6180339887, 1)).argsort()
    steps = Pipeline([step], 1, sinogram.shape[1])
    result = sinogram.copy()
    for place in order:
        result[place] = steps.second_part(sinogram[place][None], float(angles[place]))[0]
    result[order[: len(order) // 2]] = np.nan
    return result


def whole(sinogram: np.ndarray, angles: np.ndarray, step: str) -> np.ndarray:
    """Return the sinogram as a step leaves it for the finished volume."""
    return Pipeline([step], 1, sinogram.shape[1]).second_part_of_all(sinogram[:, None].copy(), angles)[:, 0]


def average(sinogram: np.ndarray) -> np.ndarray:
    """Return the sinogram without the mean of what a wide median along the row leaves."""
    return sinogram - (sinogram - median_filter(sinogram, (1, 21))).mean(axis=0)


def methods_for(columns: int, angles: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what is compared."""
    large, small = min(max(columns // 40, 15), 51) | 1, min(max(columns // 100, 5), 21) | 1
    return {
        "`rings`, whole sinogram": lambda s: whole(s, angles, "rings"),
        "`rings`, while it comes": lambda s: live(s, angles, "rings"),
        "`wavelet-rings`, whole sinogram": lambda s: whole(s, angles, "wavelet-rings"),
        "`wavelet-rings`, while it comes": lambda s: live(s, angles, "wavelet-rings"),
        "algotom `remove_all_stripe`, same widths": lambda s: algotom.remove_all_stripe(
            s.copy(), la_size=large, sm_size=small
        ),
        "algotom `remove_all_stripe`, its widths": lambda s: algotom.remove_all_stripe(s.copy()),
        "algotom wavelet-Fourier (Münch 2009)": lambda s: algotom.remove_stripe_based_wavelet_fft(
            s.copy(), level=3, size=2
        ),
        "mean of what a median leaves (`stripe_removal`)": average,
    }


def main() -> None:
    """Print a table for each file."""
    for path in sys.argv[1:]:
        scan = prepared(read_scan(path).frames, path)
        middle = scan.integrals.shape[1] // 2
        clean = np.ascontiguousarray(scan.integrals[:, middle])
        columns = clean.shape[1]
        methods = methods_for(columns, scan.angles)
        where = kinds(columns)
        faulty = with_faults(clean, where)
        elsewhere = np.ones(columns, bool)
        for fault in where.values():
            elsewhere[fault.start - 15 : fault.stop + 15] = False
        print(f"\n{path}: {clean.shape}\n| | {' | '.join(where)} | sample | gains |")
        print(f"| --- |{' --- |' * (len(where) + 2)}")
        uneven = with_gains(clean)
        for name, method in methods.items():
            left = method(faulty) - clean
            cells = []
            for fault in where.values():
                near = slice(fault.start - 1, fault.stop + 1)
                fault_itself = np.sqrt(np.mean((faulty - clean)[:, near] ** 2))
                cells.append(f"{np.sqrt(np.nanmean(left[:, near] ** 2)) / fault_itself:.2f}")
            cells.append(f"{np.sqrt(np.nanmean(left[:, elsewhere] ** 2)) / np.ptp(clean):.4f}")
            left = method(uneven) - clean
            cells.append(f"{np.sqrt(np.nanmean(left**2)) / np.sqrt(np.mean((uneven - clean) ** 2)):.2f}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        frames = scan.integrals[:20].copy()
        hit = np.random.default_rng(0).random(frames.shape) < 0.001
        frames[hit] -= 1.0
        result = np.stack([Pipeline(["zingers"], *f.shape).first_part(f.copy(), 0.0) for f in frames])
        theirs = np.stack([algotom.remove_zinger(np.exp(-f), 0.2, size=2) for f in frames])
        for name, got in (("zingers", result), ("algotom, remove_zinger", -np.log(np.maximum(theirs, 1e-6)))):
            off = got - scan.integrals[:20]
            left, changed = np.sqrt(np.mean(off[hit] ** 2)), np.mean(np.abs(off[~hit]) > 1e-5)
            print(f"{name}: left {left:.3f} of 1, others changed {changed:.5f}")


if __name__ == "__main__":
    main()
