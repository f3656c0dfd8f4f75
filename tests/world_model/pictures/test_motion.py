"""Arrows point where things go, and differences are coloured by what differs."""

from __future__ import annotations

import numpy as np
import pytest

from world_model.core.errors import ConfigError
from world_model.core.grid import CLASS_ID, FREE, VoxelGrid
from world_model.pictures.bev import birds_eye
from world_model.pictures.difference import AGREES, INVENTED, MISSED, OTHER_CLASS, difference_map, difference_picture
from world_model.pictures.vectors import Vectors, box_vectors, ego_vector, outline

GRID = VoxelGrid(shape=(50, 50, 8), lower_m=(-10, -10, -1))
RED = (255, 0, 0)


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def arrow(start: tuple[float, float], vector: tuple[float, float]) -> Vectors:
    return Vectors(start_m=np.array([start]), vector_m=np.array([vector]), color=RED)


@pytest.mark.parametrize(("vector", "rows", "columns"), [((8, 0), slice(0, 50), None), ((0, 8), None, slice(0, 50))])
def test_arrows_point_up_for_forward_and_left_for_left(
    vector: tuple[float, float], rows: slice | None, columns: slice | None
) -> None:
    picture = birds_eye(empty(), scale=2, grid=GRID, footprint=False, vectors=[arrow((0, 0), vector)])
    red = (picture[..., 0] > 200) & (picture[..., 1] < 60)
    where = np.argwhere(red)
    assert len(where) > 40
    inside = red[rows] if rows is not None else red[:, columns]
    # The butt of the arrow lies on the middle line itself.
    assert inside.sum() > 0.95 * red.sum()


def test_arrows_reach_their_tip_and_short_or_unknown_ones_are_left_out() -> None:
    shape = outline(np.array((1.0, 2.0)), np.array((3.0, 4.0)), 0.5)
    assert np.allclose(shape[3], (4, 6)) and np.allclose((shape[0] + shape[-1]) / 2, (1, 2))
    for vector in ((0.2, 0.1), (np.nan, 1.0)):
        picture = birds_eye(empty(), grid=GRID, vectors=[arrow((0, 0), vector)])
        assert (picture == birds_eye(empty(), grid=GRID)).all()


def test_vectors_are_velocities() -> None:
    class Box:
        center_m = np.array([(1.0, 2.0, 0.5)])
        velocity_mps = np.array([(3.0, -1.0)])

    arrows = box_vectors(Box())  # type: ignore[arg-type]
    assert np.allclose(arrows.start_m, [(1, 2)]) and np.allclose(arrows.vector_m, [(6, -2)])
    assert np.allclose(ego_vector(np.array((2.0, 0.5, 0.1))).vector_m, [(8, 2)])


def test_every_kind_of_difference_has_its_place_and_colour() -> None:
    ours, theirs = empty(), empty()
    car, road = CLASS_ID["car"], CLASS_ID["driveable_surface"]
    ours[0, 0, 3], theirs[0, 0, 1] = car, car  # seen from above the same
    ours[0, 1, 3], theirs[0, 1, 3] = car, road
    theirs[1, 0, 2] = road
    ours[1, 1, 2] = road
    table = difference_map(ours, theirs)
    assert table[:2, :2].tolist() == [[AGREES, OTHER_CLASS], [MISSED, INVENTED]] and table[2:].sum() == 0
    picture = difference_picture(ours, theirs, 2)
    assert picture.shape == (100, 100, 3)
    corner = picture[-4::2, -4::2][::-1, ::-1]  # back to [x, y]
    assert len({tuple(c) for c in corner.reshape(-1, 3).tolist()}) == 4
    with pytest.raises(ConfigError):
        difference_map(ours, theirs[:10])
