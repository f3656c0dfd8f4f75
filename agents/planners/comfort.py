"""A limiter that keeps any planner within NAVSIM's bounds of comfort (Dauner et al., 2024), but for hard braking."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.planners.planner import Planner
from ii_world_env.engine import Engine, State
from ii_world_env.task.outcome import COMFORT_LIMITS
from world_model.core.errors import OptionError
from world_model.core.grid import STEP_S
from world_model.core.vehicle import MAX_SPEED_MPS


@dataclass(frozen=True, kw_only=True)
class ComfortConfig:
    """How the limiter works.

    Args:
        share: of each limit that is used; below 1, because actions only come close to a wanted motion.
        emergency_mps2: a planner that wants to brake harder than this is not limited in its braking.
    """

    share: float = 0.95
    emergency_mps2: float = 4.5


class ComfortLimiter:
    """Changes actions so that acceleration, jerk and yaw stay within `COMFORT_LIMITS`; the rest passes through.

    Args:
        engine: says which actions there are.
        config: the limiter's parameters.

    Raises:
        OptionError: an action mode in which the world itself chooses the motion.
    """

    def __init__(self, engine: Engine, config: ComfortConfig | None = None) -> None:
        self.mode, self.config = engine.action_mode, config or ComfortConfig()
        if self.mode.move is None:
            raise OptionError(
                f"a comfort limiter with action={self.mode.name!r}",
                "an action that moves the ego",
                "leave +comfort out",
            )

    def __call__(self, state: State, actions: Tensor) -> Tensor:
        """(B, A) actions of a planner, changed where their motion is uncomfortable."""
        assert self.mode.move is not None  # see the constructor
        actions = self.mode.checked(actions, state.batch, state.pose.device)
        limit = {name: self.config.share * value for name, value in COMFORT_LIMITS.items()}
        motion = self.mode.move(actions, state)
        wanted, before = motion.accel_mps2, state.accel_mps2
        change = limit["forward_jerk"] * STEP_S
        low = torch.minimum(
            (before - change).clamp(min=-limit["braking"]), torch.full_like(before, limit["forward_accel"])
        )
        high = torch.maximum((before + change).clamp(max=limit["forward_accel"]), low)
        accel = torch.maximum(torch.minimum(wanted, high), low)
        accel = torch.where(wanted < -self.config.emergency_mps2, wanted, accel)
        speed = (state.speed_mps + accel * STEP_S).clamp(0, MAX_SPEED_MPS)
        accel = (speed - state.speed_mps) / STEP_S
        turn = self._yaw_rate(state, motion.yaw_rate_rps, speed, accel, limit)
        # A constant acceleration covers the mean of both speeds; modes that name the way itself take the last one.
        mean = speed if self.mode.tracking == 1 else (state.speed_mps + speed) / 2
        way, yaw = mean * STEP_S, turn * STEP_S
        target = _arc(way, yaw)
        changed = ((accel - wanted).abs() > 0.02) | ((turn - motion.yaw_rate_rps).abs() > 0.005)
        return torch.where(changed[:, None], self.mode.inverse(target, state.speed_mps), actions)

    def _yaw_rate(self, state: State, wanted: Tensor, speed: Tensor, accel: Tensor, limit: dict[str, float]) -> Tensor:
        """(B,) the yaw rate nearest to the wanted one that the limits allow at a new speed and acceleration."""
        jerk = (accel - state.accel_mps2) / STEP_S
        side = STEP_S * (limit["jerk"] ** 2 - jerk.square()).clamp(min=0).sqrt()
        fast = speed.clamp(min=0.5)
        lows, highs = (
            torch.stack(
                (
                    state.yaw_rate_rps + sign * limit["yaw_accel"] * STEP_S,
                    torch.full_like(speed, sign * limit["yaw_rate"]),
                    (state.lateral_mps2 + sign * side) / fast,
                    sign * limit["lateral_accel"] / fast,
                )
            )
            for sign in (-1, 1)
        )
        low, high = lows.amax(0), highs.amin(0)
        return torch.where(low <= high, torch.maximum(torch.minimum(wanted, high), low), wanted)


class Comfortable:
    """A planner behind a `ComfortLimiter`; its name is that of the planner with "+comfort".

    Args:
        engine: that the planner drives in.
        planner: whose actions are limited.
        config: of the limiter.
    """

    def __init__(self, engine: Engine, planner: Planner, config: ComfortConfig | None = None) -> None:
        self.planner, self.limiter = planner, ComfortLimiter(engine, config)
        self.name = f"{planner.name}+comfort"

    def reset(self, state: State) -> None:
        self.planner.reset(state)

    def act(self, state: State) -> Tensor:
        return self.limiter(state, self.planner.act(state))


def _arc(way_m: Tensor, yaw_rad: Tensor) -> Tensor:
    """(B, 3) the end of an arc of that length and turn."""
    return torch.stack(
        (
            way_m * torch.sinc(yaw_rad / torch.pi),
            way_m * torch.sinc(yaw_rad / (2 * torch.pi)) * torch.sin(yaw_rad / 2),
            yaw_rad,
        ),
        -1,
    )
