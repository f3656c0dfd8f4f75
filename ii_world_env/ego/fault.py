"""Whose fault a contact is: what runs into the ego from behind is not the ego's.

The classes of nuPlan (Caesar et al., CVPR ADP3 workshop 2021), as NAVSIM (Dauner et al., NeurIPS 2024) scores them: the
ego is at fault where it runs into what stands or where its front bumper hits; it is not where it stands itself or is
hit from behind, and what has hit it once counts no more. Contacts at the side count as at fault here, because the
labels know no lanes. Occupancy has no objects: a mover came from behind where its voxels reach from the rear bumper
to where they touch, without a gap, and something was behind the ego before the step.

Legend: B grids, N drives in each, R rows across the body.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ii_world_env.ego.footprint import FootprintConfig, band, columns_at, contacts
from world_model.core.geometry import compose, transform
from world_model.core.grid import EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M, MOVABLE, OBSTACLE, VoxelGrid
from world_model.core.sparse import member

ROW_M = 0.8
ROWS = 5
"""Rows from the rear bumper to the front bumper."""
BEHIND = (1, 2, 3)
"""Body lengths behind the body in which what hits it in a step has been before."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """An occupancy and where the bodies are in it.

    Attributes:
        labels: (B, X, Y, Z) class ids above the local ground.
        home: (B, 3) the start frame, seen from the frame of the labels.
        poses: (B, N, 3) in the frame of the labels.
    """

    labels: Tensor
    home: Tensor
    poses: Tensor

    def touches(self, poses: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
        """(B, S) bool, whether a body at poses (B, S, 3) touches something."""
        return contacts(self.labels, poses, self.home, grid, config) >= config.min_voxels


def faultless(before: Moment, after: Moment, early: Tensor, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """(B, N) bool, whether a contact in a step is not the ego's fault.

    Args:
        before: the occupancy before the step, and the bodies at its beginning.
        after: the occupancy after it, and the bodies where they first touch something of it.
        early: (B, N) bool, something is touched in the occupancy before: the ego has run into it.
        grid: voxel grid of the labels.
        config: what counts as touching.
    """
    solid, movable = _rows(after, grid, config)
    reached = (movable > 0).int().cumprod(-1) > 0
    behind = reached[..., 0] & ((solid * ~reached).sum(-1) < config.min_voxels)
    if bool(behind.any()):
        behind &= _something_behind(before, grid, config)
    # An at-fault contact would have ended the episode: what the body overlaps at the beginning has hit it before.
    # Movers count there at the place of the reset, too.
    within = _rows(before, grid, config)[1].sum(-1) >= config.min_voxels
    return ((behind | within) & ~early) | before.touches(before.poses, grid, config)


def _rows(moment: Moment, grid: VoxelGrid, config: FootprintConfig) -> tuple[Tensor, Tensor]:
    """Obstacle voxels, and those of movers, in every row of the bodies: (B, N, R) twice."""
    aside = torch.arange(-EGO_WIDTH_M / 2, EGO_WIDTH_M / 2 + 1e-6, EGO_WIDTH_M / 6)
    along = torch.arange(0.5, 2 * ROWS) * ROW_M / 2 - EGO_REAR_OVERHANG_M
    body = torch.stack(torch.meshgrid(along, aside, indexing="ij"), -1).view(-1, 2).to(moment.poses)
    batch, count = moment.poses.shape[:2]
    points = transform(moment.poses, body.expand(batch, count, -1, 2)).view(batch, -1, 2)
    low, high = band(config.band_m, grid)
    column = columns_at(moment.labels[..., low:high], points, grid)
    parts = (member(column, classes).sum(-1).view(batch, count, ROWS, -1).sum(-1) for classes in (OBSTACLE, MOVABLE))
    solid, movable = parts
    return solid, movable


def _something_behind(moment: Moment, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """(B, N) bool, whether obstacles lie straight behind the bodies."""
    batch, count = moment.poses.shape[:2]
    shift = -EGO_LENGTH_M * moment.poses.new_tensor(BEHIND)
    further = torch.stack((shift, torch.zeros_like(shift), torch.zeros_like(shift)), -1)
    places = moment.poses[:, :, None].expand(-1, -1, len(BEHIND), -1)
    poses = compose(places, further.expand_as(places)).view(batch, -1, 3)
    whole = replace(config, rear_zone_m=0.0)
    return moment.touches(poses, grid, whole).view(batch, count, -1).any(-1)
