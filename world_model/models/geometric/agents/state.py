"""Other road users as part of a world's state: how they were at the reset, where their voxels are, where they are now.

Legend: B grids, K slots, (X, Y, Z) voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose, planar_pose
from world_model.core.grid import STEP_S, VoxelGrid
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.agents.driver_net import DriverNet, drive_on
from world_model.models.geometric.agents.drivers import EgoMotion, Road, Styles, react
from world_model.models.geometric.agents.scripts import Scripts
from world_model.models.geometric.agents.tracker import Found
from world_model.models.geometric.agents.tracks import SLOTS, Tracks


@dataclass(frozen=True, kw_only=True)
class Agents(TensorState):
    """B sets of agents, in the ego frame of the reset.

    Attributes:
        found: as they were at the reset, with their columns.
        now: as they are now.
        styles: how they drive.
        road: where they can drive.
        scripts: where some of them are told to be.
    """

    found: Found
    now: Tracks
    styles: Styles
    road: Road
    scripts: Scripts = field(metadata={"absent": lambda like, rows: Scripts.none(rows, like.solid.device)})

    @classmethod
    def of(cls, found: Found, road: Road, scripts: Scripts | None = None) -> Agents:
        """Agents at the moment of the reset."""
        tracks = found.tracks
        scripts = scripts or Scripts.none(len(tracks.x), tracks.x.device)
        return cls(found=found, now=tracks, styles=Styles.observed(tracks), road=road, scripts=scripts)

    @classmethod
    def absent(cls, like: Any, rows: int) -> Agents:
        """No agents: what states of versions without them hold."""
        slot = torch.full((rows, *like.found.slot.shape[1:]), SLOTS, dtype=torch.uint8, device=like.found.slot.device)
        road = Road(off=torch.zeros(slot.shape, dtype=torch.bool, device=slot.device))
        return cls.of(Found(tracks=Tracks.none(rows, slot.device), slot=slot), road)

    @property
    def whole(self) -> Tensor:
        """(B, K) bool, the objects that move as bodies with the voxels that were observed."""
        return (self.found.tracks.moving | self.now.moving) & ~self.scripts.solid

    @property
    def solid(self) -> Tensor:
        """(B, K) bool, the objects that are drawn as solids of their class."""
        return self.scripts.solid & self.now.alive

    def stepped(self, step: Tensor) -> Agents:
        """One step later, the number (B,) of which is ``step``, at constant speed while turning dies away."""
        return replace(self, now=self.scripts.followed(self.now.coasted(STEP_S), step))

    def reacted(
        self, step: Tensor, ego_to_start: Tensor, next_to_curr: Tensor, grid: VoxelGrid, net: DriverNet | None = None
    ) -> Agents:
        """One step later, when drivers have answered to each other and to the ego.

        Args:
            step: (B,) int64 its number, 1 is the first after the reset.
            ego_to_start: (B, 4, 4) ego frame at the beginning of the step -> ego frame of the reset.
            next_to_curr: (B, 4, 4) next ego frame -> that ego frame.
            grid: the voxel grid.
            net: how they drive; None: by the Intelligent Driver Model.
        """
        x, y, yaw = planar_pose(ego_to_start).unbind(-1)
        ego = EgoMotion(x=x, y=y, yaw=yaw, speed=next_to_curr[:, 0, 3].clamp(min=0) / STEP_S)
        if net is None:
            now = react(self.now, self.styles, ego, self.road, grid)
        else:
            now = drive_on(net, self.now, self.styles, ego, self.road, grid)
        return replace(self, now=self.scripts.followed(now, step))

    def seen_from(self, ego_to_start: Tensor) -> Tracks:
        """The agents in an ego frame, by transforms (B, 4, 4) from it to the frame of the reset."""
        return self.now.seen_from(invert_pose(ego_to_start.float()))
