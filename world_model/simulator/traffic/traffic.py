"""Traffic: vehicles that follow lanes with headway, signals and right of way, pedestrians that walk and cross.

Car following is the Intelligent Driver Model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000). Agents near the ego
are gathered once a step into one set of arrays; a substep is a few operations on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.core.grid import CLASS_ID, EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M
from world_model.simulator.polylines import beside
from world_model.simulator.state import Agents, Ego, Floats, Ints, Keys, Motion
from world_model.simulator.town.network import Network
from world_model.simulator.town.paths import CROSSING, Paths
from world_model.simulator.traffic.perception import AHEAD_M, Drivers, Percept, leaders, points_ahead, stop_lines

PEDESTRIAN = CLASS_ID["pedestrian"]
ACTIVE_M = 90.0
"""Agents further from the ego than this stand still, out of sight."""
EASE_MPS2, BEND_POINTS = 1.3, 10
"""Braking with which drivers approach a bend, and points ahead that are searched for bends."""
ACCELERATION, BRAKE, HEADWAY_S, STANDSTILL_M = 2.2, 2.8, 1.25, 2.2
LINE_M = STANDSTILL_M - 0.8
"""Drivers stop closer to a line than to a bumper: so much is added to the distance to a line."""


@dataclass(frozen=True, kw_only=True)
class Active:
    """All that moves during one step: w walkers, vehicles, and in the last row the ego."""

    ids: Ints  # (m,) agents; the ego has none
    walkers: int  # how many of them walk
    motion: Motion  # (m + 1) rows, changed by every substep
    drivers: Drivers  # vehicles and ego, views into ``motion``
    lateral: Floats  # (m + 1,) offset to the right of the path, metres
    desired: Floats  # (w,) walking speed, m/s
    key: Keys  # (m + 1,) what seeds choices
    trailer: Ints  # rows of towed trailers
    tractor: Ints  # rows of the vehicles that tow them


def gather(agents: Agents, motion: Motion, ego: Ego, ego_key: np.uint64) -> Active:
    """Copy the mobile agents near the ego, and the ego, into one set of arrays."""
    dx, dy = motion.xy[:, 0] - ego.x, motion.xy[:, 1] - ego.y
    near = agents.mobile & (dx * dx + dy * dy < ACTIVE_M**2)
    towed = np.flatnonzero(agents.tractor >= 0)
    near[towed] = near[agents.tractor[towed]]
    towed = towed[near[towed]]
    person = agents.label == PEDESTRIAN
    walkers, vehicles = np.flatnonzero(near & person), np.flatnonzero(near & ~person)
    ids, w, row = np.concatenate([walkers, vehicles]), len(walkers), _ego_row(ego)
    both = Motion(**{k: np.concatenate([v[ids], [row[k]]]) for k, v in vars(motion).items()})
    lateral = np.append(agents.lateral_m[ids], ego.offset_m)
    length, width = np.vstack([agents.size_m[vehicles, :2], (EGO_LENGTH_M, EGO_WIDTH_M)]).T.copy()
    drivers = Drivers(
        length=length, width=width, front=np.append(length[:-1] / 2, EGO_LENGTH_M - EGO_REAR_OVERHANG_M),
        lateral=lateral[w:], desired=np.append(agents.desired_mps[vehicles], ego.desired_mps),
        motion=Motion(**{k: v[w:] for k, v in vars(both).items()}),
    )  # fmt: skip
    return Active(
        ids=ids, walkers=w, motion=both, drivers=drivers, lateral=lateral, desired=agents.desired_mps[walkers],
        key=np.append(agents.key[ids], ego_key),
        trailer=w + np.searchsorted(vehicles, towed), tractor=w + np.searchsorted(vehicles, agents.tractor[towed]),
    )  # fmt: skip


def _ego_row(ego: Ego) -> dict[str, object]:
    """The ego as one more traveller: a value for each field of ``Motion``."""
    place = {"xy": (ego.x, ego.y), "yaw": ego.yaw, "speed": ego.speed, "path": ego.path, "s": ego.s}
    return {**place, "route": ego.route, "hops": ego.hops, "stuck_s": ego.stuck_s}


def set_ego(active: Active, ego: Ego) -> None:
    """Put the ego's row where the ego is, in place."""
    for name, value in _ego_row(ego).items():
        getattr(active.motion, name)[-1] = value
    active.lateral[-1] = ego.offset_m


