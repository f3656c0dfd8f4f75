"""What road users do in the simulator beside an ego that drives well, badly, or at them: to learn drivers from.

Nothing is drawn: the true agents and the true road are read from the state, so that a step costs a millisecond.

Legend: K slots, S steps of an arm, (X, Y) columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import DRIVEABLE, MOVABLE, OCC3D, STEP_S
from world_model.models.geometric.agents.drivers import EgoMotion
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.simulator.polylines import wrap
from world_model.simulator.sensing.crop import crop
from world_model.simulator.simulator import Simulator, SimulatorConfig
from world_model.simulator.state import Ints, SimState
from world_model.simulator.town.painting import GROUND_LEVEL
from world_model.simulator.town.town import town_of
from world_model.simulator.traffic.wild import MAX_CURVATURE, arc_step

FORKS, BETWEEN, STEPS = 3, 8, 8
"""Moments of a scene at which the ego tries all arms, steps between them, and steps of an arm."""
ARMS = ("own", "brake", "stop", "wander", "swerve")
NEAR_M, STANDS_MPS = 52.0, 0.3
"""Road users that are read, and slower ones that stand."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """One arm: what the ego does, and all others.

    Attributes:
        tracks: (S + 1) moments, each of one grid, in the ego frame of the first.
        ego: (S) what the ego did in each step.
        road: (X, Y) bool where the road is, in the same frame.
    """

    tracks: list[Tracks]
    ego: list[EgoMotion]
    road: Tensor


def drives(seed: int, scene: int, config: SimulatorConfig | None = None) -> Iterator[Drive]:
    """All arms of a scene of the simulator; equal arguments give equal drives."""
    simulator = Simulator(config)
    state = simulator.reset(seed, scene)
    for fork in range(FORKS):
        for _ in range(BETWEEN if fork else 1):
            before, state = state, simulator.move(state)
        for number, arm in enumerate(ARMS):
            yield _driven(simulator, before, state, arm, np.random.default_rng([seed, scene, fork, number, 515]))


def _driven(simulator: Simulator, earlier: SimState, start: SimState, arm: str, rng: np.random.Generator) -> Drive:
    rows = _chosen(start)
    tracks, ego, state = [_tracks(start, earlier, start, rows)], [], start
    begin, side = int(rng.integers(0, 3)), rng.choice((-1.0, 1.0))
    accel, bend = 0.0, 0.0
    for step in range(STEPS):
        if step % 2 == 0:
            accel, bend = rng.uniform(-4.0, 3.0), rng.uniform(-0.5, 0.5) * MAX_CURVATURE
        before = state
        if arm == "own" or step < begin:
            state = simulator.move(state)
        else:
            wanted = {
                "brake": (-6.0, 0.0),
                "stop": (-2.5, 0.0),
                "wander": (accel, bend),
                "swerve": (0.5, side * 0.03 * (1 if step < begin + 2 else -1 if step < begin + 4 else 0)),
            }[arm]
            state = simulator.move(state, arc_step(state.ego.speed, *wanted)[0])
        tracks.append(_tracks(state, before, start, rows))
        ego.append(_ego(before, state, start))
    return Drive(tracks=tracks, ego=ego, road=torch.from_numpy(_road(start)))


def _chosen(state: SimState) -> Ints:
    """Road users in the slots: those that drive or walk first, then the nearest; fewer than K where there are fewer."""
    away = np.hypot(state.motion.xy[:, 0] - state.ego.x, state.motion.xy[:, 1] - state.ego.y)
    near = np.flatnonzero((away < NEAR_M) & np.isin(state.agents.label, MOVABLE))
    order = np.lexsort((away[near], state.motion.speed[near] < STANDS_MPS))
    chosen: Ints = near[order][:SLOTS]
    return chosen


def _tracks(state: SimState, before: SimState, start: SimState, rows: Ints) -> Tracks:
    """The chosen agents now, in the ego frame of the start; a step earlier says how they turn."""
    ego, motion, agents = start.ego, state.motion, state.agents
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    place = (motion.xy[rows] - (ego.x, ego.y)) @ np.array([[c, -s], [s, c]])
    size = agents.size_m[rows]
    columns = {
        "x": place[:, 0], "y": place[:, 1], "yaw": wrap(motion.yaw[rows] - ego.yaw), "speed": motion.speed[rows],
        "length": size[:, 0], "width": size[:, 1], "height": size[:, 2], "class_id": agents.label[rows],
        "yaw_rate": wrap(motion.yaw[rows] - before.motion.yaw[rows]) / STEP_S,
        "alive": np.ones(len(rows), bool), "confidence": np.ones(len(rows)),
    }  # fmt: skip
    none = Tracks.none(1, torch.device("cpu"))
    table = {field.name: getattr(none, field.name).clone() for field in fields(Tracks)}
    for name, value in columns.items():
        table[name][0, : len(rows)] = torch.from_numpy(np.asarray(value)).to(table[name].dtype)
    return Tracks(**table)


def _ego(before: SimState, after: SimState, start: SimState) -> EgoMotion:
    """The step of the ego, in the ego frame of the start."""
    a, b, origin = before.ego, after.ego, start.ego
    c, s = np.cos(origin.yaw), np.sin(origin.yaw)
    dx, dy = a.x - origin.x, a.y - origin.y
    ahead = max(np.cos(a.yaw) * (b.x - a.x) + np.sin(a.yaw) * (b.y - a.y), 0.0)
    values = (c * dx + s * dy, c * dy - s * dx, wrap(a.yaw - origin.yaw), ahead / STEP_S)
    x, y, yaw, speed = (torch.tensor([value], dtype=torch.float32) for value in values)
    return EgoMotion(x=x, y=y, yaw=yaw, speed=speed)


def _road(state: SimState) -> NDArray[np.bool_]:
    """(X, Y) where the ground is driveable."""
    scene, town = crop(town_of(state), state), town_of(state)
    ground = town.columns.reshape(-1, OCC3D.shape[2])[scene.source.reshape(-1), GROUND_LEVEL]
    on: NDArray[np.bool_] = (ground == DRIVEABLE).reshape(OCC3D.shape[:2])
    return on if scene.outside is None else on & ~scene.outside
