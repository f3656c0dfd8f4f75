"""Road users that follow a script for a while: recorded ones, the actor of an event, and those that enter the view.

Legend: B grids, K slots, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.tensor_state import TensorState
from world_model.models.geometric.agents.tracks import SLOTS, Tracks

SCRIPT_STEPS = 40
"""Steps of 0.5 s that a script can hold."""


@dataclass(frozen=True, kw_only=True)
class Scripts(TensorState):
    """Where B sets of K objects are told to be, in the ego frame of the reset.

    Attributes:
        pose: (B, K, T, 4) float32 x, y, yaw, speed after 1, 2, ... T steps; NaN where an object drives by itself.
        solid: (B, K) bool, drawn as a solid of its class and size, because no voxels of it were observed. A solid is
            there from its first scripted moment on.
    """

    pose: Tensor
    solid: Tensor

    @classmethod
    def none(cls, batch: int, device: torch.device, slots: int = SLOTS) -> Scripts:
        """Everybody drives by themselves."""
        pose = torch.full((batch, slots, SCRIPT_STEPS, 4), float("nan"), dtype=torch.float32, device=device)
        return cls(pose=pose, solid=torch.zeros(batch, slots, dtype=torch.bool, device=device))

    def followed(self, tracks: Tracks, step: Tensor) -> Tracks:
        """The objects with those put into place that have a script for a step (B,), counted from 1 after the reset."""
        number = (step - 1).clamp(0, SCRIPT_STEPS - 1)
        told = self.pose[torch.arange(len(step), device=step.device), :, number]
        here = told[..., 0].isfinite() & (step <= SCRIPT_STEPS)[:, None]
        x, y, yaw, speed = (
            torch.where(here, new, old)
            for new, old in zip(told.unbind(-1), (tracks.x, tracks.y, tracks.yaw, tracks.speed), strict=True)
        )
        alive = torch.where(self.solid, tracks.alive | here, tracks.alive)
        return replace(tracks, x=x, y=y, yaw=yaw, speed=speed, alive=alive)
