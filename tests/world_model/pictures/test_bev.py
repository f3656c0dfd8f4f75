"""The bird's-eye view puts every class where it is, front up and left left."""

from __future__ import annotations

import numpy as np
import pytest

from world_model.core.grid import CLASS_COLORS, CLASS_ID, EGO_LENGTH_M, FREE, VoxelGrid
from world_model.pictures.bev import EGO_COLOR, PATH_COLOR, birds_eye, class_map, ego_outline, height_map, relief

SMALL = VoxelGrid(shape=(20, 30, 8), lower_m=(-4, -6, -1))


def random_labels(shape: tuple[int, ...] = (20, 30, 8), share: float = 0.2) -> np.ndarray:
    random = np.random.default_rng(3)
    return np.where(random.random(shape) < share, random.integers(0, FREE, shape), FREE).astype(np.uint8)


def test_class_map_is_the_highest_occupied_voxel() -> None:
    labels = random_labels((2, 7, 9, 8))
    found = class_map(labels)
    for place in np.ndindex(found.shape):
        column = [c for c in labels[place] if c != FREE]
        assert found[place] == (column[-1] if column else FREE)
    assert found.dtype == np.uint8


def test_height_map_counts_up_to_the_highest_voxel() -> None:
    labels = random_labels()
    for place in np.ndindex(labels.shape[:2]):
        filled = np.flatnonzero(labels[place] != FREE)
        assert height_map(labels)[place] == (filled[-1] + 1 if len(filled) else 0)


def test_front_is_up_and_left_is_left() -> None:
    labels = np.full((20, 30, 8), FREE, np.uint8)
    labels[19, 29, 2] = CLASS_ID["car"]  # far front, far left
    labels[0, 0, 2] = CLASS_ID["bus"]  # far rear, far right
    picture = birds_eye(labels, scale=3, grid=SMALL, footprint=False, shading=False)
    assert picture.shape == (60, 90, 3)
    assert (picture[:3, :3] == CLASS_COLORS[CLASS_ID["car"]]).all()
    assert (picture[-3:, -3:] == CLASS_COLORS[CLASS_ID["bus"]]).all()


def test_overlays_lie_at_their_metres() -> None:
    labels = np.full((20, 30, 8), FREE, np.uint8)
    path = np.array([(2.0, -5.0), (2.0, 5.0)])
    picture = birds_eye(labels, scale=5, grid=SMALL, path_m=path, shading=False)
    row, column = round((4 - 2.0) / 0.4 * 5), picture.shape[1] // 3
    assert np.abs(picture[row, column].astype(int) - PATH_COLOR).max() < 8
    ego_row, ego_column = round((4 - 0.3) / 0.4 * 5), round(6 / 0.4 * 5)
    assert np.abs(picture[ego_row, ego_column].astype(int) - EGO_COLOR).max() < 8


def test_points_that_are_not_finite_are_left_out() -> None:
    labels = random_labels()
    path = np.array([(0.0, 0.0), (1.0, 1.0)])
    with_holes = np.array([(0.0, 0.0), (np.nan, 1.0), (1.0, 1.0), (np.inf, 0.0)])
    assert (birds_eye(labels, grid=SMALL, path_m=path) == birds_eye(labels, grid=SMALL, path_m=with_holes)).all()


def test_labels_are_not_changed() -> None:
    labels = random_labels()
    before = labels.copy()
    birds_eye(labels, grid=SMALL, ranges=True, goal_m=(1, 1), route_m=np.ones((2, 2)))
    assert (labels == before).all()


def test_flat_ground_is_evenly_lit_and_a_wall_casts_a_shadow() -> None:
    flat = np.full((20, 20), 3)
    assert np.allclose(relief(flat), 1)
    wall = flat.copy()
    wall[12] = 10
    light = relief(wall)
    assert light[10, 10] < 0.9  # behind the wall
    assert light[15, 10] == pytest.approx(1)  # towards the sun


def test_the_outline_turns_with_the_heading() -> None:
    outline = ego_outline()
    assert np.ptp(outline[:, 0]) == pytest.approx(EGO_LENGTH_M)
    turned = ego_outline(2, 3, np.pi / 2)
    assert np.allclose(turned, np.stack((2 - outline[:, 1], 3 + outline[:, 0]), 1))
