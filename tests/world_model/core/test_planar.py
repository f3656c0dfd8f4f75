"""Planar poses form a group, and motions and poses are each other's inverse."""

from __future__ import annotations

import numpy as np
import torch

from world_model.core.geometry import (
    compose,
    into,
    inverse,
    invert_pose,
    level_poses,
    motions_from_poses,
    planar_motions,
    planar_pose,
    planar_steps,
    pose_matrix,
    poses_from_motions,
    relative,
    se2_matrix,
    transform,
)


def test_planar_poses_form_a_group() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    points = torch.randn(5, 7, 2, generator=generator)
    assert torch.allclose(into(a, transform(a, points)), points, atol=1e-5)
    assert torch.allclose(relative(a, compose(a, b)), b, atol=1e-5)
    assert torch.allclose(compose(a, inverse(a)), torch.zeros(5, 3), atol=1e-5)
    assert torch.allclose(transform(compose(a, b), points), transform(a, transform(b, points)), atol=1e-5)


def test_matrices_and_planar_poses_agree() -> None:
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 2
    matrix = se2_matrix(*a.unbind(-1)) @ se2_matrix(*b.unbind(-1))
    assert torch.allclose(planar_pose(matrix), compose(a, b))
    assert torch.allclose(planar_pose(invert_pose(matrix)), inverse(compose(a, b)))


def test_level_poses_start_at_the_origin_and_have_no_height() -> None:
    generator = torch.Generator().manual_seed(2)
    rotation = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    poses = pose_matrix(torch.randn(2, 4, 3, generator=generator, dtype=torch.float64) * 100, rotation)
    level = level_poses(poses)
    assert torch.allclose(level[:, 0], torch.eye(4, dtype=torch.float64), atol=1e-9)
    assert (level[..., 2, :] == torch.tensor([0.0, 0, 1, 0])).all() and (level[..., :2, 2] == 0).all()
    exact = invert_pose(poses[:, :1]) @ poses
    assert torch.allclose(planar_pose(level), planar_pose(exact))


def test_motions_and_poses_are_inverse() -> None:
    motions = np.random.default_rng(0).normal(size=(9, 3))
    poses = poses_from_motions(motions)
    assert poses.shape == (10, 3) and (poses[0] == 0).all()
    np.testing.assert_allclose(motions_from_poses(poses)[:, :2], motions[:, :2], atol=1e-12)
    matrix = se2_matrix(*torch.from_numpy(poses).unbind(-1)).numpy()
    np.testing.assert_allclose(planar_motions(matrix), motions_from_poses(poses), atol=1e-12)
    steps = se2_matrix(*torch.from_numpy(motions).unbind(-1)).numpy()
    np.testing.assert_allclose(planar_steps(steps), motions_from_poses(poses), atol=1e-12)
