"""Action modes: what an agent's numbers mean as a motion of the ego vehicle over one step of 0.5 s.

Continuous modes take floats in [-1, 1] (values outside are clipped), discrete modes whole numbers in their range.

Legend: B environments, A components of an action, H waypoints of a plan, N choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.ego.route import Route, points_at, project
from world_model.core.errors import ActionError
from world_model.core.geometry import compose, into
from world_model.core.grid import EGO_WHEELBASE_M, STEP_S
from world_model.core.vehicle import (
    KINEMATIC_TRACKING,
    MAX_ACCEL_MPS2,
    MAX_BRAKE_MPS2,
    MAX_SPEED_MPS,
    MAX_STEER_RAD,
    Motion,
    along,
    arc,
    delta,
    delta_for,
    in_metres,
    kinematic,
    kinematic_for,
)

PLAN_STEPS = 6
"""Waypoints H of a plan: three seconds."""
PLAN_SUBSTEPS = 5
"""Poses per waypoint at which a plan is tested: at most 1.6 m apart, so that the body misses nothing between them."""
MANOEUVRES = {
    "keep": (0.0, 0.0),
    "faster": (2.0, 0.0),
    "slower": (-2.0, 0.0),
    "stop": (-5.0, 0.0),
    "left": (0.0, 1.0),
    "right": (0.0, -1.0),
}
"""Acceleration in m/s², and metres to the left by which the line along the route is shifted."""
COMMAND_CHOICES = ("right", "left", "straight")
"""High-level commands in the order of the data sets."""
LOOK_AHEAD_S, LEAST_LOOK_AHEAD_M = 1.0, 4.0
TURN_RAD = 0.1
"""A motion with a larger change of yaw in a step counts as a turn when a command has to be chosen for it."""


class EgoState(Protocol):
    """What an action mode reads of B ego vehicles; the engine's `State` has it."""

    @property
    def speed_mps(self) -> Tensor:
        """(B,)"""

    @property
    def pose(self) -> Tensor:
        """(B, 3) x, y in metres and yaw in rad in the start frame."""

    @property
    def route(self) -> Route:
        """The recorded route, start frame."""

    @property
    def progress_m(self) -> Tensor:
        """(B,) arc length along the route."""


@dataclass(frozen=True, kw_only=True)
class ActionMode:
    """One way to act.

    Attributes:
        name: as in ``gym.make(..., action=name)``.
        shape: of one action; () for a discrete one.
        choices: what the numbers 0..N-1 of a discrete action mean; empty for a continuous one.
        move: (B, A) checked actions and the ego's state -> `Motion`; None where the world chooses the motion.
        inverse: (B, 3) wanted dx, dy, yaw and (B,) speeds -> the actions (B, A) that come closest.
        tracking: share of the missing distance that a follower should make up in one step, see `KINEMATIC_TRACKING`.
    """

    name: str
    shape: tuple[int, ...]
    choices: tuple[str, ...] = ()
    move: Callable[[Tensor, EgoState], Motion] | None = None
    inverse: Callable[[Tensor, Tensor], Tensor]
    tracking: float = 1.0

    @property
    def size(self) -> int:
        """Components A of an action as the engine takes it."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Numbers by which the last action is remembered, each in [-1, 1] (see `remember`)."""
        return len(self.choices) if self.choices else self.shape[-1]

    @property
    def meaning(self) -> str:
        """The values that an action may take, in words."""
        if not self.choices:
            return "numbers in [-1, 1]"
        return "one of " + ", ".join(f"{number} {name}" for number, name in enumerate(self.choices))

    def remember(self, actions: Tensor) -> Tensor:
        """(B, W) float32 in [-1, 1]: one-hot choices, or what of a continuous action was executed."""
        if self.choices:
            return F.one_hot(actions[:, 0], len(self.choices)).float()
        return actions[:, : self.width]

    def checked(self, actions: Tensor, batch: int, device: torch.device) -> Tensor:
        """Actions as the engine takes them: (B, A), float32 in [-1, 1] or int64 in 0..N-1.

        Args:
            actions: (B, A) or (B, *shape) numbers; (B,) is accepted from a discrete mode.

        Raises:
            ActionError: wrong type or shape, values that are not finite, or no such choice; names the environments.
        """
        shapes = (batch, *self.shape), (batch, math.prod(self.shape))
        if not isinstance(actions, Tensor) or tuple(actions.shape) not in shapes or actions.is_complex():
            found = f"shape {tuple(actions.shape)}" if hasattr(actions, "shape") else f"type {type(actions).__name__}"
            expected = f"a real tensor of shape {shapes[0]} for action={self.name!r}"
            raise ActionError(f"actions of {found}", expected, "reshape them")
        actions = actions.reshape(shapes[1])
        good = torch.isfinite(actions)
        if self.choices:
            good = good & (actions.long() == actions) & (actions >= 0) & (actions < len(self.choices))
        if not bool(good.all()):
            bad = (~good).any(1).nonzero()[:, 0].tolist()
            where = "" if batch == 1 else f" in environment {', '.join(map(str, bad))}"
            found = f"actions that are not finite or not allowed{where}: {actions[bad].tolist()}"
            raise ActionError(found, self.meaning, "look for NaN in the policy")
        # Clipped before float32, in which a large number would turn infinite.
        return (actions.long() if self.choices else actions.double().clamp(-1, 1).float()).to(device)


