"""Traffic: vehicles that follow lanes with headway, signals and right of way, pedestrians that walk and cross.

Car following is the Intelligent Driver Model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000). A driver looks along
its own path; whoever stands or drives within the path's width is the leader: one rule for cars ahead, people on a
crossing, merging traffic and the ego. The ego is the last row of every array here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world_model.grid import CLASS_ID, EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M
from world_model.simulator.network import CONNECTOR, CROSSING, LANE, Network
from world_model.simulator.state import Cast, Ego, Floats, Ints, Movers

PEDESTRIAN = CLASS_ID["pedestrian"]
ACTIVE_M = 90.0
"""Agents further from the ego than this stand still: nobody sees them."""
AHEAD_M = np.arange(14) * 2.5 + 0.4
ACCELERATION, BRAKE, HEADWAY_S, STANDSTILL_M = 2.2, 2.8, 1.25, 2.2
CYCLE_S, GREEN_S, CLEARANCE_S = 25.0, 10.5, 2.0
NEAR_JUNCTION_M = 28.0
PATIENCE_S = 6.0


def hash_unit(*parts: NDArray[np.uint64] | Ints | int) -> Floats:
    """Uniform numbers in [0, 1) from integers (splitmix64), so that choices need no generator state."""
    mixed = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            mixed = (mixed ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def successor(network: Network, path: Ints, key: NDArray[np.uint64], hops: Ints) -> Ints:
    """The path that each traveller takes after ``path``: its own fixed choice."""
    draw = hash_unit(key, hops)
    pick = np.minimum((network.paths.choice[path] <= draw[:, None]).sum(1), network.paths.successors.shape[1] - 1)
    return network.paths.successors[path, pick]


def red(network: Network, connector: Ints, time_s: float) -> NDArray[np.bool_]:
    """Whether a junction's signal stops traffic into ``connector`` (any integers; only connectors are ever red)."""
    paths = network.paths
    node = paths.node[connector]
    t = (time_s + CYCLE_S * hash_unit(node.astype(np.uint64), 77)) % CYCLE_S
    start = paths.group[connector] * (GREEN_S + CLEARANCE_S)
    green = (t >= start) & (t < start + GREEN_S)
    return (paths.kind[connector] == CONNECTOR) & network.signalled[node] & ~green


@dataclass
class Rows:
    """Active drivers (last row: the ego) during one substep."""

    index: Ints
    length: Floats
    width: Floats
    front: Floats
    lateral: Floats
    desired: Floats
    movers: Movers


def ego_row(ego: Ego) -> Movers:
    """The ego as one more traveller."""
    return Movers(
        xy=np.array([[ego.x, ego.y]]), yaw=np.array([ego.yaw]), speed=np.array([ego.speed]), path=np.array([ego.path]),
        s=np.array([ego.s]), route=np.array([ego.route]), hops=np.array([ego.hops]), stuck_s=np.array([ego.stuck_s]),
    )  # fmt: skip


def drivers(cast: Cast, movers: Movers, ego: Ego, vehicles: Ints) -> Rows:
    """Gather the active vehicles and the ego."""
    mine = ego_row(ego)
    both = Movers(**{k: np.concatenate([getattr(movers, k)[vehicles], v]) for k, v in vars(mine).items()})
    size = cast.size_m[vehicles]
    return Rows(
        index=vehicles,
        length=np.append(size[:, 0], EGO_LENGTH_M),
        width=np.append(size[:, 1], EGO_WIDTH_M),
        front=np.append(size[:, 0] / 2, EGO_LENGTH_M - EGO_REAR_OVERHANG_M),
        lateral=np.append(cast.lateral_m[vehicles], ego.offset_m),
        desired=np.append(cast.desired_mps[vehicles], ego.desired_mps),
        movers=both,
    )


