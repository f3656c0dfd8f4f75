from __future__ import annotations

import numpy as np
import torch

from world_model.core.geometry import invert_pose, se2_matrix
from world_model.core.grid import FREE, VoxelGrid
from world_model.data.boxes import mask_of, moving_boxes
from world_model.data.index import Boxes
from world_model.evaluation.forecasting.baselines import baselines

GRID = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))
CAR, ROAD = 4, 11


def boxes(center: tuple[float, float, float], velocity: tuple[float, float], yaw: float = 0.0) -> Boxes:
    return Boxes(
        center_m=np.array([center], np.float32),
        size_m=np.array([(4.0, 2.0, 1.6)], np.float32),
        yaw_rad=np.array([yaw], np.float32),
        velocity_mps=np.array([velocity], np.float32),
        class_id=np.array([CAR], np.uint8),
        instance=np.array([0], np.int64),
    )


def scene(*cars: Boxes) -> torch.Tensor:
    """A road at height 2 with solid cars on it, (1, X, Y, Z)."""
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[:, :, 2] = ROAD
    for car in cars:
        labels[mask_of(car, GRID)] = CAR
    return torch.from_numpy(labels)[None]


def pose(dx: float, dy: float, yaw: float) -> torch.Tensor:
    values = [torch.tensor([v], dtype=torch.float64) for v in (dx, dy, yaw)]
    return se2_matrix(*values)


def forecast(
    labels: torch.Tensor, here: torch.Tensor, there: torch.Tensor, cars: Boxes, seconds: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copy-paste, ego warp, and ego warp with boxes of one moment: (1, X, Y, Z) each."""
    rows = baselines(labels[0], cars, invert_pose(here) @ there, [seconds], GRID)
    return rows[0], rows[1], rows[2]


def test_voxels_inside_match_a_slow_twin() -> None:
    box = boxes((1.3, -2.1, 0.9), (0, 0), yaw=0.7)
    index = np.indices(GRID.shape).reshape(3, -1).T
    point = (index + 0.5) * GRID.voxel_m + GRID.lower_m - box.center_m[0]
    cos, sin = np.cos(0.7), np.sin(0.7)
    along, across = cos * point[:, 0] + sin * point[:, 1], -sin * point[:, 0] + cos * point[:, 1]
    inside = (abs(along) <= 2.5) & (abs(across) <= 1.5) & (abs(point[:, 2]) <= 1.3)
    np.testing.assert_array_equal(mask_of(box, GRID, margin_m=0.5).ravel(), inside)


def test_boxes_outside_the_grid_have_no_voxels() -> None:
    assert not mask_of(boxes((30, 0, 1), (0, 0)), GRID).any()
    assert mask_of(boxes((8, 0, 1), (0, 0)), GRID).any()


def test_moving_needs_a_known_speed() -> None:
    assert len(moving_boxes(boxes((0, 0, 1), (0.3, 0.3))).class_id) == 0
    assert len(moving_boxes(boxes((0, 0, 1), (0.6, 0.0))).class_id) == 1
    assert len(moving_boxes(boxes((0, 0, 1), (float("nan"), 0.0))).class_id) == 0


def test_at_rest_every_baseline_is_the_identity() -> None:
    car = boxes((2, 1, 0.6), (3.0, 0.0))
    labels, here = scene(car), pose(5, 6, 0.4)
    for row in forecast(labels, here, here, car, 0.0):
        assert torch.equal(row, labels)


def test_ego_warp_moves_the_world_backwards() -> None:
    car = boxes((2, 1, 0.6), (0, 0))
    labels, here = scene(car), pose(5, 6, 1.2)
    moved = forecast(labels, here, here @ pose(1.6, 0.8, 0.0), car, 1.0)[1]
    assert torch.equal(moved[:, :-4, :-2], labels[:, 4:, 2:])
    assert (moved[:, -4:] == FREE).all()


def test_cv_boxes_carry_movers_and_leave_the_rest() -> None:
    mover, parked = boxes((0.1, 2.1, 0.6), (2.4, -0.8)), boxes((-3.0, -3, 0.6), (0.1, 0.0))
    both = Boxes(**{n: np.concatenate([getattr(b, n) for b in (mover, parked)]) for n in Boxes.__dataclass_fields__})
    here = pose(5, 6, 0.3)
    carried = forecast(scene(mover, parked), here, here, both, 1.0)[2]
    expected = scene(boxes((2.5, 1.3, 0.6), (0, 0)), parked)
    assert torch.equal(carried == CAR, expected == CAR)
    left = (scene(mover) == CAR) & (carried != CAR)
    assert (carried[left] == FREE).all()


def test_cv_boxes_and_a_turning_ego() -> None:
    mover = boxes((1.0, 1.0, 0.6), (2.0, 1.0), yaw=0.5)
    here, there = pose(5, 6, 0.3), pose(5, 6, 0.3) @ pose(1.1, -0.4, 0.35)
    _, warped, carried = forecast(scene(mover), here, there, mover, 1.5)
    to_there = torch.linalg.inv(there)[0] @ here[0]
    center = to_there.numpy() @ np.array([4.0, 2.5, 0.6, 1.0])
    expected = scene(boxes(tuple(center[:3]), (0, 0), yaw=0.5 - 0.35)) == CAR
    overlap = ((carried == CAR) & expected).sum() / ((carried == CAR) | expected).sum()
    assert overlap > 0.7  # nearest-voxel sampling of a turned box, nothing worse
    still = warped == CAR
    assert (still & expected).sum() / (still | expected).sum() < 0.3


def test_inputs_are_not_modified_and_horizons_equal_singles() -> None:
    car = boxes((2, 1, 0.6), (3.0, 0.0))
    labels = scene(car)[0]
    before = labels.clone()
    there = torch.cat([pose(1, 0.5, 0.4), pose(2, 0, -0.9)])
    both = baselines(labels, car, there, [1.0, 2.0], GRID)
    assert torch.equal(labels, before) and both.shape == (3, 2, *GRID.shape)
    for h in (0, 1):
        assert torch.equal(both[:, h], baselines(labels, car, there[h : h + 1], [1.0 + h], GRID)[:, 0])
