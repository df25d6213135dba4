"""Engine: window, threads, shared rows, neighbouring blocks, state."""

from __future__ import annotations

import math
import threading
import tracemalloc
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest

from bluesky_streamrecon.coverage import HALF_TURN
from bluesky_streamrecon.errors import ConfigError, DataError, GeometryError
from bluesky_streamrecon.geometry import TomoGeometry
from bluesky_streamrecon.ordering import optimized_interleaved
from bluesky_streamrecon.recon import Engine, check_algorithm, warm_up
from bluesky_streamrecon.recon.algorithms import Algorithm, algorithms
from bluesky_streamrecon.recon.projector import projectors
from bluesky_streamrecon.recon.recipe import subset_scales
from bluesky_streamrecon.recon.shear import ShearLayout, slab_rows
from bluesky_streamrecon.recon.window import (
    Window,
    kept_views,
)

COLUMNS = 40
GEOMETRY = TomoGeometry(columns=COLUMNS, axis=18.7)


def scan(rows, count=20, seed=0):
    random = np.random.default_rng(seed)
    return random.random((count, rows, COLUMNS)).astype(np.float32) + 0.5, random.uniform(-4, 4, count)


def run(engine, projections, angles, every=4):
    for number, (projection, angle) in enumerate(zip(projections, angles, strict=True), 1):
        engine.append(projection, angle)
        if number % every == 0:
            engine.update()
    return engine.image()


def test_window_drops_oldest_projection_when_full():
    projections, angles = scan(3)
    with Engine(GEOMETRY, 3, window=6, window_policy="newest") as engine:
        for projection, angle in zip(projections, angles, strict=True):
            engine.append(projection, angle)
        np.testing.assert_array_equal(engine.kept()[0], angles[-6:])
        assert engine.projections == 20
        engine.update()
        image = engine.image()
    with Engine(GEOMETRY, 3, window=6) as engine:
        np.testing.assert_allclose(run(engine, projections[-6:], angles[-6:], every=6), image, rtol=1e-5)


@pytest.mark.parametrize("projector", ["shear", "line-integrals"])
def test_views_of_different_weights_leave_an_image_that_explains_them(projector):
    """Also where pixels are seen by some of the views only: beyond the view of an interior scan, and at its edge."""
    geometry = TomoGeometry(COLUMNS, 18.7, 56, disc=True)
    angles = np.radians(np.array(optimized_interleaved(48))[:20])
    image = (np.random.default_rng(3).uniform(0.5, 1.5, (56, 56, 1)) * geometry.mask()[:, :, None]).astype(np.float32)
    lines = np.moveaxis(projectors.get(projector)(geometry, angles).forward(image), 2, 1)
    weights = subset_scales(HALF_TURN.view_weights(angles), angles, 2)
    assert np.ptp(weights) > 0.3
    options = {"subsets": 2, "projector": projector}
    with Engine(geometry, 1, algorithm="osem", window=None, options=options) as engine:
        for line, angle, weight in zip(lines, angles, weights, strict=True):
            engine.append(line, angle, float(weight))
        engine.load(np.moveaxis(image, 2, 0), 1)
        engine.update(20)
        np.testing.assert_allclose(engine.image()[0], image[:, :, 0], rtol=1e-3)


@pytest.mark.parametrize("algorithm", ["mlem", "pml-hybrid", "pml-quadratic", "ospml-hybrid", "sirt"])
@pytest.mark.parametrize("resumed", [False, True])
def test_slices_whose_first_projections_were_lost_get_the_attenuation_of_the_others(algorithm, resumed):
    """The first window says how large the values are; of one slice it is lost, of another one all are."""
    projections, angles = scan(3)
    there = projections.copy()
    there[:5, 1] = there[:, 2] = np.nan
    images = []
    for lines in (projections, there):
        with Engine(GEOMETRY, 3, algorithm=algorithm, window=8) as engine:
            run(engine, lines[:3], angles[:3])
            image, number, typical, kept = engine.image(), engine.image_number, engine.typical, engine.kept()
            if not resumed:
                images.append(run(engine, lines[3:], angles[3:]))
        if resumed:
            with Engine(GEOMETRY, 3, algorithm=algorithm, window=8) as engine:
                for angle, line in zip(*kept, strict=True):
                    engine.append(line, angle)
                engine.load(image, number, typical=typical)
                images.append(run(engine, lines[3:], angles[3:]))
    whole, lost = (image.mean(axis=(1, 2)) for image in images)
    np.testing.assert_allclose(lost[:2], whole[:2], rtol=0.02)
    assert abs(lost[2]) < 0.5 * whole[2]


