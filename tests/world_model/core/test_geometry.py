"""Poses and warps: identities, inverses, and what moves where."""

import math

import pytest
import torch

from world_model.core.geometry import (
    invert_pose,
    pose_matrix,
    quat_conjugate,
    quat_from_yaw,
    quat_multiply,
    quat_to_matrix,
    se2_matrix,
    take_columns,
    warp_bev,
    warp_voxels,
    yaw_from_matrix,
)
from world_model.core.grid import FREE, VoxelGrid

GRID = VoxelGrid(shape=(20, 30, 4), lower_m=(-4.0, -6.0, -1.0))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_quaternion_product_is_matrix_product(generator: torch.Generator) -> None:
    a, b = (torch.nn.functional.normalize(torch.randn(7, 4, generator=generator).double(), dim=-1) for _ in range(2))
    torch.testing.assert_close(quat_to_matrix(quat_multiply(a, b)), quat_to_matrix(a) @ quat_to_matrix(b))
    one = quat_multiply(a, quat_conjugate(a))
    torch.testing.assert_close(one, torch.tensor([1.0, 0, 0, 0]).double().expand(7, 4))


def test_yaw_survives_every_representation() -> None:
    yaw = torch.linspace(-3, 3, 13, dtype=torch.float64)
    quat = quat_from_yaw(yaw)
    torch.testing.assert_close(yaw_from_matrix(quat_to_matrix(quat)), yaw)
    torch.testing.assert_close(yaw_from_matrix(pose_matrix(torch.zeros(13, 3).double(), quat)), yaw)


def test_invert_pose(generator: torch.Generator) -> None:
    pose = pose_matrix(torch.randn(5, 3, generator=generator).double(), torch.randn(5, 4, generator=generator).double())
    torch.testing.assert_close(invert_pose(pose) @ pose, torch.eye(4).double().expand(5, 4, 4))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_identity_warp_changes_nothing(generator: torch.Generator, offset: float) -> None:
    maps = torch.randn(2, 3, 20, 30, generator=generator, dtype=torch.float64)
    same = warp_bev(maps, torch.eye(4).double().expand(2, 4, 4), (-4.0, -6.0), 0.4, 0.0, offset=offset)
    torch.testing.assert_close(same, maps)
    labels = torch.randint(0, 18, (2, 20, 30, 4), generator=generator, dtype=torch.uint8)
    assert torch.equal(warp_voxels(labels, torch.eye(4).expand(2, 4, 4), GRID), labels)


def test_driving_forward_moves_the_world_back(generator: torch.Generator) -> None:
    labels = torch.randint(0, 17, (1, 20, 30, 4), generator=generator, dtype=torch.uint8)
    two_cells = se2_matrix(torch.tensor([0.8]), torch.zeros(1), torch.zeros(1))
    moved = warp_voxels(labels, two_cells, GRID)
    assert torch.equal(moved[:, :-2], labels[:, 2:])
    assert (moved[:, -2:] == FREE).all()
    maps = torch.randn(1, 2, 20, 30, generator=generator)
    torch.testing.assert_close(
        warp_bev(maps, two_cells, (-4.0, -6.0), 0.4, 0.0)[:, :, :-2], maps[:, :, 2:], atol=1e-4, rtol=1e-4
    )


def test_turning_left_moves_the_world_right() -> None:
    grid = VoxelGrid(shape=(20, 20, 2), lower_m=(-4.0, -4.0, -1.0))
    labels = torch.full((1, 20, 20, 2), FREE, dtype=torch.uint8)
    labels[0, 15, 10:] = 4  # ahead, on the left half
    turned = warp_voxels(labels, se2_matrix(torch.zeros(1), torch.zeros(1), torch.tensor([math.pi / 2])), grid)
    # What lay ahead now lies to the right (negative y).
    assert (turned[0, 10:, 4] == 4).all()
    assert (turned != FREE).sum() == (labels != FREE).sum()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
@pytest.mark.parametrize(("height", "fill"), [(1, 0), (4, FREE), (8, 0), (16, FREE), (24, 1)])
def test_columns_travel_whole(dtype: torch.dtype, height: int, fill: int, generator: torch.Generator) -> None:
    labels = torch.randint(0, 18, (2, 5, 6, height), generator=generator).to(dtype)
    index = torch.randint(0, 60, (2, 3, 4), generator=generator)
    inside = torch.rand(index.shape, generator=generator) < 0.7
    taken = take_columns(labels, index, inside, fill)
    assert taken.dtype == dtype
    assert torch.equal(taken, torch.where(inside[..., None], labels.view(60, height)[index], fill).to(dtype))
    assert torch.equal(
        take_columns(labels.transpose(0, 1), index, inside, fill)[inside],
        labels.transpose(0, 1).reshape(60, -1)[index][inside],
    )


def test_planar_warp_agrees_with_the_general_one(generator: torch.Generator) -> None:
    labels = torch.randint(0, 18, (3, 20, 30, 4), generator=generator, dtype=torch.uint8)
    motion = se2_matrix(*torch.randn(3, 3, generator=generator).unbind(-1))
    tilted = motion.clone()
    tilted[:, 2, 3] = 2e-6  # just enough to leave the fast path, too little to move a voxel
    assert (warp_voxels(labels, motion, GRID) == warp_voxels(labels, tilted, GRID)).float().mean() > 0.999
