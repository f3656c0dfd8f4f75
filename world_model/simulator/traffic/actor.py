"""An agent that follows a script, whatever the others do: the actor of a named event. The others meet it as any agent.

It is the last agent of a scene. Legend: A agents, T moments half a second apart.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from world_model.core.grid import STEP_S
from world_model.simulator.polylines import wrap
from world_model.simulator.state import Agents, Bools, Floats, Ints, Motion, Script, SimState, Table
from world_model.simulator.town.paths import CROSSING, SIDEWALK, Paths
from world_model.simulator.traffic.traffic import PEDESTRIAN, Active

NOWHERE_M = -1.0e6
"""Where those are who were taken out: out of sight of everything."""


def without(state: SimState, gone: Bools | Ints) -> SimState:
    """The scene without some agents, a mask (A,) or rows; they stay in the arrays, since agents are known by row."""
    motion, mobile = state.motion.clone(), state.agents.mobile.copy()
    motion.xy[gone], motion.speed[gone], mobile[gone] = NOWHERE_M, 0.0, False
    return replace(state, motion=motion, agents=replace(state.agents, mobile=mobile))


def with_actor(state: SimState, paths: Paths, label: int, size_m: Floats, pose: Floats) -> SimState:
    """The scene with an actor.

    Args:
        state: without one.
        paths: of its town.
        label: Occ3D class id.
        size_m: (3,) length, width, height.
        pose: (T, 4) global x, y, yaw, speed from now on.
    """
    # Where it is on the network decides who waits for whom: a walker crosses, a vehicle claims no right of way.
    kind = CROSSING if label == PEDESTRIAN else SIDEWALK
    path = int(np.flatnonzero(paths.kind == kind)[:1].sum()) if len(paths.kind) else 0
    x, y, yaw, speed = pose[0]
    agent = {
        "label": label, "size_m": size_m, "desired_mps": 0.0, "lateral_m": 0.0, "mobile": True,
        "key": np.uint64(0), "tractor": -1,
    }  # fmt: skip
    motion = {
        "xy": (x, y), "yaw": yaw, "speed": speed, "path": path, "s": 0.0, "route": (path, path), "hops": 0,
        "stuck_s": 0.0,
    }  # fmt: skip
    return replace(
        state,
        agents=Agents(**_longer(state.agents, agent)),
        motion=Motion(**_longer(state.motion, motion)),
        script=Script(pose=np.asarray(pose, np.float64), time_s=state.time_s),
    )


def _longer(table: Agents | Motion, row: dict[str, object]) -> Table:
    """The columns of a table with one more row."""
    columns = {field.name: getattr(table, field.name) for field in fields(table)}
    return {name: np.concatenate([v, np.asarray([row[name]], v.dtype)]) for name, v in columns.items()}


def actorless(state: SimState) -> SimState:
    """The scene without its actor's row."""
    agents, motion = ({f.name: getattr(t, f.name)[:-1] for f in fields(t)} for t in (state.agents, state.motion))
    return replace(state, agents=Agents(**agents), motion=Motion(**motion), script=Script.none())


def joined(motion: Motion, before: Motion) -> Motion:
    """The motion of the others with the actor's row as it was before."""
    return Motion(
        **{f.name: np.concatenate([getattr(motion, f.name), getattr(before, f.name)[-1:]]) for f in fields(motion)}
    )


def pose_at(script: Script, time_s: float) -> Floats:
    """(4,) x, y, yaw, speed of the actor; after the script's end it stands."""
    last = len(script.pose) - 1
    at = (time_s - script.time_s) / STEP_S
    k = int(np.clip(np.floor(at), 0, last - 1))
    a, b, part = script.pose[k], script.pose[k + 1], float(np.clip(at - k, 0, 1))
    pose: Floats = a + part * (b - a)
    pose[2] = a[2] + part * wrap(b[2] - a[2])
    pose[3] = 0.0 if at > last else pose[3]
    return pose


def move_actor(motion: Motion, script: Script, row: int, time_s: float) -> None:
    """Put the actor, a row of ``motion``, where its script wants it, in place."""
    x, y, yaw, speed = pose_at(script, time_s)
    motion.xy[row], motion.yaw[row], motion.speed[row], motion.s[row] = (x, y), yaw, speed, 0.0


def move_active(active: Active, state: SimState, time_s: float) -> None:
    """The same among those that move in a step."""
    for row in np.flatnonzero(active.ids == len(state.agents.label) - 1):
        move_actor(active.motion, state.script, int(row), time_s)
