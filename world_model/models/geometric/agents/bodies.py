"""Objects that move as one rigid body: their columns, drawn at a new pose.

Every column of the new box asks where in the observed object it was; so a body keeps its voxels however it turns, and
each is sampled once, straight from what was observed.

Legend: B grids, K slots, M moving objects, N columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.geometry import TIE, invert_pose
from world_model.core.grid import FREE, VoxelGrid
from world_model.core.sparse import nonzero_indices
from world_model.models.geometric.agents.tracker import Found
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.models.geometric.evidence import ColumnMove, is_movable, last_of, lift_of
from world_model.models.geometric.riding import RoadPlane

MARGIN_M = 0.6
"""Columns of an object lie up to so far outside its box."""
NEAR_M = 38.0
"""Objects nearer to the ego keep their voxels, whatever the network makes of them."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Moving objects in B target frames.

    Attributes:
        column: (N,) int64 positions of the columns that hold some, none twice.
        body: (N, Z) uint8 their voxels, free elsewhere.
        owner: (N,) int64 the object, numbered b * K + k.
        displacement_m: (B, X, Y, 2) how far the objects in each column have moved by themselves, target axes.
    """

    column: Tensor
    body: Tensor
    owner: Tensor
    displacement_m: Tensor

    def some(self, which: Tensor) -> Drawn:
        """The columns of some objects (B, K) bool only."""
        mine = which.reshape(-1)[self.owner]
        return replace(self, column=self.column[mine], body=self.body[mine], owner=self.owner[mine])

    def onto(self, labels: Tensor) -> Tensor:
        """Put them into labels (B, X, Y, Z), in place; returns ``displacement_m``."""
        rows = labels.view(-1, labels.shape[-1])
        rows[self.column] = torch.where(self.body != FREE, self.body, rows[self.column])
        return self.displacement_m


def draw_all(drawn: Sequence[Drawn], labels: Tensor) -> Tensor:
    """Put several sets into labels (B, X, Y, Z), in place, the last on top; returns ``displacement_m`` of all."""
    first, *others = (part.onto(labels) for part in drawn)
    for shift in others:
        first = torch.where((shift != 0).any(-1, keepdim=True), shift, first)
    return first


def place_bodies(
    movers: Tensor,
    found: Found,
    now: Tracks,
    target_to_source: Tensor,
    grid: VoxelGrid,
    *,
    whole: Tensor | None = None,
    road: RoadPlane | None = None,
) -> Drawn:
    """Draw moving objects in the target frame.

    Args:
        movers: (B, X, Y, Z) uint8 their voxels at the reset, source frame.
        found: where they were then.
        now: where they are now, source frame.
        target_to_source: (B, 4, 4) target ego frame -> source ego frame, metres.
        grid: the voxel grid.
        whole: (B, K) bool, which of them; None: all that move or moved then.
        road: the ground, source frame: objects climb with it; None: they keep their height.
    """
    then, matrix = found.tracks, target_to_source.float()
    back = invert_pose(matrix)
    seen = now.seen_from(back)
    which = nonzero_indices(then.moving | now.moving if whole is None else whole)
    at = columns_in(seen, which, grid, MARGIN_M)
    k, b = which[at.row], which[at.row] // SLOTS
    # Into the body's own frame by the new pose, and out of it by the old one.
    turn = then.yaw.reshape(-1)[k] - seen.yaw.reshape(-1)[k]
    source = _turned(at.place - _middles(seen, k), turn) + _middles(then, k)
    (size_x, size_y, _), low = grid.shape, source.new_tensor(grid.lower_m[:2])
    i, j = ((source - low) / grid.voxel_m + TIE).floor().long().unbind(1)
    inside = (i >= 0) & (i < size_x) & (j >= 0) & (j < size_y)
    index = torch.where(inside, (b * size_x + i) * size_y + j, 0)
    mine = inside & (found.slot.reshape(-1)[index] == k % SLOTS)
    # Where two overlap, one of them is drawn.
    column, last = last_of(at.column[mine])
    index, b, k, place, source = (part[mine][last] for part in (index, b, k, at.place, source))
    lift = lift_of(matrix[b], place[:, 0], place[:, 1], grid.voxel_m)
    if road is not None:
        start, end = (torch.stack((tracks.x, tracks.y), -1) for tracks in (then, now))
        rise = (road.climb(start, end, grid) / grid.voxel_m).round().long()
        if bool(rise.any()):
            rise = rise.reshape(-1)[k]
            lift = -rise if lift is None else lift - rise
    body = ColumnMove(index=index, inside=torch.ones_like(index, dtype=torch.bool), lift=lift).take(movers)
    old = (back[b, :2, :2] @ source[..., None])[..., 0] + back[b, :2, 3]
    shift = place.new_zeros(found.slot.numel(), 2).index_copy_(0, column, place - old)
    return Drawn(column=column, body=body, owner=k, displacement_m=shift.view(*found.slot.shape, 2))


def near(now: Tracks, target_to_source: Tensor) -> Tensor:
    """(B, K) bool, the objects within `NEAR_M` of the ego in target frames, by transforms (B, 4, 4) from these to the
    frame of ``now``."""
    away = torch.stack((now.x, now.y), -1) - target_to_source[:, None, :2, 3].float()
    return torch.hypot(away[..., 0], away[..., 1]) < NEAR_M


def without_bodies(
    labels: Tensor,
    found: Found,
    now: Tracks,
    target_to_source: Tensor,
    grid: VoxelGrid,
    which: Tensor | None = None,
) -> Tensor:
    """Labels (B, X, Y, Z) of the target frame, a copy without the objects (B, K) that are drawn there: by default those
    that `place_bodies` draws.

    What was forecast is remembered where nothing was observed. A moving object that is remembered with it would stay
    there as a ghost, one at each step.
    """
    drawn = nonzero_indices(found.tracks.moving | now.moving if which is None else which)
    seen = now.seen_from(invert_pose(target_to_source.float()))
    # The network draws some a voxel too wide.
    column = columns_in(seen, drawn, grid, MARGIN_M + grid.voxel_m).column
    cleared = labels.clone()
    rows = cleared.view(-1, labels.shape[-1])
    rows[column] = rows[column].masked_fill(is_movable(rows[column]), FREE)
    return cleared


def _middles(tracks: Tracks, k: Tensor) -> Tensor:
    """(N, 2) middles of the objects in flat slots k (N,)."""
    return torch.stack((tracks.x.reshape(-1)[k], tracks.y.reshape(-1)[k]), 1)


def _turned(point: Tensor, angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return torch.stack((c * point[:, 0] - s * point[:, 1], s * point[:, 0] + c * point[:, 1]), 1)


@dataclass(frozen=True, kw_only=True)
class BoxColumns:
    """The columns inside the boxes of M objects.

    Attributes:
        column: (N,) int64 positions; once for each box that covers it.
        row: (N,) int64 which of the objects.
        place: (N, 2) middles, metres.
    """

    column: Tensor
    row: Tensor
    place: Tensor


def columns_in(tracks: Tracks, which: Tensor, grid: VoxelGrid, margin_m: float) -> BoxColumns:
    """The columns whose middles lie in the boxes, grown by a margin, of the objects in flat slots ``which`` (M,)."""
    (size_x, size_y, _), voxel = grid.shape, grid.voxel_m
    middle, yaw = _middles(tracks, which), tracks.yaw.reshape(-1)[which]
    half_l, half_w = (part.reshape(-1)[which][:, None, None] / 2 + margin_m for part in (tracks.length, tracks.width))
    reach = math.ceil(torch.hypot(half_l, half_w).max().item() / voxel) + 1 if len(which) else 0
    line = torch.arange(-reach, reach + 1, device=which.device)
    low = middle.new_tensor(grid.lower_m[:2])
    own = ((middle - low) / voxel).floor().long()
    i, j = own[:, :1] + line, own[:, 1:] + line
    x, y = (low[axis] + voxel * (part.to(low) + 0.5) - middle[:, axis, None] for axis, part in enumerate((i, j)))
    c, s = yaw.cos()[:, None, None], yaw.sin()[:, None, None]
    fits = (c * x[:, :, None] + s * y[:, None]).abs() <= half_l
    fits &= (c * y[:, None] - s * x[:, :, None]).abs() <= half_w
    fits &= ((i >= 0) & (i < size_x))[:, :, None] & ((j >= 0) & (j < size_y))[:, None]
    hit, side = nonzero_indices(fits), len(line)
    row = hit // side**2
    i, j = i[row, hit // side % side], j[row, hit % side]
    place = low + voxel * (torch.stack((i, j), 1).to(low) + 0.5)
    return BoxColumns(column=(which[row] // SLOTS * size_x + i) * size_y + j, row=row, place=place)
