"""The ego: the built-in driver, commanded motion, and where a freely moved ego is on the road network."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from world_model.simulator.polylines import wrap
from world_model.simulator.state import Ego, Floats
from world_model.simulator.town.town import Town
from world_model.simulator.traffic.traffic import Active

MAX_TURN_RAD_S = 0.9
RETURN_S, RETURN_SLOPE = 1.5, 0.25
"""Time constant with which the driver returns to the middle of its lane, and the steepest way it takes there."""


def restless(speed: float, time_s: float, scene_index: int, h: float) -> float:
    """Speed after ``h`` seconds of a foot that is never quite still; widens accelerations to the real spread."""
    if speed <= 2.5:
        return speed
    push = 0.7 * math.sin(1.3 * time_s + scene_index) + 0.5 * math.sin(2.9 * time_s)
    return max(speed + push * h, 0.0)


def steer(ego: Ego, active: Active, on_path: tuple[float, float, float], wander: float, h: float) -> Ego:
    """The ego after a substep of its own: on its path, drifting back to the middle of the lane if an action left it.

    Args:
        ego: before. active: its last row says how fast and where along its path the ego is now.
        on_path: x, y, heading of the path there. wander: metres to the right that feel like the middle just now.
    """
    x, y, heading = on_path
    m = active.movers
    speed = float(m.speed[-1])
    rate = _clip((ego.offset_m - wander) / RETURN_S, RETURN_SLOPE * speed)
    aside = ego.offset_m - rate * h
    wanted = heading + math.atan2(rate, max(speed, 1.0))
    turn = _clip(float(wrap(wanted - ego.yaw)), MAX_TURN_RAD_S * h) if speed > 0.05 else 0.0
    return replace(
        ego,
        x=x + aside * math.sin(heading),
        y=y - aside * math.cos(heading),
        yaw=float(wrap(ego.yaw + turn)),
        speed=speed,
        path=int(m.path[-1]),
        s=float(m.s[-1]),
        route=(int(m.route[-1, 0]), int(m.route[-1, 1])),
        hops=int(m.hops[-1]),
        stuck_s=float(m.stuck_s[-1]),
        offset_m=aside,
    )


def _clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def along(start: Ego, delta: Floats, part: float, dt_s: float, town: Town) -> Ego:
    """The ego after a part of its commanded motion (straight line, even turning), and its place on the road network."""
    c, s = math.cos(start.yaw), math.sin(start.yaw)
    dx, dy, turn = (float(v) for v in delta)
    speed = math.hypot(dx, dy) / dt_s if dx >= 0 else 0.0
    ego = replace(
        start,
        x=start.x + part * (c * dx - s * dy),
        y=start.y + part * (s * dx + c * dy),
        yaw=float(wrap(start.yaw + part * turn)),
        speed=speed,
        yaw_rate=turn / dt_s,
        stuck_s=0.0,
    )
    return relocate(ego, town) if part == 1 else ego


def relocate(ego: Ego, town: Town) -> Ego:
    """Find the lane that the ego is on now (or nearest to) and keep its route where it still fits."""
    paths = town.network.paths
    d2 = (paths.points[:, 0] - ego.x) ** 2 + (paths.points[:, 1] - ego.y) ** 2
    owner = np.repeat(np.arange(len(paths.kind)), paths.count)
    cost = d2 + 30.0 * (1 - np.cos(paths.heading - ego.yaw)) + 1e6 * (paths.kind[owner] > 1)
    cost = cost - 2.0 * np.isin(owner, (ego.path, *ego.route))
    k = int(cost.argmin())
    path = int(owner[k])
    s = float((k - paths.start[path]) * paths.spacing_m[path])
    h = float(paths.heading[k])
    dx, dy = ego.x - paths.points[k, 0], ego.y - paths.points[k, 1]
    s, aside = (
        float(np.clip(s + np.cos(h) * dx + np.sin(h) * dy, 0, paths.length_m[path])),
        float(np.sin(h) * dx - np.cos(h) * dy),
    )
    if path == ego.path:
        route = ego.route
    elif path == ego.route[0]:
        route = (ego.route[1], _first(town, ego.route[1]))
    else:
        following = _first(town, path)
        route = (following, _first(town, following))
    return replace(ego, path=path, s=s, offset_m=aside, route=route)


def _first(town: Town, path: int) -> int:
    """The likeliest successor: the one with the largest share."""
    share = np.diff(town.network.paths.choice[path], prepend=0.0)
    return int(town.network.paths.successors[path, int(share.argmax())])
