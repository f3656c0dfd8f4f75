"""The simulator: reset to a scene, step it with or without ego actions, read labels, boxes and poses.

Pure functions of the state: ``step`` never changes its input, and equal inputs give equal outputs in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import ActionError, ConfigError
from world_model.core.grid import STEP_S
from world_model.simulator.polylines import wrap
from world_model.simulator.sensing.crop import Crop, crop
from world_model.simulator.sensing.ground import agent_heights
from world_model.simulator.sensing.labels import Labels, render
from world_model.simulator.sensing.memory import blank_memory, remember
from world_model.simulator.sensing.sensor import RayHeights, cast_rays
from world_model.simulator.state import Ego, Floats, Motion, SimState
from world_model.simulator.town.terrain import KINDS
from world_model.simulator.town.town import Town, build_town, town_of
from world_model.simulator.traffic import driver, traffic
from world_model.simulator.traffic.actor import actorless, joined, move_active, move_actor
from world_model.simulator.traffic.population import draw_density
from world_model.simulator.traffic.replay import follow_log
from world_model.simulator.traffic.spawn import ego_key, spawn, start_ego

SUBSTEPS, PERCEIVE_EVERY = 4, 2
"""A step is driven in so many parts; drivers perceive before every second one, at 4 Hz for steps of half a second."""
WARM_UP_STEPS = 8
BOX_DTYPE = np.dtype(
    [("center", "3f8"), ("size", "3f8"), ("yaw", "f8"), ("velocity", "2f8"), ("label", "i8"), ("instance", "i8")]
)
"""Boxes in the ego frame: centre x, y, z and size length, width, height in metres; yaw in rad; velocity over ground
along the ego axes in m/s; Occ3D class id; instance number, stable within a scene."""


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """How scenes are laid out over towns.

    Args:
        scenes_per_town: consecutive scenes that share a town when no town is named.
        traffic: multiplier of the number of moving vehicles. people: the same for pedestrians.
        terrain: "flat", or "hills": the same scenes on a ground with height.
        yields: whether recorded traffic yields to an ego that leaves its log, or replays the log through it.
    """

    scenes_per_town: int = 5
    traffic: float = 1.0
    people: float = 1.0
    terrain: str = "flat"
    yields: bool = True

    def __post_init__(self) -> None:
        if self.terrain not in KINDS:
            raise ConfigError(f"terrain={self.terrain!r}", f"one of {KINDS}", "choose one of them")
        if self.scenes_per_town < 1 or self.traffic < 0.01 or self.people < 0:
            raise ConfigError(
                f"scenes_per_town={self.scenes_per_town}, traffic={self.traffic}, people={self.people}",
                "scenes_per_town >= 1, traffic >= 0.01, people >= 0",
                "correct these fields of SimulatorConfig",
            )


class Simulator:
    """Procedural town and traffic with reactive agents.

    Args:
        config: see ``SimulatorConfig``.
    """

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        # The step that made the newest state has already computed what its labels need.
        self._latest: tuple[SimState, Crop, RayHeights] | None = None

    def reset(self, seed: int, scene_index: int, town_id: int | None = None) -> SimState:
        """First moment of a scene; traffic has already run for four seconds.

        Args:
            seed: of the data set. scene_index: any number >= 0.
            town_id: which town; by default ``scene_index // scenes_per_town``.
        """
        town_id = scene_index // self.config.scenes_per_town if town_id is None else town_id
        town = build_town(seed, town_id, self.config.terrain)
        rng = np.random.default_rng([seed, scene_index, 202])
        ego = start_ego(town, rng, seed, scene_index)
        density = draw_density(rng, self.config.traffic, self.config.people)
        agents, motion = spawn(town, rng, ego, density, seed, scene_index)
        state = SimState(
            seed=seed, scene_index=scene_index, town_id=town_id, time_s=float(rng.uniform(0, 25)), step_index=0,
            ego=ego, agents=agents, motion=motion, memory=blank_memory(), terrain=self.config.terrain,
        )  # fmt: skip
        for _ in range(WARM_UP_STEPS):
            state = self.step(state)
        return replace(state, step_index=0)

    def step(
        self, state: SimState, ego_pose_delta: tuple[float, float, float] | Floats | None = None, dt_s: float = STEP_S
    ) -> SimState:
        """Advance by one keyframe.

        Args:
            state: where to start; unchanged.
            ego_pose_delta: (dx, dy, dyaw) of the ego over the step in its current frame, metres and rad; None lets the
                built-in driver drive, or the log where there is one. Any finite motion is accepted, off the road and
                through walls too.
            dt_s: duration in seconds.

        Raises:
            ActionError: the motion is not three finite numbers.
        """
        after = self.move(state, ego_pose_delta, dt_s)
        scene = crop(town_of(state), after)
        heights = cast_rays(scene.occluder, scene.ground_m)
        after = replace(after, memory=remember(state.memory, state.ego, after.ego, heights[0], dt_s))
        self._latest = after, scene, heights
        return after

    def move(
        self, state: SimState, ego_pose_delta: tuple[float, float, float] | Floats | None = None, dt_s: float = STEP_S
    ) -> SimState:
        """As `step` at a fraction of its price, for those who ask for no labels: ``memory`` stays as it was."""
        town = town_of(state)
        delta = None if ego_pose_delta is None else np.asarray(ego_pose_delta, np.float64)
        if delta is not None and (delta.shape != (3,) or not np.isfinite(delta).all()):
            wanted = "three finite numbers (dx m, dy m, dyaw rad)"
            raise ActionError(f"ego_pose_delta {ego_pose_delta!r}", wanted, "pass None for the built-in driver")
        acted = len(state.script.pose) > 0
        if town.log is None:
            ego, motion = _drive(town, state, delta, dt_s)
        else:
            others = actorless(state) if acted else state
            ego, motion = follow_log(town, others, delta, dt_s, yields=self.config.yields)
            motion = joined(motion, state.motion) if acted else motion
        if acted:
            move_actor(motion, state.script, -1, state.time_s + dt_s)
        return replace(state, ego=ego, motion=motion, time_s=state.time_s + dt_s, step_index=state.step_index + 1)

    def look(self, state: SimState) -> SimState:
        """The same moment, seen once more: what has just been put into the scene is observed, too."""
        scene = crop(town_of(state), state)
        heights = cast_rays(scene.occluder, scene.ground_m)
        return replace(state, memory=remember(state.memory, state.ego, state.ego, heights[0], 0.0))

    def labels(self, state: SimState) -> Labels:
        """Occ3D-like labels of a state, ego frame."""
        town = town_of(state)
        if self._latest is None or self._latest[0] is not state:
            scene = crop(town, state)
            return render(town, state, scene, cast_rays(scene.occluder, scene.ground_m))
        return render(town, state, *self._latest[1:])

    def boxes(self, state: SimState, range_m: float = 58.0) -> NDArray[np.void]:
        """All agents within ``range_m`` of the ego as an array of ``BOX_DTYPE``, ego frame."""
        e, m, agents = state.ego, state.motion, state.agents
        d = m.xy - np.array([e.x, e.y])
        ids = np.flatnonzero((d**2).sum(1) < range_m**2)
        c, s = np.cos(e.yaw), np.sin(e.yaw)
        to_ego = np.array([[c, -s], [s, c]])
        boxes = np.zeros(len(ids), BOX_DTYPE)
        boxes["center"][:, :2] = d[ids] @ to_ego
        boxes["center"][:, 2] = agents.size_m[ids, 2] / 2
        terrain = town_of(state).terrain
        if terrain is not None:
            boxes["center"][:, 2] += agent_heights(terrain, e, m.xy[ids], boxes["center"][:, :2])
        boxes["size"], boxes["label"], boxes["instance"] = agents.size_m[ids], agents.label[ids], ids
        boxes["yaw"] = wrap(m.yaw[ids] - e.yaw)
        direction = np.stack([np.cos(m.yaw[ids]), np.sin(m.yaw[ids])], -1)
        boxes["velocity"] = (m.speed[ids, None] * direction) @ to_ego
        return boxes

    def ego_pose(self, state: SimState) -> Floats:
        """4x4 ego -> global: on the ground, pitched and rolled with it."""
        e, terrain = state.ego, town_of(state).terrain
        c, s = np.cos(e.yaw), np.sin(e.yaw)
        pose = np.array([[c, -s, 0, e.x], [s, c, 0, e.y], [0, 0, 1, e.z], [0, 0, 0, 1]])
        if terrain is not None:
            pose[2, 3], along, left = terrain.under(e)
            ahead, up = np.array((1.0, 0.0, along)), np.array((-along, -left, 1.0))
            ahead, up = ahead / np.linalg.norm(ahead), up / np.linalg.norm(up)
            pose[:3, :3] = pose[:3, :3] @ np.stack((ahead, np.cross(up, ahead), up), -1)
        return pose

    def ground_m(self, state: SimState, xy: Floats) -> Floats:
        """(n,) height of the ground at global places (n, 2), metres."""
        terrain = town_of(state).terrain
        return np.zeros(len(xy)) if terrain is None else terrain.at(xy[:, 0], xy[:, 1])


def _drive(town: Town, state: SimState, delta: Floats | None, dt_s: float) -> tuple[Ego, Motion]:
    """Ego and agents after a step; without a motion ``delta`` the built-in driver drives."""
    ego = start = state.ego
    motion, network, paths, h = state.motion.clone(), town.network, town.network.paths, dt_s / SUBSTEPS
    active = traffic.gather(state.agents, motion, start, ego_key(state.seed, state.scene_index))
    wander_m = 0.25 * math.sin(0.35 * state.time_s + state.scene_index)
    speed = active.motion.speed
    for k in range(SUBSTEPS):
        if k % PERCEIVE_EVERY == 0:
            percept = traffic.perceive(network, active, state.time_s + k * h)
        traffic.choose_speeds(paths, active, percept, h)
        if delta is None:
            speed[-1] = driver.vary_speed(float(speed[-1]), state.time_s, state.scene_index, h)
        on_path = traffic.advance(paths, active, h)
        if len(state.script.pose):
            move_active(active, state, state.time_s + (k + 1) * h)
        if delta is None:
            ego = driver.steer(ego, active, on_path, wander_m, h)
        else:
            ego = driver.commanded(start, delta, (k + 1) / SUBSTEPS, dt_s, paths)
        traffic.set_ego(active, ego)
    traffic.scatter(active, motion)
    if delta is None:
        ego = replace(ego, yaw_rate=wrap(ego.yaw - start.yaw) / dt_s)
    return ego, motion
