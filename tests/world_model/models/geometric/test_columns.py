"""Column moves against slow, readable twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from world_model.core.geometry import invert_pose, pose_matrix, se2_matrix, warp_voxels
from world_model.core.grid import FREE, VoxelGrid
from world_model.models.geometric.evidence import arrivals, column_move

GRID = VoxelGrid(shape=(24, 32, 8), lower_m=(-4.8, -6.4, -1.0))


def random_labels(batch: int = 2, seed: int = 0, grid: VoxelGrid = GRID) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.choice([4, 11, 15, FREE], size=(batch, *grid.shape)).astype(np.uint8))


def planar(dx: float, dy: float, yaw: float) -> Tensor:
    return se2_matrix(torch.tensor([dx, -dx]), torch.tensor([dy, 0.317]), torch.tensor([yaw, -yaw]))


@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (1.371, -0.713, 0.4), (-2.217, 0.931, 2.9), (30.1, 0.0, 0.0)])
@pytest.mark.parametrize("height", [8, 6])
def test_a_planar_move_equals_the_voxel_warp(pose: tuple[float, float, float], height: int) -> None:
    grid = VoxelGrid(shape=(24, 32, height), lower_m=GRID.lower_m)
    labels, transform = random_labels(grid=grid), planar(*pose)
    assert torch.equal(column_move(transform, grid).take(labels), warp_voxels(labels, transform, grid))


def test_some_columns_move_like_all() -> None:
    labels, tilt = random_labels(), torch.tensor([[np.cos(0.06), 0.0, np.sin(0.06), 0.0]] * 2, dtype=torch.float32)
    for transform in (planar(1.371, -0.713, 0.4), pose_matrix(torch.tensor([[0.5, 0.2, 0.1], [3.1, 0.0, 0.0]]), tilt)):
        move = column_move(transform, GRID)
        some = torch.tensor([0, 5, 400, 767, 768, 1535])
        assert torch.equal(move.at(some).take(labels), move.take(labels).view(-1, GRID.shape[2])[some])


def test_tilt_lifts_whole_columns() -> None:
    half = 0.06
    quat = torch.tensor([[np.cos(half), 0.0, np.sin(half), 0.0]], dtype=torch.float32)
    transform = pose_matrix(torch.tensor([[0.53, 0.21, 0.13]]), quat)
    labels = random_labels(1)
    moved = column_move(transform, GRID).take(labels)[0]
    low, voxel, (size_x, size_y, size_z) = np.array(GRID.lower_m), GRID.voxel_m, GRID.shape
    matrix, lifted = transform[0].double().numpy(), 0
    for i in range(size_x):
        for j in range(size_y):
            point = matrix @ [low[0] + (i + 0.5) * voxel, low[1] + (j + 0.5) * voxel, 0.0, 1.0]
            a, b = np.floor((point[:2] - low[:2]) / voxel).astype(int)
            up = round(point[2] / voxel)
            lifted += up != 0
            for k in range(size_z):
                inside = 0 <= a < size_x and 0 <= b < size_y and 0 <= k + up < size_z
                assert int(moved[i, j, k]) == (int(labels[0, a, b, k + up]) if inside else FREE)
    assert lifted > 100


def spread(shift: Tensor, movers: Tensor, source_to_target: Tensor) -> tuple[Tensor, Tensor]:
    """Arrivals laid out on the grid: displacements (B, X, Y, 2), and where anything arrives (B, X, Y)."""
    arrived = arrivals(shift, movers, source_to_target, GRID)
    assert len(arrived.column.unique()) == len(arrived.column)
    carried, hit = torch.zeros_like(shift), torch.zeros_like(movers)
    carried.view(-1, 2)[arrived.column], hit.view(-1)[arrived.column] = arrived.displacement_m, True
    return carried, hit


def test_displacements_arrive_where_the_objects_do() -> None:
    transform = planar(0.37, 0.21, 0.3)
    movers = torch.zeros(2, *GRID.shape[:2], dtype=torch.bool)
    movers[0, 5:8, 10:12] = True
    movers[1, 14, 9] = True
    shift = torch.zeros(2, *GRID.shape[:2], 2)
    shift[0, 5:8, 10:12] = torch.tensor([1.2, -0.4])
    shift[1, 14, 9] = torch.tensor([-0.8, 0.8])
    carried, hit = spread(shift, movers, invert_pose(transform))
    for b, i, j in movers.nonzero().tolist():
        start = np.array(GRID.lower_m[:2]) + (np.array([i, j]) + 0.5) * GRID.voxel_m + shift[b, i, j].numpy()
        place = (invert_pose(transform)[b].numpy() @ [*start, 0.0, 1.0])[:2]
        x, y = np.floor((place - GRID.lower_m[:2]) / GRID.voxel_m).astype(int)
        assert hit[b, x, y] and torch.equal(carried[b, x, y], shift[b, i, j])
    # The margin is one voxel and no more.
    assert hit[1].sum() == 9 and not carried[~hit].any()


def test_what_leaves_the_grid_is_dropped() -> None:
    movers = torch.zeros(1, *GRID.shape[:2], dtype=torch.bool)
    movers[0, 0, 0] = True
    shift = torch.full((1, *GRID.shape[:2], 2), -5.0)
    _, hit = spread(shift, movers, torch.eye(4)[None])
    assert not hit.any()
