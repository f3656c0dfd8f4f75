"""The 3D view shows what is visible, where it is, and nothing that is hidden."""

from __future__ import annotations

import numpy as np
import pytest

from world_model.core.errors import ConfigError
from world_model.core.grid import CLASS_ID, FREE, VoxelGrid
from world_model.pictures.camera import Camera
from world_model.pictures.voxels import CHASE, voxels_3d

GRID = VoxelGrid(shape=(40, 40, 16), lower_m=(-8, -8, -1))
SIZE = (160, 120)
CLOSE = Camera(position_m=(-14, 3, 12), target_m=(0, 0, 0))


def draw(labels: np.ndarray, **options: object) -> np.ndarray:
    return voxels_3d(labels, size=SIZE, camera=CLOSE, grid=GRID, footprint=False, smoothing=1, **options)  # type: ignore[arg-type]


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def where(index: tuple[int, int, int]) -> tuple[int, int]:
    """Pixel (row, column) of a voxel's centre."""
    center = np.array(GRID.lower_m, np.float32) + (np.array(index, np.float32) + 0.5) * GRID.voxel_m
    (x, y), _ = CLOSE.project(center, SIZE)
    return int(y), int(x)


@pytest.mark.parametrize("place", [(30, 20, 3), (20, 34, 3), (20, 6, 3), (5, 20, 9)])
def test_a_voxel_appears_where_the_camera_projects_it(place: tuple[int, int, int]) -> None:
    labels = empty()
    labels[place] = CLASS_ID["pedestrian"]
    changed = (draw(labels) != draw(empty())).any(-1)
    assert changed[where(place)]
    rows, columns = np.nonzero(changed)
    assert changed.sum() < 300 and np.ptp(rows) < 20 and np.ptp(columns) < 20
    red, green, blue = draw(labels)[where(place)]
    assert red > 2 * max(green, blue)


def test_left_of_the_ego_is_left_in_the_picture() -> None:
    assert where((20, 34, 3))[1] < where((20, 6, 3))[1]
    assert where((34, 20, 3))[0] < where((6, 20, 3))[0]


def test_what_is_hidden_changes_nothing() -> None:
    labels = empty()
    labels[15:25, 15:25, 2:10] = CLASS_ID["manmade"]
    other = labels.copy()
    other[16:24, 16:24, 3:9] = CLASS_ID["car"]  # the inside of the block
    assert (draw(labels) == draw(other)).all()


def test_the_nearer_voxel_covers_the_farther_one() -> None:
    labels = empty()
    labels[10, :, :14] = CLASS_ID["car"]  # a wall between the camera and what stands behind it
    behind = labels.copy()
    behind[14, 20, 2] = CLASS_ID["pedestrian"]
    assert (draw(labels) == draw(behind)).all()


def test_no_background_shines_through_a_closed_floor() -> None:
    labels = empty()
    labels[:, :, 2] = CLASS_ID["driveable_surface"]
    picture = draw(labels).astype(int)
    places = [where((i, j, 2)) for i in range(3, 38) for j in range(3, 38)]
    colors = np.array([picture[row, column] for row, column in places if 0 <= row < 120 and 0 <= column < 160])
    assert len(colors) > 500
    assert np.abs(colors - np.median(colors, 0)).max() < 40


def test_empty_and_repeatable_and_unchanged_input() -> None:
    labels = np.random.default_rng(0).integers(0, 60, GRID.shape).clip(max=FREE).astype(np.uint8)
    before = labels.copy()
    path = np.array([(0.0, 0.0), (5.0, 1.0)])
    first, second = (draw(labels, path_m=path, route_m=path) for _ in range(2))
    assert (first == second).all() and (labels == before).all()
    assert first.shape == (120, 160, 3) and first.dtype == np.uint8
    assert draw(empty()).std() > 0


def test_a_standing_ego_has_no_ribbon() -> None:
    labels = empty()
    assert (draw(labels, path_m=np.zeros((4, 2))) == draw(labels)).all()


def test_the_ego_vehicle_stands_at_the_origin() -> None:
    labels = empty()
    with_ego = voxels_3d(labels, size=SIZE, camera=CLOSE, grid=GRID, smoothing=1)
    changed = (with_ego != draw(labels)).any(-1)
    assert changed[where((23, 20, 4))]
    assert 30 < changed.sum() < 3000


def test_rays_to_the_ground_invert_the_projection() -> None:
    ground, reaches = CHASE.ground_hits((64, 48), 0.3)
    points = np.concatenate((ground, np.full((*ground.shape[:2], 1), 0.3, np.float32)), -1)
    pixels, depth = CHASE.project(points, (64, 48))
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    assert reaches.any() and (depth[reaches] > 0).all()
    assert np.abs(pixels - np.stack((x, y), -1))[reaches].max() < 0.05


def test_a_camera_that_looks_straight_down_is_refused() -> None:
    with pytest.raises(ConfigError, match="straight up or down"):
        Camera(position_m=(0, 0, 20), target_m=(0, 0, 0))
