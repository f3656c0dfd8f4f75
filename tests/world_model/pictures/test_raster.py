"""The quad filler agrees with a test of every pixel against every edge."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from world_model.pictures.raster import fill_quads


def random_quads(count: int, size: tuple[int, int]) -> np.ndarray:
    """Parallelograms, partly outside the picture."""
    random = np.random.default_rng(5)
    a, b = random.uniform(-30, 30, (2, count, 2))
    start = random.uniform(-20, np.array(size) + 20, (count, 2))
    return np.stack((start, start + a, start + a + b, start + b), 1).astype(np.float32)


def slow_fill(quads: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Painted pixel by pixel; also which pixels lie within 1e-3 of an edge, where rounding may decide."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    seen, close = np.full((size[1], size[0]), -1), np.zeros((size[1], size[0]), bool)
    for number, quad in enumerate(quads.astype(np.float64)):
        edges = np.roll(quad, -1, 0) - quad
        side = np.stack(
            [(e[0] * (y - p[1]) - e[1] * (x - p[0])) / np.hypot(*e) for p, e in zip(quad, edges, strict=True)]
        )
        inside = (side > 0).all(0) | (side < 0).all(0)
        seen[inside] = number
        close |= (np.abs(side) < 1e-3).any(0)
    return seen, close


def test_agrees_with_the_slow_twin() -> None:
    size = (70, 50)
    quads = random_quads(200, size)
    expected, close = slow_fill(quads, size)
    found = fill_quads(quads, size)
    assert found.shape == (50, 70)
    assert close.mean() < 0.05
    assert (found == expected)[~close].all()


def test_neighbours_leave_no_gap_and_later_quads_cover_earlier_ones() -> None:
    line = np.linspace(3.3, 41.7, 8)
    tiles = [((a, c), (b, c), (b, d), (a, d)) for a, b in pairwise(line) for c, d in pairwise(line)]
    found = fill_quads(np.array(tiles, np.float32), (45, 45))
    assert (found[4:41, 4:41] >= 0).all()
    one = np.array(tiles[:1], np.float32)
    assert set(np.unique(fill_quads(np.concatenate((one, one)), (45, 45)))) == {-1, 1}


def test_nothing_to_paint() -> None:
    assert (fill_quads(np.zeros((0, 4, 2), np.float32), (5, 4)) == -1).all()
    outside = random_quads(3, (5, 4)) + 1000
    assert (fill_quads(outside, (5, 4)) == -1).all()
