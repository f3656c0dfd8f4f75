"""What one step was like, as facts: the only thing that rewards and episode ends are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.errors import ConfigError

CAUSES = ("running", "collision", "off_road", "destination", "horizon", "route_end", "untrusted")
"""Why an episode ended, by the number in `State.cause` and `StepOutput.cause`."""
TERMINATIONS = 3
"""Causes 1..3 terminate, the later ones truncate."""
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
        contact: what the occupancy says; None where nobody looked, since the reward needs no labels.
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
        return self._seen().collision

    @property
    def off_road(self) -> Tensor:
        return self._seen().off_road

    @property
    def time_to_collision_s(self) -> Tensor:
        return self._seen().time_to_collision_s

    @property
    def plan_risk(self) -> Tensor | None:
        return self._seen().plan_risk

    def _seen(self) -> Contact:
        if self.contact is None:
            raise ConfigError(
                "a fact of the occupancy, asked for by a reward with needs_labels = False",
                "a reward that asks for the other facts alone, since nothing was decoded",
                "take needs_labels = False away from it",
            )
        return self.contact


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
