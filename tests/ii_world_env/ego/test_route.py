"""The recorded route: projections, points ahead, destination."""

from __future__ import annotations

import pytest
import torch
from street import SMALL, street_clips

from ii_world_env.ego.route import EXTENSION_M, Route, points_at, project, route_of
from world_model.core.geometry import se2_matrix
from world_model.data.clips import Clips


def bend(radius_m: float = 20.0) -> Clips:
    """Clips whose log drives a left circle with 3 m a step."""
    clips = street_clips(SMALL, future=20)
    angle = torch.arange(-4, 21, dtype=torch.float64) * 3 / radius_m
    poses = se2_matrix(radius_m * angle.sin(), radius_m * (1 - angle.cos()), angle)
    return Clips(**{**vars(clips), "ego_to_global": poses[None]})


def at(x: float, y: float) -> torch.Tensor:
    return torch.tensor([[x, y]])


ZERO = torch.zeros(1)


def test_straight_route_gives_coordinates_back() -> None:
    route = route_of(street_clips(SMALL, speed_mps=6.0), horizon=8)
    along, aside = project(route, at(7.3, 1.5), ZERO)
    assert along.item() == pytest.approx(7.3, abs=1e-4) and aside.item() == pytest.approx(1.5, abs=1e-4)
    assert project(route, at(7.3, -2.0), ZERO)[1].item() == pytest.approx(-2.0, abs=1e-4)
    assert route.goal_m.item() == pytest.approx(8 * 3.0, abs=1e-3)


def test_route_does_not_depend_on_where_in_the_world_it_is() -> None:
    clips = bend()
    shift = se2_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (800.0, 1300.0, 2.0)))
    moved = Clips(**{**vars(clips), "ego_to_global": shift @ clips.ego_to_global})
    assert torch.allclose(route_of(clips, 8).points, route_of(moved, 8).points, atol=1e-4)


def test_points_at_and_project_are_inverse() -> None:
    route = route_of(bend(), 16)
    for wanted in (0.0, 4.2, 13.0, 47.7, 55.0):
        point = points_at(route, torch.tensor([[wanted]]))[:, 0]
        along, aside = project(route, point, torch.tensor([wanted]))
        assert along.item() == pytest.approx(wanted, abs=0.02) and abs(aside.item()) < 0.02


def test_route_goes_straight_on_after_its_end() -> None:
    route = route_of(street_clips(SMALL, future=10), 8)
    end = points_at(route, torch.tensor([[30.0, 60.0, 30 + EXTENSION_M + 10]]))[0]
    assert torch.allclose(end, torch.tensor([[30.0, 0], [60, 0], [120, 0]]), atol=1e-3)


def test_a_crossing_route_does_not_jump() -> None:
    route = route_of(bend(radius_m=8.0), 16)  # after 50 m it is back at the start
    along, _ = project(route, at(0.1, 0.0), torch.tensor([48.0]))
    assert along.item() > 40
    assert project(route, at(0.1, 0.0), ZERO)[0].item() < 5


def test_a_standing_log_has_a_route_ahead_and_no_way_to_go() -> None:
    route = route_of(street_clips(SMALL, speed_mps=0.0), 8)
    assert isinstance(route, Route)
    assert route.goal_m.item() == 0
    assert points_at(route, torch.tensor([[10.0]]))[0, 0].tolist() == pytest.approx([10.0, 0.0], abs=1e-4)


def test_destination_is_the_last_recorded_pose_where_the_log_ends_early() -> None:
    clips = street_clips(SMALL, future=12)
    valid = clips.valid.clone()
    valid[:, 4 + 1 + 5 :] = False
    poses = clips.ego_to_global.clone()
    poses[:, 4 + 5 :] = poses[:, 4 + 5 : 4 + 6]
    route = route_of(Clips(**{**vars(clips), "valid": valid, "ego_to_global": poses}), 10)
    assert route.recorded.item() == 5 and route.goal_m.item() == pytest.approx(15.0, abs=1e-3)
