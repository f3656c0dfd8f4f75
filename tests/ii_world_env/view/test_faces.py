"""Faces cover what is visible, exactly and once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ii_world_env.view.geometry.colors import (
    CLASS_PALETTE,
    DIFFERENCE_PALETTE,
    chosen,
    class_faces,
    difference_faces,
    differences,
    linear,
    lit,
)
from ii_world_env.view.geometry.faces import SIDES, TOP, merged, visible
from ii_world_env.view.page.scene import CUBE, CUBE_FACES
from world_model.core.errors import ConfigError
from world_model.core.grid import CLASS_ID, FREE, VoxelGrid
from world_model.pictures.bev import PICTURE_COLORS
from world_model.pictures.difference import AGREES, INVENTED, MISSED, OTHER_CLASS

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
LABELS = SHAPES.flatmap(lambda shape: arrays.arrays(np.uint8, shape, elements=st.sampled_from([4, 11, FREE])))


def covered(filled: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys (sides, X, Y, Z) of the merged faces, and how often each face is covered."""
    cells, sides = visible(filled)
    faces = merged(cells, sides, keys[tuple(cells.T)], filled.shape)
    back, times = (np.zeros((len(SIDES), *filled.shape), np.int64) for _ in range(2))
    assert (np.diff(faces.side) >= 0).all()
    for first, size, side, key in zip(faces.first, faces.size, faces.side, faces.key, strict=True):
        assert size[SIDES[side][0]] == 1
        place = side, *(slice(a, a + b) for a, b in zip(first, size, strict=True))
        back[place] = key
        times[place] += 1
    return back, times


@given(LABELS)
def test_faces_cover_what_is_visible_exactly_and_once(labels: np.ndarray) -> None:
    filled = labels < FREE
    back, times = covered(filled, labels)
    padded = np.pad(filled, 1)
    for number, (axis, direction) in enumerate(SIDES):
        beyond = np.roll(padded, -direction, axis)[1:-1, 1:-1, 1:-1]
        np.testing.assert_array_equal(times[number], (filled & ~beyond).astype(int))
        np.testing.assert_array_equal(back[number], np.where(times[number], labels, 0))


def test_a_plain_road_is_five_rectangles() -> None:
    filled = np.zeros((50, 40, 8), np.bool_)
    filled[:, 5:35, 2] = True
    cells, sides = visible(filled)
    faces = merged(cells, sides, np.full(len(cells), 11), filled.shape)
    assert len(faces) == len(SIDES) and faces.size[TOP].tolist() == [50, 30, 1]
    grid = VoxelGrid(shape=(50, 40, 8), lower_m=(-10.0, -8.0, -1.0))
    np.testing.assert_allclose(faces.centers_m(grid)[TOP], [0.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(faces.sizes_m(grid)[TOP], [20.0, 12.0, 0.4], rtol=1e-6)
    assert len(merged(*visible(~filled & filled), np.zeros(0), filled.shape)) == 0


def test_the_faces_of_the_page_look_where_they_should() -> None:
    for number, (axis, direction) in enumerate((*SIDES, (2, -1))):
        for triangle in CUBE_FACES[2 * number : 2 * number + 2]:
            a, b, c = CUBE[triangle]
            normal = np.cross(b - a, c - a)
            assert normal[axis] * direction > 0 and np.abs(normal).sum() == abs(normal[axis])
            assert (CUBE[triangle][:, axis] == direction / 2).all()


def test_classes_and_layers_can_be_left_out() -> None:
    labels = np.full((8, 8, 6), FREE, np.uint8)
    labels[..., 0] = CLASS_ID["driveable_surface"]
    labels[2, 2, 1:5] = CLASS_ID["manmade"]
    left = chosen(labels, (CLASS_ID["driveable_surface"],), (2, 4))
    assert sorted(map(tuple, np.argwhere(left < FREE))) == [(2, 2, 2), (2, 2, 3)]
    faces, colors = class_faces(labels, (CLASS_ID["driveable_surface"],))
    assert len(faces) == 5 and faces.size.tolist() == [*[[1, 1, 4]] * 4, [1, 1, 1]] and colors.shape == (5, 3)
    assert (labels[..., 0] == CLASS_ID["driveable_surface"]).all(), "the labels themselves stay"


def test_colours_are_those_of_the_pictures_in_linear_light() -> None:
    lightest = CLASS_PALETTE.reshape(18, -1, 3)[:, 0]
    np.testing.assert_array_equal(lightest, linear(PICTURE_COLORS))
    assert linear(np.array([0, 255])).tolist() == [0, 255] and linear(np.array([128]))[0] == 55
    assert (np.diff(CLASS_PALETTE.reshape(18, -1, 3).astype(int).sum(2), axis=1) <= 0).all()


def test_the_ground_beside_a_wall_is_darker() -> None:
    labels = np.full((30, 30, 10), FREE, np.uint8)
    labels[..., 0] = 11
    labels[15, :, 1:8] = 15
    level = lit(labels < FREE)[:, 15, 0]
    assert level[14] > level[3] and level[3] == 0


@given(LABELS)
def test_differences_are_of_four_kinds(labels: np.ndarray) -> None:
    other = np.roll(labels.ravel(), 1).reshape(labels.shape)
    kind, back = differences(labels, other), differences(other, labels)
    assert ((kind == 0) == ((labels == FREE) & (other == FREE))).all()
    assert ((kind == AGREES) == ((labels == other) & (labels < FREE))).all()
    assert ((kind == MISSED) == (back == INVENTED)).all() and ((kind == OTHER_CLASS) == (back == OTHER_CLASS)).all()


def test_equal_worlds_show_no_difference_and_other_grids_are_refused() -> None:
    labels = np.full((6, 6, 4), FREE, np.uint8)
    labels[..., 0] = 11
    _, colors = difference_faces(labels, labels)
    dim = DIFFERENCE_PALETTE.reshape(5, -1, 3)[AGREES]
    assert {tuple(color) for color in colors} <= {tuple(color) for color in dim}
    other = labels.copy()
    other[3, 3, 1] = 4
    _, colors = difference_faces(labels, other)
    assert {tuple(color) for color in colors} & {tuple(c) for c in DIFFERENCE_PALETTE.reshape(5, -1, 3)[MISSED]}
    with pytest.raises(ConfigError, match="one grid"):
        differences(labels, labels[:3])
