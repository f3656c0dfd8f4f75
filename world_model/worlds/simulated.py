"""The simulator that made the synthetic scenes: ground truth that reacts to the ego, to score planners.

A clip of a synthetic scene is continued where it was recorded: the town is built again from the data set's seed, the
recorded drive is simulated up to the clip's frame, and from there the ego follows the given motions while all other
agents follow, brake and yield as in the recording. Real recordings cannot be continued like this and are refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose, planar_pose, se2_matrix
from world_model.core.grid import FREE, MOVABLE, OCC3D, VoxelGrid
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.models.geometric.agents.actors import Actors
from world_model.models.geometric.agents.tracks import SLOTS, Tracks, wrapped
from world_model.simulator import SimState, Simulator
from world_model.simulator.dataset.config import GENERATOR_VERSION
from world_model.simulator.dataset.rebuild import generator_of, recorded_state
from world_model.simulator.simulator import SimulatorConfig
from world_model.simulator.town.paths import CONNECTOR
from world_model.simulator.town.town import Town, town_of
from world_model.simulator.traffic.actor import with_actor, without

TOWNS_KEPT = 32
"""Towns of 25 MB each that stay in memory: a town that is needed again and again is not built again and again."""
POSE_TOLERANCE_M = 0.05
LABEL_TOLERANCE = 0.02
"""Share of differing voxels up to which a rebuilt frame is the recorded one. On the machine type that made the data
nothing differs; elsewhere the last bits of sines may tip single voxels."""
TURN_OF_COMMAND = np.array([-1, 1, 0])
"""Sign of the turn (left positive) that the commands right, left and straight ask for."""


@dataclass(frozen=True, kw_only=True)
class SimulatedState(TensorState):
    """B moments of B scenes.

    Attributes:
        scenes: (B) states of the simulator, one for each environment; never changed in place.
    """

    scenes: tuple[SimState, ...]

    def clone(self) -> SimulatedState:
        return SimulatedState(scenes=tuple(scene.clone() for scene in self.scenes))

    def index(self, i: int | slice | Sequence[int] | Tensor) -> SimulatedState:
        row = torch.arange(len(self.scenes), device="cpu")
        chosen = row[i : i + 1 or None] if isinstance(i, int) else row[i.cpu() if isinstance(i, Tensor) else i]
        return SimulatedState(scenes=tuple(self.scenes[k] for k in chosen.tolist()))

    def expand(self, n: int) -> SimulatedState:
        return SimulatedState(scenes=tuple(scene for scene in self.scenes for _ in range(n)))

    def map(self, change: Callable[[Tensor], Tensor]) -> SimulatedState:
        """Nothing in here is a tensor."""
        return self


class SimulatedWorld:
    """Reactive ground truth.

    In scenes of recorded scenarios the others replay the log, and yield to an ego that has left its own.

    Args:
        grid: must be that of Occ3D, on which the simulator draws.
        device: where the labels go; the simulator itself runs on the CPU.
        yields: False lets recorded traffic replay its log whatever the ego does.

    Raises:
        ConfigError: another grid.
    """

    needs_future_labels = False

    def __init__(self, grid: VoxelGrid = OCC3D, device: str | torch.device = "cpu", *, yields: bool = True) -> None:
        if grid != OCC3D:
            raise ConfigError(
                f"the simulator on {grid}", f"{OCC3D}", "leave the grid as it is, or choose another world"
            )
        self.grid, self.device = grid, torch.device(device)
        self._simulator = Simulator(SimulatorConfig(yields=yields))
        self._towns: OrderedDict[tuple[int, int, str], Town] = OrderedDict()

    def reset(self, clips: Clips) -> SimulatedState:
        """Continue recorded synthetic scenes at the current frames of clips.

        Raises:
            DataError: the clips are no synthetic scenes, or were made by another version of the simulator.
        """
        if clips.index is None:
            raise DataError("clips without their data set", "clips.index", "read them with load_clips")
        scenes = []
        for row, frame in enumerate(clips.frame):
            scene = recorded_state(clips.index, frame)
            self._hold_town(scene)
            self._compare(scene, clips, row)
            scenes.append(scene)
        return SimulatedState(scenes=tuple(scenes))

    def step(self, state: SimulatedState, curr_to_next: Tensor, command: Tensor) -> SimulatedState:
        """The ego executes the motion, the other agents drive on; commands have no effect."""
        motion = planar_pose(invert_pose(curr_to_next.double())).cpu().numpy()
        return SimulatedState(
            scenes=tuple(self._advance(scene, delta) for scene, delta in zip(state.scenes, motion, strict=True))
        )

    def drive(self, state: SimulatedState, command: Tensor) -> tuple[SimulatedState, Tensor]:
        """Let the simulator's own driver drive: along its lane, turning at the next junction as the command says where
        there is such a way; returns (B, 4, 4) current ego frame -> next ego frame."""
        before = [self._with_command(scene, int(c)) for scene, c in zip(state.scenes, command, strict=True)]
        after = [self._advance(scene, None) for scene in before]
        steps = torch.from_numpy(np.stack([_relative(a, b) for a, b in zip(before, after, strict=True)]))
        curr_to_next = invert_pose(se2_matrix(*steps.unbind(1))).float().to(self.device)
        return SimulatedState(scenes=tuple(after)), curr_to_next

    def occupancy(self, state: SimulatedState) -> Tensor:
        labels = np.stack([self._draw(scene) for scene in state.scenes])
        return torch.from_numpy(labels).to(self.device)

    def drop_agents(self, state: SimulatedState, share: Tensor, seed: Tensor) -> SimulatedState:
        """Scenes without some of their agents (vehicles, people, parked cars, cones, barriers).

        Args:
            share: (B,) of the agents to drop, in [0, 1].
            seed: (B,) int64, says which.
        """
        rows = zip(state.scenes, share.tolist(), seed.tolist(), strict=True)
        return SimulatedState(scenes=tuple(_without(scene, part, number) for scene, part, number in rows))

    def stage(self, state: SimulatedState, actors: Actors) -> SimulatedState:
        """Scenes of a reset with the actors of events, see `world_model.worlds.events`. In recorded scenarios the
        others replay the log through them."""
        rows = zip(state.scenes, actors.present.tolist(), actors.chunks(1), strict=True)
        return SimulatedState(scenes=tuple(self._with(scene, one) if there else scene for scene, there, one in rows))

    def _with(self, scene: SimState, actors: Actors) -> SimState:
        self._hold_town(scene)
        return self._simulator.look(_staged(scene, actors))

    def agents(self, state: SimulatedState) -> Tracks:
        """The nearest movable road users as they truly are, parked ones too, (B, SLOTS) in the current ego frame."""
        rows = [_tracks(scene, self.grid) for scene in state.scenes]
        return Tracks.cat(rows).map(lambda value: value.to(self.device))

    def _advance(self, scene: SimState, motion: NDArray[Any] | None) -> SimState:
        self._hold_town(scene)
        return self._simulator.step(scene, motion)

    def _draw(self, scene: SimState) -> NDArray[Any]:
        self._hold_town(scene)
        return self._simulator.labels(scene).semantics

    def _hold_town(self, scene: SimState) -> None:
        key = (scene.seed, scene.town_id, scene.terrain)
        if key in self._towns:
            self._towns.move_to_end(key)
            return
        self._towns[key] = town_of(scene)
        if len(self._towns) > TOWNS_KEPT:
            self._towns.popitem(last=False)

    def _with_command(self, scene: SimState, command: int) -> SimState:
        """The scene with the ego's next turn chosen by a command, if it is not in or before one already."""
        self._hold_town(scene)
        paths = town_of(scene).network.paths
        ego = scene.ego
        if paths.kind[ego.path] == CONNECTOR:
            return scene
        ways = np.unique(paths.successors[ego.path])
        fitting = [int(w) for w in ways if w >= 0 and np.sign(paths.turn[w]) == TURN_OF_COMMAND[command]]
        if not fitting or ego.route[0] in fitting:
            return scene
        return replace(scene, ego=replace(ego, route=(fitting[0], paths.likeliest_successor(fitting[0]))))

    def _compare(self, scene: SimState, clips: Clips, row: int) -> None:
        """Check that the rebuilt scene is the recorded one."""
        place = clips.ego_to_global[row, clips.past, :2, 3].numpy()
        away = float(np.hypot(*(place - (scene.ego.x, scene.ego.y))))
        rebuilt, recorded = self._draw(scene), clips.occupancy[row, -1].numpy()
        wrong = int((rebuilt != recorded).sum()) / max(1, int((recorded != FREE).sum()))
        if away <= POSE_TOLERANCE_M and wrong <= LABEL_TOLERANCE:
            return
        index = clips.index
        assert index is not None
        raise DataError(
            f"{index.scene_name[clips.scene[row]]} of {index.root}, made by generator {generator_of(index)}, cannot be "
            f"continued: simulated again it is {away:.2f} m and {100 * wrong:.0f} % of the voxels off",
            f"a data set made by this version of the simulator, generator {GENERATOR_VERSION}",
            "make it again with `python -m world_model.make_synthetic`, or choose world='replay'",
        )


