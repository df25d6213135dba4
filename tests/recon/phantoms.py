"""Phantoms with exact line integrals: sums of ellipses."""

from __future__ import annotations

import numpy as np

# value, half axes, centre (units of half the image), tilt in degrees: Toft's version of Shepp and Logan's head.
SHEPP_LOGAN = np.array(
    [
        (1.0, 0.69, 0.92, 0.0, 0.0, 0),
        (-0.8, 0.6624, 0.8740, 0.0, -0.0184, 0),
        (-0.2, 0.1100, 0.3100, 0.22, 0.0, -18),
        (-0.2, 0.1600, 0.4100, -0.22, 0.0, 18),
        (0.1, 0.2100, 0.2500, 0.0, 0.35, 0),
        (0.1, 0.0460, 0.0460, 0.0, 0.1, 0),
        (0.1, 0.0460, 0.0460, 0.0, -0.1, 0),
        (0.1, 0.0460, 0.0230, -0.08, -0.605, 0),
        (0.1, 0.0230, 0.0230, 0.0, -0.606, 0),
        (0.1, 0.0230, 0.0460, 0.06, -0.605, 0),
    ]
)


def foam(bubbles=40, seed=1):
    """A disc with round holes that do not overlap."""
    random = np.random.default_rng(seed)
    holes = []
    while len(holes) < bubbles:
        radius = random.uniform(0.03, 0.13)
        x, y = random.uniform(-0.8, 0.8, 2)
        if np.hypot(x, y) + radius < 0.83 and all(np.hypot(x - u, y - v) > radius + r + 0.01 for r, u, v in holes):
            holes.append((radius, x, y))
    return np.array([(1.0, 0.85, 0.85, 0, 0, 0), *((-1.0, r, r, x, y, 0) for r, x, y in holes)])


def raster(ellipses, size, oversampling=4):
    """Mean over each pixel, shape (N, N), with values scaled to 1/pixel by 2 / N."""
    fine = size * oversampling
    u = (np.arange(fine) - (fine - 1) / 2) / (fine / 2)
    x, y = u[None, :], u[:, None]
    image = np.zeros((fine, fine))
    for value, a, b, x0, y0, tilt in ellipses:
        c, s = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
        p, q = (x - x0) * c + (y - y0) * s, -(x - x0) * s + (y - y0) * c
        image[(p / a) ** 2 + (q / b) ** 2 <= 1] += value
    return image.reshape(size, oversampling, size, oversampling).mean(axis=(1, 3)) * 2 / size


def sinogram(ellipses, size, angles, columns, axis, oversampling=4):
    """Line integrals (n, C), each the mean over its detector column."""
    fine = (np.arange(columns * oversampling) - (oversampling - 1) / 2) / oversampling
    t = (fine - axis) / (size / 2)
    result = np.zeros((len(angles), len(t)))
    for value, a, b, x0, y0, tilt in ellipses:
        for number, angle in enumerate(angles):
            turned = angle - np.deg2rad(tilt)
            width = (a * np.cos(turned)) ** 2 + (b * np.sin(turned)) ** 2
            offset = t - (x0 * np.cos(angle) + y0 * np.sin(angle))
            result[number] += 2 * value * a * b * np.sqrt(np.maximum(width - offset**2, 0)) / width
    return result.reshape(len(angles), columns, oversampling).mean(axis=2)


def nrmse(image, truth):
    """Root mean square error over root mean square."""
    return float(np.sqrt(((image - truth) ** 2).mean() / (truth**2).mean()))
