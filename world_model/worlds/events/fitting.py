"""From the name of an event to its actor: the variant of its course that fits the place.

An event is a body and where it is at every moment, however the ego drives; both worlds that can stage it show the same
one. It is laid along the recorded way, timed for an ego that keeps its speed, and can be survived by braking in time.

Legend: B starts, F recorded poses ahead, T steps, P points of a corridor, N moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, planar_pose
from world_model.core.grid import CLASS_ID, DRIVEABLE, STEP_S, VoxelGrid
from world_model.core.ground import on_level_ground
from world_model.core.sparse import member
from world_model.data.clips import Clips
from world_model.models.geometric.agents.actors import CORRIDOR_POINTS, Actors
from world_model.models.geometric.agents.scripts import SCRIPT_STEPS
from world_model.models.geometric.agents.segments import SIZES_M
from world_model.worlds.events.courses import COURSES, EVENTS, FINE, FRONT_M, Course, Floats, Way

TRIES, FIT_S = 16, 5.0
"""Variants that are drawn, and the seconds for which they must fit; the one that fits the place best is staged."""
LEAST_MPS = 4.0
"""Events are timed for no slower ego."""
WALLS = tuple(CLASS_ID[name] for name in ("barrier", "traffic_cone", "manmade", "vegetation"))


def check_event(event: object) -> str:
    """The name of an event.

    Raises:
        OptionError: there is no such event.
    """
    if event not in EVENTS:
        raise OptionError(f"event={event!r}", f"one of {tuple(EVENTS)}", "choose one of them")
    return str(event)


def actors_of(
    events: Sequence[str | None],
    seeds: Tensor,
    clips: Clips,
    labels: Tensor,
    grid: VoxelGrid,
    speed_mps: Tensor | None = None,
) -> Actors:
    """The actors of B events; equal starts, names and seeds give equal ones, whatever else is in the batch.

    Args:
        events: (B) names, None for none.
        seeds: (B,) int64.
        clips: where they start; their recorded future is the way of the ego.
        labels: (B, X, Y, Z) uint8 of the current frames.
        grid: the voxel grid.
        speed_mps: (B,) start speeds; None or NaN: as recorded.

    Raises:
        OptionError: there is no such event.
    """
    level = on_level_ground(labels.cpu())
    rows = []
    for b, event in enumerate(events):
        if event is None:
            rows.append(_nobody())
            continue
        poses = clips.ego_to_global[b, clips.past :]
        way = Way.along(planar_pose(invert_pose(poses[:1]) @ poses).numpy())
        given = float("nan") if speed_mps is None else float(speed_mps[b])
        speed = float(clips.motion[b, clips.past, 0]) if np.isnan(given) else given
        rows.append(_fitting(check_event(event), int(seeds[b]), way, max(speed, LEAST_MPS), level[b], grid))
    return Actors.cat(rows)


def _nobody() -> Actors:
    return Actors(
        present=torch.zeros(1, dtype=torch.bool, device="cpu"),
        class_id=torch.zeros(1, dtype=torch.uint8, device="cpu"),
        size_m=torch.zeros(1, 3, dtype=torch.float32, device="cpu"),
        pose=torch.full((1, SCRIPT_STEPS + 1, 4), float("nan"), dtype=torch.float32, device="cpu"),
        corridor=torch.full((1, CORRIDOR_POINTS, 2), float("nan"), dtype=torch.float32, device="cpu"),
    )


def _fitting(event: str, seed: int, way: Way, speed: float, labels: Tensor, grid: VoxelGrid) -> Actors:
    """The variant that runs into fewest walls, and (vehicles) leaves the road least; the first of equals."""
    name = list(EVENTS).index(event)
    walls = member(labels[..., 3:8], WALLS).any(-1).numpy()
    off = (~(labels == DRIVEABLE).any(-1)).numpy()
    best, found = np.inf, None
    for number in range(TRIES):
        rng = np.random.default_rng([seed, name, number])
        course = COURSES[event](rng, speed)
        size = np.array(SIZES_M[course.name]) * rng.uniform(0.92, 1.08)
        pose = _poses(course, way)
        cells = _cells(pose[:: 2 * FINE][: round(FIT_S / STEP_S / 2) + 1], size, grid)
        cost = 5.0 * walls[cells].mean() + (0.0 if course.name == "pedestrian" else off[cells].mean()) if cells else 1e3
        if cost < best:
            best, found = cost, (course, size, pose)
        if best < 0.02:
            break
    assert found is not None
    course, size, pose = found
    return _actor(course, size, pose[::FINE], way)


def _actor(course: Course, size: Floats, pose: Floats, way: Way) -> Actors:
    corridor = np.full((CORRIDOR_POINTS, 2), np.nan)
    own = pose[0, :2] + np.linspace(-0.5, 0.5, 3)[:, None] * size[0] * np.array(
        (np.cos(pose[0, 2]), np.sin(pose[0, 2]))
    )
    s = np.arange(FRONT_M + 1.0, course.cleared_m, 1.0)[: CORRIDOR_POINTS - 3]
    corridor[: len(s)], corridor[-3:] = way.at(s, 0.0), own
    return Actors(
        present=torch.ones(1, dtype=torch.bool, device="cpu"),
        class_id=torch.tensor([CLASS_ID[course.name]], dtype=torch.uint8, device="cpu"),
        size_m=torch.from_numpy(size[None].astype(np.float32)),
        pose=torch.from_numpy(pose[None].astype(np.float32)),
        corridor=torch.from_numpy(corridor[None].astype(np.float32)),
    )


def _poses(course: Course, way: Way) -> Floats:
    """(N, 4) x, y, yaw, speed of a course."""
    xy = way.at(course.s, course.d)
    velocity = np.gradient(xy, axis=0) / (STEP_S / FINE)
    speed = np.linalg.norm(velocity, axis=1)
    standing = np.interp(course.s, way.s, way.yaw) + course.standing_yaw
    yaw = np.arctan2(velocity[:, 1], velocity[:, 0])
    # What stands keeps the heading it came with.
    last = np.maximum.accumulate(np.where(speed > 0.2, np.arange(len(yaw)), -1))
    yaw = np.where(last >= 0, yaw[np.maximum(last, 0)], standing)
    return np.column_stack((xy, yaw, speed))


def _cells(poses: Floats, size: Floats, grid: VoxelGrid) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Columns (x, y) under a body at N poses, inside the grid; None where there are none."""
    u, v = (np.arange(-extent / 2, extent / 2 + 0.2, grid.voxel_m) for extent in size[:2])
    along, across = (part.ravel() for part in np.meshgrid(u, v))
    c, s = np.cos(poses[:, 2, None]), np.sin(poses[:, 2, None])
    x = poses[:, 0, None] + c * along - s * across
    y = poses[:, 1, None] + s * along + c * across
    i, j = (np.floor((at - low) / grid.voxel_m).astype(int) for at, low in ((x, grid.lower_m[0]), (y, grid.lower_m[1])))
    inside = (i >= 0) & (i < grid.shape[0]) & (j >= 0) & (j < grid.shape[1])
    return (i[inside], j[inside]) if inside.any() else None
