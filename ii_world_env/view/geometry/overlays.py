"""What is drawn over the voxels: the ego's car, its path and route, the boxes of other road users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ii_world_env.ego.route import points_at
from ii_world_env.engine import Engine, State
from ii_world_env.view.geometry.colors import linear
from world_model.core.errors import OptionError
from world_model.core.geometry import into
from world_model.core.grid import CLASS_COLORS, VoxelGrid
from world_model.pictures.voxels import ego_boxes, plates, ribbon

_ROUTE_M = 60.0
_EDGES = np.array([(a, b) for a in range(8) for b in range(a) if (a ^ b) in (1, 2, 4)])
_CORNERS = np.array([(i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(8)], np.float32)


@dataclass(frozen=True, kw_only=True)
class Car:
    """One other road user.

    Attributes:
        lines: (12, 2, 3) float32 edges of its box in metres, ego frame. top: (3,) above it.
        color: RGB of its class. text: its speed, empty where it stands.
    """

    lines: NDArray[Any]
    top: NDArray[Any]
    color: tuple[int, int, int]
    text: str


def ego_car() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The ego vehicle: centres (N, 3), edges (N, 3) in metres and linear colours (N, 3) uint8 of its boxes."""
    low, high, color = (np.stack(part).astype(np.float32) for part in zip(*ego_boxes(), strict=True))
    return (low + high) / 2, high - low, linear(color)


def quads(corners_m: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Corners (N, 4, 3) -> vertices (4 N, 3) float32 and triangles (2 N, 3) uint32."""
    first = np.arange(len(corners_m), dtype=np.uint32)[:, None] * 4
    faces = (first[:, None] + np.array(((0, 1, 2), (0, 2, 3)), np.uint32)).reshape(-1, 3)
    return corners_m.reshape(-1, 3).astype(np.float32), faces


def route_quads(state: State, labels: NDArray[Any], grid: VoxelGrid) -> NDArray[Any]:
    """(N, 4, 3) plates on the route ahead, in the ego frame of a state of one environment."""
    reach = torch.arange(0.0, _ROUTE_M, 2.0, device=state.pose.device)[None]
    points = into(state.pose, points_at(state.route, reach + state.progress_m[:, None]))[0]
    return plates(points.cpu().numpy(), labels, grid)


def path_quads(state: State, driven: NDArray[Any], labels: NDArray[Any], grid: VoxelGrid) -> NDArray[Any]:
    """(N, 4, 3) ribbon along driven poses (M, 3) of the start frame, in the ego frame of a state."""
    points = torch.as_tensor(driven[None, :, :2], dtype=torch.float32, device=state.pose.device)
    return ribbon(into(state.pose, points)[0].cpu().numpy(), labels, grid)


def cars_of(engine: Engine, state: State) -> list[Car]:
    """The other road users of one environment; none where the world knows none."""
    try:
        tracks = engine.agents(state)
    except OptionError:
        return []
    alive = tracks.alive[0]
    names = ("x", "y", "yaw", "length", "width", "height", "speed", "class_id")
    rows = torch.stack([getattr(tracks, name)[0][alive].double() for name in names], -1).cpu().tolist()
    return [_car(*row) for row in rows]


def _car(
    x: float, y: float, yaw: float, length: float, width: float, height: float, speed: float, class_id: float
) -> Car:
    corners = (_CORNERS - (0.5, 0.5, 0)) * (length, width, height)
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turned = corners @ np.array(((cosine, sine, 0), (-sine, cosine, 0), (0, 0, 1))) + (x, y, 0.1)
    return Car(
        lines=turned[_EDGES].astype(np.float32),
        top=np.array((x, y, height + 0.4), np.float32),
        color=CLASS_COLORS[int(class_id)],
        text=f"{speed * 3.6:.0f} km/h" if speed > 0.3 else "",
    )
