"""The simulator: reset to a scene, step it with or without ego actions, read labels, boxes and poses.

Pure functions of the state: ``step`` never changes its input, and equal inputs give equal outputs on any machine order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from world_model.errors import ActionError, ConfigError
from world_model.grid import STEP_S
from world_model.simulator import traffic
from world_model.simulator.labels import Labels, blank_memory, obstacles, remember, render
from world_model.simulator.network import LANE, wrap
from world_model.simulator.spawn import draw_density, spawn, start_ego
from world_model.simulator.state import Ego, Floats, SimState
from world_model.simulator.town import Town, build_town

SUBSTEPS = 5
WARM_UP_STEPS = 8
BOX_DTYPE = np.dtype(
    [
        ("center", "f8", (3,)),
        ("size", "f8", (3,)),
        ("yaw", "f8"),
        ("velocity", "f8", (2,)),
        ("label", "i8"),
        ("instance", "i8"),
    ]
)
"""Boxes in the ego frame: centre x, y, z and size length, width, height in metres; yaw in rad; velocity over ground
along the ego axes in m/s; Occ3D class id; instance number, stable within a scene."""


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """How scenes are laid out over towns.

    Args:
        scenes_per_town: consecutive scenes that share a town when no town is named.
        traffic: multiplier of the number of moving vehicles. people: the same for pedestrians.
    """

    scenes_per_town: int = 5
    traffic: float = 1.0
    people: float = 1.0

    def __post_init__(self) -> None:
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

    def reset(self, seed: int, scene_index: int, town_id: int | None = None) -> SimState:
        """First moment of a scene; traffic has already run for four seconds.

        Args:
            seed: of the data set. scene_index: any number >= 0.
            town_id: which town; by default ``scene_index // scenes_per_town``.
        """
        town_id = scene_index // self.config.scenes_per_town if town_id is None else town_id
        town = build_town(seed, town_id)
        rng = np.random.default_rng([seed, scene_index, 202])
        ego = start_ego(town, rng, np.array([self._ego_key(seed, scene_index)]))
        density = draw_density(rng)
        density = replace(
            density, traffic=density.traffic * self.config.traffic, people=density.people * self.config.people
        )
        cast, movers = spawn(town, rng, ego, density, seed, scene_index)
        state = SimState(
            seed=seed,
            scene_index=scene_index,
            town_id=town_id,
            time_s=float(rng.uniform(0, 25)),
            step_index=0,
            ego=ego,
            cast=cast,
            movers=movers,
            memory=blank_memory(),
        )
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
                built-in driver drive. Any finite motion is accepted, off the road and through walls too.
            dt_s: duration in seconds.

        Raises:
            ActionError: the motion is not three finite numbers.
        """
        town = build_town(state.seed, state.town_id)
        delta = None if ego_pose_delta is None else _checked(ego_pose_delta)
        movers, ego = state.movers.clone(), state.ego
        start = ego
        for k in range(SUBSTEPS):
            h = dt_s / SUBSTEPS
            driven = self._substep(town, state, movers, ego, state.time_s + k * h, h)
            ego = driven if delta is None else _along(start, delta, (k + 1) / SUBSTEPS, dt_s, town)
        if delta is None:
            ego = replace(ego, yaw_rate=float(wrap(np.array(ego.yaw - start.yaw))) / dt_s)
        after = replace(state, ego=ego, movers=movers, time_s=state.time_s + dt_s, step_index=state.step_index + 1)
        memory = remember(state.memory, start, ego, obstacles(town, after), dt_s)
        return replace(after, memory=memory)

    def labels(self, state: SimState) -> Labels:
        """Occ3D-like labels of a state, ego frame."""
        return render(build_town(state.seed, state.town_id), state)

    def boxes(self, state: SimState, range_m: float = 58.0) -> NDArray[np.void]:
        """All agents within ``range_m`` of the ego as an array of ``BOX_DTYPE``, ego frame."""
        e, m, cast = state.ego, state.movers, state.cast
        d = m.xy - np.array([e.x, e.y])
        ids = np.flatnonzero((d**2).sum(1) < range_m**2)
        c, s = np.cos(e.yaw), np.sin(e.yaw)
        to_ego = np.array([[c, -s], [s, c]])
        boxes = np.zeros(len(ids), BOX_DTYPE)
        boxes["center"][:, :2] = d[ids] @ to_ego
        boxes["center"][:, 2] = cast.size_m[ids, 2] / 2
        boxes["size"] = cast.size_m[ids]
        boxes["yaw"] = wrap(m.yaw[ids] - e.yaw)
        direction = np.stack([np.cos(m.yaw[ids]), np.sin(m.yaw[ids])], -1)
        boxes["velocity"] = (m.speed[ids, None] * direction) @ to_ego
        boxes["label"], boxes["instance"] = cast.label[ids], ids
        return boxes

    def ego_pose(self, state: SimState) -> Floats:
        """4x4 ego -> global."""
        e = state.ego
        pose = np.eye(4)
        c, s = np.cos(e.yaw), np.sin(e.yaw)
        pose[:2, :2] = [[c, -s], [s, c]]
        pose[:3, 3] = e.x, e.y, e.z
        return pose

    @staticmethod
    def _ego_key(seed: int, scene_index: int) -> np.uint64:
        return np.uint64((seed * 1_000_003 + scene_index * 7919 + 13) & 0xFFFFFFFFFFFF)

    def _substep(self, town: Town, state: SimState, movers: traffic.Movers, ego: Ego, time_s: float, h: float) -> Ego:
        """Move everybody by ``h`` seconds; ``movers`` in place, the ego's own wish is returned."""
        network, cast = town.network, state.cast
        near = cast.mobile & (((movers.xy - np.array([ego.x, ego.y])) ** 2).sum(1) < traffic.ACTIVE_M**2)
        person = cast.label == traffic.PEDESTRIAN
        walkers, vehicles = np.flatnonzero(near & person), np.flatnonzero(near & ~person)
        rows = traffic.drivers(cast, movers, ego, vehicles)
        on_road = walkers[network.paths.kind[movers.path[walkers]] == traffic.CROSSING]
        traffic.drive(network, rows, movers.xy[on_road], time_s, h)
        traffic.walk(network, cast, movers, walkers, rows.movers.xy, rows.movers.speed, h)
        movers.speed[vehicles], movers.stuck_s[vehicles] = rows.movers.speed[:-1], rows.movers.stuck_s[:-1]
        moving = np.concatenate([vehicles, walkers])
        part = traffic.Movers(**{k: v[moving] for k, v in vars(movers).items()})
        traffic.advance_paths(network, part, cast.key[moving], h)
        x, y, yaw, _ = network.paths.locate(part.path, part.s)
        lateral = cast.lateral_m[moving]
        part.xy[:] = np.stack([x + lateral * np.sin(yaw), y - lateral * np.cos(yaw)], -1)
        part.yaw[:] = yaw
        for k, v in vars(part).items():
            getattr(movers, k)[moving] = v
        return self._drive_ego(town, state, ego, float(rows.movers.speed[-1]), float(rows.movers.stuck_s[-1]), h)

    def _drive_ego(self, town: Town, state: SimState, ego: Ego, speed: float, stuck_s: float, h: float) -> Ego:
        """The built-in driver: along its path, drifting back to the middle of the lane if an action left it."""
        # People do not hold the pedal still: a little restlessness widens accelerations to the real spread.
        restless = 0.7 * np.sin(1.3 * state.time_s + state.scene_index) + 0.5 * np.sin(2.9 * state.time_s)
        speed = max(speed + float(restless) * h, 0.0) if speed > 2.5 else speed
        row = traffic.ego_row(replace(ego, speed=speed, stuck_s=stuck_s))
        traffic.advance_paths(town.network, row, np.array([self._ego_key(state.seed, state.scene_index)]), h)
        x, y, yaw, _ = (float(v[0]) for v in town.network.paths.locate(row.path, row.s))
        wander = 0.25 * np.sin(0.35 * state.time_s + state.scene_index)
        rate = float(np.clip((ego.offset_m - wander) / 1.5, -0.25 * speed, 0.25 * speed))
        aside = ego.offset_m - rate * h
        wanted = yaw + np.arctan2(rate, max(speed, 1.0))
        turn = float(np.clip(wrap(np.array(wanted - ego.yaw)), -0.9 * h, 0.9 * h)) if speed > 0.05 else 0.0
        return replace(
            ego,
            x=x + aside * np.sin(yaw),
            y=y - aside * np.cos(yaw),
            yaw=float(wrap(np.array(ego.yaw + turn))),
            speed=speed,
            path=int(row.path[0]),
            s=float(row.s[0]),
            route=(int(row.route[0, 0]), int(row.route[0, 1])),
            hops=int(row.hops[0]),
            stuck_s=stuck_s,
            offset_m=aside,
        )


def _checked(delta: tuple[float, float, float] | Floats) -> Floats:
    motion = np.asarray(delta, np.float64)
    if motion.shape != (3,) or not np.isfinite(motion).all():
        raise ActionError(
            f"ego_pose_delta {delta!r}",
            "three finite numbers (dx m, dy m, dyaw rad)",
            "pass None for the built-in driver",
        )
    return motion


def _along(start: Ego, delta: Floats, part: float, dt_s: float, town: Town) -> Ego:
    """The ego after a part of its commanded motion (straight line, even turning), and its place on the road network."""
    c, s = np.cos(start.yaw), np.sin(start.yaw)
    x, y = start.x + part * (c * delta[0] - s * delta[1]), start.y + part * (s * delta[0] + c * delta[1])
    yaw = float(wrap(np.array(start.yaw + part * delta[2])))
    speed = float(np.hypot(delta[0], delta[1])) / dt_s * (1 if delta[0] >= 0 else -1)
    ego = replace(
        start, x=float(x), y=float(y), yaw=yaw, speed=max(speed, 0.0), yaw_rate=float(delta[2]) / dt_s, stuck_s=0.0
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


__all__ = ["BOX_DTYPE", "LANE", "Simulator", "SimulatorConfig"]