@pytest.mark.parametrize("algorithm", ["mlem", "sirt", "art", "ospml-hybrid", "fbp"])
@pytest.mark.parametrize("rows", [2, 35])
def test_threads_do_not_change_a_bit(algorithm, rows):
    projections, angles = scan(rows)
    images = []
    for threads in (1, 2, 3):
        with Engine(GEOMETRY, rows, algorithm=algorithm, window=8, threads=threads) as engine:
            images.append(run(engine, projections, angles))
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


@pytest.mark.parametrize("policy", ["newest", "spread"])
@pytest.mark.parametrize("algorithm", ["mlem", "osem", "sirt", "fbp"])
def test_blocks_do_not_change_a_bit(algorithm, policy):
    projections, angles = scan(21)
    with Engine(GEOMETRY, 21, algorithm=algorithm, window=8, window_policy=policy) as engine:
        whole = run(engine, projections, angles)
    for first, stop in ((0, 7), (7, 21)):
        with Engine(GEOMETRY, stop - first, algorithm=algorithm, window=8, window_policy=policy) as engine:
            part = run(engine, projections[:, first:stop], angles)
        np.testing.assert_array_equal(part, whole[first:stop])


class Group:
    """What MPI does, between threads."""

    def __init__(self, members):
        self.members = members
        self.barrier = threading.Barrier(members, timeout=20)
        self.places = [None] * members

    def together(self, jobs):
        results, errors = [None] * len(jobs), []

        def work(number):
            try:
                results[number] = jobs[number]()
            except Exception as error:  # noqa: BLE001
                self.barrier.abort()
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results


class Member:
    """A member of a group that shares rows."""

    def __init__(self, group, member):
        self.group, self.member, self.members = group, member, group.members

    def sum(self, array):
        assert array.flags.c_contiguous
        self.group.places[self.member] = array.copy()
        self.group.barrier.wait()
        array[...] = np.sum(self.group.places, axis=0)
        self.group.barrier.wait()

    def exchange(self, first_slice, last_slice):
        return None, None


class Neighbour:
    """One of a column of blocks."""

    members = 1

    def __init__(self, group, block):
        self.group, self.block = group, block

    def exchange(self, first_slice, last_slice):
        self.group.places[self.block] = (first_slice.copy(), last_slice.copy())
        self.group.barrier.wait()
        above = self.group.places[self.block - 1][1] if self.block > 0 else None
        below = self.group.places[self.block + 1][0] if self.block + 1 < self.group.members else None
        self.group.barrier.wait()
        return above, below


@pytest.mark.parametrize("projector", ["shear", "line-integrals"])
@pytest.mark.parametrize("algorithm", ["mlem", "sirt", "osem", "pml-hybrid", "fbp"])
@pytest.mark.parametrize("members", [2, 3])
def test_members_that_share_rows_get_the_image_of_one(members, algorithm, projector):
    projections, angles = scan(3)
    options = {"projector": projector}
    with Engine(GEOMETRY, 3, algorithm=algorithm, window=8, options=options) as engine:
        alone = run(engine, projections, angles, every=2)
    group = Group(members)
    engines = [
        Engine(GEOMETRY, 3, algorithm=algorithm, window=8, options=options, group=Member(group, member))
        for member in range(members)
    ]
    images = group.together([lambda engine=engine: run(engine, projections, angles, every=2) for engine in engines])
    for image in images:
        np.testing.assert_allclose(image, alone, atol=1e-5 * alone.max(), rtol=0)
        np.testing.assert_array_equal(image, images[0])


