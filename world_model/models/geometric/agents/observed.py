"""A moment whose movers are followed as whole bodies, and what geometry expects of them later.

Legend: B grids, (X, Y, Z) voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.grid import VoxelGrid
from world_model.models.geometric.agents.bodies import Drawn, place_bodies, without_bodies
from world_model.models.geometric.agents.completion import completed
from world_model.models.geometric.agents.tracker import Found, find_tracks, observe_bodies
from world_model.models.geometric.evidence import Observation, observe

ARCS = 8
"""Parts of a way that is several steps long."""


@dataclass(frozen=True, kw_only=True)
class FollowedMoment:
    """B observed moments and the tracks in them; rows without tracks move column by column.

    Attributes:
        seen: what was observed, source frame.
        found: its tracks.
        grid: the voxel grid.
    """

    seen: Observation
    found: Found
    grid: VoxelGrid

    @classmethod
    def of(
        cls, aligned: Tensor, velocity_mps: Tensor, moves: Tensor, column_mps: Tensor, rows: Tensor, grid: VoxelGrid
    ) -> FollowedMoment:
        """Follow the movers of some rows.

        Args:
            aligned: (B, P, X, Y, Z) labels in the current ego frame, newest first.
            velocity_mps, moves: (B, X, Y, 2) velocity wherever something movable is, and (B, X, Y) bool where it moves.
            column_mps: (B, X, Y, 2) velocity of the columns that move, zero elsewhere.
            rows: (B,) bool which rows move as whole bodies.
            grid: the voxel grid.
        """
        found = find_tracks(aligned, velocity_mps, moves & rows[:, None, None], grid)
        tracks = replace(found.tracks, alive=found.tracks.alive & rows[:, None])
        bodies = observe_bodies(aligned, found, column_mps)
        movers, filled = completed(bodies.movers, found, grid)
        bodies = replace(bodies, movers=movers)
        columns = observe(aligned, column_mps)
        seen = Observation(
            **{k: torch.where(rows.view(-1, 1, 1, 1), v, getattr(columns, k)) for k, v in vars(bodies).items()}
        )
        return cls(seen=seen, found=replace(filled, tracks=tracks), grid=grid)

    def drawn(self, target_to_source: Tensor, elapsed_s: Tensor) -> Drawn:
        """The bodies at constant speed, ``elapsed_s`` (B,) later, in target frames (B, 4, 4)."""
        now = self.found.tracks.coasted(elapsed_s[:, None], ARCS)
        return place_bodies(self.seen.movers, self.found, now, target_to_source, self.grid)

    def without(self, labels: Tensor, target_to_source: Tensor, elapsed_s: Tensor) -> Tensor:
        """A copy of labels (B, X, Y, Z) without the bodies that `drawn` puts there."""
        now = self.found.tracks.coasted(elapsed_s[:, None], ARCS)
        return without_bodies(labels, self.found, now, target_to_source, self.grid)
