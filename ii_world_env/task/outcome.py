"""What happened in a step, as facts: the only thing that rewards and episode ends are made of.

Legend: B environments, S poses on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ii_world_env.ego import footprint
from ii_world_env.ego.fault import Moment, faultless
from ii_world_env.ego.footprint import FootprintConfig
from ii_world_env.state.state import State
from ii_world_env.task.config import EngineConfig
from world_model.core.errors import ConfigError
from world_model.core.geometry import inverse, relative
from world_model.core.grid import STEP_S, VoxelGrid
from world_model.core.vehicle import SUBSTEPS, Motion

TTC_S = (0.3, 0.6, 0.9)
COMFORT_LIMITS = {
    "jerk": 8.37,
    "lateral_accel": 4.89,
    "forward_accel": 2.40,
    "braking": 4.05,
    "forward_jerk": 4.13,
    "yaw_rate": 0.95,
    "yaw_accel": 1.93,
}
"""Limits of comfort after NAVSIM (Dauner et al., 2024): m/s³, m/s², m/s², m/s², m/s³, rad/s, rad/s²."""


@dataclass(frozen=True, kw_only=True)
class Contact:
    """What the occupancy says about one step of B environments, each (B,).

    Attributes:
        collision: bool, the swept body touched an obstacle and it is the ego's fault.
        off_road: bool, a corner of the body left the drivable ground.
        time_to_collision_s: 0.3, 0.6 or 0.9 when the body would touch something then at constant velocity, else inf.
        plan_risk: share of the rest of the plan that lies behind its first contact or first corner off the road, in the
            occupancy right after the step; None where an action is no plan.
    """

    collision: Tensor
    off_road: Tensor
    time_to_collision_s: Tensor
    plan_risk: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Facts about one step of B environments, each (B,) unless stated.

    Those of `Contact` can be read here, too: ``outcome.collision``.

    Attributes:
        contact: what the occupancy says; None where nothing was decoded, since the reward needs no occupancy.
        destination: bool, the end of the route was reached.
        progress_m: metres along the route in this step, not beyond the destination.
        progress_ratio: progress so far over the log's so far, in [0, 1]; 1 while the log has hardly moved.
        goal_m: length of the route from the reset to the destination.
        lateral_m: distance from the route, positive to the left.
        discomfort: (B, 7) bool, which of `COMFORT_LIMITS` were exceeded, in their order.
        steps_left: steps until the horizon.
        trust: forecast trust in [0, 1], or None where the world has no such figure.
    """

    contact: Contact | None
    destination: Tensor
    progress_m: Tensor
    progress_ratio: Tensor
    goal_m: Tensor
    lateral_m: Tensor
    discomfort: Tensor
    steps_left: Tensor
    trust: Tensor | None = None

    @property
    def collision(self) -> Tensor:
        """See `Contact`; so the next three."""
        return self._contact().collision

    @property
    def off_road(self) -> Tensor:
        return self._contact().off_road

    @property
    def time_to_collision_s(self) -> Tensor:
        return self._contact().time_to_collision_s

    @property
    def plan_risk(self) -> Tensor | None:
        return self._contact().plan_risk

    def _contact(self) -> Contact:
        if self.contact is None:
            raise ConfigError(
                "a fact of the occupancy, read by a reward with needs_occupancy = False or needs_labels = False",
                "a reward that reads the other facts alone, since nothing was decoded",
                "take that attribute away from it",
            )
        return self.contact


