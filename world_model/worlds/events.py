"""Named events: one road user that does what logs hold once in a thousand scenes, on the way of the ego.

An event is a body and where it is at every moment, however the ego drives; both worlds that can stage it show the same
one. It is laid along the recorded way, timed for an ego that keeps its speed, and can be survived by braking in time.

Legend: B starts, F recorded poses ahead, T steps, P points of a corridor, N moments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, planar_pose
from world_model.core.grid import CLASS_ID, DRIVEABLE, EGO_LENGTH_M, EGO_REAR_OVERHANG_M, STEP_S, VoxelGrid
from world_model.core.ground import on_level_ground
from world_model.core.sparse import member
from world_model.data.clips import Clips
from world_model.models.geometric.agents.actors import CORRIDOR_POINTS, Actors
from world_model.models.geometric.agents.scripts import SCRIPT_STEPS
from world_model.models.geometric.agents.segments import SIZES_M

EVENTS = {
    "cut-in": "a car from the next lane moves in closely ahead and slows to half the ego's speed",
    "hard-brake": "the car ahead brakes hard to a stop, waits, and drives on",
    "jaywalker": "a pedestrian crosses the road where the ego will be",
    "oncoming": "a car that comes towards the ego leaves its lane, drives in the ego's, and returns late",
    "blocked-lane": "a truck stands in the lane",
}
"""What happens, by name."""
TRIES = 16
"""Variants that are drawn; the one that fits the place best is staged."""
FINE, FIT_S, AHEAD_M, LANE_M = 5, 5.0, 110.0, 3.5
"""Moments within a step, seconds for which a variant must fit, length of the way, and distance between lanes."""
RETURN_M = 8.0
"""Way on which an oncoming car changes lanes."""
LEAST_MPS = 4.0
"""Events are timed for no slower ego."""
CORRIDOR_M = 45.0
"""Others in the ego's lane are taken out up to so far along the way, when an event is staged."""
FRONT_M = EGO_LENGTH_M - EGO_REAR_OVERHANG_M
WALLS = tuple(CLASS_ID[name] for name in ("barrier", "traffic_cone", "manmade", "vegetation"))
Floats = NDArray[np.float64]


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
        way = _Way.along(planar_pose(invert_pose(poses[:1]) @ poses).numpy())
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


@dataclass(frozen=True, kw_only=True)
class _Way:
    """The ego's way as points (M, 2) and headings (M,) at arc lengths (M,), metres and rad."""

    s: Floats
    xy: Floats
    yaw: Floats

    @classmethod
    def along(cls, poses: Floats) -> _Way:
        """Through recorded poses (F, 3), straight on from the last."""
        kept = [poses[0, :2]]
        for place in poses[1:, :2]:
            if np.hypot(*(place - kept[-1])) > 1.0:
                kept.append(place)
        last = kept[-1] - kept[-2] if len(kept) > 1 else np.array((1.0, 0.0))
        kept.append(kept[-1] + last / np.linalg.norm(last) * AHEAD_M)
        xy = np.array(kept)
        s = np.concatenate(([0.0], np.linalg.norm(np.diff(xy, axis=0), axis=1).cumsum()))
        fine = np.arange(-20.0, AHEAD_M, 0.5)
        # Behind the ego the way goes straight back.
        points = np.stack([np.interp(fine, s, xy[:, axis]) for axis in (0, 1)], 1)
        points[fine < 0, 0] += fine[fine < 0]
        yaw = np.unwrap(np.arctan2(*np.gradient(points, axis=0).T[::-1]))
        smooth = np.convolve(np.pad(yaw, 4, mode="edge"), np.ones(9) / 9, "valid")
        return cls(s=fine, xy=points, yaw=smooth)

    def at(self, s: Floats, d: Floats | float) -> Floats:
        """(N, 2) places at arc lengths (N,), d to the left of the way."""
        yaw = np.interp(s, self.s, self.yaw)
        middle = np.stack([np.interp(s, self.s, self.xy[:, axis]) for axis in (0, 1)], 1)
        aside: Floats = middle + np.stack((-np.sin(yaw) * d, np.cos(yaw) * d), 1)
        return aside


@dataclass(frozen=True, kw_only=True)
class _Course:
    """A variant of an event: class, size factor, arc length and offset (N,) of its middle, heading while it stands."""

    name: str
    s: Floats
    d: Floats
    standing_yaw: float = 0.0  # against the way
    cleared_m: float = CORRIDOR_M


TIME_S = np.arange(SCRIPT_STEPS * FINE + 1) * (STEP_S / FINE)


def _way_driven(start: float, speed: Floats) -> Floats:
    """(N,) arc length at speeds (N,)."""
    step = STEP_S / FINE
    way: Floats = start + np.concatenate(([0.0], (speed[1:] + speed[:-1]).cumsum() * (step / 2)))
    return way


