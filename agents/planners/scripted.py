"""Planners that need no learning: the rows that every table of planners carries."""

from __future__ import annotations

import torch
from torch import Tensor

from ii_world_env.ego.actions import ActionMode
from ii_world_env.engine import Engine, State
from world_model.core.geometry import relative
from world_model.core.grid import STEP_S

BRAKE_MPS2 = 3.5
"""Braking of a planner that comes to a stop: within the limits of comfort."""


class Scripted:
    """Base of planners that keep nothing from one step to the next.

    Args:
        engine: says which actions there are.
    """

    def __init__(self, engine: Engine) -> None:
        self.mode: ActionMode = engine.action_mode

    def reset(self, state: State) -> None:
        """Nothing is kept."""


class StandStill(Scripted):
    """Brake to a stop and stay."""

    name = "stand_still"

    def act(self, state: State) -> Tensor:
        speed = state.speed_mps
        slower = (speed - BRAKE_MPS2 * STEP_S).clamp(min=0)
        zero = torch.zeros_like(speed)
        return self.mode.inverse(torch.stack(((speed + slower) / 2 * STEP_S, zero, zero), -1), speed)


class ConstantVelocity(Scripted):
    """Keep speed and heading."""

    name = "constant_velocity"

    def act(self, state: State) -> Tensor:
        zero = torch.zeros_like(state.speed_mps)
        return self.mode.inverse(torch.stack((state.speed_mps * STEP_S, zero, zero), -1), state.speed_mps)


class LogReplay(Scripted):
    """Do what the recorded driver did: the action that comes closest to the next recorded pose."""

    name = "log_replay"

    def act(self, state: State) -> Tensor:
        log = state.route.log
        following = (state.steps + 1).clamp(max=log.shape[1] - 1)
        target = log.gather(1, following[:, None, None].expand(-1, 1, 3))[:, 0]
        motion = relative(state.pose, target)
        steady, share = state.speed_mps * STEP_S, self.mode.tracking
        dx = steady + share * (motion[:, 0] - steady)
        return self.mode.inverse(torch.cat((dx[:, None], motion[:, 1:]), 1), state.speed_mps)
