"""Cells of a rotated grid, against exact numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from world_model.core.grid import OCC3D
from world_model.simulator.sensing.rotate import NX, rotated_cells
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
