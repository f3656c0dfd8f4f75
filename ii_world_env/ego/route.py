"""The recorded route: where the log drove, how far along it the ego is, where it leads on.

Everything is given in the start frame, the ego frame at reset. Legend: B environments, R route points, F future frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.geometry import level_poses, planar_pose
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips

EXTENSION_M = 80.0
"""The route goes on straight for so long behind the last recorded pose, so that points ahead always exist."""
REACH_M = 15.0
"""A projection stays within so many metres of the last one: a route that crosses itself does not jump."""


@dataclass(frozen=True, kw_only=True)
class Route(TensorState):
    """Recorded routes of B environments.

    Attributes:
        points: (B, R, 2) polyline, metres; the last segment is the straight extension.
        length_m: (B, R) arc length at the points.
        log: (B, F + 1, 3) recorded x, y, yaw from the reset on; the last recorded pose repeats beyond the recording.
        log_m: (B, F + 1) arc length at the recorded poses.
        recorded: (B,) int64, recorded frames after the reset.
        goal_m: (B,) arc length of the destination: where the log is after the horizon, or where it ends.
    """

    points: Tensor
    length_m: Tensor
    log: Tensor
    log_m: Tensor
    recorded: Tensor
    goal_m: Tensor


def route_of(clips: Clips, horizon: int) -> Route:
    """Routes of clips; the destination is where the log is after ``horizon`` steps."""
    log = planar_pose(level_poses(clips.ego_to_global[:, clips.past :])).float()
    heading = log[:, -1:, 2]
    ahead = torch.stack((heading.cos(), heading.sin()), -1) * EXTENSION_M
    points = torch.cat((log[..., :2], log[:, -1:, :2] + ahead), 1)
    length = torch.cat((points.new_zeros(len(points), 1), points.diff(dim=1).norm(dim=-1).cumsum(1)), 1)
    recorded = clips.valid[:, clips.past + 1 :].sum(1)
    last = recorded.clamp(max=horizon)
    return Route(
        points=points,
        length_m=length,
        log=log,
        log_m=length[:, :-1],
        recorded=recorded,
        goal_m=length.gather(1, last[:, None])[:, 0],
    )


def project(route: Route, place: Tensor, near_m: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest point of the route.

    Args:
        place: (B, 2) metres, start frame.
        near_m: (B,) arc length of an earlier projection.

    Returns:
        (B,) arc length, (B,) lateral offset in metres, positive to the left of the route.
    """
    begin, step = route.points[:, :-1], route.points.diff(dim=1)
    square = step.square().sum(-1)
    offset = place[:, None] - begin
    part = ((offset * step).sum(-1) / square.clamp(min=1e-9)).clamp(0, 1)
    along = route.length_m[:, :-1] + part * square.sqrt()
    away = offset - part[..., None] * step
    far = away.square().sum(-1) + 1e6 * ((along - near_m[:, None]).abs() > REACH_M)
    best = far.argmin(1, keepdim=True)
    chosen, gap = (
        step.gather(1, best[..., None].expand(-1, -1, 2))[:, 0],
        away.gather(1, best[..., None].expand(-1, -1, 2))[:, 0],
    )
    left = torch.sign(chosen[:, 0] * gap[:, 1] - chosen[:, 1] * gap[:, 0])
    return along.gather(1, best)[:, 0], gap.norm(dim=-1) * left


def points_at(route: Route, at_m: Tensor) -> Tensor:
    """Points (B, N, 2) of the route at arc lengths (B, N), straight on beyond its end."""
    upper = torch.searchsorted(route.length_m.contiguous(), at_m.contiguous(), right=True)
    upper = upper.clamp(1, route.length_m.shape[1] - 1)
    low, high = route.length_m.gather(1, upper - 1), route.length_m.gather(1, upper)
    part = ((at_m - low) / (high - low).clamp(min=1e-6))[..., None]
    wide = upper[..., None].expand(-1, -1, 2)
    return route.points.gather(1, wide - 1) * (1 - part) + route.points.gather(1, wide) * part