def outcome_of(
    before: State,
    motion: Motion,
    after: State,
    lateral_m: Tensor,
    trust: Tensor | None,
    grid: VoxelGrid,
    config: EngineConfig,
    needs_occupancy: bool = True,
) -> Outcome:
    """The facts of a step.

    Args:
        before, after: states around it.
        motion: the way between them.
        lateral_m: (B,) offset from the route after the step.
        trust: (B,) forecast trust after the step, if there is such a figure.
        grid: voxel grid of the labels.
        config: how episodes run.
        needs_occupancy: find contacts; without it the states need not be decoded.
    """
    goal = after.route.goal_m
    step = after.steps.clamp(max=after.route.log_m.shape[1] - 1)
    logged = after.route.log_m.gather(1, step[:, None])[:, 0]
    ratio = (after.progress_m / logged.clamp(min=1e-3)).clamp(0, 1)
    return Outcome(
        contact=contact_of(before, motion, after, grid, config.footprint) if needs_occupancy else None,
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


def end_of(after: State, outcome: Outcome, config: EngineConfig) -> Tensor:
    """(B,) int64 the most serious cause of an end that holds, index into `CAUSES`; 0: none.

    Without contacts in the outcome no episode ends by a collision or off the road.
    """
    holds = [after.steps >= after.route.recorded, after.steps >= config.horizon, outcome.destination]
    numbers = [5, 4, 3]
    if outcome.trust is not None:
        holds, numbers = [outcome.trust < config.least_trust, *holds], [6, *numbers]
    if outcome.contact is not None:
        holds, numbers = [*holds, outcome.contact.off_road, outcome.contact.collision], [*numbers, 2, 1]
    cause = torch.zeros_like(after.steps)
    for number, held in zip(numbers, holds, strict=True):
        cause = torch.where(held, number, cause)
    return cause


def discomfort(
    accel: Tensor, lateral: Tensor, yaw_rate: Tensor, before: tuple[Tensor, Tensor, Tensor], dt_s: float
) -> Tensor:
    """Which limits of comfort a step exceeds.

    Args:
        accel, lateral, yaw_rate: (B,) m/s², m/s², rad/s of this step.
        before: the same three of the step before.
        dt_s: seconds between them.

    Returns:
        (B, 7) bool in the order of `COMFORT_LIMITS`.
    """
    jerk, side_jerk, yaw_accel = (
        (now - then) / dt_s for now, then in zip((accel, lateral, yaw_rate), before, strict=True)
    )
    values = (torch.hypot(jerk, side_jerk), lateral.abs(), accel, -accel, jerk.abs(), yaw_rate.abs(), yaw_accel.abs())
    stacked = torch.stack(values, -1)
    return stacked > stacked.new_tensor(list(COMFORT_LIMITS.values()))


def contact_of(before: State, motion: Motion, after: State, grid: VoxelGrid, config: FootprintConfig) -> Contact:
    """What the body meets on the way between two decoded states."""
    home = inverse(after.pose)
    arrived = relative(motion.path[:, -1:].expand_as(motion.path), motion.path)
    corners_at = torch.cat((arrived[:, 1::3], torch.zeros_like(arrived[:, -1:])), 1)
    return Contact(
        collision=collision(before, motion, after, arrived, home, grid, config),
        off_road=footprint.off_road(after.level_labels, after.ground, corners_at, home, grid, config).any(1),
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
    early = footprint.contacts(before.level_labels, motion.path[:, : half + 1], inverse(before.pose), grid, config)
    late = footprint.contacts(after.level_labels, arrived[:, half - 1 :], home, grid, config)
    # A vehicle that hardly moves is hit by other agents, not at fault.
    moving = motion.path[:, -1, :2].norm(dim=-1) > 0.1
    first, second = early >= config.min_voxels, late >= config.min_voxels
    touched: Tensor = (first.any(1) | second.any(1)) & moving
    if not config.struck_excused or not bool(touched.any()):
        return touched
    k = touched.nonzero()[:, 0]
    at = second[k].int().argmax(1)[:, None, None].expand(-1, 1, 3)
    end = Moment(labels=after.level_labels[k], home=home[k], poses=arrived[k, half - 1 :].gather(1, at))
    begin = Moment(labels=before.level_labels[k], home=inverse(before.pose)[k], poses=torch.zeros_like(end.poses))
    touched[k] = ~faultless(begin, end, first[k].any(1)[:, None], grid, config)[:, 0]
    return touched


def plan_risk(plan: Tensor, after: State, home: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """(B,) share of a plan (B, S, 3) behind its first contact, in a world that stands still: no forecast."""
    hit = footprint.contacts(after.level_labels, plan, home, grid, config) >= config.min_voxels
    hit = hit | footprint.off_road(after.level_labels, after.ground, plan, home, grid, config)
    return (hit.long().cumsum(1) > 0).float().mean(1)


def time_to_collision(after: State, home: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """(B,) first of `TTC_S` at which the body, going straight on at its speed, would touch something; or infinity."""
    times = after.speed_mps.new_tensor(TTC_S)
    ahead = after.speed_mps[:, None] * times
    poses = torch.stack((ahead, torch.zeros_like(ahead), torch.zeros_like(ahead)), -1)
    hit = footprint.contacts(after.level_labels, poses, home, grid, config)
    hit = (hit >= config.min_voxels) & (after.speed_mps[:, None] > 0.1)
    return torch.where(hit, times, torch.full_like(times, math.inf)).amin(1)
