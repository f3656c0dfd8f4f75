"""Many plans scored in one forecast: what a search needs, at a fraction of the cost of branching the world.

The world is rolled out once, along the plan of a scripted prior. Every candidate is then laid into those forecasts by
geometry: its body is tested against the occupancy of its own time, seen from where the prior was. This is exact, up to
the rounding of voxels, in worlds whose surroundings do not react to the ego; where they react, they react to the prior.

Legend: B environments, S candidates, H steps, A components of an action, P poses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ii_world_env.ego import footprint, route
from ii_world_env.ego.fault import Moment, faultless
from ii_world_env.engine import Engine, State
from ii_world_env.task.outcome import TTC_S, Contact, Outcome, end_of, outcome_of
from world_model.core.geometry import compose, inverse, relative
from world_model.core.vehicle import SUBSTEPS, Motion


@dataclass(frozen=True, kw_only=True)
class SharedForecast:
    """What a world forecasts along one plan.

    Attributes:
        states: (H + 1) states of B environments with their occupancy, the first is now.
        actions: (B, H, A) the plan.
    """

    states: tuple[State, ...]
    actions: Tensor


def forecast(engine: Engine, state: State, act: Callable[[State], Tensor], steps: int) -> SharedForecast:
    """Roll the world out along the plan of a driver."""
    states, actions = [engine.with_occupancy(state)], []
    for _ in range(steps):
        actions.append(engine.action_mode.checked(act(states[-1]), state.batch, state.pose.device))
        states.append(engine.with_occupancy(engine.advance(states[-1], actions[-1])[0]))
    return SharedForecast(states=tuple(states), actions=torch.stack(actions, 1))


@torch.inference_mode()
def scores(engine: Engine, shared: SharedForecast, plans: Tensor) -> Tensor:
    """Sum of the engine's rewards of every candidate, (B, S); an episode that has ended earns nothing more.

    Args:
        engine: reward, action mode and rules. Action noise is left out.
        shared: the forecast.
        plans: (B, S, H, A) checked actions.
    """
    batch, count, steps = plans.shape[:3]
    mode = engine.action_mode
    assert mode.move is not None
    now = _slim(shared.states[0]).expand(count)
    total, running = torch.zeros_like(now.pose[:, 0]), now.cause == 0
    for step in range(steps):
        actions = plans[:, :, step].flatten(0, 1)
        motion = mode.move(actions, now)
        pose = compose(now.pose, motion.path[:, -1])
        progress, lateral = route.project(now.route, pose[:, :2], now.progress_m)
        after = replace(
            now,
            pose=pose,
            speed_mps=motion.speed_mps,
            accel_mps2=motion.accel_mps2,
            lateral_mps2=motion.speed_mps * motion.yaw_rate_rps,
            yaw_rate_rps=motion.yaw_rate_rps,
            progress_m=progress,
            steps=now.steps + 1,
        )
        outcome = _outcome(engine, shared, step, now, motion, after, lateral, count)
        reward = torch.stack(list(engine.reward(outcome).values())).sum(0)
        total = total + torch.where(running, reward, 0.0)
        running = running & (end_of(after, outcome, engine.config) == 0)
        now = after
    return total.view(batch, count)


def _slim(state: State) -> State:
    """A state without its surroundings, which candidates share."""
    return replace(state, world=None, decoded=None, ground=state.ground[:, :1, :1])


def _outcome(
    engine: Engine,
    shared: SharedForecast,
    step: int,
    now: State,
    motion: Motion,
    after: State,
    lateral: Tensor,
    count: int,
) -> Outcome:
    """The facts of a step of B * S candidates, see `ii_world_env.task.outcome`."""
    outcome = outcome_of(now, motion, after, lateral, None, engine.world.grid, engine.config, needs_occupancy=False)
    grid, config = engine.world.grid, engine.config.footprint
    before, later = shared.states[step], shared.states[step + 1]
    half = SUBSTEPS // 2

    def seen(poses: Tensor, frame: State) -> Tensor:
        """Poses (B * S, P, 3) of the start frame as (B, S * P, 3) in the ego frame of a forecast."""
        rows = poses.reshape(frame.batch, -1, 3)
        return relative(frame.pose[:, None].expand_as(rows), rows)

    def touches(poses: Tensor, frame: State) -> Tensor:
        """(B * S, P) whether the body touches something at poses of the start frame."""
        hit = footprint.contacts(frame.level_labels, seen(poses, frame), inverse(frame.pose), grid, config)
        return hit.view(poses.shape[:2]) >= config.min_voxels

    def leaves(poses: Tensor) -> Tensor:
        home = inverse(later.pose)
        off = footprint.off_road(later.level_labels, later.ground, seen(poses, later), home, grid, config)
        return off.view(poses.shape[:2])

    path = compose(now.pose[:, None].expand_as(motion.path), motion.path)
    moving = motion.path[:, -1, :2].norm(dim=-1) > 0.1
    first, second = touches(path[:, : half + 1], before).any(1), touches(path[:, half - 1 :], later)
    collision = (first | second.any(1)) & moving
    if config.struck_excused and bool(collision.any()):
        at = second.int().argmax(1)[:, None, None].expand(-1, 1, 3)
        begin, end = (
            Moment(labels=frame.level_labels, home=inverse(frame.pose), poses=seen(poses, frame))
            for poses, frame in ((now.pose[:, None], before), (path[:, half - 1 :].gather(1, at), later))
        )
        collision &= ~faultless(begin, end, first.view(before.batch, -1), grid, config).view(-1)
    times = after.speed_mps.new_tensor(TTC_S)
    ahead = after.speed_mps[:, None] * times
    straight = torch.stack((ahead, torch.zeros_like(ahead), torch.zeros_like(ahead)), -1)
    soon = touches(compose(after.pose[:, None].expand_as(straight), straight), later) & (after.speed_mps[:, None] > 0.1)
    risk = None
    if motion.plan is not None:
        plan = compose(after.pose[:, None].expand_as(motion.plan), motion.plan)
        bad = touches(plan, later) | leaves(plan)
        risk = (bad.long().cumsum(1) > 0).float().mean(1)
    contact = Contact(
        collision=collision,
        off_road=leaves(path[:, 1::3]).any(1) | leaves(after.pose[:, None]).any(1),
        time_to_collision_s=torch.where(soon, times, torch.full_like(times, math.inf)).amin(1),
        plan_risk=risk,
    )
    return replace(outcome, contact=contact)
