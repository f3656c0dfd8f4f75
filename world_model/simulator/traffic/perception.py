"""What drivers perceive: the path ahead, the first obstacle on it, and lines where they have to stop.

Whatever stands or drives within the width of a driver's own path is its leader: one rule for cars ahead, people on a
crossing, merging traffic and the ego. Legend: n drivers (the ego is the last), K points ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.simulator.state import Bools, Floats, Motion
from world_model.simulator.town.network import Network
from world_model.simulator.town.paths import CONNECTOR, LANE, Paths

AHEAD_M = np.arange(14) * 2.5 + 0.4
"""Distances in front of the bumper at which the path is watched."""
MIDDLE = 7
SIDE_M, PERSON_M = 0.3, 0.6
"""Clearance that a driver wants on either side, and radius of a person."""
NEAR_JUNCTION_M = 28.0
HARD_MPS2 = 4.5
"""A driver that would have to brake harder than this for a line drives on."""
PATIENCE_S = 6.0
"""A driver that has waited this long behind another one goes on carefully: no gridlock lasts."""


@dataclass(frozen=True, kw_only=True)
class Drivers:
    """Active drivers during one step: metres and m/s, each (n,)."""

    length: Floats
    width: Floats
    front: Floats  # from the centre of motion to the front bumper
    lateral: Floats  # offset to the right of the path
    desired: Floats  # speed on a free road
    motion: Motion  # views that each substep changes


@dataclass(kw_only=True)
class Percept:
    """What each driver (n,) knows until it perceives again."""

    gap_m: Floats  # to the first obstacle on the path, inf if none
    lead_mps: Floats  # speed of the obstacle along the path
    line_m: Floats  # to a line where it has to stop, inf if none
    is_red: Bools  # whether a red light holds it
    bend_mps: Floats  # the speed that the bends ahead allow


def points_ahead(paths: Paths, rows: Drivers) -> tuple[Floats, Floats, Floats, Floats]:
    """Points (n, K) on each driver's path in front of its bumper: x, y, heading, speed limit."""
    m = rows.motion
    s = (m.s + rows.front)[:, None] + AHEAD_M
    path = np.repeat(m.path, len(AHEAD_M)).reshape(s.shape)
    leaves = np.flatnonzero(s[:, -1] > paths.length_m[m.path])
    if len(leaves):
        there, along = path[leaves], s[leaves]
        for hop in range(2):
            length = paths.length_m[there]
            beyond = along > length
            along = np.where(beyond, along - length, along)
            there = np.where(beyond, m.route[leaves, hop, None], there)
        path[leaves], s[leaves] = there, along
    x, y, heading, limit = paths.locate(path, s)
    x += rows.lateral[:, None] * np.sin(heading)
    y -= rows.lateral[:, None] * np.cos(heading)
    return x, y, heading, limit


def leaders(rows: Drivers, ahead: tuple[Floats, ...], walkers_xy: Floats) -> tuple[Floats, Floats]:
    """Gap to the first obstacle on each driver's path, metres (inf if none), and its speed along the path.

    Each vehicle is three discs along its axis, each walker one. Only pairs close enough to touch are compared.
    """
    x, y, heading, _ = ahead
    m, n = rows.motion, len(rows.length)
    zeros = np.zeros(len(walkers_xy))

    def with_walkers(vehicles: Floats, walkers: Floats = zeros) -> Floats:
        return np.concatenate((vehicles, walkers))

    c, s = np.cos(m.yaw), np.sin(m.yaw)
    back, arm = rows.front - rows.length / 2, rows.length / 2 - rows.width / 2
    ox = with_walkers(m.xy[:, 0] + back * c, walkers_xy[:, 0])
    oy = with_walkers(m.xy[:, 1] + back * s, walkers_xy[:, 1])
    radius, yaw, speed = with_walkers(rows.width / 2, zeros + PERSON_M), with_walkers(m.yaw), with_walkers(m.speed)
    # All points of a driver lie within this distance of its middle one.
    mx, my = x[:, MIDDLE], y[:, MIDDLE]
    spread = np.sqrt(((x - mx[:, None]) ** 2 + (y - my[:, None]) ** 2).max(1)) + rows.width / 2 + SIDE_M
    size = radius + with_walkers(np.abs(arm))
    near = (mx[:, None] - ox) ** 2 + (my[:, None] - oy) ** 2 < (spread[:, None] + size) ** 2
    near.reshape(-1)[:: near.shape[1] + 1] = False
    driver, other = np.nonzero(near)
    respected = (m.stuck_s[driver] < PATIENCE_S) | (np.cos(yaw[other] - m.yaw[driver]) > 0.7) | (other >= n)
    driver, other = driver[respected], other[respected]
    dx, dy = (x[driver] - ox[other, None]).T, (y[driver] - oy[other, None]).T
    ax, ay = with_walkers(arm * c)[other], with_walkers(arm * s)[other]
    # Squared distance to the discs at -1, 0 and 1 arms: d² - 2 k (d . a) + a².
    square, dot, arm2 = dx * dx + dy * dy, 2 * np.abs(dx * ax + dy * ay), ax * ax + ay * ay
    nearest = np.minimum(square, square - dot + arm2)
    hit = nearest < (rows.width[driver] / 2 + SIDE_M + radius[other]) ** 2
    pairs = np.flatnonzero(hit.any(0))
    first = hit[:, pairs].argmax(0)
    order = np.lexsort((nearest[first, pairs], first, driver[pairs]))
    pairs, first = pairs[order], first[order]
    who, at = np.unique(driver[pairs], return_index=True)
    gap, lead = np.full(n, np.inf), np.zeros(n)
    gap[who] = AHEAD_M[first[at]]
    found = other[pairs[at]]
    lead[who] = np.maximum(speed[found] * np.cos(yaw[found] - heading[who, first[at]]), 0)
    return gap, lead


def stop_lines(network: Network, rows: Drivers, time_s: float) -> tuple[Floats, Bools]:
    """Distance to a line where each driver has to stop now (inf if none), and whether a red light is the reason."""
    paths, m = network.paths, rows.motion
    left, upcoming = paths.length_m[m.path] - m.s - rows.front, m.route[:, 0]
    entering = np.flatnonzero((paths.kind[m.path] == LANE) & (paths.kind[upcoming] == CONNECTOR))
    is_red = np.zeros(len(left), bool)
    is_red[entering] = network.red(upcoming[entering], time_s)
    near = entering[(left[entering] < NEAR_JUNCTION_M) & (left[entering] > -1.5)]
    gap, into, speed = left[near], upcoming[near], m.speed[near]
    inside = m.path[paths.kind[m.path] == CONNECTOR]
    arrival = gap / np.maximum(speed, 1.0) + 2.5 * (paths.turn[into] > 0)
    taken = paths.conflict[into[:, None], inside].any(1)
    claim = paths.conflict[into[:, None], into] & ~is_red[near] & (arrival < arrival[:, None])
    blocked = (taken | claim.any(1)) & (m.stuck_s[near] < PATIENCE_S)
    able = gap > speed**2 / (2 * HARD_MPS2) - 0.5
    stops = np.flatnonzero((is_red[near] | blocked) & able)
    stop = np.full(len(left), np.inf)
    # Red lights bind drivers further away too, which brake for them in time.
    far = entering[is_red[entering] & (left[entering] >= NEAR_JUNCTION_M)]
    far = far[left[far] > m.speed[far] ** 2 / (2 * HARD_MPS2) - 0.5]
    stop[far] = left[far] - 0.3
    stop[near[stops]] = np.maximum(gap[stops] - 0.3, 0.05)
    return stop, is_red
