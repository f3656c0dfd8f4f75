"""What agents see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from street import SMALL, street

from ii_world_env.observations import PRIORITY, bev
from ii_world_env.spaces import action_space, observation_space
from world_model.errors import OptionError
from world_model.grid import CLASS_ID, FREE, NUM_CLASSES, OCC3D


def test_priority_names_every_class_once() -> None:
    assert sorted(PRIORITY) == list(range(NUM_CLASSES))


def test_map_keeps_axes() -> None:
    labels = np.full(OCC3D.shape, FREE, np.uint8)
    labels[150, 30, 3] = CLASS_ID["car"]
    seen = bev(torch.from_numpy(labels)[None], OCC3D)[0].numpy()
    assert seen.shape == (100, 100) and seen.dtype == np.uint8
    assert np.argwhere(seen != FREE).tolist() == [[75, 15]] and seen[75, 15] == CLASS_ID["car"]


def test_one_pedestrian_voxel_survives_pooling_over_a_car_and_ground() -> None:
    labels = np.full(OCC3D.shape, FREE, np.uint8)
    labels[100:102, 100:102, 2] = CLASS_ID["driveable_surface"]
    labels[100:102, 100:102, 3:6] = CLASS_ID["car"]
    labels[101, 101, 3] = CLASS_ID["pedestrian"]
    assert bev(torch.from_numpy(labels)[None], OCC3D)[0, 50, 50] == CLASS_ID["pedestrian"]


def test_tree_crowns_do_not_hide_the_road() -> None:
    labels = street(SMALL)
    labels[..., 12:] = CLASS_ID["vegetation"]
    seen = bev(torch.from_numpy(labels)[None], SMALL)[0]
    assert seen[25, 25] == CLASS_ID["driveable_surface"]


def test_classes_are_bounded_by_seventeen_and_vectors_by_finite_numbers() -> None:
    space = observation_space("bev", "delta", OCC3D)
    assert space["bev"].high.max() == FREE and space["ego"].shape == (7,)
    assert all(np.isfinite(part.low).all() and np.isfinite(part.high).all() for part in space.values())
    assert observation_space("occupancy", "delta", OCC3D).shape == OCC3D.shape


def test_unknown_modes_list_the_known_ones() -> None:
    with pytest.raises(OptionError, match="occupancy"):
        observation_space("lidar", "delta", OCC3D)
    with pytest.raises(OptionError, match="kinematic"):
        action_space("joystick")
