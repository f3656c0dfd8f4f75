"""The actors of events: what they are, and how they come into the tracks of a scene.

Legend: B grids, K slots, (X, Y) columns, T steps, P points of a corridor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from world_model.core.grid import VoxelGrid
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.agents.scripts import Scripts
from world_model.models.geometric.agents.state import Agents
from world_model.models.geometric.agents.tracks import SLOTS, Tracks

CORRIDOR_POINTS, CLEAR_M = 48, 2.0
"""What stands within `CLEAR_M` of so many points is taken out when an event is staged."""
LOOSE_M = 1.0
"""The same for voxels that belong to no track."""


@dataclass(frozen=True, kw_only=True)
class Actors(TensorState):
    """What B events put into the scene, in the ego frame of the reset.

    Attributes:
        present: (B,) bool, whether there is an event at all.
        class_id: (B,) uint8.
        size_m: (B, 3) float32 length, width, height.
        pose: (B, T + 1, 4) float32 x, y, yaw, speed at the reset and after each step of 0.5 s.
        corridor: (B, P, 2) float32 places that are cleared of others, NaN where there are fewer.
    """

    present: Tensor
    class_id: Tensor
    size_m: Tensor
    pose: Tensor
    corridor: Tensor

    def in_the_way(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, K) bool, which others at x, y (B, K) are taken out."""
        apart = torch.stack((x, y), -1)[:, :, None] - self.corridor[:, None]
        return (apart.square().sum(-1) < CLEAR_M**2).any(-1) & self.present[:, None]


def staged(agents: Agents, actors: Actors, grid: VoxelGrid) -> tuple[Agents, Tensor]:
    """Agents of a reset with actors in the last slot, without those that stand in the way.

    Returns:
        The agents, and (B, X, Y) bool, the columns whose movable voxels are gone with the others.
    """
    tracks, present = agents.found.tracks, actors.present
    gone = actors.in_the_way(tracks.x, tracks.y) & tracks.alive
    gone[:, -1] |= present
    slot = agents.found.slot.long()
    removed = torch.cat((gone, torch.zeros_like(gone[:, :1])), 1).gather(1, slot.flatten(1)).view(slot.shape)
    cleared = removed | ((slot == SLOTS) & _along(actors, grid))
    pose = actors.pose[:, 0]
    own = {
        **dict(zip(("x", "y", "yaw", "speed"), pose.unbind(1), strict=True)),
        **dict(zip(("length", "width", "height"), actors.size_m.unbind(1), strict=True)),
        "class_id": actors.class_id,
        "alive": present,
        "yaw_rate": torch.zeros_like(pose[:, 0]),
        "confidence": torch.ones_like(pose[:, 0]),
    }
    table = {}
    for field in fields(Tracks):
        value: Tensor = getattr(tracks, field.name).clone()
        value[:, -1] = torch.where(present, own[field.name], value[:, -1])
        table[field.name] = value
    table["alive"] = table["alive"] & ~(gone & (torch.arange(SLOTS, device=gone.device) < SLOTS - 1))
    changed = Tracks(**table)
    scripts = agents.scripts.clone()
    scripts.solid[:, -1] |= present
    scripts.pose[:, -1] = torch.where(present[:, None, None], actors.pose[:, 1:], scripts.pose[:, -1])
    found = replace(agents.found, tracks=changed, slot=agents.found.slot.masked_fill(removed, SLOTS))
    return replace(agents, found=found, now=changed, scripts=Scripts(pose=scripts.pose, solid=scripts.solid)), cleared


def _along(actors: Actors, grid: VoxelGrid) -> Tensor:
    """(B, X, Y) bool, columns within `LOOSE_M` of a corridor."""
    x, y = (
        low + grid.voxel_m * (torch.arange(n, device=actors.pose.device, dtype=torch.float32) + 0.5)
        for low, n in zip(grid.lower_m[:2], grid.shape[:2], strict=True)
    )
    near = torch.zeros(len(actors.present), *grid.shape[:2], dtype=torch.bool, device=x.device)
    for point in actors.corridor.unbind(1):
        apart = (x - point[:, :1]).square()[:, :, None] + (y - point[:, 1:]).square()[:, None]
        near |= apart < LOOSE_M**2
    return near & actors.present[:, None, None]
