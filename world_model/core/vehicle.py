"""How the ego vehicle moves over one step of 0.5 s: a bicycle model, an arc, and what it takes to follow a motion.

Frames: a motion is given in the ego frame at its beginning (origin at the rear axle, x forward, y left).
Legend: B environments, S substeps, A components of an action.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.grid import EGO_WHEELBASE_M, STEP_S

SUBSTEPS = 10
SUBSTEP_S = STEP_S / SUBSTEPS
MAX_ACCEL_MPS2 = 4.0
"""Action +1 of the kinematic mode; recorded drivers stay below 3.8 (p99)."""
MAX_BRAKE_MPS2 = 6.0
"""Action -1 of the kinematic mode; recorded drivers stay below 3.4 (p99)."""
MAX_STEER_RAD = 0.5
MAX_SPEED_MPS = 20.0
"""Cap of the speed; recorded drivers stay below 12.3 (p99)."""
GRIP_MPS2 = 6.0
"""The tyres give no more lateral acceleration than this: at speed the steering angle is limited accordingly."""
KINEMATIC_TRACKING = 0.75
"""Share of a missing distance that a follower should make up in one kinematic action. Making up all of it with
constant acceleration overshoots the speed by as much as it was short, and swings about it for ever."""
DELTA_DX_M = (0.0, 8.0)
DELTA_DY_M = (-1.5, 1.5)
DELTA_YAW_RAD = (-0.4, 0.4)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Motion of B ego vehicles over one step.

    Attributes:
        path: (B, S, 3) x, y in metres and yaw in rad after each substep, in the ego frame at the beginning of the step.
        speed_mps: (B,) speed at the end of the step.
        accel_mps2: (B,) mean longitudinal acceleration.
        yaw_rate_rps: (B,) mean yaw rate.
        plan: (B, N, 3) how the ego means to go on, in the order of time: x, y, yaw in the ego frame at the end of the
            step; None where an action says nothing about later steps.
    """

    path: Tensor
    speed_mps: Tensor
    accel_mps2: Tensor
    yaw_rate_rps: Tensor
    plan: Tensor | None = None


def kinematic(actions: Tensor, speed_mps: Tensor) -> Motion:
    """Bicycle model about the rear axle; the speed never turns negative.

    Args:
        actions: (B, 2) in [-1, 1]: acceleration (+1 is 4 m/s², -1 is braking with 6 m/s²), steering angle (+1 is
            0.5 rad to the left).
        speed_mps: (B,) speed at the beginning.
    """
    pull = actions[:, 0]
    accel = torch.where(pull > 0, pull * MAX_ACCEL_MPS2, pull * MAX_BRAKE_MPS2)
    curvature = torch.tan(actions[:, 1] * MAX_STEER_RAD) / EGO_WHEELBASE_M
    x, y, yaw, speed = torch.zeros_like(pull), torch.zeros_like(pull), torch.zeros_like(pull), speed_mps
    path = []
    for _ in range(SUBSTEPS):
        faster = (speed + accel * SUBSTEP_S).clamp(0.0, MAX_SPEED_MPS)
        mean = (speed + faster) / 2
        grip = GRIP_MPS2 / mean.square().clamp(min=1e-6)
        turn = mean * torch.maximum(torch.minimum(curvature, grip), -grip) * SUBSTEP_S
        # The heading in the middle of the substep makes the chord of an arc exact to second order.
        x = x + mean * SUBSTEP_S * torch.cos(yaw + turn / 2)
        y = y + mean * SUBSTEP_S * torch.sin(yaw + turn / 2)
        yaw, speed = yaw + turn, faster
        path.append(torch.stack((x, y, yaw), -1))
    return Motion(
        path=torch.stack(path, 1),
        speed_mps=speed,
        accel_mps2=(speed - speed_mps) / STEP_S,
        yaw_rate_rps=yaw / STEP_S,
    )