def look_ahead(network: Network, rows: Rows) -> tuple[Floats, Floats, Floats, Floats]:
    """Points (n, K) on each driver's path in front of its bumper: x, y, heading, speed limit."""
    paths, m = network.paths, rows.movers
    s = m.s[:, None] + rows.front[:, None] + AHEAD_M
    path = np.broadcast_to(m.path[:, None], s.shape).copy()
    for hop in range(2):
        length = paths.length_m[path]
        beyond = s > length
        s = np.where(beyond, s - length, s)
        path = np.where(beyond, np.broadcast_to(m.route[:, hop, None], s.shape), path)
    x, y, heading, limit = paths.locate(path, s)
    return x + rows.lateral[:, None] * np.sin(heading), y - rows.lateral[:, None] * np.cos(heading), heading, limit


def _discs(rows: Rows) -> tuple[Floats, Floats, Floats, Ints]:
    """Each vehicle as three discs: x, y, radius, owner."""
    m = rows.movers
    centre = rows.front - rows.length / 2
    along = centre[:, None] + (rows.length / 2 - rows.width / 2)[:, None] * np.array([-1.0, 0.0, 1.0])
    x = m.xy[:, :1] + along * np.cos(m.yaw)[:, None]
    y = m.xy[:, 1:] + along * np.sin(m.yaw)[:, None]
    n = len(m.yaw)
    return x.ravel(), y.ravel(), np.repeat(rows.width / 2, 3), np.repeat(np.arange(n), 3)


def leaders(rows: Rows, ahead: tuple[Floats, ...], walkers_xy: Floats) -> tuple[Floats, Floats]:
    """Gap to the first obstacle on each driver's path, metres (inf if none), and its speed along the path."""
    x, y, heading, _ = ahead
    ox, oy, radius, owner = _discs(rows)
    n, w = len(rows.length), len(walkers_xy)
    ox, oy = np.append(ox, walkers_xy[:, 0]), np.append(oy, walkers_xy[:, 1])
    radius, owner = np.append(radius, np.full(w, 0.6)), np.append(owner, np.full(w, n))
    reach = (rows.width / 2 + 0.3)[:, None] + radius
    d2 = (x[:, :, None] - ox) ** 2 + (y[:, :, None] - oy) ** 2
    hit = d2 < (reach**2)[:, None]
    hit &= (owner != np.arange(n)[:, None])[:, None]
    yaw, speed = np.append(rows.movers.yaw, 0.0), np.append(rows.movers.speed, 0.0)
    patient = rows.movers.stuck_s < PATIENCE_S
    aligned = np.cos(yaw[owner][None] - rows.movers.yaw[:, None]) > 0.7
    hit &= (patient[:, None] | aligned | (owner == n))[:, None]
    some = hit.any(2)
    first = some.argmax(1)
    row = np.arange(n)
    who = owner[np.where(hit[row, first], d2[row, first], np.inf).argmin(1)]
    along = np.maximum(speed[who] * np.cos(yaw[who] - heading[row, first]), 0)
    found = some.any(1)
    return np.where(found, AHEAD_M[first], np.inf), np.where(found, along, 0.0)