def _tracks(scene: SimState, grid: VoxelGrid) -> Tracks:
    """The agents of one scene inside the grid, nearest first."""
    ego, motion, agents = scene.ego, scene.motion, scene.agents
    east, north = (motion.xy - (ego.x, ego.y)).T
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    x, y = c * east + s * north, c * north - s * east
    inside = (x > grid.lower_m[0]) & (x < grid.upper_m[0]) & (y > grid.lower_m[1]) & (y < grid.upper_m[1])
    rows = np.flatnonzero(inside & np.isin(agents.label, MOVABLE))
    rows = rows[np.argsort(np.hypot(x, y)[rows], kind="stable")][:SLOTS]
    empty = Tracks.none(1, torch.device("cpu"))
    values = {"x": x, "y": y, "yaw": motion.yaw - ego.yaw, "speed": motion.speed, "confidence": np.ones_like(x)}
    values |= dict(zip(("length", "width", "height"), agents.size_m.T, strict=True)) | {"class_id": agents.label}
    full = {"alive": empty.alive.clone()} | {name: getattr(empty, name).clone() for name in values}
    full["alive"][0, : len(rows)] = True
    for name, value in values.items():
        full[name][0, : len(rows)] = torch.from_numpy(value[rows]).to(full[name].dtype)
    return replace(empty, **{**full, "yaw": wrapped(full["yaw"])})


