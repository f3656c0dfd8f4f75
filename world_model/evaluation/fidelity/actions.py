"""The drives that worlds are asked about: what was logged, and what no log holds.

All of them are laid down before any world runs, from the log, the labels at the start and a seed, so that every world
and the ground truth get exactly the same motions.

Legend: B drives, K steps of 0.5 s; a motion is (dx m, dy m, yaw rad) of the ego over a step, in its frame before it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.core.geometry import invert_pose, planar_pose, se2_matrix
from world_model.core.grid import DRIVEABLE, GROUND, OBSTACLE, OCC3D, STEP_S, VoxelGrid
from world_model.data.clips import scene_of
from world_model.data.index import SceneIndex
from world_model.simulator.traffic.wild import (
    ACCEL_MPS2,
    MAX_CURVATURE,
    MAX_SPEED_MPS,
    accel_to_least_speed,
    arc,
    arc_step,
)

Floats = NDArray[np.float64]
ACTION_SETS = ("logged", "perturbed", "random", "towards obstacle", "off road")
"""The last two are the adversarial ones."""
SPEED_NOISE_MPS, CURVATURE_NOISE, MEMORY = 1.5, 0.02, 0.8
"""Standard deviations of the perturbation, and its correlation from one step to the next."""
RANDOM_HOLD = 2
"""Steps that a random action is held."""
AHEAD_RAD = math.radians(40)
LEAST_AHEAD_M = 6.0
"""An obstacle is ahead within this angle of the ego's nose, and beyond this distance."""
OFF_ROAD_RAD = math.radians(55)
"""Heading at which an off-road drive leaves the road, against the heading at its start."""