def waypoints(actions: Tensor, speed_mps: Tensor) -> Motion:
    """A plan of H links, each a `delta` motion in the frame of the waypoint before; the first is driven.

    Args:
        actions: (B, 3 H) in [-1, 1], link by link.
        speed_mps: (B,) speed at the beginning.
    """
    links = in_metres(actions.reshape(len(actions), -1, 3))
    here = torch.zeros_like(links[:, 0])
    plan = []
    for link in links[:, 1:].unbind(1):
        dx, dy, yaw = link.unbind(-1)
        steps = arc(dx, dy, yaw, PLAN_SUBSTEPS)
        plan.append(compose(here[:, None].expand_as(steps), steps))
        here = plan[-1][:, -1]
    return replace(along(links[:, 0], speed_mps), plan=torch.cat(plan, 1))


def waypoints_for(target: Tensor, speed_mps: Tensor) -> Tensor:
    """The plan (B, 3 H) that repeats the motion ``target`` (B, 3): the same arc, driven on."""
    return delta_for(target, speed_mps).repeat(1, PLAN_STEPS)


def waypoints_through(poses: Tensor) -> Tensor:
    """The action of a planned trajectory.

    Args:
        poses: (B, H, 3) x, y in metres and yaw in rad at 0.5, 1, ... s, all in the current ego frame.

    Returns:
        (B, H, 3) in [-1, 1]; links beyond the bounds of `delta` are cut to them.
    """
    before = torch.cat((torch.zeros_like(poses[:, :1]), poses[:, :-1]), 1)
    place = into(before, poses[..., None, :2])[..., 0, :]
    turn = poses[..., 2:] - before[..., 2:]
    turn = torch.atan2(turn.sin(), turn.cos())
    links = torch.cat((place, turn), -1)
    return delta_for(links.flatten(0, 1), links[..., 0].flatten()).view_as(poses)


def meta(actions: Tensor, state: EgoState) -> Motion:
    """A manoeuvre of `MANOEUVRES` (B, 1): drive along the route, at the present lateral offset from it.

    A bicycle model steers by pure pursuit to the point one second ahead on the line parallel to the route; "left" and
    "right" move that line by a metre, again and again as they are repeated.
    """
    table = torch.tensor(list(MANOEUVRES.values()), dtype=torch.float32, device=actions.device)[actions[:, 0]]
    along_m, aside_m = project(state.route, state.pose[:, :2], state.progress_m)
    ahead = (state.speed_mps * LOOK_AHEAD_S).clamp(min=LEAST_LOOK_AHEAD_M)
    near, far = points_at(state.route, torch.stack((along_m + ahead - 0.5, along_m + ahead + 0.5), 1)).unbind(1)
    middle, direction = (near + far) / 2, F.normalize(far - near, dim=-1)
    left = torch.stack((-direction[:, 1], direction[:, 0]), -1)
    goal = into(state.pose, (middle + left * (aside_m + table[:, 1])[:, None])[:, None])[:, 0]
    curvature = 2 * goal[:, 1] / goal.square().sum(-1).clamp(min=1.0)
    steer = torch.atan(curvature * EGO_WHEELBASE_M) / MAX_STEER_RAD
    accel = torch.where(table[:, 0] > 0, table[:, 0] / MAX_ACCEL_MPS2, table[:, 0] / MAX_BRAKE_MPS2)
    return kinematic(torch.stack((accel, steer), -1).clamp(-1, 1), state.speed_mps)


