"""What happened in a step: contacts, ground, progress and comfort out of the states before and after it.

Legend: B environments, S poses on the way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ii_world_env.ego import footprint
from ii_world_env.ego.footprint import FootprintConfig
from ii_world_env.engine_config import EngineConfig
from ii_world_env.state.outcome import Contact, Outcome, discomfort
from world_model.core.grid import STEP_S, VoxelGrid
from world_model.core.planar import inverse, relative
from world_model.core.vehicle import SUBSTEPS, Motion

if TYPE_CHECKING:
    from ii_world_env.state.state import State

TTC_S = (0.3, 0.6, 0.9)


def judge(
    before: State,
    motion: Motion,
    after: State,
    lateral_m: Tensor,
    trust: Tensor | None,
    grid: VoxelGrid,
    config: EngineConfig,
    looks: bool = True,
) -> Outcome:
    """The facts of a step.

    Args:
        before, after: states around it.
        motion: the way between them.
        lateral_m: (B,) offset from the route after the step.
        trust: (B,) forecast trust after the step, if there is such a figure.
        grid: voxel grid of the labels.
        config: how episodes run.
        looks: judge the occupancy; without it the states need not be decoded.
    """
    goal = after.route.goal_m
    step = after.steps.clamp(max=after.route.log_m.shape[1] - 1)
    logged = after.route.log_m.gather(1, step[:, None])[:, 0]
    ratio = (after.progress_m / logged.clamp(min=1e-3)).clamp(0, 1)
    return Outcome(
        contact=contact(before, motion, after, grid, config.footprint) if looks else None,
        destination=(goal >= config.shortest_goal_m)
        & (after.progress_m >= goal - config.goal_tolerance_m)
        & (lateral_m.abs() <= config.goal_lateral_m),
        progress_m=torch.minimum(after.progress_m, goal) - torch.minimum(before.progress_m, goal),
        progress_ratio=torch.where(logged < config.shortest_goal_m, torch.ones_like(ratio), ratio),
        goal_m=goal,
        lateral_m=lateral_m,
        discomfort=discomfort(
            after.accel_mps2,
            after.lateral_mps2,
            after.yaw_rate_rps,
            (before.accel_mps2, before.lateral_mps2, before.yaw_rate_rps),
            STEP_S,
        ),
        steps_left=(config.horizon - after.steps).clamp(min=0).float(),
        trust=trust,
    )


def contact(before: State, motion: Motion, after: State, grid: VoxelGrid, config: FootprintConfig) -> Contact:
    """What the body meets on the way between two decoded states."""
    home = inverse(after.pose)
    arrived = relative(motion.path[:, -1:].expand_as(motion.path), motion.path)
    corners_at = torch.cat((arrived[:, 1::3], torch.zeros_like(arrived[:, -1:])), 1)
    return Contact(
        collision=collision(before, motion, after, arrived, home, grid, config),
        off_road=footprint.off_road(after.labels, after.ground, corners_at, home, grid, config).any(1),
        time_to_collision_s=time_to_collision(after, home, grid, config),
        plan_risk=None if motion.plan is None else plan_risk(motion.plan, after, home, grid, config),
    )


def collision(
    before: State,
    motion: Motion,
    after: State,
    arrived: Tensor,
    home: Tensor,
    grid: VoxelGrid,
    config: FootprintConfig,
) -> Tensor:
    """(B,) whether the ego ran into something; ``arrived`` (B, S, 3) is its way seen from its end.

    The first half of the way is tested against the occupancy before, the second against the one after the step.
    So every pose meets the moving objects where they are at about its own time, and no wall is jumped over. In the
    middle, where objects jump from one occupancy to the other, both halves overlap by a substep: what moves less
    than its own length and 2.5 m in a step (a car at 13 m/s, a pedestrian at 6 m/s) cannot pass through the ego.
    """
    half = SUBSTEPS // 2
    early = footprint.contacts(before.labels, motion.path[:, : half + 1], inverse(before.pose), grid, config)
    late = footprint.contacts(after.labels, arrived[:, half - 1 :], home, grid, config)
    # A vehicle that hardly moves is hit by others, not at fault.
    moving = motion.path[:, -1, :2].norm(dim=-1) > 0.1
    return moving & (torch.cat((early, late), 1) >= config.min_voxels).any(1)


def plan_risk(plan: Tensor, after: State, home: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """(B,) share of a plan (B, S, 3) behind its first contact: nobody moves meanwhile, so this is no forecast."""
    hit = footprint.contacts(after.labels, plan, home, grid, config) >= config.min_voxels
    hit = hit | footprint.off_road(after.labels, after.ground, plan, home, grid, config)
    return (hit.long().cumsum(1) > 0).float().mean(1)


def time_to_collision(after: State, home: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """(B,) first of `TTC_S` at which the body, going straight on at its speed, would touch something; or infinity."""
    times = after.speed_mps.new_tensor(TTC_S)
    ahead = after.speed_mps[:, None] * times
    poses = torch.stack((ahead, torch.zeros_like(ahead), torch.zeros_like(ahead)), -1)
    hit = footprint.contacts(after.labels, poses, home, grid, config)
    hit = (hit >= config.min_voxels) & (after.speed_mps[:, None] > 0.1)
    return torch.where(hit, times, torch.full_like(times, math.inf)).amin(1)


def end_of(after: State, outcome: Outcome, config: EngineConfig) -> Tensor:
    """(B,) int64 the most serious cause of an end that holds, index into `CAUSES`; 0: none.

    Where nobody looked at the occupancy no episode ends by a collision or off the road.
    """
    cause = torch.zeros_like(after.steps)
    never = torch.zeros_like(outcome.destination)
    untrusted = never if outcome.trust is None else outcome.trust < config.least_trust
    seen = outcome.contact
    held = (
        untrusted,
        after.steps >= after.route.recorded,
        after.steps >= config.horizon,
        outcome.destination,
        never if seen is None else seen.off_road,
        never if seen is None else seen.collision,
    )
    for number, holds in zip((6, 5, 4, 3, 2, 1), held, strict=True):
        cause = torch.where(holds, number, cause)
    return cause