def delta(actions: Tensor, speed_mps: Tensor) -> Motion:
    """The motion itself, driven along the arc that reaches it.

    Args:
        actions: (B, 3) in [-1, 1]: dx of 0..8 m, dy of -1.5..1.5 m, yaw of -0.4..0.4 rad over the step.
        speed_mps: (B,) speed at the beginning.
    """
    return along(in_metres(actions), speed_mps)


def in_metres(actions: Tensor) -> Tensor:
    """Delta actions (..., 3) in [-1, 1] -> dx, dy in metres and yaw in rad (..., 3)."""
    bounds = torch.tensor((DELTA_DX_M, DELTA_DY_M, DELTA_YAW_RAD), dtype=actions.dtype, device=actions.device)
    return bounds[:, 0] + (actions + 1) / 2 * (bounds[:, 1] - bounds[:, 0])


def along(step: Tensor, speed_mps: Tensor) -> Motion:
    """The motion along the arc that ends at ``step`` (B, 3): dx, dy in metres and yaw in rad."""
    dx, dy, yaw = step.unbind(-1)
    speed = torch.hypot(dx, dy) / STEP_S
    return Motion(
        path=arc(dx, dy, yaw), speed_mps=speed, accel_mps2=(speed - speed_mps) / STEP_S, yaw_rate_rps=yaw / STEP_S
    )


def arc(dx_m: Tensor, dy_m: Tensor, yaw_rad: Tensor, substeps: int = SUBSTEPS) -> Tensor:
    """Poses (B, S, 3) on the path of constant twist that ends at a planar motion; all arguments (B,)."""
    part = (torch.arange(substeps, dtype=dx_m.dtype, device=dx_m.device) + 1) / substeps
    angle = yaw_rad[:, None] * part
    # Twist (vx, vy) = V(yaw)^-1 (dx, dy); then the point at a part t of the way is V(t * yaw) * t * (vx, vy).
    half = yaw_rad / 2
    scale = torch.where(
        half.abs() < 1e-4, 1 - half.square() / 3, half / torch.tan(half.where(half.abs() > 1e-9, 1e-9 + half))
    )
    vx, vy = scale * dx_m + half * dy_m, scale * dy_m - half * dx_m
    sine = torch.sinc(angle / torch.pi)
    versine = torch.sin(angle / 2) * torch.sinc(angle / (2 * torch.pi))
    x = part * (sine * vx[:, None] - versine * vy[:, None])
    y = part * (versine * vx[:, None] + sine * vy[:, None])
    return torch.stack((x, y, angle), -1)


def kinematic_for(target: Tensor, speed_mps: Tensor) -> Tensor:
    """The kinematic action that comes closest to a motion.

    Args:
        target: (B, 3) wanted dx, dy in metres and yaw in rad over the step.
        speed_mps: (B,) speed at the beginning.

    Returns:
        (B, 2) in [-1, 1].
    """
    dx, dy, yaw = target.unbind(-1)
    distance = torch.hypot(dx, dy) * torch.sign(dx).clamp(min=0)
    accel = 2 * (distance - speed_mps * STEP_S) / STEP_S**2
    # Pure pursuit meets the point; blended with the heading so that lateral errors do not oscillate.
    pursuit = 2 * dy / distance.square().clamp(min=0.25)
    heading = yaw / distance.clamp(min=0.5)
    steer = torch.atan(EGO_WHEELBASE_M * (pursuit + heading) / 2) / MAX_STEER_RAD
    pull = torch.where(accel > 0, accel / MAX_ACCEL_MPS2, accel / MAX_BRAKE_MPS2)
    return torch.stack((pull, steer), -1).clamp(-1, 1)


def delta_for(target: Tensor, speed_mps: Tensor) -> Tensor:
    """The delta action (B, 3) that comes closest to a motion; arguments as in `kinematic_for`."""
    bounds = torch.tensor((DELTA_DX_M, DELTA_DY_M, DELTA_YAW_RAD), dtype=target.dtype, device=target.device)
    return ((target - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0]) * 2 - 1).clamp(-1, 1)