def meta_for(target: Tensor, speed_mps: Tensor) -> Tensor:
    """The manoeuvre (B, 1) whose distance comes closest; steering is left to the route."""
    accel = torch.tensor([pull for pull, _ in list(MANOEUVRES.values())[:4]], dtype=torch.float32, device=target.device)
    faster = (speed_mps[:, None] + accel * STEP_S).clamp(0, MAX_SPEED_MPS)
    distance = (speed_mps[:, None] + faster) / 2 * STEP_S
    return (distance - target[:, :1]).abs().argmin(1, keepdim=True)


def command_for(target: Tensor, speed_mps: Tensor) -> Tensor:
    """The command (B, 1) that names the turn of a motion."""
    yaw = target[:, 2:]
    straight = torch.full_like(yaw, 2, dtype=torch.long)
    return torch.where(yaw > TURN_RAD, 1, torch.where(yaw < -TURN_RAD, 0, straight))


ACTION_MODES: dict[str, ActionMode] = {
    mode.name: mode
    for mode in (
        ActionMode(
            name="kinematic",
            shape=(2,),
            move=lambda actions, ego: kinematic(actions, ego.speed_mps),
            inverse=kinematic_for,
            tracking=KINEMATIC_TRACKING,
        ),
        ActionMode(
            name="delta", shape=(3,), move=lambda actions, ego: delta(actions, ego.speed_mps), inverse=delta_for
        ),
        ActionMode(
            name="waypoints",
            shape=(PLAN_STEPS, 3),
            move=lambda actions, ego: waypoints(actions, ego.speed_mps),
            inverse=waypoints_for,
        ),
        ActionMode(
            name="meta",
            shape=(),
            choices=tuple(MANOEUVRES),
            move=meta,
            inverse=meta_for,
            tracking=KINEMATIC_TRACKING,
        ),
        ActionMode(name="command", shape=(), choices=COMMAND_CHOICES, inverse=command_for),
    )
}


# Noise on actions ----------------------------------------------------------------------------------------------------

GAMMA, FIRST, SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9 and 0x94d049bb133111eb as signed numbers."""


def normal_noise(seed: Tensor, step: Tensor, size: int) -> Tensor:
    """Standard normal numbers without a generator: each depends on a seed and a step alone.

    So noise needs no hidden state: a kept `State` draws the same numbers again, wherever it stands in a batch.
    Splitmix64 (Steele, Lea and Flood, OOPSLA 2014) over a counter, then Box and Muller's transform.

    Args:
        seed: (B,) int64. step: (B,) int64. size: numbers for each pair.

    Returns:
        (B, size) float32.
    """
    counter = torch.arange(2 * size, device=seed.device)
    # Mixed once per level: neighbouring seeds and steps share nothing.
    bits = _mix(_mix(_mix(seed) + step)[:, None] + counter)
    # 53 bits in (0, 1): never 0, whose logarithm is infinite.
    uniform = (_shift(bits, 11).double() + 0.5) * 2.0**-53
    radius, angle = (-2 * uniform[:, :size].log()).sqrt(), 2 * math.pi * uniform[:, size:]
    return (radius * angle.cos()).float()


def _mix(value: Tensor) -> Tensor:
    value = value + GAMMA
    value = (value ^ _shift(value, 30)) * FIRST
    value = (value ^ _shift(value, 27)) * SECOND
    return value ^ _shift(value, 31)


def _shift(value: Tensor, by: int) -> Tensor:
    """Logical shift to the right; torch's own repeats the sign."""
    return (value >> by) & ((1 << (64 - by)) - 1)


def real_numbers(values: Any, shape: tuple[int, ...], mode: str) -> NDArray[np.float64]:
    """A float64 copy of actions.

    Raises:
        ActionError: no numbers, or of another shape.
    """
    try:
        array = np.array(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ActionError(f"action {values!r}", f"numbers of shape {shape}", "give an array") from error
    # Numbers in words, complex numbers and dates would go through a cast to float, too.
    if array.dtype.kind not in "biuf":
        raise ActionError(
            f"an action of type {array.dtype}: {values!r}", f"real numbers of shape {shape}", "give an array"
        )
    if array.shape != shape:
        raise ActionError(
            f"an action of shape {array.shape}", f"shape {shape} for action={mode!r}", "see the action space"
        )
    with np.errstate(over="ignore"):  # what is too large for float64 becomes infinite, and is refused as that
        return array.astype(np.float64)
