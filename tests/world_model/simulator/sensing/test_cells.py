"""Cells of a rotated grid against exact numbers, and of boxes against a slow twin that tries every cell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from world_model.core.grid import OCC3D
from world_model.simulator.sensing.cells import MARGIN_M, NX, NY, footprints, rotated_cells
from world_model.simulator.town.painting import CELL_M

LOW, V = OCC3D.lower_m, OCC3D.voxel_m


def centre(i: int, j: int) -> tuple[float, float]:
    return LOW[0] + V * (i + 0.5), LOW[1] + V * (j + 0.5)


def test_rotated_cells_are_where_the_columns_lie() -> None:
    x, y, yaw = 211.37, 190.02, 2.3
    i, j = rotated_cells(x, y, yaw, (10.0, 20.0))
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, NX, (300, 2)).tolist():
        u, v = centre(a, b)
        exact = (x + math.cos(yaw) * u - math.sin(yaw) * v - 10.0) / CELL_M
        exact_j = (y + math.sin(yaw) * u + math.cos(yaw) * v - 20.0) / CELL_M
        # Fixed-point numbers may decide otherwise only within a thousandth of a cell of an edge.
        assert i[a, b] <= exact + 1e-3 and exact - 1e-3 < i[a, b] + 1
        assert j[a, b] <= exact_j + 1e-3 and exact_j - 1e-3 < j[a, b] + 1


@pytest.mark.parametrize("far", [1e6, -1e9, 1e300])
def test_far_away_nothing_overflows(far: float) -> None:
    i, j = rotated_cells(far, -far, 0.7, (0.0, 0.0))
    assert (np.abs(i.astype(float)) > 5000).all() and (np.abs(j.astype(float)) > 5000).all()
    assert (np.sign(i) == np.sign(far)).all()


def slow_footprint(x: float, y: float, yaw: float, length: float, width: float) -> set[int]:
    """Try every cell."""
    cells = set()
    for i in range(NX):
        for j in range(NY):
            u, v = centre(i, j)[0] - x, centre(i, j)[1] - y
            along, aside = math.cos(yaw) * u + math.sin(yaw) * v, math.cos(yaw) * v - math.sin(yaw) * u
            own = (i, j) == (math.floor((x - LOW[0]) / V), math.floor((y - LOW[1]) / V))
            if own or (abs(along) <= length / 2 + MARGIN_M and abs(aside) <= width / 2 + MARGIN_M):
                cells.add(i * NY + j)
    return cells


BOXES = [
    (3.1, -7.3, 0.4, 4.6, 1.9),
    (-39.8, 39.7, 2.1, 11.0, 2.9),  # half outside the grid
    (0.07, 0.03, 0.0, 4.0, 2.0),  # parallel to the grid
    (12.0, 3.3, math.pi / 2, 6.5, 2.4),
    (5.5, 5.7, -2.9, 0.05, 0.02),  # smaller than a voxel
    (70.0, 0.0, 1.0, 5.0, 2.0),  # far outside
]


def test_footprints_are_the_cells_inside() -> None:
    table = np.array(BOXES)
    size = np.column_stack([table[:, 3:5], np.ones(len(table))])
    cell, owner = footprints(table[:, :2], table[:, 2], size)
    assert (np.diff(owner) >= 0).all()
    for k, box in enumerate(BOXES):
        found = cell[owner == k].tolist()
        assert len(found) == len(set(found))
        assert set(found) == slow_footprint(*box)


def test_no_boxes_have_no_cells() -> None:
    cell, owner = footprints(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 3)))
    assert len(cell) == len(owner) == 0