@pytest.mark.parametrize("axis", [18.7, 8.0])
@pytest.mark.parametrize("algorithm", ["fbp", "osem"])
def test_members_that_share_rows_leave_out_what_was_lost_as_one_does(algorithm, axis):
    """Each knows which views of the others were not measured, and completes its own by theirs from the other side."""
    geometry = TomoGeometry(COLUMNS, axis)
    projections, _ = scan(2, 40)
    angles = np.radians(9.0 * (np.arange(40) * 7 % 40))
    projections[[3, 4, 5, 20]] = np.nan
    projections[10:16, 1] = np.nan
    with Engine(geometry, 2, algorithm=algorithm, window=None) as engine:
        alone = run(engine, projections, angles, every=40)
    group = Group(3)
    engines = [Engine(geometry, 2, algorithm=algorithm, window=None, group=Member(group, k)) for k in range(3)]
    images = group.together([partial(run, engine, projections, angles, every=40) for engine in engines])
    for image in images:
        np.testing.assert_allclose(image, alone, atol=1e-5 * alone.max(), rtol=0)


@pytest.mark.parametrize("algorithm", ["pml-quadratic", "pml-hybrid", "ospml-quadratic"])
def test_blocks_that_swap_edges_get_the_image_of_one(algorithm):
    projections, angles = scan(22)
    with Engine(GEOMETRY, 22, algorithm=algorithm, window=8) as engine:
        whole = run(engine, projections, angles)
    cuts = [(0, 5), (5, 6), (6, 22)]
    group = Group(len(cuts))
    engines = [
        Engine(GEOMETRY, stop - first, algorithm=algorithm, window=8, group=Neighbour(group, block), threads=2)
        for block, (first, stop) in enumerate(cuts)
    ]
    images = group.together(
        [
            lambda engine=engine, first=first, stop=stop: run(engine, projections[:, first:stop], angles)
            for engine, (first, stop) in zip(engines, cuts, strict=True)
        ]
    )
    for engine in engines:
        engine.close()
    np.testing.assert_array_equal(np.concatenate(images), whole)


def test_slices_are_copies_in_the_order_asked_for():
    projections, angles = scan(19)
    with Engine(GEOMETRY, 19, window=8) as engine:
        assert not engine.image().any()
        image = run(engine, projections, angles)
        got = engine.slices((17, 0, 16))
        np.testing.assert_array_equal(got, image[[17, 0, 16]])
        assert got.dtype == np.float32
        got[:] = 7
        np.testing.assert_array_equal(engine.image(), image)
        with pytest.raises(GeometryError, match="row: got 19, expected 0 to 18"):
            engine.slices([19])


@pytest.mark.parametrize("policy", ["newest", "spread"])
@pytest.mark.parametrize("algorithm", ["mlem", "pml-hybrid"])
def test_loaded_engine_continues_as_if_nothing_happened(algorithm, policy):
    projections, angles = scan(5)
    with Engine(GEOMETRY, 5, algorithm=algorithm, window=8, window_policy=policy) as engine:
        run(engine, projections[:12], angles[:12])
        image, typical, number = engine.image(), engine.typical, engine.image_number
        expected = run(engine, projections[12:], angles[12:])
    with Engine(GEOMETRY, 5, algorithm=algorithm, window=8, window_policy=policy) as engine:
        for projection, angle in zip(projections[:12], angles[:12], strict=True):
            engine.append(projection, angle)
        engine.load(image, number, typical=typical)
        assert (engine.image_number, engine.projections) == (3, 12)
        np.testing.assert_array_equal(run(engine, projections[12:], angles[12:]), expected)
        assert (engine.image_number, engine.projections) == (5, 20)


