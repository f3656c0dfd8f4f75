"""Other road users as part of a world's state: how they were at the reset, where their voxels are, where they are now.

Legend: B grids, K slots, (X, Y, Z) voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import STEP_S
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.agents.tracker import Found
from world_model.models.geometric.agents.tracks import SLOTS, Tracks


@dataclass(frozen=True, kw_only=True)
class Agents(TensorState):
    """B sets of agents, in the ego frame of the reset.

    Attributes:
        found: as they were at the reset, with their columns.
        now: as they are now.
    """

    found: Found
    now: Tracks

    @classmethod
    def of(cls, found: Found) -> Agents:
        """Agents at the moment of the reset."""
        return cls(found=found, now=found.tracks)

    @classmethod
    def absent(cls, like: Any, rows: int) -> Agents:
        """Nobody: what states of versions without agents hold."""
        slot = torch.full((rows, *like.found.slot.shape[1:]), SLOTS, dtype=torch.uint8, device=like.found.slot.device)
        return cls.of(Found(tracks=Tracks.none(rows, slot.device), slot=slot))

    def stepped(self) -> Agents:
        """One step later, at constant speed and turn rate."""
        return replace(self, now=self.now.advanced(STEP_S))

    def seen_from(self, ego_to_start: Tensor) -> Tracks:
        """The agents in an ego frame, by transforms (B, 4, 4) from it to the frame of the reset."""
        return self.now.seen_from(invert_pose(ego_to_start.float()))