def stop_lines(network: Network, rows: Rows, time_s: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Distance to a line where each driver has to stop now (inf if none), and whether a red light is the reason."""
    paths, m = network.paths, rows.movers
    left = paths.length_m[m.path] - m.s - rows.front
    entering = (paths.kind[m.path] == LANE) & (paths.kind[m.route[:, 0]] == CONNECTOR)
    upcoming = m.route[:, 0]
    is_red = entering & red(network, upcoming, time_s)
    near = entering & (left < NEAR_JUNCTION_M) & (left > -1.5)
    arrival = left / np.maximum(m.speed, 1.0) + 2.5 * (paths.turn[upcoming] > 0)
    clash = paths.conflict[upcoming[:, None], m.path[None]] & (paths.kind[m.path] == CONNECTOR)[None]
    claim = (
        paths.conflict[upcoming[:, None], upcoming[None]] & (near & ~is_red)[None] & (arrival[None] < arrival[:, None])
    )
    np.fill_diagonal(clash, False)
    blocked = near & (clash | claim).any(1) & (m.stuck_s < PATIENCE_S)
    able = left > m.speed**2 / (2 * 4.5) - 0.5
    stop = (is_red | blocked) & able & (left > -1.5)
    return np.where(stop, np.maximum(left - 0.3, 0.05), np.inf), is_red


def idm(speed: Floats, desired: Floats, gap: Floats, lead: Floats) -> Floats:
    """IDM acceleration in m/s², bounded to what cars do."""
    closing = speed * (speed - lead) / (2 * np.sqrt(ACCELERATION * BRAKE))
    wanted = STANDSTILL_M + np.maximum(speed * HEADWAY_S + closing, 0)
    free = 1 - (speed / np.maximum(desired, 0.1)) ** 4
    a = ACCELERATION * (free - (wanted / np.maximum(gap, 0.3)) ** 2)
    return np.clip(np.where(desired < 0.1, -2.5, a), -6.0, 2.8)


def drive(network: Network, rows: Rows, walkers_xy: Floats, time_s: float, h: float) -> None:
    """One substep of ``h`` seconds for all drivers, in place: speed, arc length, path, stuck time."""
    m = rows.movers
    ahead = look_ahead(network, rows)
    brake = np.sqrt(ahead[3] ** 2 + 2 * 1.3 * AHEAD_M)
    desired = np.minimum(rows.desired, brake[:, :10].min(1))
    gap, lead = leaders(rows, ahead, walkers_xy)
    stop, is_red = stop_lines(network, rows, time_s)
    a = np.minimum(
        idm(m.speed, desired, gap, lead), idm(m.speed, desired, stop + STANDSTILL_M - 0.8, np.zeros_like(stop))
    )
    m.speed[:] = np.maximum(m.speed + a * h, 0)
    m.speed[(m.speed < 0.05) & (a < 0)] = 0
    waiting = (m.speed < 0.2) & ~is_red & (rows.desired > 0.1)
    m.stuck_s[:] = np.where(waiting, m.stuck_s + h, np.where(m.speed > 2.0, 0.0, m.stuck_s))


def advance_paths(network: Network, m: Movers, key: NDArray[np.uint64], h: float) -> None:
    """Move all travellers ``speed * h`` along their paths, in place, entering the next path at the end."""
    paths = network.paths
    m.s[:] += m.speed * h
    over = m.s > paths.length_m[m.path]
    if over.any():
        m.s[over] -= paths.length_m[m.path[over]]
        m.path[over] = m.route[over, 0]
        m.route[over, 0] = m.route[over, 1]
        m.hops[over] += 1
        m.route[over, 1] = successor(network, m.route[over, 1], key[over], m.hops[over])


def walk(
    network: Network, cast: Cast, m: Movers, ids: Ints, vehicles_xy: Floats, vehicle_speed: Floats, h: float
) -> None:
    """Pedestrians ``ids``: walk on, but wait at the kerb while vehicles approach; ``m`` is changed in place."""
    paths = network.paths
    near_end = paths.length_m[m.path[ids]] - m.s[ids] < 1.0
    crossing = m.route[ids, 0]
    entering = near_end & (paths.kind[crossing] == CROSSING) & (paths.kind[m.path[ids]] != CROSSING)
    middle = paths.points[paths.start[crossing] + paths.count[crossing] // 2]
    d2 = ((middle[:, None] - vehicles_xy[None]) ** 2).sum(-1)
    danger = ((d2 < 16.0**2) & (vehicle_speed > 0.8)).any(1)
    target = np.where(entering & danger, 0.0, cast.desired_mps[ids])
    m.speed[ids] += np.clip(target - m.speed[ids], -2.0 * h, 1.2 * h)