def test_engine_that_has_forgotten_some_continues_from_what_it_kept():
    projections, angles = scan(5, count=120)
    with Engine(GEOMETRY, 5, window=4) as engine:
        run(engine, projections[:100], angles[:100])
        image, typical, number = engine.image(), engine.typical, engine.image_number
        kept_angles, kept = engine.kept()
        expected = run(engine, projections[100:], angles[100:])
    assert len(kept) == kept_views(COLUMNS, 4)
    with Engine(GEOMETRY, 5, window=4) as engine:
        for projection, angle in zip(kept, kept_angles, strict=True):
            engine.append(projection, angle)
        engine.load(image, number, typical=typical)
        np.testing.assert_array_equal(run(engine, projections[100:], angles[100:]), expected)


def test_memory_of_a_spread_window_is_what_is_documented():
    with Engine(GEOMETRY, 16, window=4) as engine:
        run(engine, *scan(16, count=4))
        tracemalloc.start()
        run(engine, *scan(16, count=300))
        window = tracemalloc.Filter(True, "*/recon/store.py")  # tables of angles are kept for all engines
        grown = sum(each.size for each in tracemalloc.take_snapshot().filter_traces([window]).statistics("filename"))
        tracemalloc.stop()
        documented = 4 * 16 * COLUMNS * (math.pi / 2 * COLUMNS + 1)
        assert 0.9 * documented < grown <= documented


def test_initial_image_has_the_mass_of_the_first_window():
    geometry = TomoGeometry(columns=30)
    with Engine(geometry, 2, window=4) as engine:
        engine.append(np.full((2, 30), 3.0, np.float32) * [[1], [2]], 0.0)
        engine.update()
        np.testing.assert_allclose(engine.typical, [0.1, 0.2], rtol=1e-5)
        np.testing.assert_allclose(engine.image()[1], 0.2, rtol=1e-5)
    with Engine(geometry, 2, algorithm="sirt", options={"initial": 0.5}) as engine:
        engine.append(np.full((2, 30), 15.0, np.float32), 0.0)
        engine.update()
        np.testing.assert_allclose(engine.image(), 0.5, rtol=1e-5)


def test_pixels_that_no_projection_sees_are_left():
    geometry = TomoGeometry(columns=10, axis=4.5, size=40)
    projections, angles = np.ones((6, 2, 10), np.float32), np.linspace(-0.1, 0.1, 6)
    for algorithm in ("mlem", "sirt", "pml-quadratic"):
        with Engine(geometry, 2, algorithm=algorithm, options={"initial": 0.25}) as engine:
            image = run(engine, projections, angles, every=2)
            assert (image[:, :, :8] == 0.25).all()
            assert (image[:, :, 17:22] < 0.2).all()


def test_memory_per_voxel_is_as_stated():
    size, more = 256, 64

    def held(rows, algorithm, threads):
        tracemalloc.start()
        settings = {"algorithm": algorithm, "window": 4, "window_policy": "newest", "threads": threads}
        with Engine(TomoGeometry(columns=size), rows, **settings) as engine:
            engine.append(np.ones((rows, size), np.float32), 0.3)
            engine.update()
            found, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    per_voxel = {}
    for how in (("mlem", 1), ("mlem", 4), ("pml-quadratic", 1)):
        held(16, *how)  # compiles
        window = 4 * more * size * 4
        # In both, threads have equally many slabs: what a thread holds is not counted per voxel.
        per_voxel[how] = (held(64 + more, *how) - held(64, *how) - window) / (more * size * size)
    margins = 1.42  # zeros around the image
    assert per_voxel["mlem", 1] <= 4 * margins
    assert per_voxel["mlem", 4] <= 4 * margins
    # A penalty keeps first and last slice of each slab, now and after the pass; slabs are narrower on some processors.
    edges = 4 * 4 / slab_rows(more)[0].width
    assert per_voxel["pml-quadratic", 1] <= 4 * margins + edges


