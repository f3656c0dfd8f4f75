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
Table = dict[str, NDArray[Any]]
"""Columns by name, one row an agent or box."""


@dataclass(frozen=True, kw_only=True)
class Agents:
    """What never changes about the N agents of a scene."""

    label: Ints  # (N,) Occ3D class id
    size_m: Floats  # (N, 3) length, width, height
    desired_mps: Floats  # (N,) speed on a free road; 0 for what stands
    lateral_m: Floats  # (N,) offset to the right of its path
    mobile: Bools  # (N,) whether the agent follows a path
    key: Keys  # (N,) uint64 that seeds an agent's choices
    tractor: Ints  # (N,) the agent that tows it, or -1


@dataclass(kw_only=True)
class Motion:
    """What changes about N agents (and, as one more row in traffic, about the ego)."""

    xy: Floats  # (N, 2) centres, global metres
    yaw: Floats  # (N,) rad
    speed: Floats  # (N,) m/s
    path: Ints  # (N,) path number, -1 where none
    s: Floats  # (N,) arc length along the path, metres
    route: Ints  # (N, 2) the two paths that follow
    hops: Ints  # (N,) how many paths were entered so far
    stuck_s: Floats  # (N,) how long the agent has been waiting behind another one

    def clone(self) -> Motion:
        """A copy that shares nothing."""
        return Motion(**{name: value.copy() for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Ego:
    """The ego vehicle: rear axle on the ground, and where the built-in driver is, as in ``Motion``."""

    x: float  # global metres
    y: float
    z: float  # 0; the height of the ground is the terrain's (``Simulator.ego_pose``)
    yaw: float  # rad
    speed: float  # m/s along the heading
    yaw_rate: float  # rad/s
    path: int
    s: float
    route: tuple[int, int]
    hops: int
    stuck_s: float
    offset_m: float  # distance to the right of the path
    desired_mps: float  # speed of the built-in driver on a free road


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the LiDAR saw during the drive, in the current ego frame."""

    lowest_m: Floats  # (X, Y) lowest height over the ground that some recent ray reached in each column
    range_m: Floats  # (X, Y) distance from which the column was seen best; grows slowly while it is forgotten
    phase_rad: float  # how far the slowly changing label gaps have drifted


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the last agent of a scene does, if it is the actor of an event."""

    pose: Floats  # (T, 4) global x, y, yaw, speed at half seconds; (0, 4) where there is no actor
    time_s: float  # of the first

    @classmethod
    def none(cls) -> Script:
        """No actor."""
        return cls(pose=np.zeros((0, 4)), time_s=0.0)


@dataclass(frozen=True, kw_only=True)
class SimState:
    """One moment of one scene; ``Simulator.step`` returns a new one and leaves this one as it is.

    Args:
        seed, scene_index, town_id: which scene of which data set.
        terrain: "flat" or "hills", as for ``build_town``.
        time_s: since the scene's start. step_index: keyframes since then.
        ego, agents, motion, memory, script: see their classes. Saved files call the agents "cast" and their motion
            "movers".
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
    terrain: str = field(default="flat", metadata={"absent": lambda like, rows: "flat"})
    script: Script = field(default_factory=Script.none, metadata={"absent": lambda like, rows: Script.none()})

    def clone(self) -> SimState:
        """An independent copy (the never-changing ``agents`` are shared)."""
        memory = replace(self.memory, lowest_m=self.memory.lowest_m.copy(), range_m=self.memory.range_m.copy())
        return replace(self, motion=self.motion.clone(), memory=memory)
