"""Everything that decides a scene's future, as plain numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Float32s = NDArray[np.float32]
Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Agents:
    """What never changes about the agents of a scene.

    Args:
        label: (N,) Occ3D class id.
        size_m: (N, 3) length, width, height.
        desired_mps: (N,) speed on a free road; 0 for what stands.
        lateral_m: (N,) offset to the right of its path.
        mobile: (N,) whether the agent follows a path.
        key: (N,) uint64 that seeds an agent's choices.
        tractor: (N,) the agent that tows it, or -1.
    """

    label: Ints
    size_m: Floats
    desired_mps: Floats
    lateral_m: Floats
    mobile: Bools
    key: Keys
    tractor: Ints


@dataclass(kw_only=True)
class Motion:
    """What changes about agents (and, as one more row in traffic, about the ego).

    Args:
        xy: (N, 2) centres, global metres. yaw: (N,) rad. speed: (N,) m/s.
        path, s: (N,) path number (-1 where none) and arc length along it, metres.
        route: (N, 2) the two paths that follow.
        hops: (N,) how many paths were entered so far.
        stuck_s: (N,) how long the agent has been waiting behind another one.
    """

    xy: Floats
    yaw: Floats
    speed: Floats
    path: Ints
    s: Floats
    route: Ints
    hops: Ints
    stuck_s: Floats

    def clone(self) -> Motion:
        """A copy that shares nothing."""
        return Motion(**{name: value.copy() for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Ego:
    """The ego vehicle: rear axle on the ground.

    Args:
        x, y, z: global metres; yaw: rad; speed: m/s along the heading; yaw_rate: rad/s.
        path, s, route, hops, stuck_s: where the built-in driver is, as in ``Motion``.
        offset_m: distance to the right of the path.
        desired_mps: speed of the built-in driver on a free road.
    """

    x: float
    y: float
    z: float
    yaw: float
    speed: float
    yaw_rate: float
    path: int
    s: float
    route: tuple[int, int]
    hops: int
    stuck_s: float
    offset_m: float
    desired_mps: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the LiDAR saw during the drive, in the current ego frame.

    Args:
        lowest_m: (X, Y) lowest height that some recent ray reached in each column.
        range_m: (X, Y) distance from which the column was seen best; grows slowly while it is forgotten.
        phase_rad: how far the slowly changing label gaps have drifted.
    """

    lowest_m: Floats
    range_m: Floats
    phase_rad: float


@dataclass(frozen=True, kw_only=True)
class SimState:
    """One moment of one scene; ``Simulator.step`` returns a new one and leaves this one as it is.

    Args:
        seed, scene_index, town_id: which scene of which data set.
        time_s: since the scene's start. step_index: keyframes since then.
        ego, agents, motion, memory: see their classes. Saved files call the agents "cast" and their motion "movers".
    """

    seed: int
    scene_index: int
    town_id: int
    time_s: float
    step_index: int
    ego: Ego
    agents: Agents = field(metadata={"stored": "cast"})
    motion: Motion = field(metadata={"stored": "movers"})
    memory: Memory

    def clone(self) -> SimState:
        """An independent copy (the never-changing ``agents`` are shared)."""
        memory = replace(self.memory, lowest_m=self.memory.lowest_m.copy(), range_m=self.memory.range_m.copy())
        return replace(self, motion=self.motion.clone(), memory=memory)
