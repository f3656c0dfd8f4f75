"""The ego: the built-in driver, commanded motion, and where a freely moved ego is on the road network."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from world_model.simulator.polylines import wrap
from world_model.simulator.state import Ego, Floats
from world_model.simulator.town.paths import CONNECTOR, Paths
from world_model.simulator.traffic.traffic import Active

MAX_TURN_RAD_S = 0.9
RETURN_S, RETURN_SLOPE = 1.5, 0.25
"""Time constant with which the driver returns to the middle of its lane, and the steepest way it takes there."""


def vary_speed(speed: float, time_s: float, scene_index: int, h: float) -> float:
    """Speed after ``h`` seconds of an unsteady foot; widens accelerations to the real spread."""
    if speed <= 2.5:
        return speed
    push = 0.7 * math.sin(1.3 * time_s + scene_index) + 0.5 * math.sin(2.9 * time_s)
    return max(speed + push * h, 0.0)


def steer(ego: Ego, active: Active, on_path: tuple[float, float, float], wander_m: float, h: float) -> Ego:
    """The ego after a substep of its own: on its path, returning to the middle of the lane if an action left it.

    Args:
        ego: before. active: its last row holds the ego's speed and place along its path now.
        on_path: x, y, heading of the path there. wander_m: to the right of the lane's middle, where the driver steers.
    """
    x, y, heading = on_path
    m = active.motion
    speed = float(m.speed[-1])
    rate = _clip((ego.offset_m - wander_m) / RETURN_S, RETURN_SLOPE * speed)
    aside = ego.offset_m - rate * h
    wanted = heading + math.atan2(rate, max(speed, 1.0))
    turn = _clip(wrap(wanted - ego.yaw), MAX_TURN_RAD_S * h) if speed > 0.05 else 0.0
    return replace(
        ego, x=x + aside * math.sin(heading), y=y - aside * math.cos(heading), yaw=wrap(ego.yaw + turn), speed=speed,
        path=int(m.path[-1]), s=float(m.s[-1]), route=(int(m.route[-1, 0]), int(m.route[-1, 1])), hops=int(m.hops[-1]),
        stuck_s=float(m.stuck_s[-1]), offset_m=aside,
    )  # fmt: skip


def _clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def commanded(start: Ego, delta: Floats, part: float, dt_s: float, paths: Paths) -> Ego:
    """The ego after a part of its commanded motion (straight line, even turning), and its place on the road network."""
    c, s = math.cos(start.yaw), math.sin(start.yaw)
    dx, dy, turn = (float(v) for v in delta)
    ego = replace(
        start, x=start.x + part * (c * dx - s * dy), y=start.y + part * (s * dx + c * dy),
        yaw=wrap(start.yaw + part * turn), speed=math.hypot(dx, dy) / dt_s if dx >= 0 else 0.0, yaw_rate=turn / dt_s,
        stuck_s=0.0,
    )  # fmt: skip
    return relocate(ego, paths) if part == 1 else ego


def relocate(ego: Ego, paths: Paths) -> Ego:
    """Find the lane that the ego is on now (or nearest to) and keep its route where it still fits."""
    d2 = (paths.points[:, 0] - ego.x) ** 2 + (paths.points[:, 1] - ego.y) ** 2
    owner = np.repeat(np.arange(len(paths.kind)), paths.count)
    cost = d2 + 30.0 * (1 - np.cos(paths.heading - ego.yaw)) + 1e6 * (paths.kind[owner] > CONNECTOR)
    cost = cost - 2.0 * np.isin(owner, (ego.path, *ego.route))
    k = int(cost.argmin())
    path, (x, y), heading = int(owner[k]), paths.points[k], float(paths.heading[k])
    dx, dy, c, sine = ego.x - x, ego.y - y, np.cos(heading), np.sin(heading)
    s = (k - paths.start[path]) * paths.spacing_m[path] + c * dx + sine * dy
    following = ego.route[1] if path == ego.route[0] else paths.likeliest_successor(path)
    route = ego.route if path == ego.path else (following, paths.likeliest_successor(following))
    s = float(np.clip(s, 0, paths.length_m[path]))
    return replace(ego, path=path, s=s, offset_m=float(sine * dx - c * dy), route=route)