def scatter(active: Active, motion: Motion) -> None:
    """Write all rows but the ego's back, in place."""
    for name, values in vars(active.motion).items():
        getattr(motion, name)[active.ids] = values[:-1]


def perceive(network: Network, active: Active, time_s: float) -> Percept:
    """What all drivers perceive now."""
    m, w, rows = active.motion, active.walkers, active.drivers
    on_road = network.paths.kind[m.path[:w]] == CROSSING
    ahead = points_ahead(network.paths, rows)
    gap, lead = leaders(rows, ahead, m.xy[:w][on_road])
    line, is_red = stop_lines(network, rows, time_s)
    bend = np.sqrt((ahead[3] ** 2 + 2 * EASE_MPS2 * AHEAD_M)[:, :BEND_POINTS].min(1))
    return Percept(gap_m=gap, lead_mps=lead, line_m=line, is_red=is_red, bend_mps=bend)


def choose_speeds(paths: Paths, active: Active, percept: Percept, h: float) -> None:
    """Every agent chooses a speed for the next ``h`` seconds; drivers count how long they wait, all in place."""
    rows, m = active.drivers, active.drivers.motion
    desired = np.minimum(rows.desired, percept.bend_mps)
    a = idm(m.speed, desired, percept.gap_m, percept.lead_mps, percept.line_m + LINE_M)
    m.speed[:] = np.maximum(m.speed + a * h, 0)
    m.speed[(m.speed < 0.05) & (a < 0)] = 0
    waiting = (m.speed < 0.2) & ~percept.is_red & (rows.desired > 0.1)
    m.stuck_s[m.speed > 2.0] = 0
    m.stuck_s[waiting] += h
    percept.gap_m -= (m.speed - percept.lead_mps) * h
    percept.line_m -= m.speed * h
    active.motion.speed[active.trailer] = active.motion.speed[active.tractor]
    _walk(paths, active, h)


def idm(speed: Floats, desired: Floats, gap: Floats, lead: Floats, line: Floats) -> Floats:
    """IDM acceleration in m/s² for a leader and a line to stop at, bounded to what cars do.

    Args:
        speed, desired, gap, lead: (n,) current and wished speed, distance to the leader and its speed.
        line: (n,) distance to a standing obstacle.
    """
    ease = 2 * np.sqrt(ACCELERATION * BRAKE)
    free = 1 - (speed / np.maximum(desired, 0.1)) ** 4
    follow = STANDSTILL_M + np.maximum(speed * (HEADWAY_S + (speed - lead) / ease), 0)
    halt = STANDSTILL_M + speed * (HEADWAY_S + speed / ease)
    pressure = np.maximum(follow / np.maximum(gap, 0.3), halt / np.maximum(line, 0.3))
    a = np.where(desired < 0.1, -2.5, ACCELERATION * (free - pressure * pressure))
    return np.minimum(np.maximum(a, -6.0), 2.8)


def _walk(paths: Paths, active: Active, h: float) -> None:
    """Pedestrians walk on, but wait at the kerb while vehicles approach; their speed is changed in place."""
    m, w = active.motion, active.walkers
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


def advance(paths: Paths, active: Active, h: float) -> tuple[float, float, float]:
    """Move all agents ``speed * h`` along their paths, in place, entering the next path at the end.

    Returns:
        x, y, heading of the path under the ego. Its driver decides the ego's place and heading: see ``set_ego``.
    """
    m = active.motion
    m.s += m.speed * h
    over = np.flatnonzero(m.s > paths.length_m[m.path])
    if len(over):
        m.s[over] -= paths.length_m[m.path[over]]
        m.path[over] = m.route[over, 0]
        m.route[over, 0] = m.route[over, 1]
        m.hops[over] += 1
        m.route[over, 1] = paths.successor(m.route[over, 1], active.key[over], m.hops[over])
    x, y, yaw, _ = paths.locate(m.path, m.s)
    m.xy[:, 0], m.xy[:, 1] = beside(x, y, yaw, active.lateral)
    m.yaw[:] = yaw
    return float(x[-1]), float(y[-1]), float(yaw[-1])
