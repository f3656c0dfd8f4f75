"""Level motions on ground that is not level."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from world_model.core.grid import DRIVEABLE, FREE, OCC3D
from world_model.models.geometric.riding import RoadPlane, fit_plane


def road(height_m: Tensor) -> Tensor:
    """Labels (1, X, Y, Z) with one road voxel in every column, at heights (X, Y)."""
    z = ((height_m - OCC3D.lower_m[2]) / OCC3D.voxel_m).floor().long()
    labels = torch.full((1, *OCC3D.shape), FREE, dtype=torch.uint8)
    return labels.scatter_(3, z[None, ..., None], DRIVEABLE)


def places() -> tuple[Tensor, Tensor]:
    x, y = (OCC3D.lower_m[a] + OCC3D.voxel_m * (torch.arange(OCC3D.shape[a]) + 0.5) for a in (0, 1))
    return torch.meshgrid(x, y, indexing="ij")


def level(x_m: float, y_m: float, yaw: float) -> Tensor:
    """(1, 4, 4) a level pose."""
    pose = torch.eye(4)
    pose[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    pose[:2, 3] = torch.tensor([x_m, y_m])
    return pose[None]


def test_a_level_road_changes_nothing() -> None:
    plane = RoadPlane.of(road(torch.zeros(OCC3D.shape[:2])), OCC3D)
    pose = level(13.0, -2.0, 0.4)
    assert torch.equal(plane.ride(pose, OCC3D), pose)


@pytest.mark.parametrize("degrees", [-1.5, 3.0, 6.0])
def test_a_car_climbs_and_pitches_with_its_road(degrees: float) -> None:
    x, _ = places()
    grade = math.tan(math.radians(degrees))
    plane = RoadPlane.of(road((x - 8).clamp(min=0) * grade), OCC3D)  # Level at first, a constant grade from 8 m on.
    ridden = plane.ride(level(24.0, 0.0, 0.0), OCC3D)[0]
    assert float(ridden[2, 3]) == pytest.approx(16 * grade, abs=0.3)
    pitch = math.degrees(math.atan2(float(ridden[2, 0]), float(ridden[0, 0])))
    assert 0.3 < pitch / degrees < 1.2
    assert torch.allclose(ridden[:3, :3] @ ridden[:3, :3].t(), torch.eye(3), atol=1e-5)
    assert float(ridden[1, 0]) == 0  # The heading stays.


def test_a_car_that_faces_the_slope_pitches_whatever_its_heading() -> None:
    _, y = places()
    plane = RoadPlane.of(road((y - 20).clamp(min=0) * math.tan(math.radians(5))), OCC3D)
    ridden = plane.ride(level(0.0, 30.0, math.pi / 2), OCC3D)[0]
    assert float(ridden[2, 0]) > 0.02 and abs(float(ridden[2, 1])) < 0.01


def test_motions_with_a_height_or_a_tilt_of_their_own_are_left() -> None:
    x, _ = places()
    plane = RoadPlane.of(road((x.clamp(4, 30) - 4) * 0.08), OCC3D)
    risen, tilted = level(20.0, 0.0, 0.0), level(20.0, 0.0, 0.0)
    risen[0, 2, 3], tilted[0, 2, 0] = 0.3, 0.05
    assert torch.equal(plane.ride(risen, OCC3D), risen) and torch.equal(plane.ride(tilted, OCC3D), tilted)


def test_no_road_changes_nothing() -> None:
    empty = RoadPlane.of(torch.full((2, *OCC3D.shape), FREE, dtype=torch.uint8), OCC3D)
    pose = level(20.0, 0.0, 0.1).repeat(2, 1, 1)
    assert torch.equal(empty.ride(pose, OCC3D), pose)
    assert torch.equal(RoadPlane.of(road(places()[0] * 0.02 + 1), OCC3D).blank(2).ride(pose, OCC3D), pose)


def test_a_batch_equals_its_singles() -> None:
    x, y = places()
    labels = torch.cat([road(torch.zeros_like(x)), road((x.clamp(4, 30) - 4) * 0.08), road(y.clamp(0, 20) * 0.06)])
    pose = torch.cat([level(15.0, 3.0, 0.2), level(22.0, 1.0, -0.3), level(5.0, 12.0, 0.0)])
    together = RoadPlane.of(labels, OCC3D).ride(pose, OCC3D)
    apart = [RoadPlane.of(labels[n : n + 1], OCC3D).ride(pose[n : n + 1], OCC3D) for n in range(3)]
    assert torch.equal(together, torch.cat(apart))
    assert not torch.equal(together[1:], pose[1:]) and torch.equal(together[0], pose[0])


def test_a_plane_is_found_where_it_is() -> None:
    x, y = places()
    plane = RoadPlane.of(road(0.04 * x + 0.02 * y + 1.4), OCC3D)
    height, along, across, columns = fit_plane(plane.sums, torch.tensor([[6.0, -3.0]]), OCC3D)[0].tolist()
    assert height == pytest.approx(0.04 * 6 - 0.02 * 3 + 1.4, abs=0.1)
    assert along == pytest.approx(0.04, abs=0.008) and across == pytest.approx(0.02, abs=0.008)
    assert columns > 1000
