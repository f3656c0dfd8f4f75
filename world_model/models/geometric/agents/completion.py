"""What was never seen of a moving vehicle: its box is filled, so that it is a solid from all sides.

Only near vehicles that were followed through the observed past are completed; of others too little is known, and a
sensor would not see them whole either.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from world_model.core.grid import FREE, VoxelGrid
from world_model.models.geometric.agents.bodies import columns_in
from world_model.models.geometric.agents.segments import small_classes
from world_model.models.geometric.agents.tracker import Found
from world_model.models.geometric.agents.tracks import SLOTS

NEAR_M = 10.0
"""Vehicles further away stay as they were seen: labels do not show their far side either."""
CONFIDENT = 0.6
"""Least confidence of a track that is completed."""
SKIN_M = 0.1
"""Labels of an object reach so far beyond its box."""


def completed(movers: Tensor, found: Found, grid: VoxelGrid) -> tuple[Tensor, Found]:
    """Fill moving vehicles.

    Args:
        movers: (B, X, Y, Z) uint8 labels of what moves, free elsewhere.
        found: its tracks.
        grid: the voxel grid.

    Returns:
        Movers and tracks with the columns of each vehicle's box filled between the lowest and the highest of its
        voxels; columns of other objects stay theirs.
    """
    tracks, size_z = found.tracks, movers.shape[-1]
    vehicle = ~small_classes(movers.device)[tracks.class_id.long()]
    near = (torch.hypot(tracks.x, tracks.y) < NEAR_M) & (tracks.confidence >= CONFIDENT)
    which = (tracks.moving & vehicle & near).reshape(-1).nonzero()[:, 0]
    if not len(which):
        return movers, found
    own = torch.nonzero(found.slot.reshape(-1) < SLOTS)[:, 0]
    number = own // (grid.shape[0] * grid.shape[1]) * SLOTS + found.slot.reshape(-1)[own].long()
    rows = movers.reshape(-1, size_z).clone()
    solid = torch.zeros(tracks.x.numel(), size_z, dtype=torch.uint8, device=movers.device)
    solid.scatter_reduce_(0, number[:, None].expand(-1, size_z), (rows[own] != FREE).to(torch.uint8), "amax")
    above = solid.cummax(1).values.bool()
    between = above & solid.flip(1).cummax(1).values.flip(1).bool()
    at = columns_in(tracks, which, grid, SKIN_M)
    slot = found.slot.reshape(-1).clone()
    mine = which[at.row] % SLOTS
    free = (slot[at.column] == SLOTS) | (slot[at.column] == mine)
    column, k = at.column[free], which[at.row[free]]
    fill = between[k] & (rows[column] == FREE)
    rows[column] = torch.where(fill, tracks.class_id.reshape(-1)[k][:, None], rows[column])
    slot[column] = (k % SLOTS).to(torch.uint8)
    return rows.view(movers.shape), replace(found, slot=slot.view(found.slot.shape))