def _smooth(t: Floats, begin: float, seconds: float) -> Floats:
    """(N,) from 0 to 1 within some seconds, with even ends."""
    part = np.clip((t - begin) / seconds, 0, 1)
    rise: Floats = (1 - np.cos(np.pi * part)) / 2
    return rise


def _speeds(changes: Sequence[tuple[float, float, float]], start: float) -> Floats:
    """(N,) speeds: from each time on an acceleration towards a speed; (time s, acceleration m/s², speed m/s)."""
    speed, now = np.empty_like(TIME_S), start
    for n, t in enumerate(TIME_S):
        speed[n] = now
        for begin, accel, aim in reversed(changes):
            if t >= begin:
                change = accel * STEP_S / FINE
                now = max(now - change, aim) if now > aim else min(now + change, aim)
                break
    return speed


def _hard_brake(rng: np.random.Generator, v: float) -> _Course:
    at, start = rng.uniform(0.5, 1.5), FRONT_M + 3.0 + v * rng.uniform(0.8, 1.2) + SIZES_M["car"][0] / 2
    stop = at + v / 6 + rng.uniform(2.0, 4.0)
    s = _way_driven(start, _speeds(((at, rng.uniform(5.5, 7.0), 0.0), (stop, 1.5, v)), v))
    return _Course(name="car", s=s, d=np.full_like(s, rng.uniform(-0.2, 0.2)))


def _cut_in(rng: np.random.Generator, v: float) -> _Course:
    begin, side = rng.uniform(0.3, 1.0), rng.choice((-1.0, 1.0))
    start = FRONT_M + rng.uniform(1.0, 4.0) + SIZES_M["car"][0] / 2
    speed = _speeds(((0.0, 1.5, v + 1.0), (begin + 1.0, 2.5, v / 2), (begin + 6.0, 1.0, v)), v)
    return _Course(name="car", s=_way_driven(start, speed), d=side * LANE_M * (1 - _smooth(TIME_S, begin, 2.2)))


def _jaywalker(rng: np.random.Generator, v: float) -> _Course:
    side, pace, from_m = rng.choice((-1.0, 1.0)), rng.uniform(1.6, 2.4), rng.uniform(3.0, 4.5)
    where = FRONT_M + max(v * max(rng.uniform(1.8, 2.6), from_m / pace), 9.0)
    begin = max((where - FRONT_M) / v - from_m / pace, 0.0)
    gone = np.clip((TIME_S - begin) * pace, 0, 2 * from_m)
    return _Course(
        name="pedestrian",
        s=np.full_like(gone, where),
        d=side * (from_m - gone),
        standing_yaw=-side * np.pi / 2,
        cleared_m=where + 1,
    )


def _oncoming(rng: np.random.Generator, v: float) -> _Course:
    pace, lane, half = rng.uniform(6.0, 8.0), rng.uniform(0.0, 0.5), SIZES_M["car"][0] / 2
    # From where it begins to leave its lane, an ego that brakes at 4 m/s² after half a second stops before it is back.
    approach = pace / v * (12.0 + v / 2 + v**2 / 8)
    meet = FRONT_M + v * (approach + 2.0) / pace + half
    s = meet + approach + 2.0 - pace * TIME_S
    d = LANE_M + (lane - LANE_M) * (_smooth(-s, -(meet + approach), RETURN_M) - _smooth(-s, 1.0 - meet, RETURN_M))
    return _Course(name="car", s=s, d=d, standing_yaw=np.pi)


def _blocked_lane(rng: np.random.Generator, v: float) -> _Course:
    where = FRONT_M + max(v * rng.uniform(2.2, 3.2), 12.0) + SIZES_M["truck"][0] / 2
    s = np.full_like(TIME_S, min(where, 34.0))
    return _Course(name="truck", s=s, d=np.full_like(s, rng.uniform(-0.4, 0.4)), standing_yaw=rng.normal(0, 0.03))


_COURSES: dict[str, Callable[[np.random.Generator, float], _Course]] = {
    "cut-in": _cut_in,
    "hard-brake": _hard_brake,
    "jaywalker": _jaywalker,
    "oncoming": _oncoming,
    "blocked-lane": _blocked_lane,
}


def _fitting(event: str, seed: int, way: _Way, speed: float, labels: Tensor, grid: VoxelGrid) -> Actors:
    """The variant that runs into fewest walls, and (vehicles) leaves the road least; the first of equals."""
    name = list(EVENTS).index(event)
    walls = member(labels[..., 3:8], WALLS).any(-1).numpy()
    off = (~(labels == DRIVEABLE).any(-1)).numpy()
    best, found = np.inf, None
    for number in range(TRIES):
        rng = np.random.default_rng([seed, name, number])
        course = _COURSES[event](rng, speed)
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


def _actor(course: _Course, size: Floats, pose: Floats, way: _Way) -> Actors:
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


def _poses(course: _Course, way: _Way) -> Floats:
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
