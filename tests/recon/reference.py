"""The shear model and the windowed algorithms once more, in plain float64 NumPy, one pixel rule at a time.

Nothing of the package's numerics is used, so that both can be compared: images (rows, N, N), sinograms (n, rows, C).
Import it by path from other tests: ``importlib.util.spec_from_file_location``.
"""

from __future__ import annotations

import math

import numpy as np

LEAST_VIEW = LEAST_LENGTH = 1e-3
LEAST_ATTENUATION = 1e-12
MULTIPLICATIVE = ("mlem", "osem", "pml-quadratic", "pml-hybrid", "ospml-quadratic", "ospml-hybrid")
DEFAULTS = {
    "mlem": {"floor": 1e-6, "relaxation": 1.0},
    "osem": {"floor": 1e-6, "relaxation": 1.0, "subsets": 4},
    "sirt": {"relaxation": 1.0, "nonnegative": True},
    "art": {"relaxation": 0.5, "nonnegative": True},
    "pml-quadratic": {"floor": 1e-6, "strength": 0.02},
    "pml-hybrid": {"floor": 1e-6, "strength": 0.1, "edge": 0.1},
    "ospml-quadratic": {"floor": 1e-6, "strength": 0.02, "subsets": 4},
    "ospml-hybrid": {"floor": 1e-6, "strength": 0.1, "edge": 0.1, "subsets": 4},
}


class ReferenceProjector:
    """Each pixel falls on at most two detector bins per angle."""

    def __init__(self, geometry, angles):
        self.geometry = geometry
        self.angles = np.asarray(angles, np.float64)
        n = geometry.size
        r = np.arange(n) - (n - 1) / 2
        self.mask = np.ones((n, n), bool)
        if geometry.disc:
            self.mask = r[:, None] ** 2 + r[None, :] ** 2 <= (n / 2) ** 2

    def taps(self, angle):
        """Return [(bins (N, N), weights (N, N))] of one angle; bins outside the detector have weight 0."""
        n, columns = self.geometry.size, self.geometry.columns
        half = (n - 1) / 2
        y, x = np.mgrid[0:n, 0:n].astype(np.float64)
        cosine, sine = np.cos(angle), np.sin(angle)
        if abs(cosine) >= abs(sine):
            along, line, large, slope = x, y, cosine, sine / cosine
        else:
            along, line, large, slope = y, x, sine, cosine / sine
        rounded = np.floor(2 * (line - half) * slope + 0.5) / 2
        cell = abs(large)
        left = self.geometry.axis + (along + rounded - half) * large - cell / 2
        k = np.floor(left + 0.5)
        second = np.clip((left + cell - (k + 0.5)) / cell, 0, 1)
        taps = []
        for bin_, part in ((k, 1 - second), (k + 1, second)):
            inside = (bin_ >= 0) & (bin_ < columns) & self.mask
            taps.append((np.where(inside, bin_, 0).astype(int), np.where(inside, part, 0)))
        return taps

    def forward(self, image):
        """(rows, N, N) to (n, rows, C)."""
        columns = self.geometry.columns
        result = np.zeros((len(self.angles), len(image), columns))
        for a, angle in enumerate(self.angles):
            for bins, weights in self.taps(angle):
                for row, pixels in enumerate(image):
                    result[a, row] += np.bincount(bins.ravel(), (weights * pixels).ravel(), columns)
        return result

    def back(self, sinogram):
        """(n, rows, C) to (rows, N, N)."""
        n = self.geometry.size
        image = np.zeros((sinogram.shape[1], n, n))
        for a, angle in enumerate(self.angles):
            for bins, weights in self.taps(angle):
                image += weights * sinogram[a][:, bins]
        return image


