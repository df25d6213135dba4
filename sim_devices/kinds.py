"""Kinds of samples that are not made of ellipses: polygons and random fields, the same in every detector row.

Lengths are detector pixels, angles radians, attenuation 1/pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bluesky_streamrecon.sim_devices.prisms import FINER, Field, Floats, Polygons, Prism

__all__ = ["HELD_OUT_KINDS", "KINDS", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A sample of one of many kinds.

    Parameters
    ----------
    name : str
        A key of `KINDS`.
    seed : int
        Of what is random in it.
    absorption : float
        Line integral of a ray through the middle, if all were as dense as its mean.
    """

    name: str
    seed: int = 0
    absorption: float = 1.6

    def body(self, rows: int, radius: float) -> Prism:
        """Cut the sample; see `Sample.body`."""
        make = KINDS[self.name]
        return Prism(rows, radius, make(np.random.default_rng(self.seed), radius, self.absorption / (2 * radius)))


Parts = list[tuple[Floats, float]]
"""Polygons, and the attenuation of each."""

Make = Callable[[np.random.Generator, float, float], Polygons | Field]
"""Makes a sample, from its radius and mean attenuation."""


def _spectrum(random: np.random.Generator, size: int, power: Callable[[Floats], Floats]) -> Floats:
    """Return a random field of this power spectrum (periods per detector pixel), mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * FINER
    amplitude = np.sqrt(power(np.maximum(frequency, FINER / size))) * np.exp(-((frequency / 0.6) ** 4))
    amplitude[0, 0] = 0
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((size, size))) * amplitude, s=(size, size))
    return np.asarray(field / field.std())


def _field(values: Callable[[Floats], Floats], power: Callable[[Floats], Floats]) -> Make:
    def make(random: np.random.Generator, radius: float, attenuation: float) -> Field:
        from scipy.ndimage import gaussian_filter

        size = 2 * math.ceil(FINER * (radius + 3) / 2) * 2
        place = np.arange(size) - (size - 1) / 2
        inside = np.hypot(place[:, None], place[None, :]) < FINER * radius
        return Field(gaussian_filter(np.where(inside, values(_spectrum(random, size, power)), 0.0), 0.6) * attenuation)

    return make


def _disc(radius: float, corners: int = 720, turned: float = 0.0) -> Floats:
    around = turned + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(around), np.sin(around)], axis=1)


def _polygons(parts: Callable[[np.random.Generator, float], Parts]) -> Make:
    def make(random: np.random.Generator, radius: float, attenuation: float) -> Polygons:
        corners, values = zip(*parts(random, radius), strict=True)
        return Polygons(corners, tuple(attenuation * value for value in values))

    return make


def _cells(random: np.random.Generator, radius: float, count: int) -> list[Floats]:
    """Return the cells of a Voronoi diagram of so many points, those that are inside the disc."""
    from scipy.spatial import Voronoi

    points = np.empty((0, 2))
    least = 1.3 * radius / math.sqrt(count)
    for point in random.uniform(-1.2 * radius, 1.2 * radius, (40 * count, 2)):
        if len(points) == 0 or np.hypot(*(points - point).T).min() > least:
            points = np.concatenate([points, point[None]])
    diagram = Voronoi(points)
    cells = [diagram.vertices[region] for region in diagram.regions if region and -1 not in region]
    return [_counter_clockwise(cell) for cell in cells if np.hypot(*cell.T).max() < radius]


def _counter_clockwise(corners: Floats) -> Floats:
    middle = corners.mean(axis=0)
    return corners[np.argsort(np.arctan2(*(corners - middle).T[::-1]))]


def _shrunk(corners: Floats, by: float) -> Floats:
    """Return a convex polygon that is smaller by about so much all around."""
    middle = corners.mean(axis=0)
    return np.asarray(middle + (corners - middle) * max(1 - by / np.hypot(*(corners - middle).T).mean(), 0.3))


def _grains(random: np.random.Generator, radius: float) -> Parts:
    """Return packed grains of other densities, with narrow gaps."""
    gap = 0.008 * radius
    return [(_shrunk(cell, gap), random.uniform(0.6, 1.6)) for cell in _cells(random, radius, 130)]


def _honeycomb(random: np.random.Generator, radius: float) -> Parts:
    """Return cells with thin walls, as in wood."""
    empty = [(_shrunk(cell, 0.02 * radius), -1.7) for cell in _cells(random, 0.98 * radius, 260)]
    return [(_disc(radius), 2.0), *empty]


def _rods(random: np.random.Generator, radius: float) -> Parts:
    """Return fibres in a matrix: straight, long and thin, in all directions."""
    parts: Parts = [(_disc(radius), 0.7)]
    while len(parts) < 90:
        length, width = radius * random.uniform(0.3, 1.1), radius * random.uniform(0.012, 0.04)
        box = np.array([[-length, -width], [length, -width], [length, width], [-length, width]]) / 2
        cosine, sine = math.cos(turn := random.uniform(0, math.pi)), math.sin(turn)
        rod = box @ np.array([[cosine, sine], [-sine, cosine]]) + random.uniform(-radius, radius, 2)
        if np.hypot(*rod.T).max() < 0.98 * radius:
            parts.append((rod, random.uniform(0.5, 1.2)))
    return parts


def _layers(random: np.random.Generator, radius: float) -> Parts:
    """Return layers of other thicknesses and densities, a little tilted against each other, in a disc."""
    parts: Parts = []
    at, tilt = -0.97 * radius, random.uniform(0, math.pi)
    along, up = np.array([math.cos(tilt), math.sin(tilt)]), np.array([-math.sin(tilt), math.cos(tilt)])
    while at < 0.93 * radius:
        top = min(at + radius * random.uniform(0.015, 0.12), 0.97 * radius)
        left, right = (math.sqrt(max((0.98 * radius) ** 2 - h**2, 0)) for h in (at, top))
        lean = random.uniform(-0.3, 0.3) * (top - at)
        corners = [(-left, at), (left, at + lean), (right, top), (-right, top - lean)]
        parts.append((np.array([x * along + y * up for x, y in corners]), random.uniform(0.4, 1.8)))
        at = top
    return parts


def _cracks(random: np.random.Generator, radius: float) -> Parts:
    """Return a dense body with a few cracks, half filled, that run crooked."""
    parts: Parts = [(_disc(radius), 1.1)]
    for _ in range(9):
        at, heading = random.uniform(-0.6, 0.6, 2) * radius, random.uniform(0, 2 * math.pi)
        width = radius * random.uniform(0.01, 0.05)
        for _ in range(int(random.integers(8, 25))):
            heading += random.normal(0, 0.5)
            ahead = radius * 0.06 * np.array([math.cos(heading), math.sin(heading)])
            side = np.array([-ahead[1], ahead[0]]) / np.hypot(*ahead) * width / 2
            thinner = 0.9 * side
            piece = np.array([at - side, at + ahead - thinner, at + ahead + thinner, at + side])
            if np.hypot(*piece.T).max() > 0.95 * radius:
                break
            parts.append((piece, -0.5))
            at, width = at + ahead, 0.9 * width
    return parts


def _shells(random: np.random.Generator, radius: float) -> Parts:
    """Return hollow balls in air, of several sizes, with walls of three tenths of their radius."""
    balls: list[tuple[float, float, float]] = []
    for x, y, r in random.uniform((-1, -1, 0.08), (1, 1, 0.25), (4000, 3)) * radius:
        if math.hypot(x, y) + r < radius and all(math.hypot(x - u, y - v) > r + s for u, v, s in balls):
            balls.append((x, y, r))
    walls = ((1, 3.0), (0.7, -3.0))
    return [(_disc(k * r, 90, x) + np.array([x, y]), value) for x, y, r in balls for k, value in walls]


def _shards(random: np.random.Generator, radius: float) -> Parts:
    """Return a disc with a few large polygons, denser or lighter: few edges."""
    parts: Parts = [(_disc(radius), 0.8)]
    while len(parts) < 14:
        at, size = random.uniform(-0.7, 0.7, 2) * radius, random.uniform(0.08, 0.3) * radius
        around = np.sort(random.uniform(0, 2 * np.pi, 3 + int(random.integers(0, 3))))
        corners = at + size * np.stack([np.cos(around), np.sin(around)], axis=1)
        if np.hypot(*corners.T).max() < 0.95 * radius:
            parts.append((corners, random.uniform(-0.6, 0.9)))
    return parts


def _lattice(random: np.random.Generator, radius: float, other: float = math.pi / 2, value: float = 1.0) -> Parts:
    """Return a printed lattice: struts in two directions, of which each has a thickness of its own.

    The other direction is at this angle to the first, and its struts have this attenuation.
    """
    step, turned = radius * random.uniform(0.09, 0.13), random.uniform(0, math.pi)
    directions = [(math.cos(at), math.sin(at), dense) for at, dense in ((turned, 1.0), (turned + other, value))]
    parts: Parts = []
    for at in np.arange(-0.9 * radius, 0.9 * radius, step):
        half = math.sqrt((0.96 * radius) ** 2 - max(abs(at), abs(at + 0.4 * step)) ** 2)
        for cosine, sine, dense in directions:
            width = step * random.uniform(0.25, 0.4)
            corners = np.array([(-half, at), (half, at), (half, at + width), (-half, at + width)])
            parts.append((corners @ np.array([[cosine, sine], [-sine, cosine]]), dense))
    return parts


def _weave(random: np.random.Generator, radius: float) -> Parts:
    """Return threads in two directions at any angle, those of the second much lighter."""
    return _lattice(random, radius, random.uniform(0.3, 2.8), 0.4)


def _box(random: np.random.Generator, radius: float) -> Parts:
    """Return a block with pores and grains: flat edges around what is round."""
    cosine, sine = math.cos(turn := random.uniform(0, math.pi)), math.sin(turn)
    wide, high = 0.75 * radius, radius * random.uniform(0.3, 0.6)
    block = np.array([[-wide, -high], [wide, -high], [wide, high], [-wide, high]])
    parts: Parts = [(block, 1.5)]
    for size in radius * random.uniform(0.02, 0.06, 30):
        at = random.uniform(-1, 1, 2) * (wide - size, high - size)
        parts.append((_disc(size, 60) + at, random.uniform(-0.9, 0.6)))
    return [(corners @ np.array([[cosine, sine], [-sine, cosine]]), value) for corners, value in parts]


def _roots(random: np.random.Generator, radius: float) -> Parts:
    """Return roots in soil, cut along: each is thinner than the one that it branches off."""
    parts: Parts = [(_disc(radius), 0.6)]
    ends = [(random.uniform(-0.3, 0.3, 2) * radius, turn, 0.06 * radius) for turn in random.uniform(0, 2 * math.pi, 6)]
    while ends and len(parts) < 400:
        at, heading, width = ends.pop(0)
        heading += random.normal(0, 0.25)
        ahead = 0.09 * radius * np.array([math.cos(heading), math.sin(heading)])
        side = np.array([-ahead[1], ahead[0]]) / np.hypot(*ahead) * width / 2
        piece = np.array([at - side, at + ahead - 0.93 * side, at + ahead + 0.93 * side, at + side])
        if np.hypot(*piece.T).max() < 0.96 * radius and width > 0.006 * radius:
            parts.append((piece, 1.2))
            ends.append((at + ahead, heading, 0.93 * width))
            if random.random() < 0.25:
                ends.append((at + ahead, heading + random.choice([-1, 1]) * random.uniform(0.5, 1.1), 0.6 * width))
    return parts


KINDS: dict[str, Make] = {
    "texture": _field(lambda field: np.maximum(1 + 0.35 * field, 0.05), lambda k: k**-2.0),
    "fibres": _polygons(_rods),
    "layers": _polygons(_layers),
    "grains": _polygons(_grains),
    "cracks": _polygons(_cracks),
    "honeycomb": _polygons(_honeycomb),
    "porous": _field(lambda field: np.where(field > -0.4, 1.4, 0.1), lambda k: np.exp(-((k / 0.05) ** 2))),
    "speckle": _field(lambda field: np.maximum(1 + 0.3 * field, 0.05), lambda k: np.exp(-(((k - 0.11) / 0.05) ** 2))),
    "shells": _polygons(_shells),
    "inclusions": _field(lambda field: np.where(field > 1.7, 6.0, 0.5), lambda k: np.exp(-((k / 0.09) ** 2))),
    "walls": _field(lambda field: np.where(abs(field) < 0.25, 2.5, 0.2), lambda k: np.exp(-((k / 0.05) ** 2))),
    "ripple": _field(lambda field: np.maximum(1 + 0.3 * field, 0.05), lambda k: np.exp(-(((k - 0.07) / 0.03) ** 2))),
    "grit": _field(lambda field: np.maximum(1 + 0.3 * field, 0.05), lambda k: k**-1.0),
    "shards": _polygons(_shards),
    "lattice": _polygons(_lattice),
    "roots": _polygons(_roots),
    "veins": _field(lambda field: 0.5 + 2.5 * np.exp(-((field / 0.12) ** 2)), lambda k: k**-2.4),
    "weave": _polygons(_weave),
    "box": _polygons(_box),
}
"""Kinds of samples; the structure of a kind has the scale of the sample, or of pixels where it is a random field."""

HELD_OUT_KINDS = ("cracks", "honeycomb", "porous", "speckle", "shells", "inclusions", "lattice", "roots", "veins")
"""Kinds that nothing was tuned on; but lattices of seeds 0 to 2 helped to choose the band where edges run in few
directions."""