@dataclass(frozen=True, kw_only=True)
class DriveStart:
    """Where a drive starts.

    Attributes:
        index: the data set.
        frame: number of the current frame.
        labels: (X, Y, Z) class ids there; only adversarial actions need them.
        steps: K.
        seed: of everything that is random.
        grid: of the labels.
    """

    index: SceneIndex
    frame: int
    labels: NDArray[np.uint8]
    steps: int
    seed: int = 0
    grid: VoxelGrid = OCC3D

    @property
    def speed_mps(self) -> float:
        """Speed over the step into the current frame."""
        return float(np.clip(self.index.motion[self.frame, 0], 0, MAX_SPEED_MPS))

    def random(self, purpose: str) -> np.random.Generator:
        """Random numbers that depend on nothing but the seed, the start and what they are for."""
        token = str(self.index.token[self.frame])
        return np.random.default_rng([self.seed, zlib.crc32(token.encode()), zlib.crc32(purpose.encode())])

    def columns(self, mask: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """x and y in metres of the columns of a mask (X, Y)."""
        place = (np.argwhere(mask) + 0.5) * self.grid.voxel_m + self.grid.lower_m[:2]
        return place[:, 0], place[:, 1]


@dataclass(frozen=True, kw_only=True)
class Motions:
    """B drives.

    Attributes:
        planar: (B, K, 3) float64.
        curr_to_next: (B, K, 4, 4) float32, ego frame -> next ego frame.
        command: (B, K) int64, 0 right, 1 left, 2 straight.
    """

    planar: Floats
    curr_to_next: torch.Tensor
    command: torch.Tensor

    @classmethod
    def of(cls, planar: Floats) -> Motions:
        """Motions in the plane, with commands that fit them."""
        matrix = invert_pose(se2_matrix(*torch.from_numpy(planar).unbind(-1))).float()
        return cls(planar=planar, curr_to_next=matrix, command=commands(planar))

    def still(self) -> Motions:
        """The same number of steps without any motion."""
        return Motions.of(np.zeros_like(self.planar))


def motions_for(action_set: str, starts: Sequence[DriveStart]) -> Motions:
    """The drives of an action set (one of `ACTION_SETS`) from B starts."""
    if action_set != "logged":
        return Motions.of(np.stack([planar_drive(action_set, start) for start in starts]))
    # The log as it is: with slopes and its own commands.
    steps, command = zip(*(_log(start) for start in starts), strict=True)
    matrix = torch.stack(steps)
    return Motions(
        planar=planar_pose(matrix).numpy(), curr_to_next=invert_pose(matrix).float(), command=torch.stack(command)
    )


def planar_drive(action_set: str, start: DriveStart) -> Floats:
    """(K, 3) motions of an action set from a start."""
    if action_set == "logged":
        logged: Floats = planar_pose(_log(start)[0]).numpy()
        return logged
    if action_set == "towards obstacle":
        return pursuit(start, nearest_obstacle(start))
    return {"perturbed": perturbed, "random": wandering, "off road": off_road}[action_set](start)


def _log(start: DriveStart) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, 4, 4) float64 next ego frame -> ego frame of what was driven, and (K,) its commands; beyond the end of the
    scene the ego stands."""
    index, inside = start.index, start.index.frames(scene_of(start.index, start.frame))
    rows = np.arange(start.frame, start.frame + start.steps + 1).clip(inside.start, inside.stop - 1)
    pose = torch.from_numpy(index.ego_to_global[rows])
    return invert_pose(pose[:-1]) @ pose[1:], torch.from_numpy(index.command[rows[:-1]].astype(np.int64))


def perturbed(start: DriveStart) -> Floats:
    """The log with another speed and another steering: noise that lasts a few steps."""
    rng, way = start.random("perturbed"), planar_drive("logged", start)
    noise = rng.standard_normal((len(way), 2)) * (SPEED_NOISE_MPS, CURVATURE_NOISE)
    for k in range(1, len(way)):
        noise[k] = MEMORY * noise[k - 1] + math.sqrt(1 - MEMORY**2) * noise[k]
    distance = np.clip(way[:, 0] + noise[:, 0] * STEP_S, 0, MAX_SPEED_MPS * STEP_S)
    share = np.where(np.abs(way[:, 0]) > 0.1, distance / np.where(way[:, 0] == 0, 1, way[:, 0]), 1)
    yaw = way[:, 2] * np.minimum(share, 2) + noise[:, 1] * distance
    return np.stack([arc(float(s), float(y)) for s, y in zip(distance, yaw, strict=True)])


def wandering(start: DriveStart) -> Floats:
    """Random accelerations and curvatures, each held for a second."""
    rng, speed, motions = start.random("random"), start.speed_mps, []
    for k in range(start.steps):
        if k % RANDOM_HOLD == 0:
            accel, curvature = rng.uniform(-ACCEL_MPS2, ACCEL_MPS2), rng.uniform(-MAX_CURVATURE, MAX_CURVATURE)
        motion, speed = arc_step(speed, accel, curvature)
        motions.append(motion)
    return np.stack(motions)


def nearest_obstacle(start: DriveStart) -> tuple[float, float]:
    """(x, y) in metres of the nearest obstacle ahead; straight on where there is none."""
    x, y = start.columns(np.isin(start.labels, OBSTACLE).any(-1))
    distance = np.hypot(x, y)
    ahead = (np.abs(np.arctan2(y, x)) < AHEAD_RAD) & (distance > LEAST_AHEAD_M)
    if not ahead.any():
        return (30.0, 0.0)
    nearest = np.flatnonzero(ahead)[distance[ahead].argmin()]
    return (float(x[nearest]), float(y[nearest]))


def pursuit(start: DriveStart, target_m: tuple[float, float], accel_mps2: float | None = None) -> Floats:
    """Steer at a point and then go straight on, through whatever is there.

    Args:
        start: the start.
        target_m: (x, y) in the ego frame of the start.
        accel_mps2: acceleration; by default speed up to `LEAST_SPEED_MPS` and keep it.
    """
    target, speed, motions, past = np.array(target_m, float), start.speed_mps, [], False
    for _ in range(start.steps):
        past = past or target[0] < 1.0
        curvature = 0.0 if past else 2 * target[1] / float(target @ target)
        accel = accel_to_least_speed(speed) if accel_mps2 is None else accel_mps2
        motion, speed = arc_step(speed, accel, curvature)
        motions.append(motion)
        c, s = math.cos(motion[2]), math.sin(motion[2])
        target = np.array(((c, s), (-s, c))) @ (target - motion[:2])
    return np.stack(motions)


def off_road(start: DriveStart) -> Floats:
    """Turn to the side on which the road ends sooner, and leave it."""
    side, speed, heading, motions = road_ends(start), start.speed_mps, 0.0, []
    for _ in range(start.steps):
        curvature = side * MAX_CURVATURE if abs(heading) < OFF_ROAD_RAD else 0.0
        motion, speed = arc_step(speed, accel_to_least_speed(speed), curvature)
        heading += motion[2]
        motions.append(motion)
    return np.stack(motions)


def road_ends(start: DriveStart) -> int:
    """1 if other ground than road is nearer on the left, -1 on the right."""
    road = (start.labels == DRIVEABLE).any(-1)
    x, y = start.columns(np.isin(start.labels, GROUND).any(-1) & ~road)
    ahead = (x > 0) & (x < 20)
    left, right = (np.abs(y[ahead & (sign * y > 0)]).min(initial=np.inf) for sign in (1, -1))
    return 1 if left < right else -1


def commands(planar: Floats) -> torch.Tensor:
    """(..., K) int64 commands that fit (..., K, 3) motions: the turn over the three seconds to come."""
    yaw = np.cumsum(np.concatenate((np.zeros_like(planar[..., :1, 2]), planar[..., 2]), -1), -1)
    steps = planar.shape[-2]
    turn = yaw[..., np.minimum(np.arange(steps) + 6, steps)] - yaw[..., :steps]
    return torch.from_numpy(np.where(turn > 0.35, 1, np.where(turn < -0.35, 0, 2)).astype(np.int64))
