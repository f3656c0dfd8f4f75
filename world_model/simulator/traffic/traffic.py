"""Traffic: vehicles that follow lanes with headway, signals and right of way, pedestrians that walk and cross.

Car following is the Intelligent Driver Model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000). Everybody near the
ego is gathered once a step into one set of arrays: walkers, then vehicles, then the ego; a substep is a few operations
on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import CLASS_ID, EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M
from world_model.simulator.state import Cast, Ego, Floats, Ints, Movers
from world_model.simulator.town.network import CROSSING, Network, successor
from world_model.simulator.traffic.perception import Drivers, Sight, look

PEDESTRIAN = CLASS_ID["pedestrian"]
ACTIVE_M = 90.0
"""Agents further from the ego than this stand still: nobody sees them."""
ACCELERATION, BRAKE, HEADWAY_S, STANDSTILL_M = 2.2, 2.8, 1.25, 2.2
LINE_M = STANDSTILL_M - 0.8
"""Drivers stop closer to a line than to a bumper: so much is added to the distance to a line."""


@dataclass(frozen=True, kw_only=True)
class Active:
    """Everybody who moves during one step: walkers, vehicles, and in the last row the ego.

    Args:
        ids: (m,) agents; the ego has none. walkers: how many of them walk.
        movers: (m + 1) rows, changed by every substep. drivers: vehicles and ego, views into ``movers``.
        lateral: (m + 1,) offset to the right of the path. desired: (w,) walking speed.
        key: (m + 1,) what seeds choices.
        trailer, tractor: rows of towed trailers and of the vehicles that tow them.
    """

    ids: Ints
    walkers: int
    movers: Movers
    drivers: Drivers
    lateral: Floats
    desired: Floats
    key: NDArray[np.uint64]
    trailer: Ints
    tractor: Ints


def ego_row(ego: Ego) -> dict[str, object]:
    """The ego as one more traveller: a value for each field of ``Movers``."""
    return {
        "xy": (ego.x, ego.y), "yaw": ego.yaw, "speed": ego.speed, "path": ego.path, "s": ego.s, "route": ego.route,
        "hops": ego.hops, "stuck_s": ego.stuck_s,
    }  # fmt: skip


def gather(cast: Cast, movers: Movers, ego: Ego, ego_key: np.uint64) -> Active:
    """Copy the mobile agents near the ego, and the ego, into one set of arrays."""
    dx, dy = movers.xy[:, 0] - ego.x, movers.xy[:, 1] - ego.y
    near = cast.mobile & (dx * dx + dy * dy < ACTIVE_M**2)
    towed = np.flatnonzero(cast.tractor >= 0)
    near[towed] = near[cast.tractor[towed]]
    person = cast.label == PEDESTRIAN
    walkers, vehicles = np.flatnonzero(near & person), np.flatnonzero(near & ~person)
    ids = np.concatenate([walkers, vehicles])
    row = ego_row(ego)
    both = Movers(**{k: np.concatenate([v[ids], [row[k]]]) for k, v in vars(movers).items()})
    size, w = cast.size_m[vehicles], len(walkers)
    lateral = np.append(cast.lateral_m[ids], ego.offset_m)
    drivers = Drivers(
        length=np.append(size[:, 0], EGO_LENGTH_M),
        width=np.append(size[:, 1], EGO_WIDTH_M),
        front=np.append(size[:, 0] / 2, EGO_LENGTH_M - EGO_REAR_OVERHANG_M),
        lateral=lateral[w:],
        desired=np.append(cast.desired_mps[vehicles], ego.desired_mps),
        movers=Movers(**{k: v[w:] for k, v in vars(both).items()}),
    )
    towed = towed[near[towed]]
    return Active(
        ids=ids, walkers=w, movers=both, drivers=drivers, lateral=lateral, desired=cast.desired_mps[walkers],
        key=np.append(cast.key[ids], ego_key),
        trailer=w + np.searchsorted(vehicles, towed), tractor=w + np.searchsorted(vehicles, cast.tractor[towed]),
    )  # fmt: skip


def scatter(active: Active, movers: Movers) -> None:
    """Write everybody but the ego back, in place."""
    for f in fields(Movers):
        getattr(movers, f.name)[active.ids] = getattr(active.movers, f.name)[:-1]


def idm(speed: Floats, desired: Floats, gap: Floats, lead: Floats, line: Floats) -> Floats:
    """IDM acceleration in m/s² for a leader and a line to stop at, bounded to what cars do.

    Args:
        speed, desired, gap, lead: (n,) own and wished speed, distance to the leader and its speed.
        line: (n,) distance to a standing obstacle.
    """
    ease = 2 * np.sqrt(ACCELERATION * BRAKE)
    free = 1 - (speed / np.maximum(desired, 0.1)) ** 4
    follow = STANDSTILL_M + np.maximum(speed * (HEADWAY_S + (speed - lead) / ease), 0)
    halt = STANDSTILL_M + speed * (HEADWAY_S + speed / ease)
    pressure = np.maximum(follow / np.maximum(gap, 0.3), halt / np.maximum(line, 0.3))
    a = np.where(desired < 0.1, -2.5, ACCELERATION * (free - pressure * pressure))
    return np.minimum(np.maximum(a, -6.0), 2.8)


def drive(rows: Drivers, sight: Sight, h: float) -> None:
    """One substep of ``h`` seconds for all drivers: speed and stuck time, and what they see grows older, in place."""
    m = rows.movers
    a = idm(m.speed, np.minimum(rows.desired, sight.bend_mps), sight.gap_m, sight.lead_mps, sight.line_m + LINE_M)
    m.speed[:] = np.maximum(m.speed + a * h, 0)
    m.speed[(m.speed < 0.05) & (a < 0)] = 0
    waiting = (m.speed < 0.2) & ~sight.is_red & (rows.desired > 0.1)
    m.stuck_s[m.speed > 2.0] = 0
    m.stuck_s[waiting] += h
    sight.gap_m -= (m.speed - sight.lead_mps) * h
    sight.line_m -= m.speed * h


def walk(network: Network, active: Active, h: float) -> None:
    """Pedestrians walk on, but wait at the kerb while vehicles approach; their speed is changed in place."""
    paths, m, w = network.paths, active.movers, active.walkers
    path, target = m.path[:w], active.desired.copy()
    ends = np.flatnonzero(paths.length_m[path] - m.s[:w] < 1.0)
    crossing = m.route[ends, 0]
    enters = (paths.kind[crossing] == CROSSING) & (paths.kind[path[ends]] != CROSSING)
    ends, crossing = ends[enters], crossing[enters]
    if len(ends):
        middle = paths.points[paths.start[crossing] + paths.count[crossing] // 2]
        d2 = ((middle[:, None] - m.xy[w:]) ** 2).sum(-1)
        target[ends[((d2 < 16.0**2) & (m.speed[w:] > 0.8)).any(1)]] = 0.0
    m.speed[:w] += np.minimum(np.maximum(target - m.speed[:w], -2.0 * h), 1.2 * h)


def advance_paths(network: Network, m: Movers, key: NDArray[np.uint64], h: float) -> None:
    """Move all travellers ``speed * h`` along their paths, in place, entering the next path at the end."""
    paths = network.paths
    m.s += m.speed * h
    over = np.flatnonzero(m.s > paths.length_m[m.path])
    if len(over):
        m.s[over] -= paths.length_m[m.path[over]]
        m.path[over] = m.route[over, 0]
        m.route[over, 0] = m.route[over, 1]
        m.hops[over] += 1
        m.route[over, 1] = successor(network, m.route[over, 1], key[over], m.hops[over])


def perceive(network: Network, active: Active, time_s: float) -> Sight:
    """What all drivers see now."""
    m, w = active.movers, active.walkers
    on_road = network.paths.kind[m.path[:w]] == CROSSING
    return look(network, active.drivers, m.xy[:w][on_road], time_s)


def think(network: Network, active: Active, sight: Sight, h: float) -> None:
    """Everybody chooses a speed for the next ``h`` seconds, in place."""
    drive(active.drivers, sight, h)
    active.movers.speed[active.trailer] = active.movers.speed[active.tractor]
    walk(network, active, h)


def advance(network: Network, active: Active, h: float) -> tuple[float, float, float]:
    """Everybody moves along the paths with the speeds they have now, in place.

    Returns:
        x, y, heading of the path under the ego, whose own place and heading are its driver's affair.
    """
    m = active.movers
    advance_paths(network, m, active.key, h)
    x, y, yaw, _ = network.paths.locate(m.path, m.s)
    m.xy[:-1, 0] = (x + active.lateral * np.sin(yaw))[:-1]
    m.xy[:-1, 1] = (y - active.lateral * np.cos(yaw))[:-1]
    m.yaw[:-1] = yaw[:-1]
    return float(x[-1]), float(y[-1]), float(yaw[-1])


def set_ego(active: Active, ego: Ego) -> None:
    """Put the ego's row where the ego is, in place."""
    for name, value in ego_row(ego).items():
        getattr(active.movers, name)[-1] = value
    active.lateral[-1] = ego.offset_m