@pytest.mark.parametrize(("columns", "most"), [(256, 0.42), (1024, 0.10)])
def test_margins_are_as_stated(columns, most):
    layout = ShearLayout(TomoGeometry(columns=columns))
    assert most - 0.02 < layout.image(4).size / (4 * columns**2) - 1 <= most


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.append(np.zeros((3, 41), np.float32), 0.0), DataError, r"got shape \(3, 41\), expected \(3, 40\)"),
        (lambda e: e.append(np.zeros((3, 40), np.float32), np.nan), GeometryError, "projection 1: got angle nan"),
        (lambda e: e.update(), DataError, "got no projection yet"),
        (lambda e: e.load(np.zeros((3, 9, 9), np.float32), 1), DataError, r"expected \(3, 40, 40\)"),
        (lambda e: e.load(np.full((3, 40, 40), np.nan, np.float32), 1), DataError, "not finite"),
    ],
)
def test_what_can_not_work_is_refused(call, error, message):
    with Engine(GEOMETRY, 3) as engine, pytest.raises(error, match=message):
        call(engine)


def test_engine_refuses_impossible_settings():
    with pytest.raises(GeometryError, match="rows: got 0"):
        Engine(GEOMETRY, 0)
    with pytest.raises(ConfigError, match="threads: got 0"):
        Engine(GEOMETRY, 1, threads=0)
    with pytest.raises(ConfigError, match="window: got 0"):
        Engine(GEOMETRY, 1, window=0)


@pytest.mark.timeout(300)  # where nothing is on disk yet, it compiles all there is
def test_warm_engine_compiles_nothing_more():
    from bluesky_streamrecon.recon.kernels import back, forward, lines, smooth, tables

    kernels = [
        kernel
        for module in (back, forward, lines, smooth, tables)
        for kernel in (getattr(module, name) for name in module.__all__)
        if hasattr(kernel, "signatures")
    ]
    assert len(kernels) > 8
    for algorithm, shared in (("mlem", False), ("sirt", True), ("pml-hybrid", False)):
        warm_up(GEOMETRY, 21, algorithm=algorithm, shared=shared)
        before = [len(kernel.signatures) for kernel in kernels]
        group = Member(Group(1), 0) if shared else None
        with Engine(GEOMETRY, 21, algorithm=algorithm, window=8, group=group) as engine:
            run(engine, *scan(21))
        assert [len(kernel.signatures) for kernel in kernels] == before


@dataclass(frozen=True)
class Parts(Algorithm):
    """Cuts the window into as many parts as it is told."""

    parts: object = 1

    def passes(self, projections):
        return self.parts

    def step(self, problem):
        problem.add(problem.residual())


@pytest.mark.parametrize("parts", [0, 5, 2.5, None])
def test_number_of_passes_that_can_not_be_taken_is_refused_with_the_algorithms_name(monkeypatch, parts):
    monkeypatch.setitem(algorithms._added, "parts", Parts)
    with Engine(GEOMETRY, 1, algorithm="parts", options={"parts": parts}) as engine:
        for projection, angle in zip(*scan(1, 4), strict=True):
            engine.append(projection, angle)
        with pytest.raises(ConfigError, match=r"algorithm 'parts': passes\(4\) gave .*expected an integer from 1 to 4"):
            engine.update()


class Unfinished(Algorithm):
    """Has no step."""


@dataclass(frozen=True)
class Needs(Parts):
    relax: float = field(kw_only=True)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (print, "expected a subclass of Algorithm"),
        (Window, "expected a subclass of Algorithm"),
        (Unfinished, "abstract"),
        (Needs, "missing 1 required keyword-only argument: 'relax'"),
    ],
)
def test_what_is_no_algorithm_is_refused_by_name(monkeypatch, kind, said):
    monkeypatch.setitem(algorithms._added, "mine", kind)
    with pytest.raises(ConfigError, match="algorithm 'mine'") as refused:
        check_algorithm("mine", {})
    assert said in str(refused.value)


def test_options_are_checked_without_an_engine():
    check_algorithm("sirt", {"relaxation": 0.5, "projector": "line-integrals", "initial": 0.1})
    for options in ({"relax": 1}, {"relaxation": 7}, {"projector": "joseph"}, {"initial": -1}):
        with pytest.raises(ConfigError, match="got"):
            check_algorithm("sirt", options)