def subset_order(passes):
    step = max(1, round(passes * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, passes) != 1:
        step += 1
    return [i * step % passes for i in range(passes)]


def smoothed(image, wanted, typical, strength, edge):
    """De Pierro's step with ten neighbours, zero outside the slice, itself above the first and below the last."""
    padded = np.pad(np.concatenate((image[:1], image, image[-1:])), ((0, 0), (1, 1), (1, 1)))
    rows, n, _ = image.shape
    total = 6 + 4 / math.sqrt(2)
    penalty, pull = np.zeros_like(image), np.zeros_like(image)
    scale = typical[:, None, None]
    for dz in (-1, 0, 1):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                distance = math.sqrt(dz * dz + dy * dy + dx * dx)
                if distance == 0 or (dz != 0 and distance > 1):
                    continue
                other = padded[1 + dz : 1 + dz + rows, 1 + dy : 1 + dy + n, 1 + dx : 1 + dx + n]
                share = np.full_like(image, strength / distance / total) / scale
                if edge is not None:
                    share /= 1 + np.abs(image - other) / (edge * scale)
                penalty += share
                pull += share * (image + other)
    # The positive root of 2 penalty v^2 + (1 - pull) v - wanted = 0, found by its defining formula in float64.
    b = 1 - pull
    root = np.sqrt(b * b + 8 * penalty * wanted)
    return np.where(b > 0, 2 * wanted / (b + root), (root - b) / (4 * np.maximum(penalty, 1e-300)))


def one_pass(algorithm, options, image, projector, measured, typical):
    """Return the image after one pass over some projections."""
    ones = np.ones((len(projector.angles), 1, projector.geometry.columns))
    sensitivity = projector.back(ones)[0]
    seen = sensitivity > LEAST_VIEW
    gains = np.where(seen, 1 / np.where(seen, sensitivity, 1), 0)
    predicted = projector.forward(image)
    missing = ~np.isfinite(measured)
    clean = np.where(missing, 0, measured)
    if algorithm in MULTIPLICATIVE:
        ratio = np.where(missing, 1, np.maximum(clean, 0) / np.maximum(predicted, options["floor"]))
        ratio = 1 + options.get("relaxation", 1) * (ratio - 1)
        wanted = image * projector.back(ratio) * gains
        if "strength" in options:
            wanted = smoothed(image, wanted, typical, options["strength"], options.get("edge"))
        return np.where(seen & projector.mask, np.maximum(wanted, LEAST_ATTENUATION), image)
    lengths = projector.forward(projector.mask[None].astype(float))
    long = lengths > LEAST_LENGTH
    residual = np.where(missing, 0, clean - predicted) * np.where(long, 1 / np.where(long, lengths, 1), 0)
    image = image + options["relaxation"] * gains * projector.back(residual)
    return np.maximum(image, 0) if options["nonnegative"] else image


def uniform(geometry, projections, angles):
    """Return the attenuation of the uniform image with the same mass, per row."""
    projector = ReferenceProjector(geometry, angles)
    lengths = np.broadcast_to(projector.forward(projector.mask[None].astype(float)), projections.shape)
    known = np.isfinite(projections) & (lengths > 0)
    mass = np.where(known, np.maximum(np.nan_to_num(projections), 0), 0).sum(axis=(0, 2))
    path = np.where(known, lengths, 0).sum(axis=(0, 2))
    return np.maximum(mass / np.maximum(path, 1), 1e-6)


def window_of(angles, window, policy, number, step):
    """Return the places of the projections that update `number` (from 0) uses, in the order of arrival."""
    total = len(angles)
    if window is None or total <= window:
        return list(range(total))
    if policy == "newest":
        return list(range(total - window, total))
    newest = min(window, max(window - window // (2 if step == 1 else 4), step))
    older = sorted(range(total - newest), key=lambda i: (angles[i] % math.pi, i))
    wanted = window - newest
    chosen = []
    for k in range(wanted):
        first, stop = k * len(older) // wanted, (k + 1) * len(older) // wanted
        turn = number * (math.sqrt(5) - 1) / 2 % 1
        chosen.append(older[first + int(turn * (stop - first))])
    return sorted(chosen) + list(range(total - newest, total))


def stream(
    geometry, projections, angles, *, algorithm="mlem", window=24, step=1, iterations=1, policy="spread", **options
):
    """Reconstruct (n, rows, C) as the job does: after every `step` projections, from `window` of them.

    Yields the image (rows, N, N) after each step.
    """
    options = {**DEFAULTS[algorithm], **options}
    projections = np.asarray(projections, np.float64)
    rows, n = projections.shape[1], geometry.size
    image = typical = None
    mask = ReferenceProjector(geometry, []).mask
    angles = np.asarray(angles, np.float64)
    for number, stop in enumerate(range(step, len(projections) + 1, step)):
        used = window_of(angles[:stop], window, policy, number, step)
        data, theta = projections[used], angles[used]
        if image is None:
            typical = uniform(geometry, data, theta)
            image = np.broadcast_to(mask, (rows, n, n)) * typical[:, None, None]
            if algorithm not in MULTIPLICATIVE:
                image = np.zeros((rows, n, n))
        count = len(theta)
        passes = count if algorithm == "art" else min(options.get("subsets", 1), count)
        by_angle = np.argsort(np.mod(theta, math.pi), kind="stable")
        for _ in range(iterations):
            for first in subset_order(passes):
                chosen = by_angle[first::passes]
                projector = ReferenceProjector(geometry, theta[chosen])
                image = one_pass(algorithm, options, image, projector, data[chosen], typical)
        yield image


def last(images):
    """Return the last of an iterator."""
    return list(images)[-1]
