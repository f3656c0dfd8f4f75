"""Agents of a recorded scenario that yield: where the ego leaves its log, they slow down along their recorded ways.

An agent's clock in the log never runs faster than time. It runs slower while its way is blocked by the ego or by others
that wait, with the accelerations of the Intelligent Driver Model; so no agent leaves the recorded way, and without a
reason nothing differs from the log.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from world_model.core.grid import CLASS_ID, EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M
from world_model.simulator.state import Agents, Bools, Ego, Floats, Ints, Motion
from world_model.simulator.traffic.traffic import idm

Places = Callable[[Floats], Motion]
"""From the agents' times in the log (A,) to where they are then."""
SUBSTEPS = 4
AHEAD_S = np.arange(1, 15) * 0.25
"""Times ahead at which an agent checks its way."""
LATE_S, SLOW_MPS, NEAR_M, SIDE_M = 0.05, 0.3, 60.0, 0.3
"""From this delay on an agent is an obstacle for others; slower ones do not yield; further ones do not matter; and the
clearance that agents want."""
STANDING = [CLASS_ID[name] for name in ("barrier", "traffic_cone")]


def motion_after(
    places: Places, agents: Agents, motion: Motion, time_s: float, ego: Ego, deviates: bool, dt_s: float
) -> Motion:
    """The agents after a step.

    Args:
        places: of the log. agents, motion: before; ``motion.s`` are the clocks.
        time_s: of the scene before. ego: after the step. deviates: whether it has left its log.
        dt_s: seconds.
    """
    clock, h = motion.s.copy(), dt_s / SUBSTEPS
    late = time_s - clock > LATE_S
    if not deviates and not late.any():
        return places(clock + dt_s)
    speed = motion.speed.copy()
    for _ in range(SUBSTEPS):
        rate, speed = _rates(places, agents, clock, speed, ego, deviates, late, h)
        clock = clock + rate * h
    after = places(clock)
    after.speed = np.minimum(after.speed, speed)
    return after


def _rates(
    places: Places, agents: Agents, clock: Floats, speed: Floats, ego: Ego, deviates: bool, late: Bools, h: float
) -> tuple[Floats, Floats]:
    """(A,) how fast clocks run during a substep, and speeds after it."""
    now = places(clock)
    rate = np.ones(len(clock))
    away = np.hypot(now.xy[:, 0] - ego.x, now.xy[:, 1] - ego.y)
    who = np.flatnonzero((away < NEAR_M) & (now.speed > SLOW_MPS) & ~np.isin(agents.label, STANDING) & agents.mobile)
    speed = np.where(late, np.minimum(speed, now.speed), now.speed)
    if not len(who):
        return rate, speed
    gap, lead = _first_obstacle(places, agents, clock, who, now, speed, ego, deviates, late)
    wished = now.speed[who]
    a = idm(speed[who], np.maximum(wished, 0.2), gap, lead, np.full(len(who), np.inf))
    chosen = np.clip(speed[who] + a * h, 0, wished)
    # Nothing ahead and nothing lost: the log, to the bit.
    free = ~np.isfinite(gap) & ~late[who]
    rate[who] = np.where(free, 1.0, chosen / wished)
    speed[who] = np.where(free, wished, chosen)
    return rate, speed


def _first_obstacle(
    places: Places, agents: Agents, clock: Floats, rows: Ints, now: Motion, speed: Floats, ego: Ego, deviates: bool,
    late: Bools,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Way to the first obstacle of each of n agents, metres (inf if none), and its speed along that way."""
    ahead = [places(clock + t) for t in AHEAD_S]
    front = agents.size_m[rows, 0, None] / 2
    yaw = np.stack([m.yaw[rows] for m in ahead], 1)
    x, y = (np.stack([m.xy[rows, k] for m in ahead], 1) for k in (0, 1))
    steps = (np.diff(values, axis=1, prepend=now.xy[rows, k : k + 1]) for k, values in enumerate((x, y)))
    way = np.cumsum(np.hypot(*steps), 1)
    x, y = x + front * np.cos(yaw), y + front * np.sin(yaw)
    others = np.flatnonzero(late & (now.xy[:, 0] > -1e5))
    centre, heading = now.xy[others], now.yaw[others]
    length, width, pace = agents.size_m[others, 0], agents.size_m[others, 1], speed[others]
    number = others
    if deviates:
        middle = EGO_LENGTH_M / 2 - EGO_REAR_OVERHANG_M
        place = (ego.x + middle * np.cos(ego.yaw), ego.y + middle * np.sin(ego.yaw))
        centre, heading = np.vstack([centre, place]), np.append(heading, ego.yaw)
        length, width = np.append(length, EGO_LENGTH_M), np.append(width, EGO_WIDTH_M)
        pace, number = np.append(pace, ego.speed), np.append(number, -1)
    gap, lead = np.full(len(rows), np.inf), np.zeros(len(rows))
    arm = np.maximum(length - width, 0) / 2
    for k in range(len(number)):
        near = np.full(x.shape, np.inf)
        for part in (-1, 0, 1):
            dx = x - (centre[k, 0] + part * arm[k] * np.cos(heading[k]))
            dy = y - (centre[k, 1] + part * arm[k] * np.sin(heading[k]))
            near = np.minimum(near, np.hypot(dx, dy))
        hit = near < (agents.size_m[rows, 1, None] + width[k]) / 2 + SIDE_M
        hit[rows == number[k]] = False
        first = hit.argmax(1)
        distance = np.where(hit.any(1), way[np.arange(len(rows)), first], np.inf)
        closer = distance < gap
        gap = np.where(closer, distance, gap)
        along = pace[k] * np.cos(heading[k] - yaw[np.arange(len(rows)), first])
        lead = np.where(closer, np.maximum(along, 0), lead)
    return gap, lead
