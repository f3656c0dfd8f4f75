"""What the actor of each event does: a course along the way of the ego, timed for an ego that keeps its speed.

Legend: F recorded poses ahead, M points of the way, N moments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import EGO_LENGTH_M, EGO_REAR_OVERHANG_M, STEP_S
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
FINE, AHEAD_M, LANE_M = 5, 110.0, 3.5
"""Moments within a step, length of the way, and distance between lanes."""
RETURN_M = 8.0
"""Way on which an oncoming car changes lanes."""
CORRIDOR_M = 45.0
"""Others in the ego's lane are taken out up to so far along the way, when an event is staged."""
FRONT_M = EGO_LENGTH_M - EGO_REAR_OVERHANG_M
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Way:
    """The ego's way as points (M, 2) and headings (M,) at arc lengths (M,), metres and rad."""

    s: Floats
    xy: Floats
    yaw: Floats

    @classmethod
    def along(cls, poses: Floats) -> Way:
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
class Course:
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


def _hard_brake(rng: np.random.Generator, v: float) -> Course:
    at, start = rng.uniform(0.5, 1.5), FRONT_M + 3.0 + v * rng.uniform(0.8, 1.2) + SIZES_M["car"][0] / 2
    stop = at + v / 6 + rng.uniform(2.0, 4.0)
    s = _way_driven(start, _speeds(((at, rng.uniform(5.5, 7.0), 0.0), (stop, 1.5, v)), v))
    return Course(name="car", s=s, d=np.full_like(s, rng.uniform(-0.2, 0.2)))


def _cut_in(rng: np.random.Generator, v: float) -> Course:
    begin, side = rng.uniform(0.3, 1.0), rng.choice((-1.0, 1.0))
    start = FRONT_M + rng.uniform(1.0, 4.0) + SIZES_M["car"][0] / 2
    speed = _speeds(((0.0, 1.5, v + 1.0), (begin + 1.0, 2.5, v / 2), (begin + 6.0, 1.0, v)), v)
    return Course(name="car", s=_way_driven(start, speed), d=side * LANE_M * (1 - _smooth(TIME_S, begin, 2.2)))


def _jaywalker(rng: np.random.Generator, v: float) -> Course:
    side, pace, from_m = rng.choice((-1.0, 1.0)), rng.uniform(1.6, 2.4), rng.uniform(3.0, 4.5)
    where = FRONT_M + max(v * max(rng.uniform(1.8, 2.6), from_m / pace), 9.0)
    begin = max((where - FRONT_M) / v - from_m / pace, 0.0)
    gone = np.clip((TIME_S - begin) * pace, 0, 2 * from_m)
    return Course(
        name="pedestrian",
        s=np.full_like(gone, where),
        d=side * (from_m - gone),
        standing_yaw=-side * np.pi / 2,
        cleared_m=where + 1,
    )


def _oncoming(rng: np.random.Generator, v: float) -> Course:
    pace, lane, half = rng.uniform(6.0, 8.0), rng.uniform(0.0, 0.5), SIZES_M["car"][0] / 2
    # From where it begins to leave its lane, an ego that brakes at 4 m/s² after half a second stops before it is back.
    approach = pace / v * (12.0 + v / 2 + v**2 / 8)
    meet = FRONT_M + v * (approach + 2.0) / pace + half
    s = meet + approach + 2.0 - pace * TIME_S
    d = LANE_M + (lane - LANE_M) * (_smooth(-s, -(meet + approach), RETURN_M) - _smooth(-s, 1.0 - meet, RETURN_M))
    return Course(name="car", s=s, d=d, standing_yaw=np.pi)


def _blocked_lane(rng: np.random.Generator, v: float) -> Course:
    where = FRONT_M + max(v * rng.uniform(2.2, 3.2), 12.0) + SIZES_M["truck"][0] / 2
    s = np.full_like(TIME_S, min(where, 34.0))
    return Course(name="truck", s=s, d=np.full_like(s, rng.uniform(-0.4, 0.4)), standing_yaw=rng.normal(0, 0.03))


COURSES: dict[str, Callable[[np.random.Generator, float], Course]] = {
    "cut-in": _cut_in,
    "hard-brake": _hard_brake,
    "jaywalker": _jaywalker,
    "oncoming": _oncoming,
    "blocked-lane": _blocked_lane,
}
