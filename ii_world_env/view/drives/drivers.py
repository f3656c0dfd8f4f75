"""Who drives: the keys of a keyboard, a planner by name, or one fixed manoeuvre of a possible future."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ii_world_env.engine import Engine, State
from ii_world_env.view.drives.drive import Driver
from world_model.core.errors import OptionError
from world_model.core.grid import EGO_WHEELBASE_M
from world_model.core.plugins import import_object
from world_model.core.vehicle import MAX_ACCEL_MPS2, MAX_BRAKE_MPS2, MAX_STEER_RAD, kinematic

YOU = "you"
PLANNERS = ("idm", "log_replay", "constant_velocity", "stand_still", "cem", "mppi")
"""Planners that the page offers; any name of `python -m agents.evaluate` works."""
FACTORY = "agents.planners.build:build_planner"
"""Makes planners by name. Planners live above the environment, so this is an import path, like any plugin's."""
HELD_S = 0.6
"""A key counts for so long after it was last heard of: browsers repeat a held key after half a second."""
ACCEL_MPS2, BRAKE_MPS2, LATERAL_MPS2 = 2.5, 4.5, 2.5
"""What a pressed key asks for. Steering is gentler at speed, so that it can be held."""
LARGEST_STEER_RAD = 0.4
FUTURES = {
    "keep": (0.0, 0.0),
    "brake": (-4.0, 0.0),
    "left": (0.0, 1.2),
    "right": (0.0, -1.2),
}
"""Possible futures: acceleration, and lateral acceleration to the left, in m/s²."""


@dataclass(eq=False, kw_only=True)
class Keys:
    """Which keys are down: up, down, left, right. Times are seconds of any clock."""

    heard: dict[str, float] = field(default_factory=dict)

    def press(self, name: str, now_s: float) -> None:
        """A key was pressed, or the browser repeated it."""
        self.heard[name] = now_s
        for one, other in (("up", "down"), ("left", "right")):
            if name in (one, other):
                self.heard.pop(other if name == one else one, None)

    def down(self, now_s: float) -> set[str]:
        """The keys that count now."""
        return {name for name, at in self.heard.items() if now_s - at < HELD_S}

    def release(self) -> None:
        """Forget all."""
        self.heard.clear()


def key_action(engine: Engine, state: State, down: set[str]) -> Tensor:
    """What pressed keys mean in an action mode.

    Args:
        engine: names the action mode. state: of one environment. down: of up, down, left, right.

    Returns:
        (1, A) or (1, 1).
    """
    names = engine.action_mode.choices
    if names:
        wanted = {"up": "faster", "down": "slower", "left": "left", "right": "right"}
        chosen = [wanted.get(key, key) for key in ("left", "right", "down", "up") if key in down]
        rest = "keep" if "keep" in names else "straight"
        name = next((one for one in chosen if one in names), rest)
        return torch.tensor([[names.index(name)]], device=state.pose.device)
    accel = ACCEL_MPS2 * ("up" in down) - BRAKE_MPS2 * ("down" in down)
    return motion_action(engine, state, accel, LATERAL_MPS2 * (("left" in down) - ("right" in down)))


def motion_action(engine: Engine, state: State, accel_mps2: float, lateral_mps2: float) -> Tensor:
    """The action (1, A) of a mode that comes closest to an acceleration and a lateral acceleration (left positive)."""
    speed = float(state.speed_mps[0])
    curvature = lateral_mps2 / max(speed, 2.0) ** 2
    steer = max(
        -LARGEST_STEER_RAD, min(LARGEST_STEER_RAD, float(torch.atan(torch.tensor(curvature * EGO_WHEELBASE_M))))
    )
    pull = accel_mps2 / (MAX_ACCEL_MPS2 if accel_mps2 > 0 else MAX_BRAKE_MPS2)
    action = torch.tensor([[pull, steer / MAX_STEER_RAD]], dtype=torch.float32, device=state.pose.device)
    mode = engine.action_mode
    if mode.name == "kinematic":
        return action
    return mode.inverse(kinematic(action, state.speed_mps).path[:, -1], state.speed_mps)


@dataclass(frozen=True, kw_only=True)
class Manoeuvre:
    """One of `FUTURES`, again and again."""

    engine: Engine
    name: str

    def reset(self, state: State) -> None:
        """Nothing is kept."""

    def act(self, state: State) -> Tensor:
        """The same wish in every state."""
        if self.engine.action_mode.choices:
            keys = {"brake": "down", "left": "left", "right": "right"}
            return key_action(self.engine, state, {keys[self.name]} if self.name in keys else set())
        return motion_action(self.engine, state, *FUTURES[self.name])


def planner(name: str, engine: Engine, scenes: Any = None) -> Driver:
    """A planner of the package `agents`, or "package.module:Class".

    Raises:
        OptionError: no such planner, or `agents` is not installed.
    """
    made: Any = import_object("planner", FACTORY, "the package `agents`, which makes planners by name")
    driver: Driver = made(name, engine, scenes)
    return driver


def check_choices(engine: Engine, futures: bool) -> None:
    """Refuse futures in a mode whose choices are no manoeuvres."""
    if futures and engine.action_mode.name == "command":
        raise OptionError("futures with action='command'", "an action mode of the ego's motion", "choose another mode")
