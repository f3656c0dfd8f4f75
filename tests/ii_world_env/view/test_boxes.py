"""Boxes cover what is visible, exactly and once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ii_world_env.view.geometry.boxes import HIDDEN, merged, surface
from ii_world_env.view.geometry.colors import (
    CLASS_PALETTE,
    DIFFERENCE_PALETTE,
    chosen,
    class_boxes,
    difference_boxes,
    differences,
    linear,
    lit,
)
from world_model.core.errors import ConfigError
from world_model.core.grid import CLASS_ID, FREE, VoxelGrid
from world_model.pictures.bev import PICTURE_COLORS
from world_model.pictures.difference import AGREES, INVENTED, MISSED, OTHER_CLASS

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
LABELS = SHAPES.flatmap(lambda shape: arrays.arrays(np.uint8, shape, elements=st.sampled_from([4, 11, FREE])))


def painted(keys: np.ndarray) -> np.ndarray:
    boxes = merged(keys)
    back = np.full(keys.shape, HIDDEN, np.uint8)
    for first, size, key in zip(boxes.first, boxes.size, boxes.key, strict=True):
        place = tuple(slice(a, a + b) for a, b in zip(first, size, strict=True))
        assert (back[place] == HIDDEN).all(), "two boxes overlap"
        back[place] = key
    return back


@given(LABELS)
def test_boxes_cover_the_keys_exactly_and_once(labels: np.ndarray) -> None:
    keys = np.where(labels == FREE, HIDDEN, labels).astype(np.uint8)
    np.testing.assert_array_equal(painted(keys), keys)


@given(LABELS)
def test_the_surface_is_what_touches_free_space_or_the_edge(labels: np.ndarray) -> None:
    filled = np.pad(labels < FREE, 1)
    open_near = np.zeros(labels.shape, np.bool_)
    for axis in range(3):
        for side in (-1, 1):
            open_near |= ~np.roll(filled, side, axis)[1:-1, 1:-1, 1:-1]
    np.testing.assert_array_equal(surface(labels), (labels < FREE) & open_near)


def test_a_plain_road_is_one_box() -> None:
    keys = np.full((50, 40, 8), HIDDEN, np.uint8)
    keys[:, 5:35, 2] = 11
    boxes = merged(keys)
    assert len(boxes) == 1 and boxes.size.tolist() == [[50, 30, 1]]
    grid = VoxelGrid(shape=(50, 40, 8), lower_m=(-10.0, -8.0, -1.0))
    np.testing.assert_allclose(boxes.centers_m(grid), [[0.0, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(boxes.sizes_m(grid), [[20.0, 12.0, 0.4]], rtol=1e-6)
    assert len(merged(np.full((4, 4, 4), HIDDEN, np.uint8))) == 0


def test_classes_and_layers_can_be_left_out() -> None:
    labels = np.full((8, 8, 6), FREE, np.uint8)
    labels[..., 0] = CLASS_ID["driveable_surface"]
    labels[2, 2, 1:5] = CLASS_ID["manmade"]
    left = chosen(labels, (CLASS_ID["driveable_surface"],), (2, 4))
    assert sorted(map(tuple, np.argwhere(left < FREE))) == [(2, 2, 2), (2, 2, 3)]
    boxes, colors = class_boxes(labels, (CLASS_ID["driveable_surface"],))
    assert len(boxes) == 1 and boxes.size[0].tolist() == [1, 1, 4] and colors.shape == (1, 3)
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
    level = lit(labels)[:, 15, 0]
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
    _, colors = difference_boxes(labels, labels)
    dim = DIFFERENCE_PALETTE.reshape(5, -1, 3)[AGREES]
    assert {tuple(color) for color in colors} <= {tuple(color) for color in dim}
    other = labels.copy()
    other[3, 3, 1] = 4
    _, colors = difference_boxes(labels, other)
    assert {tuple(color) for color in colors} & {tuple(c) for c in DIFFERENCE_PALETTE.reshape(5, -1, 3)[MISSED]}
    with pytest.raises(ConfigError, match="one grid"):
        differences(labels, labels[:3])