def _relative(before: SimState, after: SimState) -> NDArray[Any]:
    """(3,) the ego's dx, dy in metres and dyaw in rad, in its earlier frame."""
    a, b = before.ego, after.ego
    dx, dy, c, s = b.x - a.x, b.y - a.y, np.cos(a.yaw), np.sin(a.yaw)
    dyaw = (b.yaw - a.yaw + np.pi) % (2 * np.pi) - np.pi
    return np.array((c * dx + s * dy, c * dy - s * dx, dyaw))


def _without(scene: SimState, share: float, seed: int) -> SimState:
    count = len(scene.agents.label)
    gone = np.random.default_rng(seed).permutation(count)[: round(share * count)]
    return without(scene, gone) if len(gone) else scene


def _staged(scene: SimState, actors: Actors) -> SimState:
    """A scene with the actor of one event."""
    ego, pose = scene.ego, actors.pose[0].double().cpu().numpy()
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    away = (scene.motion.xy - (ego.x, ego.y)) @ np.array([[c, -s], [s, c]])
    x, y = torch.from_numpy(away.astype(np.float32))[None].unbind(-1)
    scene = without(scene, actors.map(lambda value: value.cpu()).in_the_way(x, y)[0].numpy())
    place = np.column_stack((ego.x + c * pose[:, 0] - s * pose[:, 1], ego.y + s * pose[:, 0] + c * pose[:, 1]))
    told = np.column_stack((place, pose[:, 2] + ego.yaw, pose[:, 3]))
    paths, size = town_of(scene).network.paths, actors.size_m[0].double().cpu().numpy()
    return with_actor(scene, paths, int(actors.class_id[0]), size, told)
