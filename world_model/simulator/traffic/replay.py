"""Traffic of a recorded scenario: agents replay the log, each on a clock of its own; the ego goes where it is driven.

A state's ``Motion.s`` is an agent's time in the log, in seconds. It runs with the scene's, unless the agent yields.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from world_model.data.scenarios.scenario import Scenario, load_scenario
from world_model.simulator.polylines import into, wrap
from world_model.simulator.state import Bools, Ego, Floats, Ints, Motion, SimState
from world_model.simulator.town.scenario_town import build_scenario_town, origin_of
from world_model.simulator.town.town import Town, add_recorded_town
from world_model.simulator.traffic import driver
from world_model.simulator.traffic.yielding import motion_after

NOWHERE_M = -1.0e6
"""Where absent agents are: out of sight of everything."""
AROUND_S, OFF_LOG_M = 0.5, 0.7
"""The ego is on its log if it is this near (a rad counts as a metre) to where it was recorded within this time."""


def read_log(path: Path) -> tuple[Scenario, int]:
    """A scenario of a data set, and the key of its town, which can be built from now on.

    Raises:
        DataError: the file is missing or damaged.
    """
    scenario = load_scenario(path)
    key = int(scenario.digest, 16)
    add_recorded_town(key, partial(build_scenario_town, scenario))
    return scenario, key


def announce_log(path: Path, digest: str) -> None:
    """Let the town of a scenario be built from its file when a state asks for it."""
    add_recorded_town(int(digest, 16), partial(_town_from, path))


def _town_from(path: Path, terrain: str) -> Town:
    return build_scenario_town(load_scenario(path), terrain)


def logged_step(scenario: Scenario, number: int) -> Floats:
    """(3,) dx, dy, dyaw of the recorded ego from one keyframe to the next, in its earlier frame."""
    return _motion_between(scenario.ego[number], scenario.ego[number + 1])


def _motion_between(a: Floats, b: Floats) -> Floats:
    """(3,) dx, dy, dyaw from one pose x, y, yaw to another, in the frame of the first."""
    dx, dy = into(b[0] - a[0], b[1] - a[1], np.cos(a[2]), np.sin(a[2]))
    return np.array([dx, dy, b[2] - a[2]])


def follow_log(
    town: Town, state: SimState, delta: Floats | None, dt_s: float, *, yields: bool = True
) -> tuple[Ego, Motion]:
    """Ego and agents after a step.

    Args:
        town: with a log. state: before. dt_s: seconds.
        delta: (3,) the ego's motion; None lets it make the motion of the log at this time.
        yields: whether agents yield to an ego that has left its log, see `world_model.simulator.traffic.yielding`.
    """
    log = town.log
    assert log is not None
    if delta is None:
        a, b = (_ego_pose(log, state.time_s + t) for t in (0.0, dt_s))
        delta = _motion_between(a, b)
    ego = driver.commanded(state.ego, delta, 1.0, dt_s, town.network.paths)
    places = partial(motion_at, log)
    deviates = yields and _off_log(log, ego, state.time_s + dt_s)
    motion = motion_after(places, state.agents, state.motion, state.time_s, ego, deviates, dt_s)
    gone = ~state.agents.mobile
    motion.xy[gone], motion.speed[gone] = NOWHERE_M, 0.0
    return ego, motion


def _off_log(log: Scenario, ego: Ego, time_s: float) -> bool:
    """Whether the ego is elsewhere than the recorded one was about this time."""
    poses = np.stack([_ego_pose(log, time_s + t) for t in np.linspace(-AROUND_S, AROUND_S, 11)])
    away = np.hypot(*(poses[:, :2] - origin_of(log) - (ego.x, ego.y)).T) + np.abs(wrap(poses[:, 2] - ego.yaw))
    return bool(away.min() > OFF_LOG_M)


def _between(times: Floats, t: Floats) -> tuple[Ints, Floats]:
    """Keyframe before each time, and the part of the way to the next; beyond 1 after the end."""
    low = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    return low, np.maximum((t - times[low]) / (times[low + 1] - times[low]), 0.0)


def _ego_pose(log: Scenario, time_s: float) -> Floats:
    low, part = _between(log.time_s, np.array(time_s))
    pose: Floats = log.ego[low] + part * (log.ego[low + 1] - log.ego[low])
    return pose


def ego_at(log: Scenario, number: int) -> Ego:
    """The recorded ego at a keyframe, on the map."""
    x, y, yaw = (log.ego[number] - (*origin_of(log), 0.0)).tolist()
    k = min(number, len(log.time_s) - 2)
    dx, _, turn = (logged_step(log, k) / (log.time_s[k + 1] - log.time_s[k])).tolist()
    return Ego(
        x=x, y=y, z=0.0, yaw=wrap(yaw), speed=max(dx, 0.0), yaw_rate=turn, path=0, s=0.0, route=(0, 0), hops=0,
        stuck_s=0.0, offset_m=0.0, desired_mps=0.0,
    )  # fmt: skip


def motion_at(log: Scenario, clock: Floats) -> Motion:
    """Where the agents are at times (A,) of the log; after its end they go on straight at their last speed."""
    count, rows = len(log.label), np.arange(len(log.label))
    low, part = _between(log.time_s, clock)
    here, there = log.present[low, rows], log.present[low + 1, rows]
    a, b = log.place[low, rows], log.place[low + 1, rows]
    both = here & there
    # Between two keyframes an agent that is known at one of them only is there up to half of the way.
    place = np.where(both[:, None], a + part[:, None] * (b - a), np.where(here[:, None], a, b))
    shown = both | (here & (part < 0.5)) | (there & (part >= 0.5))
    xy = np.where(shown[:, None], place[:, :2] - origin_of(log), NOWHERE_M)
    gap = (log.time_s[low + 1] - log.time_s[low]).clip(1e-3)
    speed = np.where(both, _along(a, b) / gap, _speed_beside(log, low, rows))
    none = np.zeros(count, np.int64)
    return Motion(
        xy=xy, yaw=wrap(place[:, 2]), speed=np.where(shown, speed, 0.0), path=none, s=clock.astype(np.float64),
        route=np.zeros((count, 2), np.int64), hops=none.copy(), stuck_s=np.zeros(count),
    )  # fmt: skip


def _along(a: Floats, b: Floats) -> Floats:
    """(n,) way from places to places (n, 3), forward as positive."""
    way: Floats = into(b[:, 0] - a[:, 0], b[:, 1] - a[:, 1], np.cos(a[:, 2]), np.sin(a[:, 2]))[0]
    return way


def _speed_beside(log: Scenario, low: Ints, rows: Ints) -> Floats:
    """(A,) speed in the interval before, for agents that have no next keyframe; 0 where that is unknown too."""
    before = np.maximum(low - 1, 0)
    known: Bools = log.present[before, rows] & log.present[low, rows]
    gap = (log.time_s[low] - log.time_s[before]).clip(1e-3)
    return np.where(known & (low > 0), _along(log.place[before, rows], log.place[low, rows]) / gap, 0.0)
